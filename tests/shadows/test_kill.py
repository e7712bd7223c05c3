"""Killing a shadow and lifting it: in Redis for the next second, and in the release for as long as it takes."""

import json
from datetime import timedelta

import pytest

from controlplane.alerts.models import Alert, Severity
from controlplane.audit.models import AuditEvent
from controlplane.releases import operations as releases
from controlplane.releases.models import Release
from controlplane.shadows import flags
from controlplane.shadows.errors import FleetUnreachable, NoReason, ShadowIsKilled, ShadowRuns, UnknownShadow
from controlplane.shadows.models import ShadowHold
from controlplane.shadows.operations import compile_holds, follow_kills, kill_shadow, lift_shadow
from controlplane.telemetry.operations import record_events
from dataplane.release import parse_document
from tests.factories import NOW, crew, make_routing
from tests.shadow_rows import POLICY, shadow_document
from tests.worker_reports import report

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)


def kill(*, now=NOW, **fields):
    return kill_shadow(**({"policy": POLICY, "reason": "too dear", "actor": crew.oncall} | fields), now=now)


def lift(*, now=NOW + MINUTE, **fields):
    return lift_shadow(**({"policy": POLICY, "reason": "mended", "actor": crew.oncall} | fields), now=now)


def served():
    """The newest release, as workers read it."""
    row = Release.objects.latest("revision")
    return parse_document(json.loads(row.document), digest=row.digest).routing


def event(digest, at=NOW, **fields):
    """What a shadow process says when its switch kills a policy."""
    measured = {"failed": 9, "calls": 10, "rate": 0.9}
    data = {"policy": POLICY, "digest": digest, "cause": "failure_rate", "measured": measured}
    return {"at": at.timestamp(), "kind": "shadow.killed", "data": data | fields}


def test_kill_stands_in_redis_and_in_the_release(shadowed, django_capture_on_commit_callbacks):
    """Processes obey the flag within a second, and the release when Redis has forgotten it."""
    with django_capture_on_commit_callbacks(execute=True):
        hold = kill()

    assert flags.has_flag(shadowed.digest)
    assert compile_holds() == {shadowed.digest: {"policy": POLICY, "reason": "too dear", "by": "oncall"}}
    assert served().shadows == {}
    assert served().routes["chat"].shadow is None
    assert AuditEvent.objects.filter(action="shadow.killed", target="shadow:trial", actor="oncall").exists()
    alert = Alert.objects.get()
    assert (alert.kind, alert.severity, alert.link) == ("shadow.killed", Severity.WARN, "/shadow/trial/")
    assert hold.is_killed


def test_lift_takes_both_back(shadowed, django_capture_on_commit_callbacks):
    """The shadow is what it was before."""
    with django_capture_on_commit_callbacks(execute=True):
        kill()
    with django_capture_on_commit_callbacks(execute=True):
        lift()

    assert not flags.has_flag(shadowed.digest)
    assert set(served().shadows) == {POLICY}
    assert [row.kind for row in ShadowHold.objects.all()] == ["lifted", "killed"]


def test_kill_needs_no_redis_but_lifting_does(shadowed, away, django_capture_on_commit_callbacks):
    """Without Redis the release stops the shadow; nobody can say that the fleet goes on before it is told."""
    with django_capture_on_commit_callbacks(execute=True):
        kill()

    assert served().shadows == {}
    with pytest.raises(FleetUnreachable, match="Redis is away"):
        lift()
    assert served().shadows == {}


def test_flag_alone_can_be_lifted(shadowed, django_capture_on_commit_callbacks):
    """A process may have killed it a moment ago, whose word has not come yet."""
    flags.raise_flag(shadowed.digest, "failure_rate")

    with django_capture_on_commit_callbacks(execute=True):
        lift()

    assert not flags.has_flag(shadowed.digest)


def test_refusals_change_nothing(shadowed):
    """Each says why."""
    with pytest.raises(UnknownShadow, match="'other'"):
        kill(policy="other")
    with pytest.raises(NoReason):
        kill(reason=" \0")
    with pytest.raises(ShadowRuns, match="nothing killed"):
        lift()
    kill()
    with pytest.raises(ShadowIsKilled, match="since 2026-03-04 12:00 UTC: too dear"):
        kill()

    assert ShadowHold.objects.count() == 1


def test_changed_policy_is_not_held(shadowed):
    """It was reviewed since; the old one's hold stays in the log, and is of nothing that is in force."""
    kill()

    make_routing(shadow_document(percent=5), now=NOW + MINUTE)

    assert set(served().shadows) == {POLICY}


def test_what_killed_itself_is_put_into_the_release_once(shadowed):
    """However many processes say so, one alert says what was measured."""
    record_events([report(events=(event(shadowed.digest),)), report(events=(event(shadowed.digest),), boot="b2")])

    assert follow_kills(now=NOW + MINUTE) == 1
    assert follow_kills(now=NOW + 2 * MINUTE) == 0

    hold = ShadowHold.objects.get()
    assert (hold.actor, hold.cause, hold.measured["failed"]) == ("ballast", "failure_rate", 9)
    assert hold.reason == "by itself: 9 of the last 10 calls failed"
    assert served().shadows == {}
    assert Alert.objects.count() == 1


def test_what_was_lifted_since_is_not_killed_again(shadowed):
    """A spool may bring an old word late; a new one counts."""
    record_events([report(events=(event(shadowed.digest),))])
    follow_kills(now=NOW + MINUTE)
    lift(now=NOW + 10 * MINUTE)
    record_events([report(events=(event(shadowed.digest, NOW + 5 * MINUTE),), seq=2)])

    assert follow_kills(now=NOW + 11 * MINUTE) == 0
    record_events([report(events=(event(shadowed.digest, NOW + 20 * MINUTE),), seq=3)])
    assert follow_kills(now=NOW + 21 * MINUTE) == 1


def test_rolling_a_release_back_asks_no_killed_candidate_again(shadowed):
    """What was decided about a shadow is not undone with something else."""
    before = Release.objects.latest("revision")
    kill()
    other = shadow_document()
    other["routes"]["chat"]["deadline_ms"] = 9000
    make_routing(other, now=NOW + MINUTE)

    releases.roll_back_to(release=before, reason="another thing", actor=crew.oncall, now=NOW + 2 * MINUTE)

    assert served().routes["chat"].deadline_ms != 9000
    assert served().shadows == {}
