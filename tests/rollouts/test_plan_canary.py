import pytest
from django.db import DatabaseError, transaction

from controlplane.approvals.errors import Drifted, NotApproved
from controlplane.approvals.models import ChangeRequest
from controlplane.approvals.operations import apply_change
from controlplane.audit.models import AuditEvent
from controlplane.prompts.operations import propose_live
from controlplane.releases.operations import current_release
from controlplane.rollouts.errors import (
    AnotherCanaryRuns,
    CanaryNotPlanned,
    CanaryNotRunning,
    ControlMoved,
    InvalidPlan,
)
from controlplane.rollouts.models import Canary
from controlplane.rollouts.operations import (
    change_plan,
    plan_canary,
    promote_canary,
    start_canary,
    turn_knob,
    withdraw_canary,
)
from tests.factories import (
    BY_PEOPLE,
    DEFAULT_STAGES,
    FIVE_PERCENT,
    NOW,
    ONE_PERCENT,
    crew,
    make_canary,
    make_deployment,
    make_live_version,
    make_prompt,
    make_version,
    run_canary,
    sign,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]


def stage(name="stage", **changes):
    evidence = {"unproven": "wait", "after_minutes": 0, "advance": "by_hand"}
    return {
        "name": name,
        "audience": "all",
        "tenants": [],
        "regions": [],
        "weight": 100,
        "evidence": evidence,
        **changes,
    }


def plan(prompt, stages, unit="user"):
    return plan_canary(
        candidate=make_version(prompt, "Ahoy"), unit=unit, stages=stages, reason="r", actor=crew.owner, now=NOW
    )


@pytest.mark.parametrize(
    ("stages", "place"),
    [
        ("stages", "expected a list of stages"),
        ([], "at least 1 element"),
        (["x"], "expected a list of stages"),
        ([stage(weight=10_001)], "outside 0..10000"),
        ([stage(weight="5 %")], "expected a whole number"),
        ([stage(weight=True)], "expected a whole number"),
        ([stage(audience="friends")], "'friends' is not one of all, internal"),
        ([stage(name="")], "must not be empty"),
        ([stage("a"), stage("a")], "given twice"),
        ([stage(tenants="acme")], "expected an array"),
        ([stage("a", weight=500), stage("b", weight=100)], "order them by weight"),
    ],
)
def test_stages_that_make_no_canary_are_refused(stages, place):
    """By the parser that every worker runs, with the place; and nothing is kept."""
    with pytest.raises(InvalidPlan, match=place):
        plan(make_deployment(), stages)

    assert not Canary.objects.exists()


def test_a_canary_needs_something_to_compare_with():
    """A prompt's first version goes live by its own way."""
    with pytest.raises(InvalidPlan, match="propose to go live instead"):
        plan(make_prompt("greeting"), [stage()])


def test_what_is_live_is_no_candidate():
    """It cannot be compared with itself."""
    prompt = make_deployment()

    with pytest.raises(InvalidPlan, match="live already"):
        plan_canary(candidate=prompt.live_version, unit="user", stages=[stage()], reason="r", actor=crew.owner, now=NOW)


def test_keys_that_no_stage_has_are_not_kept():
    """What people sign is what workers read, nothing beside it."""
    canary = plan(make_deployment(), [{**stage(), "note": "only a test"}])

    assert canary.stages == [stage()]
    assert canary.change.content["stages"] == [stage()]


def test_each_canary_has_a_salt_of_its_own():
    """So the same users are not the first to be tried on every time."""
    prompt = make_deployment()
    salts = {make_canary(prompt, text=text).salt for text in ("a", "b", "c")}

    assert len(salts) == 3


def test_a_plan_is_fixed_once_it_started():
    """For the operation as for SQL: stages, salt, unit and both versions, and the change that it hangs on."""
    canary = run_canary()
    other = make_canary(canary.prompt, text="Ahoy")

    with pytest.raises(CanaryNotPlanned):
        change_plan(canary=canary, unit="tenant", stages=canary.stages, actor=crew.owner, now=NOW)
    for change in (
        {"stages": []},
        {"salt": "x"},
        {"unit": "tenant"},
        {"candidate": other.candidate},
        {"control": other.candidate},
        {"state": "planned"},
    ):
        with pytest.raises(DatabaseError), transaction.atomic():
            Canary.objects.filter(pk=canary.pk).update(**change)


def test_a_canary_does_not_change_horses():
    """Hung on another canary's signed change, a plan would pass with signatures that nobody gave it."""
    canary = make_canary()
    signed = make_canary(canary.prompt, text="Ahoy")

    for change in ({"change": signed.change}, {"prompt": make_prompt("other")}, {"slug": "other"}):
        with pytest.raises(DatabaseError), transaction.atomic():
            Canary.objects.filter(pk=canary.pk).update(**change)


@pytest.mark.parametrize("state", ["planned", "running"])
def test_an_ended_canary_does_not_run_again(state):
    """Not even by an UPDATE."""
    canary = make_canary()
    withdraw_canary(canary=canary, reason="no", actor=crew.owner, now=NOW)

    with pytest.raises(DatabaseError), transaction.atomic():
        Canary.objects.filter(pk=canary.pk).update(state=state)


