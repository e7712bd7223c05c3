import pytest
from django.utils import timezone

from controlplane.accounts.roles import Role
from controlplane.rollouts.models import DEFAULT_STAGES, Canary
from controlplane.verdicts.watching import look_at_all
from tests.factories import (
    BY_PEOPLE,
    INTERNAL,
    ONE_PERCENT,
    QUARTER,
    crew,
    make_canary,
    make_deployment,
    make_operator,
    make_prompt,
    make_version,
    run_canary,
    sign,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]
PLAN = {"unit": "user", "reason": "friendlier"}


def test_canary_goes_from_plan_to_live_over_http(as_operator):
    """Planned by the owner, signed by two, turned stage by stage, promoted; then the prompt serves it."""
    prompt = make_deployment()
    version = make_version(prompt, "Dear")
    owner = as_operator(crew.owner)

    stages = [{**stage, **BY_PEOPLE} for stage in DEFAULT_STAGES]
    planned = owner.post(f"prompts/support-answer/versions/{version.number}/canaries", {**PLAN, "stages": stages})
    canary = Canary.objects.get(slug=planned.body["slug"])
    sign(canary.change, crew.approver_one, crew.approver_two, now=canary.created_at)
    started = owner.post(f"canaries/{canary.slug}/start")
    turned = [owner.post(f"canaries/{canary.slug}/knob", {"position": n}).status for n in range(1, 6)]
    promoted = owner.post(f"canaries/{canary.slug}/promote")
    again = owner.post(f"canaries/{canary.slug}/promote")

    assert (planned.status, planned.body["state"], planned.body["exposure"]) == (201, "planned", 0.0)
    assert (started.body["stage"], started.body["position"]) == ("Internal only", 0)
    assert turned == [200] * 5
    assert (promoted.status, promoted.body["state"]) == (200, "promoted")
    assert (again.status, again.body["error"]["code"]) == (409, "canary_not_running")
    assert owner.get("prompts/support-answer").body["live_version"]["number"] == version.number


def test_canary_waits_for_evidence_over_http(as_operator):
    """The usual plan lets nobody past 5 % before every guardrail is clear; the verdict says what is missing."""
    version = make_version(make_deployment(), "Dear")
    owner = as_operator(crew.owner)
    planned = owner.post(f"prompts/support-answer/versions/{version.number}/canaries", PLAN)
    canary = Canary.objects.get(slug=planned.body["slug"])
    sign(canary.change, crew.approver_one, crew.approver_two, now=canary.created_at)
    owner.post(f"canaries/{canary.slug}/start")

    unseen = owner.get(f"canaries/{canary.slug}/verdict")
    look_at_all(now=timezone.now())
    verdict = owner.get(f"canaries/{canary.slug}/verdict")
    turned = owner.post(f"canaries/{canary.slug}/knob", {"position": QUARTER})

    assert (unseen.status, unseen.body["ruling"], unseen.body["looked_at"]) == (200, "unproven", None)
    assert (verdict.body["ruling"], verdict.body["readings"][0]["rail"]) == ("unproven", "error_rate")
    assert verdict.body["sentence"].startswith("Not enough evidence: 0 of 7 guardrails are clear")
    assert (turned.status, turned.body["error"]["code"]) == (409, "not_proven")


def test_canary_needs_a_live_version_to_compare_with(as_operator):
    """The refusal says what to do instead."""
    make_version(make_prompt("greeting"), "Dear")

    answer = as_operator(crew.owner).post("prompts/greeting/versions/1/canaries", PLAN)

    assert (answer.status, answer.body["error"]["code"]) == (400, "invalid_plan")
    assert "propose to go live instead" in answer.body["error"]["message"]


@pytest.mark.parametrize("stages", ["all of them", [], [{"name": "x"}], [{"name": "x", "weight": 20000}], [7]])
def test_malformed_stages_are_named(as_operator, stages):
    """What is no list of stages is refused in words, whatever its shape."""
    version = make_version(make_deployment(), "Dear")

    answer = as_operator(crew.owner).post(
        f"prompts/support-answer/versions/{version.number}/canaries", {**PLAN, "stages": stages}
    )

    assert (answer.status, answer.body["error"]["code"]) == (400, "invalid_plan")


