"""What happened to a ladder, as tests need it: steps of triggers as workers tell them, and what people engaged."""

from datetime import timedelta

import orjson

from controlplane.ladder.models import LadderPolicy, RungActivation, RungStoodDown
from controlplane.telemetry.ladder_states import record_ladder_events, record_ladder_states
from controlplane.telemetry.reports import parse_report
from controlplane.telemetry.surface_rows import record_surfaces
from dataplane.release import canonical, digest_of
from tests.ladders import surface
from tests.worker_reports import NOON, report

SURFACE = "web-chat"
HOUR, MINUTE, BUCKET = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=10)


def take(*reports, now=NOON):
    """Take reports in, as far as they tell of ladders; returns the surfaces that they tell news of."""
    parsed = [parse_report(orjson.dumps(one)) for one in reports]
    record_surfaces(parsed, now=now)
    return record_ladder_events(parsed) | record_ladder_states(parsed, now=now)


def moved(at, before, after, *, generation, cause=None, trigger="load", **fields):
    """The event of a step that triggers took."""
    data = {
        "surface": SURFACE,
        "before": before,
        "after": after,
        "cause": cause or ("pressed" if after > before else "eased"),
        "trigger": trigger,
        "reading": 120.0 if after > before else None,
        "readings": {"load": 120.0},
        "generation": generation,
    }
    return {"at": at.timestamp(), "kind": "ladder.moved", "data": data | fields}


def ordered(at=NOON, *, until=NOON + HOUR, **fields):
    """The event of a rung that somebody engaged on a host."""
    data = {"id": "emergency-1", "surface": SURFACE, "rung": 6, "until": until.timestamp()}
    data |= {"reason": "the console is down", "by": "ada"}
    return {"at": at.timestamp(), "kind": "ladder.ordered", "data": data | fields}


def climbs(*steps, first=1, trigger="load"):
    """Have triggers take these steps, each (when, to which rung), from none."""
    before, events = 0, []
    for generation, (at, after) in enumerate(steps, start=first):
        events.append(moved(at, before, after, generation=generation, trigger=trigger))
        before = after
    take(report(events=tuple(events)))


def ladder_policy():
    """The policy that activations are engaged under."""
    found = LadderPolicy.objects.first()
    if found is not None:
        return found
    document = {SURFACE: surface()}
    return LadderPolicy.objects.create(
        number=1,
        document=document,
        digest=digest_of(canonical(document)),
        author="exec",
        rationale="first",
        created_at=NOON,
    )


def engaged(at, rung, *, until=None, mode="engage", **fields):
    """That on-call engaged a rung, or holds triggers at it, for an hour unless told."""
    facts = {"surface": SURFACE, "regions": [], "tiers": [], "reason": "Black Friday", "actor": "oncall"}
    facts |= {"since": at, "at": at, "until": until or at + HOUR, "policy": ladder_policy()}
    return RungActivation.objects.create(rung=rung, mode=mode, **(facts | fields))


def stood_down(activation, at):
    """That on-call ended it."""
    return RungStoodDown.objects.create(activation=activation, actor="oncall", reason="it is over", at=at)
