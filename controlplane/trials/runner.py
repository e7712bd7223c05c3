"""Tries one policy on stored answers: what a worker does once somebody has asked for it."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from django.db import Error
from django.utils import timezone

from controlplane.telemetry.samples import AnswerSample
from controlplane.trials.models import TrialState, ValidatorTrial
from controlplane.trials.operations import MAX_SAMPLES
from controlplane.trials.tally import Tally, quantile
from controlplane.work.handlers import Attempt
from dataplane.documents import Node
from dataplane.validators.check import check
from dataplane.validators.policy import ValidatorPolicy
from dataplane.validators.values import Verdict

logger = logging.getLogger(__name__)

# So many answers are read, and told, at a time.
AT_A_TIME: Final = 50
# Less than a worker is given for one piece of work. What was tried by then counts, and the page says how many that is.
MAX_SECONDS: Final = 200.0


def run_work(arguments: dict[str, Any], attempt: Attempt) -> None:
    """As `controlplane.work` calls it."""
    run_trial(arguments["trial"], now=timezone.now, clock=time.monotonic)


def run_trial(
    pk: int,
    *,
    now: Callable[[], datetime],
    clock: Callable[[], float],
    cpu_clock: Callable[[], float] = time.thread_time,
) -> None:
    """Try a policy on the newest answers of the routes that would use it, from the beginning; nothing where that is
    over. Judges are not asked.

    Args:
        clock: Monotonic seconds, for how long all of it may take; `cpu_clock` is what rules' budgets are counted by.
    """
    trial = ValidatorTrial.objects.filter(pk=pk, state=TrialState.RUNNING).first()
    if trial is None:
        return
    try:
        _run(trial, now=now, clock=clock, cpu_clock=cpu_clock)
    except Error:
        raise  # the database is away: the work is tried again
    except Exception as exc:
        logger.exception("trial %s cannot be made", pk)
        _end(trial, TrialState.FAILED, at=now(), problem=f"{type(exc).__name__}; it is in the log of the workers")


def _run(
    trial: ValidatorTrial,
    *,
    now: Callable[[], datetime],
    clock: Callable[[], float],
    cpu_clock: Callable[[], float],
) -> None:
    began = clock()
    policy = ValidatorPolicy.parse(trial.policy, Node(trial.document, "$"))
    chosen = choose(trial.routes)
    tally = Tally(policy)
    for place in range(0, len(chosen), AT_A_TIME):
        if clock() - began > MAX_SECONDS:
            break
        rows = AnswerSample.objects.allowed().in_bulk(chosen[place : place + AT_A_TIME])
        for _, row in sorted(rows.items(), reverse=True):
            tally.add(row.pk, check(policy, row.output(), cpu_clock=cpu_clock))
        _update(trial, tried=tally.tried, available=len(chosen), moved_at=now())
    _end(
        trial,
        TrialState.DONE,
        at=now(),
        available=len(chosen),
        tried=tally.tried,
        would_block=tally.verdicts[Verdict.BLOCK],
        would_repair=tally.verdicts[Verdict.REPAIR],
        would_warn=tally.verdicts[Verdict.WARN],
        abstained=tally.abstained,
        micros_p50=quantile(tally.micros, 0.5),
        micros_p99=quantile(tally.micros, 0.99),
        rules=tally.rules(),
        examples=tally.examples,
    )


def choose(routes: list[str], *, most: int = MAX_SAMPLES) -> list[int]:
    """The newest answers of these routes, newest first; of each route as many, where there are more than `most`."""
    share = most // len(routes)
    chosen: dict[int, None] = {}
    for rows in _by_route(routes, share):
        chosen |= dict.fromkeys(rows)
    if len(chosen) < most and len(routes) > 1:
        rest = AnswerSample.objects.allowed().of_routes(routes).exclude(pk__in=chosen).newest()
        chosen |= dict.fromkeys(rest.values_list("pk", flat=True)[: most - len(chosen)])
    return sorted(chosen, reverse=True)


def _by_route(routes: list[str], most: int) -> Iterator[list[int]]:
    for route in routes:
        yield list(AnswerSample.objects.allowed().of_routes([route]).newest().values_list("pk", flat=True)[:most])


def _update(trial: ValidatorTrial, **fields: Any) -> None:
    ValidatorTrial.objects.filter(pk=trial.pk, state=TrialState.RUNNING).update(**fields)


def _end(trial: ValidatorTrial, state: TrialState, *, at: datetime, **found: Any) -> None:
    """Take the one legal step, if nobody else has: a worker that was held dead may come to its end too."""
    fields: Mapping[str, Any] = {"state": state, "ended_at": at, "moved_at": at, **found}
    _update(trial, **fields)