def test_plan_is_edited_before_the_start_only(as_operator):
    """Until it starts the plan moves, with its editor among the contributors; afterwards it is fixed."""
    canary = make_canary()
    editor = make_operator("editor", Role.PROMPT_OWNER)
    caller = as_operator(editor)

    edited = caller.post(f"canaries/{canary.slug}/change-plan", {"unit": "tenant"})
    caller.post(f"canaries/{canary.slug}/start")
    refused = caller.post(f"canaries/{canary.slug}/change-plan", {"unit": "user"})

    assert (edited.status, edited.body["unit"]) == (200, "tenant")
    assert "editor" in caller.get(f"changes/{canary.change_id}").body["contributors"]
    assert (refused.status, refused.body["error"]["code"]) == (409, "canary_not_planned")


def test_second_start_is_a_conflict(as_operator):
    """A canary starts once."""
    canary = make_canary()
    owner = as_operator(crew.owner)

    first, second = owner.post(f"canaries/{canary.slug}/start"), owner.post(f"canaries/{canary.slug}/start")

    assert first.status == 200
    assert (second.status, second.body["error"]["code"]) == (409, "canary_not_planned")


def test_second_plan_of_a_version_names_the_change_that_waits(as_operator):
    """Nobody is asked twice for the same."""
    canary = make_canary()
    owner = as_operator(crew.owner)

    again = owner.post(f"prompts/support-answer/versions/{canary.candidate.number}/canaries", PLAN)

    assert (again.status, again.body["error"]["code"]) == (409, "already_open")
    assert f"CR-{canary.change_id}" in again.body["error"]["message"]


def test_knob_does_not_pass_a_gate_without_sign_offs(as_operator):
    """The public stage is refused with what is missing, and the canary stays where it is."""
    canary = run_canary(INTERNAL)

    answer = as_operator(crew.owner).post(f"canaries/{canary.slug}/knob", {"position": ONE_PERCENT})

    assert (answer.status, answer.body["error"]["missing"]) == (409, {"approver": 2})
    canary.refresh_from_db()
    assert canary.position == INTERNAL


def test_knob_that_somebody_else_turned_is_not_turned_further(as_operator):
    """With the position that was read, a forward turn past a colleague's is refused."""
    canary = run_canary(ONE_PERCENT)

    answer = as_operator(crew.owner).post(f"canaries/{canary.slug}/knob", {"position": 3, "seen": INTERNAL})

    assert (answer.status, answer.body["error"]["code"]) == (409, "knob_moved")


def test_roll_back_is_one_call_and_happens_once(as_operator):
    """On-call ends it; the second call says since when."""
    canary = run_canary(ONE_PERCENT)
    oncall = as_operator(crew.oncall)

    first = oncall.post(f"canaries/{canary.slug}/roll-back", {"reason": "refusals up"})
    second = oncall.post(f"canaries/{canary.slug}/roll-back", {"reason": "refusals up"})

    assert (first.status, first.body["state"], first.body["end_reason"]) == (200, "rolled_back", "refusals up")
    assert (second.status, second.body["error"]["code"]) == (409, "canary_not_running")


def test_planned_canary_is_withdrawn_once(as_operator):
    """It never served anybody; its version may be planned again."""
    canary = make_canary()
    owner = as_operator(crew.owner)

    first = owner.post(f"canaries/{canary.slug}/withdraw", {"reason": "later"})
    second = owner.post(f"canaries/{canary.slug}/withdraw", {"reason": "later"})
    again = owner.post(f"prompts/support-answer/versions/{canary.candidate.number}/canaries", PLAN)

    assert (first.status, first.body["state"]) == (200, "withdrawn")
    assert second.status == 409
    assert again.status == 201


def test_list_shows_only_canaries_of_visible_prompts(as_operator):
    """Another prompt's canary is neither listed nor found."""
    canary = make_canary()
    other = as_operator(make_operator("other", Role.ON_CALL, on=make_prompt("other")))

    assert other.get("canaries").body["results"] == []
    assert other.get(f"canaries/{canary.slug}").status == 404


def test_list_filters_and_takes_a_fixed_number_of_queries(as_operator, queries):
    """Each canary comes with its prompt and versions, however many there are."""
    canary = run_canary()
    owner = as_operator(crew.owner)
    owner.get("canaries")
    before = queries(lambda: owner.get("canaries"))
    for text in ("a", "b", "c"):
        make_canary(canary.prompt, text=text)

    assert queries(lambda: owner.get("canaries")) == before
    assert owner.get("canaries?state=running").body["count"] == 1
    assert owner.get("canaries?prompt=support-answer&state=planned").body["count"] == 3
