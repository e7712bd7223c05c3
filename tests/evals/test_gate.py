"""The gate of lanes: what a change of routing brings has to pass the sets that are for it."""

import pytest

from controlplane.approvals.errors import NotPrepared, NotSeen
from controlplane.approvals.models import Decision
from controlplane.approvals.operations import amend_change, apply_change, sign_off
from controlplane.audit.models import AuditEvent
from controlplane.evals.calibration import calibrate
from controlplane.evals.errors import NothingToRun
from controlplane.evals.gate import entering, needed_by, run_change, runs_of, to_see, unmet
from controlplane.evals.models import EvalSetVersion, JudgeVersion
from controlplane.evals.running import cancel_run
from controlplane.evals.runs import EvalRun
from controlplane.prompts.models import Prompt
from controlplane.routing.operations import routing_tables
from tests.eval_runs import FakeGateway, answer, fresh, make_calibrated_judge, make_standard, messages_row, run_pieces
from tests.eval_sets import import_into, make_judge_version, make_set_version, row, run_calibrations
from tests.factories import NOW, break_glass, crew, make_live_version, make_prompt, make_routing, routing_document
from tests.validator_tables import propose

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

LANE = "openai/us-east/main/gpt-4o"
CANDIDATE = "openai/us-east/main/help-centre"
GOOD, BAD = FakeGateway(), FakeGateway(says=lambda body: answer("Write to ada@example.com"))


def with_candidate(*routes, **changes):
    """The demo's table with one lane more, a copy of another's with another model, on these routes."""
    document = routing_document()
    copied = {"model": "help-centre", "upstream_model": "ft-help-centre", **changes}
    document["lanes"][CANDIDATE] = document["lanes"][LANE] | copied
    for route in routes or ("chat",):
        document["routes"][route]["lanes"].append(CANDIDATE)
    return document


def golden(*rows, **fields):
    return make_set_version(fields.pop("slug", "golden"), *(rows or (messages_row("a"), messages_row("b"))), **fields)


def approve(change, *, has_seen=False, operator=None):
    change.refresh_from_db()
    return sign_off(
        change=change,
        operator=operator or crew.approver_one,
        role="approver",
        decision=Decision.APPROVE,
        digest=change.digest,
        has_seen=has_seen,
        now=NOW,
    )


# --- what has to pass ------------------------------------------------------------------------------------------------
def test_what_enters_is_what_a_route_had_not():
    """A lane that is new on a route, or another behind the same name, by the routes that it is new on."""
    before = routing_document()
    same = entering(before, before)
    added = entering(before, with_candidate("chat", "summaries"))
    changed = routing_document()
    changed["lanes"][LANE]["upstream_model"] = "gpt-5"
    slower = routing_document()
    slower["lanes"][LANE]["first_byte_timeout_seconds"] = 7
    moved = routing_document()
    moved["routes"]["summaries"]["lanes"] = [LANE]

    assert same == entering(before, slower) == []
    assert [(one.lane, one.routes) for one in added] == [(CANDIDATE, ("chat", "summaries"))]
    assert [one.lane for one in entering(before, changed)] == [LANE]
    assert {one.lane for one in entering(None, before)} == {
        lane for route in before["routes"].values() for lane in route["lanes"]
    }
    assert all(one.routes == ("summaries",) for one in entering(before, moved))


def test_an_account_elsewhere_makes_every_lane_on_it_another():
    """Where the bytes go is part of what a lane is."""
    document = routing_document()
    account = document["lanes"][LANE]["account"]
    document["accounts"][account]["base_url"] = "https://elsewhere.example/v1"

    found = {one.lane for one in entering(routing_document(), document)}

    on_it = {name for name, lane in document["lanes"].items() if lane["account"] == account}
    assert found == {lane for route in document["routes"].values() for lane in route["lanes"] if lane in on_it}


def test_nobody_approves_a_lane_before_it_passed():
    """Opening the change begins the run; until it has passed the approval is refused, and says how far it is."""
    make_standard(golden())
    change = propose(with_candidate())

    with pytest.raises(NotPrepared, match=rf"lane '{CANDIDATE}' on golden set 'golden' is being asked: 0 of 2 rows"):
        approve(change)
    run_pieces(GOOD)
    approve(change)

    run = EvalRun.objects.get()
    assert (run.purpose, run.change, run.subject_name, run.passed) == ("gate", change, CANDIDATE, True)


def test_a_lane_that_did_not_pass_stays_out():
    """The approval is refused with the figures."""
    make_standard(golden())
    change = propose(with_candidate())
    run_pieces(BAD)

    with pytest.raises(NotPrepared, match=r"did not pass: grounded 0 of 2, 90 % have to pass \(run \d+\)"):
        approve(change)


