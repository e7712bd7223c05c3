"""Lines as they are logged."""

from __future__ import annotations

import io
import logging

import orjson
import pytest

from dataplane import logs
from dataplane.logs import LogFormat, formatter


@pytest.fixture
def lines():
    """Logs one thing in each form and gives what was written."""
    found = {}
    logger = logging.getLogger("tests.lines")
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    for form in LogFormat:
        text = found[form] = io.StringIO()
        handler = logging.StreamHandler(text)
        handler.setFormatter(formatter(form, service="ballast-gateway"))
        logger.addHandler(handler)
    yield logger, lambda: {form: text.getvalue() for form, text in found.items()}
    logger.handlers.clear()
    logs.show_traces(None)


def test_line_is_json_that_a_collector_takes_and_text_that_people_read(lines):
    """With the same message, whatever stands in it; one line, also where the message has more."""
    logger, written = lines
    logger.warning("lane %r is\nopen", "a/b", extra={"lane": "a/b"})

    line = orjson.loads(written()[LogFormat.JSON])

    assert written()[LogFormat.JSON].count("\n") == 1
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "tests.lines",
        "message": "lane 'a/b' is\nopen",
        "lane": "a/b",
        "service": "ballast-gateway",
    }
    assert " WARNING tests.lines: lane 'a/b' is\nopen" in written()[LogFormat.TEXT]


def test_traceback_has_no_values_of_variables(lines):
    """What went wrong, and where; what was in hand stays there."""
    logger, written = lines
    question = "what is quince-marmalade?"
    try:
        assert question[1000]
    except IndexError:
        logger.exception("it failed")

    for text in written().values():
        assert "IndexError: string index out of range" in text
        assert "quince" not in text
    assert "Traceback" in orjson.loads(written()[LogFormat.JSON])["exception"]


def test_line_says_what_trace_it_is_part_of(lines):
    """Where it is part of one; nothing, where it is not."""
    logger, written = lines
    logs.show_traces(lambda: ("a1" * 16, "b2" * 8))
    logger.info("below the level")
    logger.warning("traced")
    logs.show_traces(lambda: None)
    logger.warning("not traced")

    traced, plain = map(orjson.loads, written()[LogFormat.JSON].splitlines())

    assert (traced["trace_id"], traced["span_id"]) == ("a1" * 16, "b2" * 8)
    assert "trace_id" not in plain
    text = written()[LogFormat.TEXT].splitlines()
    assert text[0].endswith(f"traced trace_id={'a1' * 16} span_id={'b2' * 8}")
    assert text[1].endswith(": not traced")
