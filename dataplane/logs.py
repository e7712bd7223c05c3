"""How processes of both planes log: line by line, as JSON for whoever collects them or as text for whoever reads along.

A line says what happened, with names, numbers and codes; never a prompt, an answer or a key. Tracebacks come without
the values of variables. Where something is traced, its lines carry `trace_id` and `span_id`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, MutableMapping
from enum import StrEnum
from typing import Any, Final

import orjson
import structlog

# They log addresses whole, whose paths and queries may hold tokens, or what nobody can do anything about.
QUIET: Final[Mapping[str, int]] = {
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    # What becomes of spans is counted, and said once: see `dataplane/otel/exporting.py`.
    "opentelemetry": logging.CRITICAL,
}
TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"

Line = MutableMapping[str, Any]
Ids = Callable[[], tuple[str, str] | None]

_trace_ids: Ids | None = None


class LogFormat(StrEnum):
    """What a line is written as."""

    TEXT = "text"
    JSON = "json"


def show_traces(ids: Ids | None) -> None:
    """Have lines say what they are part of: `ids` gives the ids of trace and span of what is done now."""
    global _trace_ids
    _trace_ids = ids


class TextFormatter(logging.Formatter):
    """Lines as people read them."""

    def __init__(self) -> None:
        super().__init__(TEXT)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """As `Formatter.formatMessage`."""
        ids = None if _trace_ids is None else _trace_ids()
        text = super().formatMessage(record)
        return text if ids is None else f"{text} trace_id={ids[0]} span_id={ids[1]}"


def formatter(form: LogFormat | str, **facts: str) -> logging.Formatter:
    """What writes a line. `facts` are the same in each, such as `service`; text leaves them out.

    Shape of JSON: {"timestamp": ISO 8601 in UTC, "level", "logger", "message": str, "trace_id", "span_id": where there
    are any, "exception": a traceback, where there is one} and the facts.
    """
    if form == LogFormat.TEXT:
        return TextFormatter()

    def add_facts(_: Any, __: str, line: Line) -> Line:
        ids = None if _trace_ids is None else _trace_ids()
        if ids is not None:
            line["trace_id"], line["span_id"] = ids
        line.pop("asctime", None)  # another formatter's, left in the record
        line.update(facts)
        return line

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            add_facts,
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(serializer=_dump),
        ],
    )


def log_to_stderr(form: LogFormat, *, level: str, **facts: str) -> None:
    """Have this process log to its standard error; `facts` as in `formatter`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(form, **facts))
    logging.basicConfig(handlers=[handler], level=level)
    for name, least in QUIET.items():
        logging.getLogger(name).setLevel(least)


def _dump(line: Line, **_: Any) -> str:
    return orjson.dumps(line, default=str).decode()