def test_a_plan_that_was_altered_by_hand_is_not_what_was_signed():
    """Sign-offs are on the change's content; a planned row that says otherwise goes nowhere."""
    canary = make_canary()
    sign(canary.change, crew.approver_one, crew.approver_two)
    Canary.objects.filter(pk=canary.pk).update(stages=[stage("everybody", weight=10_000)])

    with pytest.raises(Drifted, match="is not the content of CR-"):
        start_canary(canary=canary, actor=crew.owner, now=NOW)


def test_one_canary_runs_on_a_prompt():
    """So that every request belongs to one comparison; the database holds it, too."""
    canary = run_canary()
    other = make_canary(canary.prompt, text="Ahoy")

    with pytest.raises(AnotherCanaryRuns, match=canary.slug):
        start_canary(canary=other, actor=crew.owner, now=NOW)
    with pytest.raises(DatabaseError), transaction.atomic():
        Canary.objects.filter(pk=other.pk).update(state="running")


def test_a_canary_does_not_start_against_what_is_not_live_any_more():
    """Its control group would be served something else than its control."""
    canary = make_canary()
    make_live_version(canary.prompt, "Something else")

    with pytest.raises(ControlMoved, match="plan the canary anew"):
        start_canary(canary=canary, actor=crew.owner, now=NOW)


def test_a_canary_that_runs_is_not_given_up_but_rolled_back():
    """Giving up is for what never served anybody."""
    canary = run_canary()

    with pytest.raises(CanaryNotPlanned):
        withdraw_canary(canary=canary, reason="no", actor=crew.owner, now=NOW)


def test_a_canary_that_was_given_up_is_gone_with_one_event():
    """Its change is withdrawn, its version may be planned again."""
    canary = make_canary()
    withdraw_canary(canary=canary, reason="no", actor=crew.owner, now=NOW)

    canary.refresh_from_db()
    again = plan_canary(
        candidate=canary.candidate, unit="user", stages=[stage()], reason="r", actor=crew.owner, now=NOW
    )

    assert (canary.state, ChangeRequest.objects.get(pk=canary.change_id).state) == ("withdrawn", "withdrawn")
    assert AuditEvent.objects.filter(action="canary.withdrawn").count() == 1
    assert again.slug == f"{canary.slug}-2"


# --- gates -----------------------------------------------------------------------------------------------------------
def test_a_wide_gate_asks_what_the_narrow_ones_ask():
    """A plan that jumps from the staff to everybody passes the public's gate on its way."""
    canary = make_canary(
        change_class="minor", stages=[stage("staff", audience="internal"), stage("everybody", weight=10_000)]
    )

    assert [[str(gate) for gate in canary.gates_up_to(position)] for position in (-1, 0, 1)] == [
        [],
        ["internal"],
        ["internal", "public", "live"],
    ]


def test_promotion_asks_every_gate_whatever_the_plan():
    """A plan that never left the staff does not lead to everybody without the public's signatures."""
    canary = make_canary(stages=[stage("staff", audience="internal", **BY_PEOPLE)])
    canary = start_canary(canary=canary, actor=crew.owner, now=NOW)

    with pytest.raises(NotApproved, match="'public'"):
        promote_canary(canary=canary, actor=crew.owner, now=NOW)
    sign(canary.change, crew.approver_one, crew.approver_two)
    promote_canary(canary=canary, actor=crew.owner, now=NOW)

    assert current_release().content["sections"]["prompts"]["support-answer"]["live"] == 2


def test_a_minor_change_needs_one_for_some_of_the_public_and_two_for_most():
    """More than half of the public has no matched control any more, and is as good as live."""
    canary = make_canary(change_class="minor")
    canary = start_canary(canary=canary, actor=crew.owner, now=NOW)
    sign(canary.change, crew.approver_one)
    canary = turn_knob(canary=canary, position=4, actor=crew.owner, now=NOW)

    with pytest.raises(NotApproved, match="'live'"):
        turn_knob(canary=canary, position=5, actor=crew.owner, now=NOW)

    assert canary.stage["weight"] == DEFAULT_STAGES[4]["weight"]


def test_a_canary_that_ended_takes_no_orders():
    """An automatic roll-back came first; whoever clicks after it is told when and why."""
    canary = run_canary(ONE_PERCENT)
    change = propose_live(version=make_version(canary.prompt, "New"), reason="r", actor=crew.owner, now=NOW)
    sign(change, crew.approver_one, crew.approver_two)
    apply_change(change=change, actor=crew.owner, now=NOW)

    for order in (
        lambda: turn_knob(canary=canary, position=FIVE_PERCENT, actor=crew.owner, now=NOW),
        lambda: promote_canary(canary=canary, actor=crew.owner, now=NOW),
    ):
        with pytest.raises(CanaryNotRunning, match="rolled back since 2026-03-04 12:00 UTC"):
            order()
