"""Attempts that are under way, so that one which a killed process took with it is on the bill: its provider's is.

When an attempt begins to be sent, what its usage row would say so far stands in a slot (see `stores.slots`), and leaves
it when there is a row. What is the same for many attempts is written as JSON once and kept; what is the attempt's own
stands before it in fields of fixed length. It is short, since to touch memory is what it costs most.
"""

from __future__ import annotations

from pathlib import Path
from struct import Struct, error
from typing import Any, Final

import orjson

from dataplane.journey import CHARACTERS_PER_TOKEN, Attempt, Journey, attempt_id
from dataplane.messages import Usage
from dataplane.stores.slots import NONE, Slots

PROCESS_LOST: Final = "process_lost"
NUMBER: Final = 2048
# Of what is kept of it: tenants times routes times lanes times prompts, of the last while.
MAX_KNOWN: Final = 4096
# What attempts share, in this order.
SHARED: Final = (
    *("tenant", "tier", "key_id", "route", "lane", "prompt", "version", "canary", "cohort", "kind", "attempt", "cause"),
    *("stream", "input_price"),
)
# When it began, in epoch seconds; bytes sent; whether its stream is kept elsewhere too; its id; user's hash; trace.
_OWN: Final = Struct("<dI?36s16s32s")
_OWN_BYTES: Final = 97


class UnderWay:
    """See the module. One per process, on its event loop; without a file, until `open` and after `close`, nothing is
    guarded. `unguarded` counts attempts for which there was no slot.
    """

    __slots__ = ("_known", "_slots", "unguarded")

    def __init__(self) -> None:
        self._slots: Slots | None = None
        self._known: dict[tuple[Any, ...], bytes] = {}
        self.unguarded = 0

    def open(self, path: Path) -> dict[int, dict[str, Any]]:
        """Guard attempts from now on. Returns the usage rows of those that the last owner of the file had under way
        when it died, by slot: each is to be freed by `end` once its row is somewhere else.

        Raises:
            OSError: the file cannot be used.
        """
        self._slots = slots = Slots(path, number=NUMBER)
        rows = {}
        for slot, record in slots.left.items():
            row = _row_of(record)
            if row is None:
                slots.free(slot)  # or it would be taken for ever
            else:
                rows[slot] = row
        return rows

    def close(self) -> None:
        """Guard nothing more."""
        if self._slots is not None:
            self._slots.close()
            self._slots = None

    def begin(self, journey: Journey, attempt: Attempt, *, sent_bytes: int, at: float, name: str = "") -> int:
        """An attempt is about to be sent; returns its slot, NONE without one. `at` is epoch seconds, `name` the id of
        the attempt where it is not `attempt_id`'s. Costs no system call.
        """
        slots, tenant = self._slots, journey.tenant
        if slots is None or tenant is None:
            return NONE
        lane, version = attempt.lane, journey.prompt_version
        # Other attempts with all of this have the same row but for what stands before it. Prices are among it.
        key = (
            tenant.slug,
            tenant.tier,
            journey.key_id,
            journey.route,
            lane.id,
            lane.input_micros_per_million_tokens,
            "" if version is None else version.prompt,
            0 if version is None else version.number,
            journey.canary,
            journey.cohort,
            attempt.kind,
            attempt.cause,
            attempt.place,
            journey.stream,
            journey.admission is None,
        )
        shared = self._known.get(key)
        if shared is None:
            shared = self._learn(key, journey, attempt)
        trace = journey.trace
        own = (
            at,
            sent_bytes,
            journey.production is not None,
            (name or attempt_id(journey, attempt)).encode(),
            journey.user_hash.encode(),
            b"" if trace is None else trace.trace_id.encode(),
        )
        slot = slots.take(_OWN, own, shared)
        if slot == NONE:
            self.unguarded += 1
        return slot

    def end(self, slot: int) -> None:
        """An attempt has its row, or needs none."""
        if slot != NONE and self._slots is not None:
            self._slots.free(slot)

    def _learn(self, key: tuple[Any, ...], journey: Journey, attempt: Attempt) -> bytes:
        row = journey.usage_row(attempt, Usage(), cost_micros=0, attempt_id="", at=0.0)
        row["input_price"] = attempt.lane.input_micros_per_million_tokens
        text = orjson.dumps([row[member] for member in SHARED])
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[key] = text
        return text


def _row_of(record: bytes) -> dict[str, Any] | None:
    """The usage row of an attempt that nobody saw the end of: what it sent, by the estimate that stands in for a
    vendor's figures, and nothing of what it got, which nobody knows. `is_kept` is for whoever tells of it.

    Its time is when it began, since nobody knows when it ended. None: another release wrote it otherwise.
    """
    try:
        at, sent_bytes, is_kept, told_name, user, trace_id = _OWN.unpack_from(record)
        row: dict[str, Any] = dict(zip(SHARED, orjson.loads(record[_OWN_BYTES:]), strict=True))
        name, tokens = _text(told_name), -(-sent_bytes // CHARACTERS_PER_TOKEN)
        row |= {
            "attempt_id": name,
            "request_id": f"req_{name.rpartition('-')[0]}",
            "at": at,
            "user": _text(user),
            "outcome": PROCESS_LOST,
            "status": 0,
            "input_tokens": tokens,
            "output_tokens": 0,
            "cost_micros": (tokens * row.pop("input_price") + 500_000) // 1_000_000,
            "latency_ms": 0.0,
            "ttft_ms": None,
            "is_kept": is_kept,
        }
    except (error, ValueError, KeyError, TypeError):
        return None
    if trace_id.strip(b"\0"):
        row["trace_id"] = _text(trace_id)
    return row


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode()
