"""What is done about running canaries by itself: looked at, rolled back, taken further, or kept waiting."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.alerts.models import Alert
from controlplane.approvals.models import ChangeRequest
from controlplane.audit.models import AuditEvent
from controlplane.prompts.models import Prompt
from controlplane.releases.operations import current_release
from controlplane.rollouts import operations as rollouts
from controlplane.rollouts.errors import NotProven
from controlplane.rollouts.guardrails import StageEvidence, Unproven
from controlplane.rollouts.models import DEFAULT_STAGES, Canary
from controlplane.verdicts import watching
from controlplane.verdicts.models import CanaryWatch, ReplayPair, VerdictPoint
from tests.factories import EVERYBODY, FIVE_PERCENT, HALF, NOW, ONE_PERCENT, QUARTER, crew
from tests.verdicts.evidence import guardrails, report_cells, report_exposures, run_judged
from tests.worker_reports import exposure

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]
LATER = NOW + timedelta(minutes=20)
# A tenth more than control: 300 microdollars in the test world, varied a little from group to group.
COSTLIER = {"cost_micros": 33_000}


def test_regression_rolls_the_canary_back_with_nobody_there():
    """The knob is at zero in a release of its own, the digest rejected, the failing number kept, and people told."""
    canary = run_judged(QUARTER, rails=guardrails("cost"))
    before = current_release()
    report_cells(canary.slug, candidate=COSTLIER)

    assert watching.look_at_all(now=LATER) == 1

    canary = Canary.objects.with_parts().get()
    release = current_release()
    assert (canary.state, canary.ended_by, canary.ended_at) == ("rolled_back", "ballast", LATER)
    assert canary.end_reason.startswith("Regressed: cost per request is 10 % above control, at least ")
    failing = canary.end_evidence["failing"]
    assert (failing["rail"], failing["stream"], failing["margin"]) == ("cost", "live", 0.05)
    assert failing["lower"] > 0.05
    assert release.revision > before.revision
    assert canary.slug not in release.content["sections"]["canaries"]
    assert ChangeRequest.objects.get(pk=canary.change_id).state == "rejected"
    assert Prompt.objects.get(pk=canary.prompt_id).live_version_id == canary.control_id
    alert = Alert.objects.get()
    assert (alert.kind, alert.severity, alert.target) == ("canary.rolled_back", "page", canary.audit_name)
    assert alert.facts["failing"]["rail"] == "cost"
    event = AuditEvent.objects.get(action="canary.rolled_back")
    assert event.data["evidence"]["failing"]["lower"] == failing["lower"]


def test_canary_that_is_rolled_back_is_not_rolled_back_again():
    """Whoever came first has decided, a person or another look; nobody is told twice."""
    canary = run_judged(rails=guardrails("cost"))
    report_cells(canary.slug, candidate=COSTLIER)
    verdict = watching.look_at(canary, now=LATER)
    rollouts.roll_back_canary(canary=canary, reason="by hand", actor=crew.oncall, now=LATER)

    watching.act(canary, verdict, now=LATER)

    assert Canary.objects.get().end_reason == "by hand"
    assert not Alert.objects.exists()


def test_evidence_opens_the_way_and_its_lack_keeps_it_shut():
    """A stage that waits lets nobody on before every guardrail is clear, whoever asks; and then anybody who may."""
    canary = run_judged(FIVE_PERCENT, unproven="wait")
    turn = {"canary": canary, "position": QUARTER, "actor": crew.owner}

    with pytest.raises(NotProven, match="stays at 5 %: nobody has looked at it yet"):
        rollouts.turn_knob(**turn, now=NOW)
    report_cells(canary.slug, requests=1)
    watching.look_at_all(now=NOW)
    with pytest.raises(NotProven, match="64 of 200 requests on canary"):
        rollouts.turn_knob(**turn, now=NOW)
    report_cells(canary.slug, requests=1000, seq=2)
    watching.look_at_all(now=LATER)

    assert CanaryWatch.objects.get().ruling == "clear"
    assert rollouts.turn_knob(**turn, now=LATER).position == QUARTER


def test_verdict_that_nobody_renews_opens_nothing():
    """With the workers of the control plane gone, an old word is no evidence of now."""
    canary = run_judged(FIVE_PERCENT, unproven="wait")
    report_cells(canary.slug, requests=1000)
    watching.look_at_all(now=NOW)

    with pytest.raises(NotProven, match="nobody has looked at it since 12:00 UTC"):
        rollouts.turn_knob(canary=canary, position=QUARTER, actor=crew.owner, now=LATER)


def test_stage_that_allows_it_is_left_without_evidence_after_its_time():
    """People decide then, as the plan that was signed says."""
    canary = run_judged(FIVE_PERCENT, unproven="allow", after_minutes=30)
    turn = {"canary": canary, "position": QUARTER, "actor": crew.owner}

    with pytest.raises(NotProven, match="people may go on without evidence from 12:30 UTC on"):
        rollouts.turn_knob(**turn, now=LATER)

    assert rollouts.turn_knob(**turn, now=NOW + timedelta(minutes=30)).position == QUARTER


def test_stage_is_not_jumped_over():
    """The stages between where it is and where it is to go ask too: those that last a time have not lasted any."""
    canary = run_judged(ONE_PERCENT, unproven="allow", after_minutes=30)

    with pytest.raises(NotProven, match="stage '5 %' lasts 30 min without evidence"):
        rollouts.turn_knob(canary=canary, position=QUARTER, actor=crew.owner, now=NOW + timedelta(hours=1))


def test_what_is_not_shown_to_be_good_in_time_goes_back_where_the_plan_says_so():
    """Without any regression; the reason says what was missing."""
    canary = run_judged(FIVE_PERCENT, unproven="roll_back", after_minutes=15)

    watching.look_at_all(now=NOW + timedelta(minutes=14))
    assert Canary.objects.get(pk=canary.pk).is_running
    watching.look_at_all(now=NOW + timedelta(minutes=15))

    ended = Canary.objects.get(pk=canary.pk)
    assert ended.state == "rolled_back"
    assert ended.end_reason.startswith("not shown to be good within 15 min at 5 %: Not enough evidence:")
    assert ended.end_evidence["failing"] is None


def test_canary_goes_on_by_itself_once_evidence_and_people_are_there():
    """Stage by stage, each for its time; the last one is promoted."""
    canary = run_judged(FIVE_PERCENT, unproven="wait", after_minutes=10, advance="by_itself")
    report_cells(canary.slug, requests=1000)
    moments = [NOW + timedelta(minutes=minutes) for minutes in (5, 10, 15, 20, 30, 40)]

    seen = []
    for at in moments:
        watching.look_at_all(now=at)
        found = Canary.objects.get(pk=canary.pk)
        seen.append((found.state, found.stage_name))

    assert [stage for _, stage in seen[:5]] == ["5 %", "25 %", "25 %", "50 %", "100 %"]
    assert seen[5] == ("promoted", "100 %")
    assert Prompt.objects.get(pk=canary.prompt_id).live_version_id == canary.candidate_id


def test_evidence_is_asked_for_once_and_under_the_lock():
    """By the operation that goes on; a look that is not clear asks nobody, and has nobody wait for it."""
    canary = run_judged(FIVE_PERCENT, unproven="wait", advance="by_itself")
    report_cells(canary.slug, requests=1)
    verdict = watching.look_at(canary, now=LATER)
    with CaptureQueriesContext(connection) as unclear:
        watching.act(canary, verdict, now=LATER)
    report_cells(canary.slug, requests=1000, seq=2)
    verdict = watching.look_at(canary, now=LATER)

    with CaptureQueriesContext(connection) as clear:
        watching.act(canary, verdict, now=LATER)

    said = [one["sql"] for one in clear]
    locked = next(place for place, sql in enumerate(said) if "pg_advisory_xact_lock" in sql)
    asked = [place for place, sql in enumerate(said) if 'FROM "verdicts_canarywatch"' in sql]
    assert Canary.objects.get(pk=canary.pk).position == QUARTER
    assert len(unclear) == 0
    assert [place > locked for place in asked] == [True]


def test_canary_waits_for_people_while_safety_is_watched():
    """Evidence alone opens no gate that asks for sign-offs; and a regression while it waits still ends it."""
    canary = run_judged(0, signed=False, unproven="wait", advance="by_itself", rails=guardrails("cost"))
    report_cells(canary.slug, requests=1000)

    watching.look_at_all(now=LATER)

    waiting = Canary.objects.get(pk=canary.pk)
    assert (waiting.position, waiting.state) == (0, "running")
    assert CanaryWatch.objects.get().ruling == "clear"
    report_cells(canary.slug, requests=2000, seq=2, candidate={"cost_micros": 900_000})
    watching.look_at_all(now=LATER + timedelta(minutes=1))
    assert Canary.objects.get(pk=canary.pk).state == "rolled_back"


def test_canary_from_before_guardrails_is_left_to_people():
    """It is neither looked at nor kept waiting."""
    canary = run_judged(FIVE_PERCENT, unproven="wait")
    ChangeRequest.objects.filter(pk=canary.change_id).update(content=canary.plan() | {"guardrails": None})
    canary.guardrails = None

    assert watching.why_not_yet(canary, position=QUARTER, now=NOW) is None


def test_units_that_saw_both_versions_are_no_evidence():
    """Above one in a hundred, live traffic concludes nothing; below, their groups are left out."""
    canary = run_judged(QUARTER, rails=guardrails("cost"))
    report_cells(canary.slug, candidate=COSTLIER)
    seen = [exposure(unit, "candidate") for unit in range(100)]
    seen += [exposure(unit, "control", arm="control") for unit in range(100, 200)]
    seen += [exposure(unit, "control") for unit in range(6)]
    report_exposures(canary.slug, *seen)

    watching.look_at_all(now=LATER)

    watch = CanaryWatch.objects.get()
    assert Canary.objects.get(pk=canary.pk).is_running
    assert [alarm.kind.value for alarm in watch.read.alarms] == ["exposure"]
    assert "6 of 200 units saw both versions" in watch.read.sentence


def test_sides_that_lose_units_are_no_evidence():
    """Arms are equally wide, so that one of them has half as many users is no accident."""
    canary = run_judged(QUARTER, rails=guardrails("cost"))
    report_cells(canary.slug, candidate=COSTLIER)
    seen = [exposure(unit, "candidate") for unit in range(200)]
    seen += [exposure(unit, "control", arm="control") for unit in range(200, 300)]
    report_exposures(canary.slug, *seen)

    watching.look_at_all(now=LATER)

    assert [alarm.kind.value for alarm in CanaryWatch.objects.get().read.alarms] == ["sample_ratio"]
    assert Canary.objects.get(pk=canary.pk).is_running


def test_knob_that_comes_back_from_beyond_half_ends_the_comparison():
    """Control has users then that were in the canary; replays go on telling."""
    canary = run_judged(EVERYBODY, rails=guardrails("cost"))
    report_cells(canary.slug, requests=1000)
    watching.look_at_all(now=NOW)
    assert CanaryWatch.objects.get().ruling == "clear"
    rollouts.turn_knob(canary=canary, position=QUARTER, actor=crew.oncall, now=LATER)

    watching.look_at_all(now=LATER)

    watch = CanaryWatch.objects.get()
    assert (watch.ruling, [alarm.kind.value for alarm in watch.read.alarms]) == ("unproven", ["turned_back"])


def pair(canary, number, *, at=NOW, **scores):
    return ReplayPair.objects.create(
        canary=canary, number=number, row_id=f"row-{number}", at=at, candidate={}, control={}, scores=scores
    )


def test_pairs_are_taken_in_by_number_and_once():
    """A number that is missing holds up those behind it until it is given up; what was taken in is not read again."""
    canary = run_judged(rails=guardrails("cost"))
    cost = {"cost": {"candidate": 110.0, "control": 100.0}}
    for number in (1, 2, 4):
        pair(canary, number, **cost)

    def taken(at):
        watching.look_at(canary, now=at)
        watch = CanaryWatch.objects.get()
        return watch.replayed_through, watch.replayed["cost"]["bound"]["n"]

    assert taken(NOW) == (2, 2)
    assert taken(NOW + timedelta(minutes=6)) == (4, 3)
    pair(canary, 5, at=NOW + timedelta(minutes=6), **cost)
    assert taken(NOW + timedelta(minutes=6)) == (5, 4)
    assert taken(NOW + timedelta(minutes=7)) == (5, 4)


def test_points_of_charts_do_not_grow_with_looks():
    """One each 10 s at first, then ever more rarely; what was decided always has one."""
    canary = run_judged(rails=guardrails("cost"))
    report_cells(canary.slug)

    for second in range(0, 60, 5):
        watching.look_at(canary, now=NOW + timedelta(seconds=second))
    assert VerdictPoint.objects.values("at").distinct().count() == 6

    later = NOW + timedelta(days=10)
    for second in range(0, 60, 5):
        watching.look_at(canary, now=later + timedelta(seconds=second))
    assert VerdictPoint.objects.values("at").distinct().count() == 7


def test_cost_of_a_look_does_not_grow(django_assert_max_num_queries):
    """As many queries with a hundred thousand requests and a hundred pairs as with none."""
    canary = run_judged(rails=guardrails("cost"))
    watching.look_at(canary, now=NOW)
    report_cells(canary.slug, requests=2000)
    for number in range(1, 101):
        pair(canary, number, cost={"candidate": 100.0, "control": 100.0})

    with django_assert_max_num_queries(12):
        watching.look_at(canary, now=NOW + timedelta(seconds=30))


def test_one_canary_that_cannot_be_looked_at_keeps_nobody_from_the_others(caplog):
    """It is logged, and looked at again."""
    canary = run_judged(rails=guardrails("cost"))
    CanaryWatch.objects.create(
        canary=canary, ruling="unproven", verdict={}, looked_at=NOW, since=NOW, replayed={"cost": "nonsense"}
    )

    assert watching.look_at_all(now=NOW) == 0
    assert canary.slug in caplog.text


def test_stage_says_what_follows_without_evidence():
    """The plan's words are those that the watch goes by."""
    assert StageEvidence.of({}).unproven is Unproven.ALLOW
    assert {stage["evidence"]["unproven"] for stage in DEFAULT_STAGES[HALF:]} == {"wait"}
