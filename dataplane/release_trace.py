"""What trace a release came by, in a file beside the release's own: `<file>.trace`.

Beside it and not in it: the release is signed before it is sent, and how it went is nobody's to sign. Nothing rests on
this file, so one that is missing, old or damaged is as good as none.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from dataplane.stores.files import stamp_of, write_atomically
from dataplane.tracing import read_traceparent


@dataclass(frozen=True, slots=True)
class ReleaseTrace:
    """The traceparent of whoever wrote a release file, and when that was, in epoch nanoseconds."""

    traceparent: str
    written_at_ns: int


def trace_file(release_file: Path) -> Path:
    """Where the trace of the release in `release_file` is kept."""
    return release_file.with_name(release_file.name + ".trace")


def write_release_trace(release_file: Path, *, digest: str, traceparent: str) -> None:
    """Say what trace the release of this digest comes by, before its file is written; nothing, without a traceparent.

    Raises:
        OSError: it cannot be written.
    """
    if traceparent:
        write_atomically(trace_file(release_file), json.dumps({"digest": digest, "traceparent": traceparent}).encode())


def read_release_trace(release_file: Path, *, digest: str) -> ReleaseTrace | None:
    """The trace of the release of this digest, if it came by one."""
    stamp = stamp_of(release_file)
    try:
        content = json.loads(trace_file(release_file).read_bytes())
        traceparent = read_traceparent(content["traceparent"]) if content["digest"] == digest else ""
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return ReleaseTrace(traceparent, stamp[0]) if traceparent and stamp is not None else None
