from datetime import timedelta

import pytest

from controlplane.approvals import operations as approvals
from controlplane.approvals.errors import BreakGlassRefused, ChangeClosed, DigestRejected, Drifted, NotApproved
from controlplane.approvals.models import BreakGlass
from controlplane.approvals.operations import lapse_due, review_break_glass
from controlplane.prompts.operations import propose_live
from controlplane.releases.operations import current_release
from controlplane.rollouts import operations as rollouts
from controlplane.rollouts.models import CanaryState
from controlplane.rollouts.operations import change_plan, promote_canary, start_canary, turn_knob
from tests.factories import (
    EVERYBODY,
    FIVE_PERCENT,
    INTERNAL,
    NOW,
    ONE_PERCENT,
    break_glass,
    change_policy,
    crew,
    make_canary,
    make_deployment,
    make_live_version,
    make_prompt,
    make_version,
    rules_of_built_in,
    run_canary,
    sign,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

HALF_HOUR = timedelta(minutes=30)


def released(canary):
    return current_release().content["sections"]["canaries"].get(canary.slug)


# --- breaking it -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"reason": "  "}, "needs a reason"),
        ({"incident": ""}, "id of the incident"),
        ({"lasts": timedelta(seconds=59)}, "lasts 1 to 240 minutes"),
        ({"lasts": timedelta(hours=4, seconds=1)}, "lasts 1 to 240 minutes"),
        ({"lasts": -HALF_HOUR}, "lasts 1 to 240 minutes"),
    ],
)
def test_a_bypass_says_why_for_which_incident_and_how_long(terms, message):
    """Without all three there is no bypass."""
    change = make_canary().change
    asked = {"reason": "outage", "incident": "INC-7", "lasts": HALF_HOUR, **terms}

    with pytest.raises(BreakGlassRefused, match=message):
        approvals.break_glass(change=change, actor=crew.oncall, now=NOW, **asked)


def test_a_bypass_of_something_else_than_was_shown_is_refused():
    """An author who edits the plan while the on-call reads it does not get the bypass."""
    canary = make_canary()
    shown = canary.change.digest
    change_plan(canary=canary, unit="tenant", stages=canary.stages, actor=crew.owner, now=NOW)

    with pytest.raises(Drifted, match="read it again"):
        approvals.break_glass(
            change=canary.change,
            actor=crew.oncall,
            reason="outage",
            incident="INC-7",
            lasts=HALF_HOUR,
            digest=shown,
            now=NOW,
        )


def test_what_is_live_is_never_broken_into():
    """What cannot lapse by itself cannot be bypassed."""
    change = propose_live(version=make_version(make_deployment(), "Ahoy"), reason="now", actor=crew.owner, now=NOW)

    with pytest.raises(BreakGlassRefused, match="cannot lapse by itself"):
        break_glass(change)


def test_an_unpaid_debt_blocks_the_next_bypass():
    """Whoever broke it, and whatever for; a review opens the way again."""
    canary = run_canary(INTERNAL)
    debt = break_glass(canary.change)
    other = make_canary(canary.prompt, text="Ahoy")

    with pytest.raises(BreakGlassRefused, match="not reviewed yet"):
        break_glass(other.change)
    review_break_glass(debt=debt, reviewer=crew.approver_one, note="it was right", now=NOW)

    assert break_glass(other.change).pk


def test_a_debt_stays_after_the_effect_lapsed():
    """The effect ends by itself; the debt does not."""
    debt = break_glass(run_canary(INTERNAL).change)
    lapse_due(now=NOW + HALF_HOUR)

    debt.refresh_from_db()

    assert debt.ended_at == NOW + HALF_HOUR
    assert list(BreakGlass.objects.unpaid()) == [debt]
    assert debt.is_overdue(NOW + timedelta(hours=25))


def test_nobody_reviews_their_own_bypass():
    """Nor a bypass for what they wrote themselves."""
    debt = break_glass(run_canary(INTERNAL).change)

    with pytest.raises(BreakGlassRefused, match="their own bypass"):
        review_break_glass(debt=debt, reviewer=crew.oncall, note="fine", now=NOW)
    with pytest.raises(BreakGlassRefused, match="wrote part of"):
        review_break_glass(debt=debt, reviewer=crew.owner, note="fine", now=NOW)