def test_what_the_approval_rests_on_is_on_record():
    """Runs by their digests, with rows, judges, thresholds and counts."""
    version = golden()
    make_standard(version)
    change = propose(with_candidate())
    run_pieces(GOOD)
    approve(change)

    (said,) = AuditEvent.objects.filter(action="change.approve").latest("seq").data["eval_runs"]

    run = EvalRun.objects.get()
    assert said == {**run.facts(), "set": "eval-set:golden@1", "rows": version.digest}
    assert (said["run"], said["digest"], said["passed"]) == (run.pk, run.digest, True)


def test_the_same_lane_in_another_change_needs_no_other_run():
    """A run is of a lane, rows, judges and thresholds, not of a change; a price more makes no other lane."""
    make_standard(golden())
    propose(with_candidate())
    run_pieces(GOOD)

    again = propose(with_candidate(input_micros_per_million_tokens=7))

    assert unmet(again) == []
    assert EvalRun.objects.count() == 1


def test_an_amended_lane_is_asked_anew():
    """The run of what was there before opens nothing."""
    make_standard(golden())
    change = propose(with_candidate())
    run_pieces(GOOD)
    other = routing_tables.submit(document=with_candidate(region="eu-west"), rationale="r", actor=crew.oncall, now=NOW)
    change = amend_change(
        change=change, content=other.reference, content_digest=other.digest, actor=crew.oncall, now=NOW
    )

    assert "is being asked: 0 of 2 rows" in unmet(change)[0]
    assert EvalRun.objects.count() == 2


@pytest.mark.parametrize("what", ["rows", "thresholds", "judges"])
def test_a_run_under_another_standard_opens_nothing(what):
    """Rows, judges and thresholds that count are those of today."""
    version = golden()
    make_standard(version)
    change = propose(with_candidate())
    run_pieces(GOOD)
    if what == "rows":
        import_into(version.set, messages_row("c"))
    elif what == "thresholds":
        make_standard(version, thresholds={"grounded": 1.0})
    else:
        make_calibrated_judge("careful")
        make_standard(version, judges=["careful@1", "grounded@1"])

    assert "was not asked yet" in unmet(change)[0]
    run_change(change=change, actor=crew.oncall, now=NOW)
    run_pieces(GOOD)
    assert unmet(change) == []


# --- which sets are for which lanes ----------------------------------------------------------------------------------
def test_a_set_is_for_lanes_that_can_do_what_it_asks_on_routes_that_it_names():
    """Golden and safety sets alike; held-out ones gate no lane."""
    make_standard(golden())
    make_standard(golden(slug="safety", purpose="safety"))
    make_standard(golden(slug="elsewhere"), routes=["summaries"])
    make_standard(golden(slug="audio", capability="audio_output"))
    make_standard(golden(slug="held-out", purpose="held_out"))
    golden(slug="without-a-standard")

    change = propose(with_candidate())

    assert [one.held.version.set.slug for one in needed_by(change).demands] == ["golden", "safety"]
    assert EvalRun.objects.count() == 2


def test_rows_go_nowhere_that_they_may_not():
    """A set that may not leave the EU is not asked of a lane in the US, and whoever approves is told."""
    make_standard(golden())
    make_standard(golden(slug="european", residency=["eu"]))
    change = propose(with_candidate())
    run_pieces(GOOD)

    with pytest.raises(NotSeen, match="set 'european' may not leave eu"):
        approve(change)
    approve(change, has_seen=True)

    assert {run.set_version.set.slug for run in EvalRun.objects.all()} == {"golden"}


def test_rows_of_variables_are_asked_by_the_prompt_that_the_standard_names():
    """Its live version; without one, the set has no row for lanes."""
    make_standard(golden(row("v")), prompt="support-answer")
    make_prompt("unborn")
    make_standard(golden(row("w"), slug="later"), prompt="unborn")
    make_standard(golden(row("x"), slug="promptless"))

    change = propose(with_candidate())

    (demand,) = needed_by(change).demands
    assert (demand.subject.prompt, demand.subject.number) == ("support-answer", 1)
    assert [said for said in to_see(change) if "can be asked" in said] == [
        f"no row of set 'later' can be asked of lane '{CANDIDATE}'",
        f"no row of set 'promptless' can be asked of lane '{CANDIDATE}'",
    ]


def test_the_next_version_of_the_prompt_makes_no_other_lane():
    """What passed stays passed when the prompt moves on."""
    make_standard(golden(row("v")), prompt="support-answer")
    change = propose(with_candidate())
    run_pieces(GOOD)
    make_live_version(Prompt.objects.get(slug="support-answer"), "Another")

    assert unmet(change) == []


def test_a_lane_that_no_golden_set_covers_is_approved_by_who_has_seen_that():
    """Nobody asked it anything, and the record says who took that on."""
    make_standard(golden(), routes=["summaries"])
    change = propose(with_candidate())

    with pytest.raises(NotSeen, match=f"no golden set covers lane '{CANDIDATE}' on route chat"):
        approve(change)
    approve(change, has_seen=True)

    assert "no golden set" in AuditEvent.objects.filter(action="change.approve").latest("seq").data["seen"][0]


