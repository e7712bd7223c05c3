"""Ask held-out queries of both versions of running canaries, again and again, and score the two answers beside each
other.

Which row a pair asks follows from its number alone, drawn evenly with replacement: so pairs tell of the whole set, and
whoever replays one again replays the same.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any, Final, Protocol

from django.db import transaction
from django.utils import timezone

from controlplane.evals.asking import CONCURRENCY, Answered, Asker, JudgesAsker, NotAnswered, open_asker
from controlplane.evals.errors import NoAnswer
from controlplane.evals.judges.kinds import Judging, judge_answer
from controlplane.evals.judges.refusals import is_refusal
from controlplane.evals.models import EvalRow, EvalSetVersion
from controlplane.evals.placing import Placed, place, prompt_subject
from controlplane.evals.rows import Row
from controlplane.rollouts.guardrails import Guardrails, Rail, Stream
from controlplane.rollouts.models import Canary
from controlplane.verdicts.models import CanaryWatch, ReplayPair
from controlplane.verdicts.references import judge_version, set_version
from controlplane.verdicts.watching import watch_of
from controlplane.work import operations as work
from controlplane.work.handlers import Attempt

logger = logging.getLogger(__name__)

REPLAY: Final = "verdicts.replay"
PAIRS_AT_ONCE: Final = 10
# No more are handed out while so many are under way: the gateway, or whoever asks it, is slower than the plan wishes.
MAX_UNDER_WAY: Final = 4 * PAIRS_AT_ONCE
# What was handed out so long ago, and has not come, never comes.
GIVEN_UP_AFTER: Final = timedelta(minutes=5)
KEEP_PAIRS: Final = timedelta(days=90)
# Where a gateway withholds an answer, that is as bad as the worst: else a version would be the better off for it.
_WITHHELD: Final = {"repair_failed": ("schema", "grounding"), "validation_failed": ("safety", "grounding")}


# --- handing out -----------------------------------------------------------------------------------------------------
def hand_out_all(*, now: datetime) -> int:
    """Hand the next pairs of every running canary that has a held-out set to workers; returns how many pairs."""
    handed = 0
    for canary in Canary.objects.running().exclude(guardrails=None).with_parts():
        try:
            handed += hand_out(canary, now=now)
        except Exception:
            logger.exception("the next replays of canary %s cannot be handed out", canary.slug)
    return handed


@transaction.atomic
def hand_out(canary: Canary, *, now: datetime) -> int:
    """Hand out as many pairs as the plan wishes for the time since the last ones; returns how many."""
    policy = Guardrails.parse(canary.guardrails)
    if policy.held_out is None or not policy.replays_per_minute:
        return 0
    watch = watch_of(canary, now=now)
    since = watch.handed_out_at or now - timedelta(minutes=1)
    count = min(int(policy.replays_per_minute * (now - since) / timedelta(minutes=1)), PAIRS_AT_ONCE)
    if count <= 0 or _is_behind(canary, watch, now=now):
        return 0
    first = watch.handed_out + 1
    arguments = {"canary": canary.pk, "first": first, "count": count}
    work.enqueue(kind=REPLAY, arguments=arguments, key=f"{canary.slug}:{first}", now=now)
    watch.handed_out, watch.handed_out_at = watch.handed_out + count, now
    watch.save(update_fields=["handed_out", "handed_out_at"])
    return count


def _is_behind(canary: Canary, watch: CanaryWatch, *, now: datetime) -> bool:
    """Whether what was handed out has not come back, and may still."""
    newest = ReplayPair.objects.filter(canary=canary).order_by("-number").values_list("number", flat=True).first()
    under_way = watch.handed_out - (newest or 0)
    return under_way >= MAX_UNDER_WAY and watch.handed_out_at is not None and now - watch.handed_out_at < GIVEN_UP_AFTER


class OpenAsker(Protocol):
    """As `evals.asking.open_asker`."""

    def __call__(self, *, run: str, residency: Iterable[str]) -> AbstractContextManager[Asker]: ...


# --- asking ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Side:
    """One version's answer, or why there is none."""

    said: Answered | NotAnswered

    @property
    def is_known(self) -> bool:
        """Whether there was an answer, handed over or withheld because it was bad."""
        return isinstance(self.said, Answered) or self.said.is_answers_fault

    def to_json(self) -> dict[str, Any]:
        """Shape: {"cost_micros": int, "latency_ms": float, "request_id": str} and of an answer {"text", "tool_calls",
        "refused": bool, "schema": bool or null, "lane"}, else {"code", "message"}.
        """
        said = self.said
        told: dict[str, Any] = {
            "cost_micros": said.cost_micros,
            "latency_ms": said.latency_ms,
            "request_id": said.request_id,
        }
        if isinstance(said, NotAnswered):
            return told | {"code": said.code, "message": said.message}
        return told | {
            "text": said.text,
            "tool_calls": [list(call) for call in said.tool_calls],
            "refused": said.refused,
            "schema": said.schema,
            "lane": said.lane,
        }


