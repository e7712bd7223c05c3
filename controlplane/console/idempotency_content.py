"""What the pages of idempotency keys show: what became of a key in one sentence, its steps, and what was billed."""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from django.urls import reverse

from controlplane.console.templatetags.ballast import micros, short_id
from controlplane.ledger.evidence import ChainVerification
from controlplane.ledger.idempotency import IdempotencyEvidence
from controlplane.ledger.keys import Billed, KeyLife, billed_for, chain_of
from controlplane.ledger.stream_rows import StreamRow
from dataplane.idempotency import Event, State

STEPS_SHOWN: Final = 50
BILLED_SHOWN: Final = 20
STATES: Final = {
    State.RUNNING: ("info", "running"),
    State.DONE: ("good", "answered"),
    State.RELEASED: ("watch", "free again"),
    State.INDETERMINATE: ("bad", "not known"),
    State.EXPIRED: ("off", "over"),
}
# Event -> (what lists call it, what a key's page says of it, tone, icon). `{field}` comes from the row.
STEPS: Final = {
    Event.CREATED: ("first request", "The key came for the first time; execution 1 began", "info", "play-fill"),
    Event.RESUMED: ("asked again", "The gateway asked the database again for the same request", "off", "arrow-repeat"),
    Event.ATTACHED: ("duplicate waits", "A duplicate came while it was being executed", "off", "hourglass-split"),
    Event.REPLAYED: ("answer repeated", "A duplicate got the answer that is kept", "good", "arrow-repeat"),
    Event.NOT_KEPT: ("nothing to repeat", "A duplicate came after an answer too long to keep", "watch", "slash-circle"),
    Event.MISMATCH: ("another request", "Another request came with the key and was refused", "bad", "x-lg"),
    Event.TAKEN_OVER: ("taken over", "Its owner was held to be dead; execution {epoch} began", "watch", "play-fill"),
    Event.REOPENED: (
        "used again",
        "The key was free and came again; execution {epoch} began",
        "info",
        "play-fill",
    ),
    Event.STREAMING: ("stream began", "The answer became a stream", "info", "broadcast"),
    Event.COMPLETED: ("executed", "Executed to the end: status {status}", "good", "check-lg"),
    Event.RELEASED: ("let go", "Execution {epoch} ended without an answer; the key is free again", "watch", "x-lg"),
    Event.INDETERMINATE: ("not known", "What was done is not known, so it is not done again", "bad", "x-lg"),
    Event.EXPIRED: ("time over", "Its time was over; only this evidence stays", "off", "stop-fill"),
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the list: a step, and the key that it is a step of."""

    step: IdempotencyEvidence
    life: KeyLife

    @property
    def tone(self) -> str:
        return STATES[self.life.state][0]

    @property
    def state(self) -> str:
        return STATES[self.life.state][1]

    @property
    def event(self) -> str:
        return event_words(self.step.event)

    @property
    def last_event(self) -> str:
        return event_words(self.life.last.event)


@dataclass(frozen=True, slots=True)
class Story:
    """One key as its page tells it. `verified` is None while nobody has walked its chain."""

    life: KeyLife
    billed: tuple[Billed, ...]
    verified: ChainVerification | None
    steps: tuple[dict[str, Any], ...]
    stream: StreamRow | None
    now: datetime

    @property
    def is_unsound(self) -> bool:
        return self.verified is not None and bool(self.verified.findings)

    @property
    def billed_twice(self) -> tuple[Billed, ...]:
        """Requests that executed nothing, and have attempts all the same."""
        return tuple(one for one in self.billed if not one.epoch)

    @property
    def tone(self) -> str:
        return "bad" if self.is_unsound or self.billed_twice else STATES[self.life.state][0]

    @property
    def sentence(self) -> str:
        """What became of it, in words."""
        said = [_fate(self.life, now=self.now), *_others(self.life), _bill(self.billed, self.billed_twice)]
        found = ". Its evidence was changed: look at what the chain says" if self.is_unsound else ""
        return "; ".join(filter(None, said)) + found

    @property
    def fingerprint(self) -> str:
        """Of the request that was executed."""
        return self.life.last.fingerprint if self.life.record is None else self.life.record.fingerprint

    @property
    def facts(self) -> Sequence[tuple[str, str, str]]:
        """What else is known of it: label, words, and an address or none."""
        life = self.life
        stream = life.last.stream_id
        known = self.stream is not None
        until = "" if life.record is None else when(life.record.expires_at)
        return (
            ("Tenant", life.first.tenant, ""),
            ("First sent", when(life.first.at), ""),
            ("Remembered", f"until {until}" if until else f"no more, since {when(life.last.at)}", ""),
            ("Executions", f"{life.executions:,}", ""),
            ("Duplicates", _number(life.served, life), ""),
            ("Refused", _number(life.mismatches, life), ""),
            ("Stream", stream or "none", reverse("stream", args=[stream]) if known else ""),
        )


def story_of(life: KeyLife, *, before: int | None, verify: bool, now: datetime) -> Story:
    """Read all of it, in six queries at most.

    Args:
        before: Only steps with a smaller number are shown; None: from the newest on.
        verify: Walk the chain however long it is.
    """
    billed = billed_for(life)
    rows = IdempotencyEvidence.objects.of_record(life.first.record).order_by("-seq")
    shown = rows[:STEPS_SHOWN] if before is None else rows.filter(seq__lt=before)[:STEPS_SHOWN]
    with_attempts = {one.request_id for one in billed if one.attempts}
    stream = life.last.stream_id
    return Story(
        life=life,
        billed=billed,
        verified=chain_of(life, however_long=verify),
        steps=tuple(_step(row, with_attempts) for row in shown),
        # While it is being written it has no row, and no page.
        stream=StreamRow.objects.filter(pk=stream, tenant=life.first.tenant).first() if stream else None,
        now=now,
    )


def event_words(event: str) -> str:
    """What lists call a step."""
    return _words_of(event)[0]


def when(at: datetime) -> str:
    """A moment as a sentence names it."""
    return f"{at.astimezone(UTC):%-d %b %Y %H:%M} UTC"


# --- the sentence ----------------------------------------------------------------------------------------------------
def _fate(life: KeyLife, *, now: datetime) -> str:
    times = {1: "once", 2: "twice"}.get(life.executions, f"{life.executions:,} times")
    record, last = life.record, life.last
    if record is not None and life.state is State.RUNNING:
        begun = "Being executed" if life.executions == 1 else f"Begun {times}, being executed"
        silent = record.lease_until <= now
        heard = f"; its owner has not been heard of since {when(record.lease_until)}" if silent else ""
        return f"{begun} since the request of {when(life.first.at)}{heard}"
    if record is not None and life.state is State.RELEASED:
        return f"Begun {times}, and ended without an answer: the key is free until {when(record.expires_at)}"
    if life.completed_at is None:
        ended = f", forgotten on {when(last.at)}" if life.state is State.EXPIRED else ""
        unknown = ": what was done is not known" if life.state is State.INDETERMINATE else ""
        return f"Begun {times}, never executed to the end{unknown}{ended}"
    done = f"{times} on" if life.executions == 1 else f"{times}, to the end on"
    ended = f", forgotten on {when(last.at)}" if life.state is State.EXPIRED else ""
    return f"Executed {done} {when(life.completed_at)}{ended}"


def _others(life: KeyLife) -> Iterable[str]:
    if life.served:
        what = "read along" if life.completed_at is None else "got the same answer"
        yield f"{_number(life.served, life)} duplicate{_s(life.served)} {what}"
    if life.not_kept:
        yield f"{_number(life.not_kept, life)} came when there was no answer any more, which had been too long to keep"
    if life.mismatches:
        was = "was" if life.mismatches == 1 else "were"
        yield f"{_number(life.mismatches, life)} other request{_s(life.mismatches)} with the key {was} refused"


def _bill(billed: Sequence[Billed], twice: Sequence[Billed]) -> str:
    if twice:
        others = f" and {len(twice) - 1:,} more" if len(twice) > 1 else ""
        return f"request {twice[0].request_id}{others} executed nothing and was billed all the same"
    paid = [one for one in billed if one.attempts]
    if len(paid) > 1:
        total = micros(sum(one.cost_micros for one in paid))
        return f"{len(paid):,} executions made attempts, which were billed: {total} together"
    return "nothing was billed twice" if paid else "no attempt is on record for it"


def _number(count: int, life: KeyLife) -> str:
    return f"{count:,}" if life.is_counted else f"at least {count:,}"


def _s(count: int) -> str:
    return "" if count == 1 else "s"


# --- the steps -------------------------------------------------------------------------------------------------------
def _step(row: IdempotencyEvidence, with_attempts: Collection[str]) -> dict[str, Any]:
    """One step as `components/_timeline.html` takes it; its request leads to its attempts, if it made any."""
    _, text, tone, icon = _words_of(row.event)
    worker = row.owner.rpartition("/")[0] or row.owner
    step = {
        "seq": row.seq,
        "at": row.at,
        "text": text.format(epoch=row.epoch, status=row.status),
        "actor": f"{row.request_id} at {worker}" if row.request_id else "",
        "reason": _detail(row),
        "tone": tone,
        "icon": icon,
    }
    if row.request_id in with_attempts:
        step["url"] = reverse("usage-request", args=[row.request_id])
    return step


def _words_of(event: str) -> tuple[str, str, str, str]:
    # Whoever forges evidence may write anything, and the page that shows it must open.
    forged = (event, f"{event!r}, which is no step of a key", "bad", "x-lg")
    return STEPS[Event(event)] if event in set(Event) else forged


def _detail(row: IdempotencyEvidence) -> str:
    if row.event == Event.ATTACHED:
        return f"It read along in stream {short_id(row.stream_id)}" if row.stream_id else "It waited for the answer"
    if row.event == Event.STREAMING:
        return f"Stream {short_id(row.stream_id)}"
    try:
        detail = json.loads(row.detail)
    except ValueError:
        return row.detail
    if row.event == Event.MISMATCH and isinstance(detail, list):
        return f"It differs in {', '.join(map(str, detail))}"
    if row.event == Event.COMPLETED and isinstance(detail, dict):
        return ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in detail.items() if count is not None)
    return row.detail