def test_a_review_says_what_was_found_and_is_written_once():
    """An empty note is no review; the second review is refused."""
    debt = break_glass(run_canary(INTERNAL).change)

    with pytest.raises(BreakGlassRefused, match="what was found"):
        review_break_glass(debt=debt, reviewer=crew.approver_one, note=" ", now=NOW)
    review_break_glass(debt=debt, reviewer=crew.approver_one, note="right", now=NOW)
    with pytest.raises(BreakGlassRefused, match="reviewed before"):
        review_break_glass(debt=debt, reviewer=crew.approver_two, note="wrong", now=NOW)


def test_rejected_or_closed_changes_are_not_broken_into():
    """No incident brings back what was rejected."""
    prompt = make_deployment()
    other = make_canary(prompt, text="Ahoy")
    approvals.reject_change(change=other.change, actor=crew.approver_one, reason="rude", now=NOW)

    with pytest.raises(ChangeClosed):
        break_glass(other.change)
    with pytest.raises(DigestRejected):
        make_version(prompt, "Ahoy")


# --- a canary on broken glass ----------------------------------------------------------------------------------------
def test_a_bypass_turns_the_knob_and_says_until_when():
    """The release carries the second at which workers stop serving it by themselves."""
    canary = run_canary(INTERNAL)
    break_glass(canary.change)

    canary = turn_knob(canary=canary, position=FIVE_PERCENT, actor=crew.oncall, now=NOW)

    assert released(canary)["not_after"] == "2026-03-04T12:30:00Z"


def test_a_lapsed_bypass_lets_nothing_through():
    """From its last second on, the gate is shut, whether or not the beat came by."""
    canary = run_canary(INTERNAL)
    break_glass(canary.change)

    with pytest.raises(NotApproved):
        turn_knob(canary=canary, position=ONE_PERCENT, actor=crew.oncall, now=NOW + HALF_HOUR)


def test_a_bypass_is_for_the_digest_that_it_was_broken_for():
    """An edit afterwards leaves it without effect."""
    canary = make_canary()
    break_glass(canary.change)
    stages = [{**canary.stages[1], "name": "Everybody at once", "weight": 9000}]
    canary = change_plan(canary=canary, unit="user", stages=stages, actor=crew.owner, now=NOW)

    with pytest.raises(NotApproved):
        start_canary(canary=canary, actor=crew.owner, now=NOW)


def test_a_lapse_turns_the_knob_back_to_what_is_signed():
    """Nobody signed: only the internal stage, which asks for nothing, is left, and without a date."""
    canary = run_canary(INTERNAL)
    break_glass(canary.change)
    turn_knob(canary=canary, position=FIVE_PERCENT, actor=crew.oncall, now=NOW)

    assert lapse_due(now=NOW + HALF_HOUR) == 1

    assert (len(released(canary)["reach"]), released(canary)["not_after"]) == (1, None)
    assert current_release().actor == "ballast"


def test_a_lapse_ends_a_canary_of_which_nothing_is_signed():
    """Where even the first stage is public, the canary is rolled back, without a verdict on its content."""
    canary = make_canary(stages=[{"name": "1 %", "audience": "all", "tenants": [], "regions": [], "weight": 100}])
    break_glass(canary.change)
    canary = start_canary(canary=canary, actor=crew.oncall, now=NOW)

    lapse_due(now=NOW + HALF_HOUR)

    canary.refresh_from_db()
    canary.change.refresh_from_db()
    assert (canary.state, canary.change.state) == (CanaryState.ROLLED_BACK, "withdrawn")
    assert released(canary) is None
    assert not approvals.is_rejected(canary.candidate.digest)


def test_a_lapse_leaves_what_was_signed_meanwhile():
    """The sign-offs came in time: the knob stays, the date goes."""
    canary = run_canary(INTERNAL)
    break_glass(canary.change)
    turn_knob(canary=canary, position=FIVE_PERCENT, actor=crew.oncall, now=NOW)
    sign(canary.change, crew.approver_one, crew.approver_two)

    lapse_due(now=NOW + HALF_HOUR)

    assert (len(released(canary)["reach"]), released(canary)["not_after"]) == (FIVE_PERCENT + 1, None)


