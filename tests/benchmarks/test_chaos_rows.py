"""The rows of `make chaos` and those of docs/failure-modes.md are the same, in the same words."""

from pathlib import Path

from benchmarks.chaos import report
from benchmarks.chaos.asking import Kind
from benchmarks.chaos.rows import ROWS
from dataplane.envelope import FACES

DOCS = Path(__file__).resolve().parents[2] / "docs" / "failure-modes.md"
HEADING = "## Tried by `make chaos`"


def documented() -> list[str]:
    """The lines of the document's table, without its head."""
    section = DOCS.read_text().split(HEADING)[1].split("\n### ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [line for line in lines if not line.startswith("| ---")][1:]


def test_the_document_states_every_row_and_no_other():
    """Name, what is done, what is promised and within what time: word for word, in the same order."""
    assert documented() == [report.promised(row) for row in ROWS]


def test_rows_have_names_of_their_own():
    """Each can be asked for alone."""
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_rows_promise_codes_that_the_gateway_has():
    """What callers of the data plane may be told is in its table of errors, or signed words."""
    codes = {code for row in ROWS for kind, told in row.promise.told.items() if kind is not Kind.ACT for code in told}

    assert {code for code in codes if not code.startswith("signed words")} <= FACES.keys()


def test_every_component_is_tried():
    """Whatever `make run` starts and requests, jobs, releases or reports go through is killed, and is stopped."""
    tried = {row.fault.target for row in ROWS}

    assert tried >= {"gateway process", "agent", "jobs", "worker", "beat", "ingest", "console"}
    assert tried >= {"redis", "broker", "postgres", "simulator", "disk"}
