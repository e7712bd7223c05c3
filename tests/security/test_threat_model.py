"""The threat model names what exists: each threat a control, each control a test."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "security.md").read_text()
PATHS = sorted(set(re.findall(r"`((?:tests|controlplane|dataplane|docs|benchmarks|static|\.ci)/[\w./-]+)`", TEXT)))
HEADING = "## Threats"


@pytest.mark.parametrize("path", PATHS)
def test_path_that_it_names_is_there(path):
    """A control whose test was renamed is looked at again."""
    assert (ROOT / path).exists()


def rows():
    section = TEXT.partition(HEADING)[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("|") and not set(line) <= set("|- ")][1:]


def test_every_threat_has_a_control_and_a_test():
    """A row without one is a wish."""
    assert len(rows()) >= 20
    for row in rows():
        threat, _, control, shown = (cell.strip() for cell in row.strip("|").split("|"))
        assert threat
        assert control
        assert re.search(r"`tests/[\w./-]+`", shown), row


def test_what_remains_is_said():
    """Nobody has to find out."""
    for heading in ("## Assets", "## Trust boundaries", "## What remains", "## Reporting a vulnerability"):
        assert heading in TEXT
