"""What a drill measured, from reports as workers send them."""

import json
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from controlplane.ledger.operations import record_usage
from controlplane.releases.operations import current_release, record_reports
from controlplane.routing import drills
from controlplane.routing.drill_words import findings
from controlplane.routing.holds import hold_lane
from controlplane.routing.management.commands.exit_drill import Command
from controlplane.routing.models import Drill, DrillResult, Mode
from controlplane.telemetry.drills import measure, measure_ended
from controlplane.telemetry.operations import merge_rollups
from tests.factories import NOW, crew, make_deployment, routing_document
from tests.worker_reports import ack, report, rollup, usage_row

pytestmark = pytest.mark.django_db

OPENAI, AZURE, ANTHROPIC = routing_document()["routes"]["chat"]["lanes"]
OPENAI_EMBED = routing_document()["routes"]["embed"]["lanes"][0]
END = NOW + timedelta(minutes=5)


def at(seconds):
    return NOW + timedelta(seconds=seconds)


@pytest.fixture
def drill():
    """Five minutes without openai."""
    make_deployment()
    return drills.start_drill(provider="openai", minutes=5, reason="r", actor=crew.oncall, now=NOW)


def heard(worker, *acks, at=NOW, seq=1):
    record_reports([report(worker=worker, sent_at=at, acks=acks, seq=seq)], now=at)


def follows(release, seconds):
    """A worker's verdict on it, so many seconds after the drill's click."""
    return ack(release.revision, digest=release.digest, at=at(seconds))


def measured(*rollups, seq=1):
    merge_rollups([report(*rollups, seq=seq)], now=NOW + timedelta(minutes=8))


def used(lane, begun, *, lasts=0.2, **fields):
    """An attempt at this lane, begun so many seconds after the click."""
    name = f"{lane[-20:]}{begun}"
    row = usage_row(name, request_id=name, at=at(begun + lasts), lane=lane, latency_ms=lasts * 1000, **fields)
    record_usage([row])


def texts(drill, now):
    return [(one.tone, one.text) for one in findings(drill, measure(drill, now=now))]


def test_convergence_and_departure_count_from_the_click(drill):
    """Who was not there need not follow; a later release will do; what was begun before the click is no attempt."""
    release = current_release()
    heard("host/gateway-0", at=at(1))
    heard("host/gateway-1", follows(release, 0.3), at=at(1))
    used(OPENAI, -1, lasts=20)
    used(OPENAI, 0.25)

    before = texts(drill, at(30))
    hold_lane(lane=ANTHROPIC, mode=Mode.CLOSED, until=END, reason="r", actor=crew.oncall, now=at(0.1))
    heard("host/gateway-0", follows(current_release(), 0.4125), at=at(31), seq=2)
    after = texts(drill, at(40))
    used(OPENAI_EMBED, 35)
    late = texts(drill, at(40))

    assert before[0] == ("bad", "1 of 2 workers followed; not yet: host/gateway-0")
    assert after[0] == ("good", "Both workers followed within 412 ms of the click")
    assert after[1] == ("good", "The last attempt at openai began 250 ms after the click (1 attempt until then)")
    assert late[1] == ("bad", "1 attempt at openai began after every worker had followed")