def test_without_any_set_nothing_is_asked_of_changes(django_assert_num_queries):
    """As before there were sets, for the price of one query."""
    change = propose(with_candidate())

    with django_assert_num_queries(1):
        assert unmet(change) == []
    assert to_see(change) == []
    approve(change)


def test_other_changes_of_routing_wait_for_no_run():
    """A deadline asks no lane anything."""
    make_standard(golden())
    make_routing(with_candidate())

    change = propose(routing_document(deadline_ms=1000) | {"lanes": with_candidate()["lanes"]})
    approve(change)

    assert not EvalRun.objects.exists()


# --- again, and past it ----------------------------------------------------------------------------------------------
def test_what_passed_only_at_another_try_is_said():
    """Asked often enough anything passes: every failed run is on record beside the one that passed."""
    make_standard(golden())
    change = propose(with_candidate())
    run_pieces(BAD)
    (again,) = run_change(change=change, actor=crew.oncall, now=NOW)
    asked = unmet(change)
    run_pieces(GOOD)

    with pytest.raises(NotSeen, match=r"passed only when it was asked again; it had failed in run \d+"):
        approve(change)
    approve(change, has_seen=True)

    assert "is being asked" in asked[0]
    said = AuditEvent.objects.filter(action="change.approve").latest("seq").data
    assert [run["passed"] for run in said["eval_runs"]] == [True, False]
    assert fresh(again).passed


def test_a_cancelled_run_is_begun_again_by_whoever_carries_the_change():
    """What did not end opens nothing; while one asks, no other is begun."""
    make_standard(golden())
    change = propose(with_candidate())
    cancel_run(run=EvalRun.objects.get(), actor=crew.admin, now=NOW)
    said = unmet(change)

    run_change(change=change, actor=crew.oncall, now=NOW)

    assert "was not asked to the end" in said[0]
    with pytest.raises(NothingToRun, match="done or under way"):
        run_change(change=change, actor=crew.oncall, now=NOW)


def test_judges_are_calibrated_before_anything_is_asked():
    """Nothing could pass by their word, so nobody pays for it; once they are, the runs are begun by hand."""
    judge = make_judge_version("grounded")
    make_standard(golden(), judges=["grounded@1"])
    change = propose(with_candidate())

    with pytest.raises(NotPrepared, match="was not asked yet, since grounded@1 is uncalibrated"):
        approve(change)
    with pytest.raises(NothingToRun, match="grounded@1 must be calibrated first"):
        run_change(change=change, actor=crew.oncall, now=NOW)
    labelled = [
        row(f"l{n}", answer="a@b.example" if n % 2 else "Fine", labels={"grounded": n % 2 == 0}) for n in range(50)
    ]
    calibrate(judge_version=judge, set_version=make_set_version("labels", *labelled), actor="x", now=NOW)
    run_calibrations()
    run_change(change=change, actor=crew.oncall, now=NOW)
    run_pieces(GOOD)

    assert JudgeVersion.objects.get().is_calibrated
    approve(change)


def test_broken_glass_does_not_wait_for_a_run_and_says_so():
    """An incident does not wait; that the lane had not passed is on record."""
    make_standard(golden())
    change = propose(with_candidate())

    break_glass(change)
    apply_change(change=change, actor=crew.oncall, now=NOW)

    assert "is being asked" in AuditEvent.objects.get(action="break_glass.used").data["unmet"][0]
    assert CANDIDATE in routing_tables.active().document["routes"]["chat"]["lanes"]


def test_the_runs_of_a_change_take_as_many_queries_however_many_there_are(django_assert_num_queries):
    """For its review page: lanes, sets and runs without end."""
    make_standard(golden())
    few = propose(with_candidate())
    with django_assert_num_queries(5):
        runs_of(few)
    for place in range(3):
        make_standard(golden(slug=f"more-{place}"))
    many = propose(
        routing_document()
        | {"routes": with_candidate("chat", "summaries")["routes"], "lanes": with_candidate(region="eu-west")["lanes"]}
    )

    with django_assert_num_queries(5):
        found = runs_of(many)

    assert len(found) == 4
    assert all(one.run is not None for one in found)
    assert EvalSetVersion.objects.newest().count() == 5


def test_runs_that_nobody_can_begin_take_as_many_queries_however_many_there_are(django_assert_num_queries):
    """The judges of all sets are looked up at once, and each set's own are named."""
    for name in ("loose", "looser"):
        make_judge_version(name)
    make_standard(golden(), judges=["loose@1"])
    change = propose(with_candidate())
    with django_assert_num_queries(7):
        (one,) = unmet(change)
    for place in range(3):
        make_standard(golden(slug=f"more-{place}"), judges=["looser@1"])

    with django_assert_num_queries(7):
        several = unmet(change)

    assert one.endswith("since loose@1 is uncalibrated")
    assert [said.rpartition("since ")[2] for said in several] == ["loose@1 is uncalibrated"] + [
        "looser@1 is uncalibrated"
    ] * 3