@dataclass(frozen=True, slots=True)
class Bench:
    """What the pairs of one canary are asked and scored with."""

    policy: Guardrails
    asker: Asker
    candidate: Placed
    control: Placed
    judges: Mapping[str, Judging]

    def replay(self, row: Row) -> tuple[Side, Side, dict[str, dict[str, float]]]:
        """Ask one row of both, at the same time, and score what they say."""
        with ThreadPoolExecutor(max_workers=2) as both:
            asked = [both.submit(self.asker.ask, placed, row) for placed in (self.candidate, self.control)]
            candidate, control = (Side(one.result()) for one in asked)
        if not (candidate.is_known and control.is_known):
            return candidate, control, {}
        scores = {}
        for rail, stream in self.policy.judged:
            if stream is Stream.REPLAY:
                values = [self._score(rail, row, side) for side in (candidate, control)]
                if values[0] is not None and values[1] is not None:
                    scores[rail.key] = {"candidate": values[0], "control": values[1]}
        return candidate, control, scores

    def _score(self, rail: Rail, row: Row, side: Side) -> float | None:
        """A rail's figure of one answer: what it cost, how long it took, or whether it was good; None: nobody knows."""
        said = side.said
        if rail.key == "cost":
            return float(said.cost_micros)
        if isinstance(said, NotAnswered):
            return 0.0 if rail.key in _WITHHELD.get(said.code, ()) else None
        if rail.key == "latency":
            return said.latency_ms
        if rail.key == "schema":
            return None if said.schema is None else float(said.schema)
        if rail.key == "refusals":
            return float(said.refused or is_refusal(said.text))
        try:
            score = judge_answer(self.judges[rail.key], row, said, asker=JudgesAsker(self.asker))
        except NoAnswer as exc:
            logger.info("the judge of %s cannot be asked: %s", rail.key, exc)
            return None
        return None if score.passed is None else float(score.passed)


def run_work(arguments: dict[str, Any], attempt: Attempt) -> None:
    """As `controlplane.work` calls it."""
    run_pairs(arguments["canary"], range(arguments["first"], arguments["first"] + arguments["count"]))


def run_pairs(pk: int, numbers: range, *, open_asker: OpenAsker = open_asker) -> None:
    """Replay the pairs of these numbers, and keep them together, so that none waits for another's number; nothing
    where that was done, or the canary is over.

    Raises:
        UnknownSubject, UnknownReference, SigningKeyMissing: it cannot be asked; tried again, then a dead letter.
    """
    canary = Canary.objects.with_parts().get(pk=pk)
    policy = canary.judged_by
    if not canary.is_running or policy is None or policy.held_out is None:
        return
    if ReplayPair.objects.filter(canary=canary, number__in=numbers).exists():
        return  # all of them were kept in one transaction
    version = set_version(policy.held_out)
    subjects = [prompt_subject(canary.prompt.slug, each.number) for each in (canary.candidate, canary.control)]
    rows = _draw_rows(canary, version, numbers, positions=_positions(version, subjects[0].takes()))
    with open_asker(run=f"replay-{canary.pk}", residency=version.set.residency) as asker:
        bench = Bench(
            policy=policy,
            asker=asker,
            candidate=place(subjects[0]),
            control=place(subjects[1]),
            judges={key: judge_version(name).read() for key, name in policy.judges.items()},
        )
        with ThreadPoolExecutor(max_workers=CONCURRENCY // 2) as pool:
            found = list(pool.map(bench.replay, [row for row, _ in rows]))
    now = timezone.now()
    pairs = [
        ReplayPair(
            canary=canary,
            number=number,
            row_id=name,
            at=now,
            candidate=candidate.to_json(),
            control=control.to_json(),
            scores=scores,
            problem="" if scores else _problem(candidate, control),
        )
        for number, (_, name), (candidate, control, scores) in zip(numbers, rows, found, strict=True)
    ]
    ReplayPair.objects.bulk_create(pairs, ignore_conflicts=True)


def _positions(version: EvalSetVersion, takes: Any) -> list[int]:
    rows = EvalRow.objects.filter(version=version).filter(takes)
    return list(rows.order_by("position").values_list("position", flat=True))


def _draw_rows(
    canary: Canary, version: EvalSetVersion, numbers: Sequence[int], *, positions: Sequence[int]
) -> list[tuple[Row, str]]:
    """The row of each number, and its id."""
    if not positions:
        raise NoAnswer(f"{version} has no row that prompt {canary.prompt.slug!r} could be asked")
    # Not a secret: whoever has the plan can see which row comes next.
    drawn = [Random(f"{canary.salt}:{number}").choice(positions) for number in numbers]  # noqa: S311
    rows = {row.position: row for row in EvalRow.objects.filter(version=version, position__in=set(drawn))}
    return [(rows[position].read(), rows[position].key) for position in drawn]


def _problem(candidate: Side, control: Side) -> str:
    for name, side in (("candidate", candidate), ("control", control)):
        if isinstance(side.said, NotAnswered):
            return f"{name}: {side.said.code}: {side.said.message}"[:300]
    return "nothing about it can be scored"


# --- forgetting ------------------------------------------------------------------------------------------------------
def forget_old(*, now: datetime) -> int:
    """Delete the pairs of canaries that ended longer than KEEP_PAIRS ago; returns how many."""
    old = ReplayPair.objects.filter(canary__ended_at__lt=now - KEEP_PAIRS).order_by("pk").values("pk")[:5_000]
    return ReplayPair.objects.filter(pk__in=old).delete()[0]