def test_result_says_what_callers_saw_what_the_lanes_did_and_when_they_were_used_again(drill):
    """Kept once it is at rest, and once only; before that its figures are live."""
    heard("host/gateway-0", follows(current_release(), 0.5), at=at(1))
    few = texts(drill, at(60))
    measured(
        rollup(at(-60), lane=OPENAI, requests=200, latencies=(500.0,) * 200, cost_micros=200_000),
        rollup(at(-60), lane=AZURE, requests=50, latencies=(600.0,) * 50, cost_micros=60_000),
        rollup(at(0), lane=AZURE, requests=4, errors=1, latencies=(9_000.0,) * 4, cost_micros=4000),
        rollup(at(20), lane=AZURE, requests=296, latencies=(800.0,) * 296, drains=(40.0,) * 296, cost_micros=356_000),
        rollup(at(30), lane="", requests=3, fallbacks=2, latencies=(), attempts=0, cost_micros=0),
        rollup(at(300), lane=OPENAI, requests=9),  # after its end
    )
    used(AZURE, 40, kind="fallback", cause="circuit_open")
    used(OPENAI, 300.5)

    assert measure_ended(now=END + timedelta(seconds=10)) == 0  # reports may still come
    assert measure_ended(now=END + timedelta(seconds=30)) == 0  # one lane is not used again yet
    assert measure_ended(now=END + timedelta(minutes=2)) == 1
    assert measure_ended(now=END + timedelta(minutes=3)) == 0

    assert few[2] == ("off", "0 requests in 1 min; no conclusion under 100")
    figures = DrillResult.objects.get().figures
    azure, openai, embed = figures["lanes"]
    assert (azure["lane"], azure["before"]["share"], azure["during"]["share"]) == (AZURE, 0.2, 1.0)
    # The bucket of the click holds the change-over, which says nothing of a lane under load.
    assert azure["during"]["latency_p95_ms"]["n"] == 296
    assert azure["during"]["latency_p95_ms"]["value"] == pytest.approx(800, rel=0.03)
    assert azure["during"]["drain_tps_p5"]["value"] == pytest.approx(40, rel=0.03)
    assert (openai["is_left"], openai["before"]["attempts"], openai["during"]["attempts"]) == (True, 200, 0)
    assert (embed["is_left"], embed["before"]["share"]) == (True, 0.0)
    drill = Drill.objects.get()
    assert [(one.tone, one.text) for one in findings(drill, figures)][2:] == [
        ("bad", "303 requests in 5 min, 1 error (0.33 %, 0.00 % before)"),
        ("watch", "2 requests got signed copy instead of an answer"),
        ("off", "1 attempt fell back to another lane after one that failed"),
        ("off", "1,000 requests cost $1.19, before it $1.04 (+14 %)"),
        ("good", "1 of 2 lanes was used again within 500 ms of the end"),
    ]


def test_no_error_in_many_requests_is_said_with_its_bound(drill):
    """A minute's figures, once the buckets of 10 s are gone, still give the same counts."""
    measured(rollup(at(60), lane=AZURE, requests=600))

    assert texts(drill, END)[2] == (
        "good",
        "600 requests in 5 min, 0 errors: with 95 % confidence fewer than 0.50 % fail",
    )
    assert measure(drill, now=END + timedelta(hours=3))["resolution_seconds"] == 60


class Hands:
    """A clock that the command leads by waiting, and what happens meanwhile."""

    def __init__(self, monkeypatch, happens):
        self.now = NOW
        self.happens = happens
        monkeypatch.setattr(Command, "now", staticmethod(lambda: self.now))
        monkeypatch.setattr(Command, "wait", staticmethod(self.wait))

    def wait(self, seconds):
        self.now += timedelta(seconds=30)
        self.happens(self.now)


def run(**options):
    out = StringIO()
    call_command("exit_drill", provider="openai", minutes=5, reason="runbook", stdout=out, **options)
    return out.getvalue()


def test_command_starts_waits_and_prints_what_was_measured(monkeypatch):
    """In words or as JSON; Ctrl-C lets the lanes go."""
    make_deployment()

    oncall, legal = crew.oncall, crew.legal

    def follow(now):
        verdict = ack(current_release().revision, digest=current_release().digest, at=now)
        heard("host/gateway-0", verdict, at=now, seq=int(now.timestamp()))

    hands = Hands(monkeypatch, follow)
    said = run(actor=oncall.username)
    hands.now += timedelta(hours=1)
    whole = json.loads(run(actor="oncall", json=True))

    assert said.count("The one worker followed within 30.0 s of the click") == 2
    assert "- No attempt at openai began after the click" in said
    assert (whole["provider"], whole["figures"]["convergence"]["ms"]) == ("openai", 30_000.0)
    assert DrillResult.objects.count() == 2

    def interrupt(now):
        raise KeyboardInterrupt

    hands.now += timedelta(hours=1)
    hands.happens = interrupt
    with pytest.raises(CommandError, match="its lanes are let go"):
        run(actor="oncall")
    assert drills.running_drill(hands.now) is None
    with pytest.raises(CommandError, match="no active operator"):
        run(actor="nobody-here")
    with pytest.raises(CommandError, match="hold a lane open or closed"):
        run(actor=legal.username)