def test_a_lapse_keeps_what_rests_on_a_later_bypass():
    """The first bypass ends, the second carries on until its own time."""
    canary = run_canary(INTERNAL)
    debt = break_glass(canary.change)
    review_break_glass(debt=debt, reviewer=crew.approver_one, note="right", now=NOW)
    break_glass(canary.change, lasts=timedelta(hours=2))
    turn_knob(canary=canary, position=ONE_PERCENT, actor=crew.oncall, now=NOW)

    lapse_due(now=NOW + HALF_HOUR)
    after_the_first = len(released(canary)["reach"])
    lapse_due(now=NOW + timedelta(hours=2))

    assert (after_the_first, len(released(canary)["reach"])) == (2, 1)


@pytest.mark.parametrize("back_to", [0, 1])
def test_going_back_on_broken_glass_keeps_the_date_while_the_public_is_served(back_to):
    """A stage that was reached keeps its members, so an internal stage after a public one is public, too."""
    stages = [
        {"name": "some", "audience": "all", "tenants": [], "regions": [], "weight": 100},
        {"name": "staff", "audience": "internal", "tenants": [], "regions": [], "weight": 9000},
        {"name": "more", "audience": "all", "tenants": [], "regions": [], "weight": 500},
    ]
    canary = make_canary(stages=stages)
    break_glass(canary.change)
    canary = start_canary(canary=canary, actor=crew.oncall, now=NOW)
    turn_knob(canary=canary, position=2, actor=crew.oncall, now=NOW)

    turn_knob(canary=canary, position=back_to, actor=crew.oncall, now=NOW)

    assert released(canary)["not_after"] == "2026-03-04T12:30:00Z"


def test_going_back_to_what_is_signed_takes_the_date_away():
    """Internal-only asks for nothing here, so nothing is left that could lapse."""
    canary = run_canary(INTERNAL)
    break_glass(canary.change)
    turn_knob(canary=canary, position=ONE_PERCENT, actor=crew.oncall, now=NOW)

    turn_knob(canary=canary, position=INTERNAL, actor=crew.oncall, now=NOW)

    assert released(canary)["not_after"] is None


def test_going_back_is_possible_though_the_policy_fell_silent():
    """Going back asks nobody, so nobody's silence can stop it; and the lapse ends what no rule speaks of."""
    canary = run_canary(INTERNAL)
    break_glass(canary.change)
    turn_knob(canary=canary, position=FIVE_PERCENT, actor=crew.oncall, now=NOW)
    change_policy([rule for rule in rules_of_built_in() if rule["kind"] != "prompt.rollout"])

    turn_knob(canary=canary, position=ONE_PERCENT, actor=crew.oncall, now=NOW)
    lapse_due(now=NOW + HALF_HOUR)

    assert released(canary) is None


def test_nothing_is_promoted_on_broken_glass():
    """What is live does not lapse; not even a knob at the last stage leads there."""
    canary = run_canary(INTERNAL)
    break_glass(canary.change)
    turn_knob(canary=canary, position=EVERYBODY, actor=crew.oncall, now=NOW)

    with pytest.raises(NotApproved, match="broken glass"):
        promote_canary(canary=canary, actor=crew.oncall, now=NOW)


def test_one_bypass_that_cannot_be_undone_does_not_keep_the_others(monkeypatch):
    """Each lapses in an operation of its own; what failed is tried again at the next beat."""
    stuck = run_canary(INTERNAL)
    debt = break_glass(stuck.change)
    review_break_glass(debt=debt, reviewer=crew.approver_one, note="right", now=NOW)
    turn_knob(canary=stuck, position=ONE_PERCENT, actor=crew.oncall, now=NOW)
    other = make_prompt("other-prompt")
    make_live_version(other)
    free = make_canary(other)
    break_glass(free.change)
    start_canary(canary=free, actor=crew.oncall, now=NOW)
    turn_knob(canary=free, position=ONE_PERCENT, actor=crew.oncall, now=NOW)
    turn = rollouts.turn_knob

    def fail_for_the_first(*, canary, **rest):
        if canary.pk == stuck.pk:
            raise RuntimeError("disk full")
        return turn(canary=canary, **rest)

    with monkeypatch.context() as broken:
        broken.setattr(rollouts, "turn_knob", fail_for_the_first)
        assert lapse_due(now=NOW + HALF_HOUR) == 1
    assert (len(released(stuck)["reach"]), len(released(free)["reach"])) == (2, 1)

    assert lapse_due(now=NOW + HALF_HOUR) == 1
    assert len(released(stuck)["reach"]) == 1
