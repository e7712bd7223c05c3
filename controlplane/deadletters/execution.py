"""Carries plans out, step by step: the dry run, the canary, the ramp, and what became of each letter.

A step may die at any point, or be taken twice at a time: each of its moves is one transaction that holds the plan's
row, and looks first whether it has been made.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from controlplane import live
from controlplane.deadletters import handing_in, operations, redrive
from controlplane.deadletters.checks import Checker, Finding, NotNow
from controlplane.deadletters.errors import LetterMoved, PlanMoved
from controlplane.deadletters.handing_in import Ended
from controlplane.deadletters.models import DeadLetter
from controlplane.deadletters.payloads import ConfiguredStore
from controlplane.deadletters.plans import (
    FEW,
    ITEM_TRANSITIONS,
    WINDOW,
    ItemEvent,
    ItemState,
    PlanEvent,
    PlanState,
    RedriveItem,
    RedrivePlan,
    Verdict,
)
from controlplane.work.handlers import Attempt
from dataplane.deadletters import Category, Event, State
from dataplane.stores.payloads import PayloadStore

logger = logging.getLogger(__name__)

CHECKED_PER_STEP: Final = 100
HANDED_IN_PER_STEP: Final = 100
# How many are asked about in one query, and settled in one transaction.
ASKED_AT_ONCE: Final = 500
SETTLED_AT_ONCE: Final = 50
# How far apart steps are while there is something to wait for.
STEP_SECONDS: Final = 5.0
# What a step is late for is made up, up to so much.
BURST: Final = timedelta(seconds=10)
DOUBLED_AFTER: Final = timedelta(seconds=60)
# A plan whose step is so late has lost it.
LATE: Final = timedelta(seconds=60)
# What fails like this would kill whoever tries the next.
AT_ONCE: Final = frozenset({Category.POISON.value})
_MOST_ANCESTORS: Final = 100

Clock = Callable[[], datetime]


def run_step(arguments: dict[str, Any], attempt: Attempt) -> None:
    """Take one step of a plan: durable work."""
    take_step(UUID(arguments["plan"]), arguments["step"], store=ConfiguredStore(), now=timezone.now)


def take_step(pk: UUID, step: int, *, store: PayloadStore, now: Clock) -> None:
    """Take the step of that number, and have the next one taken; a step that another has replaced does nothing."""
    plan = RedrivePlan.objects.get(pk=pk)
    if plan.step != step:
        return
    if plan.state == PlanState.CHECKING:
        _check_some(plan, store, now)
    else:
        _settle(plan, now)
        _judge(plan, now)
        _hand_in_some(plan, store, now)
        _finish_if_through(plan, now)
    _go_on(plan, step, now)
    data = {"plan": str(plan.pk), "state": str(plan.state)}
    live.notify(live.DEAD_LETTERS, data)


def wake_late(*, now: datetime) -> int:
    """Begin anew the steps of plans that have lost theirs. Returns how many."""
    late = RedrivePlan.objects.filter(next_at__lte=now - LATE).values_list("pk", flat=True)
    return sum(_wake(pk, now) for pk in list(late))


@transaction.atomic
def _wake(pk: UUID, now: datetime) -> bool:
    plan = RedrivePlan.objects.select_for_update().get(pk=pk)
    if plan.next_at is None or plan.next_at > now - LATE:
        return False
    # A step that was held for poison has left a letter, and nobody has to do anything about it: the next one goes on.
    lost = DeadLetter.objects.open().filter(name=redrive.STEP, key=redrive.step_key(plan))
    if names := list(lost.values_list("pk", flat=True)):
        reason = "another step of its plan has taken its place"
        operations.decide(letters=names, event=Event.RESOLVED, actor=plan.audit_name, reason=reason, now=now)
    redrive.kick(plan, now=now)
    return True


@transaction.atomic
def _go_on(plan: RedrivePlan, step: int, now: Clock) -> None:
    locked = RedrivePlan.objects.select_for_update().get(pk=plan.pk)
    if locked.step != step:
        return  # somebody has decided something meanwhile, and has had the next step taken
    is_checking = locked.state == PlanState.CHECKING
    if not is_checking and not locked.is_running and not locked.items.under_way().exists():
        RedrivePlan.objects.filter(pk=plan.pk).update(next_at=None)
        return
    redrive.kick(locked, now=now(), delay_seconds=0.0 if is_checking else STEP_SECONDS)


# --- the dry run -----------------------------------------------------------------------------------------------------
def _check_some(plan: RedrivePlan, store: PayloadStore, now: Clock) -> None:
    checker = Checker(store, edit=plan.edit, now=now())
    items = list(plan.items.unchecked().with_letters()[:CHECKED_PER_STEP])
    for item in items:
        _note(item, _finding(checker, item.letter))
    with transaction.atomic():
        locked = RedrivePlan.objects.select_for_update().get(pk=plan.pk)
        if locked.step != plan.step or locked.state != PlanState.CHECKING:
            return
        RedriveItem.objects.bulk_update(items, ["verdict", "why", "old_digest", "new_digest", "diff"])
        if not plan.items.unchecked().exists():
            release = checker.release.revision if checker.release is not None else None
            digest = redrive.checked_digest_of(plan)
            more = {"checked_at": now(), "checked_release": release, "checked_digest": digest}
            redrive.move(plan, PlanEvent.CHECKED, now=now(), **more)


def _finding(checker: Checker, letter: DeadLetter) -> Finding:
    try:
        return checker.check(letter)
    except NotNow as exc:
        return Finding(Verdict.REFUSED, f"its payload cannot be read now: {exc}")


def _note(item: RedriveItem, found: Finding) -> None:
    item.verdict, item.why = found.verdict.value, found.why[:300]
    item.old_digest, item.new_digest, item.diff = found.old_digest, found.new_digest, found.diff


# --- what became of what was handed in -------------------------------------------------------------------------------
def _settle(plan: RedrivePlan, now: Clock) -> None:
    """Write how work ended that was handed in, and settle its letters; so many at a time, so that whoever would pause
    the plan does not wait for all of them.
    """
    items = {item.work_id: item for item in plan.items.under_way().with_letters() if item.work_id is not None}
    for some in _in_parts(list(items), ASKED_AT_ONCE):
        ended = handing_in.endings_of({work_id: items[work_id].letter for work_id in some})
        for part in _in_parts(list(ended), SETTLED_AT_ONCE):
            _settle_some(plan, [(items[work_id], ended[work_id]) for work_id in part], now())


def _in_parts(names: Sequence[UUID], size: int) -> Iterator[Sequence[UUID]]:
    for first in range(0, len(names), size):
        yield names[first : first + size]


@transaction.atomic
def _settle_some(plan: RedrivePlan, ends: Sequence[tuple[RedriveItem, Ended]], now: datetime) -> None:
    RedrivePlan.objects.select_for_update().get(pk=plan.pk)
    still = set(plan.items.under_way().filter(pk__in=[item.pk for item, _ in ends]).values_list("pk", flat=True))
    for item, end in ends:
        if item.pk not in still:
            continue  # by another step
        event = ItemEvent.DONE if end.is_done else ItemEvent.FAILED
        _move_item(item, event, ended_at=end.at or now, category=end.category, next_letter=end.letter)
        if end.is_done:
            _resolve(item.letter, now)
        elif end.letter is None:
            # Nobody has its work any more. Where it failed again there is a letter of that, and this one has gone on
            # as that: one piece of work has one open letter.
            _settle_letter(item.letter, is_done=False, now=now)


def _resolve(letter: DeadLetter, now: datetime) -> None:
    """Settle a letter whose work is done, and those that it came from."""
    chain: DeadLetter | None = letter
    for _ in range(_MOST_ANCESTORS):
        if chain is None or chain.state != State.REDRIVEN:
            break
        _settle_letter(chain, is_done=True, now=now)
        chain = DeadLetter.objects.without_words().filter(pk=chain.redriven_from).first()


def _settle_letter(letter: DeadLetter, *, is_done: bool, now: datetime) -> None:
    try:
        operations.settle_redriven(letter, is_done=is_done, now=now)
    except LetterMoved as exc:  # somebody has decided about it meanwhile, or its payload is gone
        logger.info("%s; it stays so", exc)


def _judge(plan: RedrivePlan, now: Clock) -> None:
    """Stop a plan that goes wrong; let one through that has passed its canary."""
    plan.refresh_from_db()
    if not plan.is_running:
        return
    done = plan.items.filter(state=ItemState.DONE.value).count()
    why = _why_stop(plan, done)
    try:
        if why:
            redrive.end_by_itself(plan=plan, event=PlanEvent.STOPPED, why=why, now=now())
        elif plan.state == PlanState.CANARY and done >= plan.canary_letters:
            with transaction.atomic():
                redrive.move(plan, PlanEvent.CANARY_PASSED, now=now(), rate_at=now(), hand_in_at=now())
    except PlanMoved as exc:
        logger.info("%s", exc)
        plan.refresh_from_db()


def _why_stop(plan: RedrivePlan, done: int) -> str:
    """Why a plan has to stop itself; empty: it may go on."""
    last: Sequence[RedriveItem] = list(plan.items.last_ended(WINDOW))
    failed = [item for item in last if item.state == ItemState.FAILED]
    for item in failed:
        if item.category in AT_ONCE:
            return f"letter {item.position} failed again with {item.category}: trying more makes no sense"
    if plan.state == PlanState.CANARY and done < plan.canary_letters and failed:
        return f"letter {failed[0].position} of the canary failed again ({failed[0].category}); all of it must succeed"
    share = 100 * len(failed) / len(last) if last else 0
    if len(last) >= FEW and share > plan.failure_percent:
        return f"{len(failed)} of the last {len(last)} failed again, over {plan.failure_percent} %"
    return ""


# --- handing in ------------------------------------------------------------------------------------------------------
def _hand_in_some(plan: RedrivePlan, store: PayloadStore, now: Clock) -> None:
    if not plan.is_running:
        return
    checker = Checker(store, edit=plan.edit, now=now())
    for _ in range(HANDED_IN_PER_STEP):
        plan.refresh_from_db()
        if not _has_leave(plan, now()):
            break  # before a payload is read for nothing
        item = plan.items.waiting().with_letters().first()
        if item is None:
            break
        try:
            found = checker.check(item.letter)
            if not _hand_in_next(plan.pk, item, found, now()):
                break
        except NotNow as exc:
            _wait_for(plan, f"waits: {exc}")
            break
        except handing_in.NoRoom:
            _wait_for(plan, f"waits: {item.letter.tenant} has as many jobs in the queue as it may")
            break
        except LetterMoved as exc:
            # Another plan, or a person, was faster between our look and our lock; the next turn sees what it is now.
            logger.info("%s", exc)
    plan.refresh_from_db()


@transaction.atomic
def _hand_in_next(pk: UUID, item: RedriveItem, found: Finding, now: datetime) -> bool:
    """Hand in the letter that is next, or skip it; False: nothing may be handed in now.

    Raises:
        NoRoom, LetterMoved: nothing was changed.
    """
    plan = RedrivePlan.objects.select_for_update().get(pk=pk)
    if not _has_leave(plan, now) or not plan.items.filter(pk=item.pk, state=ItemState.PLANNED.value).exists():
        return False
    if found.work is None or found.new_digest != item.new_digest:
        why = found.why or "it is not what was looked at before"
        _move_item(item, ItemEvent.SKIPPED, ended_at=now, why=why[:300], verdict=found.verdict.value)
        return True
    # Locked last, so that whoever decides about letters never waits for a plan.
    letter = DeadLetter.objects.select_for_update().get(pk=item.letter_id)
    if letter.is_held or letter.payload_sha256 != item.letter.payload_sha256:
        raise LetterMoved(letter.pk, state=letter.state, event="redriven")
    work_id = handing_in.hand_in(letter, found.work, edit_digest=plan.edit_digest, now=now)
    _move_item(item, ItemEvent.HANDED_IN, work_id=work_id, handed_in_at=now)
    changes: dict[str, Any] = {"note": ""}
    if plan.state == PlanState.RAMP:
        rate, rate_at = plan.rate, plan.rate_at or now
        if now - rate_at >= DOUBLED_AFTER and rate < plan.most_per_minute:
            rate, rate_at = min(2 * rate, plan.most_per_minute), now
        plan.rate = rate
        due = max(plan.hand_in_at or now, now - BURST)
        changes |= {"rate": rate, "rate_at": rate_at, "hand_in_at": due + plan.pace(now)}
    RedrivePlan.objects.filter(pk=pk).update(**changes)
    transaction.on_commit(partial(live.notify, live.DEAD_LETTERS, {"plan": str(pk), "state": str(plan.state)}))
    return True


def _has_leave(plan: RedrivePlan, now: datetime) -> bool:
    """Whether a letter may be handed in now: by the pace of the ramp, or one at a time in the canary."""
    if not plan.is_running or (plan.hand_in_at is not None and now < plan.hand_in_at):
        return False
    if plan.state != PlanState.CANARY:
        return True
    tried = list(plan.items.filter(state__in=[ItemState.HANDED_IN.value, ItemState.DONE.value]).values_list("state"))
    return len(tried) < plan.canary_letters and (ItemState.HANDED_IN.value,) not in tried


def _wait_for(plan: RedrivePlan, what: str) -> None:
    RedrivePlan.objects.filter(pk=plan.pk).update(note=what[:300])


def _finish_if_through(plan: RedrivePlan, now: Clock) -> None:
    if not plan.is_running or plan.items.waiting().exists() or plan.items.under_way().exists():
        return
    try:
        redrive.end_by_itself(plan=plan, event=PlanEvent.FINISHED, why="every letter has been dealt with", now=now())
    except PlanMoved as exc:
        logger.info("%s", exc)


def _move_item(item: RedriveItem, event: ItemEvent, **more: Any) -> None:
    """Take the one legal step, under the plan's lock. Only this function, and the start of a plan, assign `state`.

    Raises:
        LetterMoved: somebody has taken it.
    """
    after = ITEM_TRANSITIONS[ItemState(item.state), event]
    moved = RedriveItem.objects.filter(pk=item.pk, state=item.state).update(state=after.value, **more)
    if not moved:
        raise LetterMoved(item.letter_id, state="dealt with", event=event.replace("_", " "))
    item.state = after.value
