"""The form that plans a canary, and edits the plan, over HTTP."""

import pytest
from django.utils import timezone

from controlplane.approvals.models import ChangeRequest
from controlplane.rollouts import operations as rollouts
from controlplane.rollouts.models import DEFAULT_STAGES, Canary
from tests.console.conftest import said, words
from tests.factories import NOW, crew, make_canary, make_deployment, make_operator, make_prompt, make_version, sign

pytestmark = pytest.mark.usefixtures("deployment")

PLAN = "/prompts/support-answer/versions/2/canary/"


@pytest.fixture
def version(db):
    """A version that waits to be tried against the live one."""
    return make_version(make_deployment(), "Good day")


def stage(name="5 %", percent="5", **fields):
    usual = {"audience": "all", "tenants": "", "regions": ""}
    evidence = {"unproven": "wait", "after_minutes": "0", "advance": "by_hand"}
    return {"name": name, "percent": percent, **usual, **evidence, **fields}


RAILS = {
    "rollback_budget": "1",
    "requests": "200",
    "groups": "20",
    "pairs": "50",
    "replays_per_minute": "60",
    "held_out": "",
    "judge_grounding": "",
    "judge_safety": "",
    "margin_cost": "5",
    "margin_error_rate": "0.5",
}


def typed(*stages, action="save", **fields):
    """The plan form as a browser posts it."""
    posted = {"stages-TOTAL_FORMS": str(len(stages)), "stages-INITIAL_FORMS": "0", "unit": "user", "reason": "why"}
    posted |= RAILS
    for index, one in enumerate(stages):
        posted |= {f"stages-{index}-{name}": value for name, value in one.items()}
    return {**posted, "action": action, **fields}


def test_plan_starts_from_the_default_stages(version, signed_in):
    """Internal users first, then the steps most teams take, and the version's own reason."""
    page = signed_in(crew.owner).get(PLAN)

    rows = [(form["name"].value(), form["percent"].value()) for form in page.context["stages"].forms]
    assert rows[:3] == [("Internal only", "50"), ("1 %", "1"), ("5 %", "5")]
    assert len(rows) == len(DEFAULT_STAGES)
    assert page.context["form"]["reason"].value() == version.rationale
    assert "Against v1, which is live" in words(page)


def test_plan_without_anything_live_says_what_to_do_instead(db, signed_in):
    """A first version has nothing to be compared with."""
    path = f"{make_version(make_prompt('greeting')).get_absolute_url()}canary/"
    browser = signed_in(crew.owner)

    page, refused = browser.get(path), browser.post(path, typed(stage()))

    assert "Nothing is live to compare it with; propose it to everybody instead." in words(page)
    assert refused.status_code == 400
    assert "has no live version to compare with" in words(refused)


def test_plan_keeps_the_limits_of_each_stage(version, signed_in):
    """Tenants and regions are named between commas, and plan and review say whom a stage reaches."""
    browser = signed_in(crew.owner)
    limited = stage("Two shops", "12.5", tenants=" acme,  globex", regions="eu-west")

    response = browser.post(PLAN, typed(limited, stage("Rest", "25"), unit="tenant"))

    canary = Canary.objects.get()
    limits = {"tenants": ["acme", "globex"], "regions": ["eu-west"]}
    assert f"CR-{canary.change_id} waits in the approvers' inbox" in said(response)[0]
    assert (canary.unit, canary.state, canary.position) == ("tenant", "planned", -1)
    evidence = {"unproven": "wait", "after_minutes": 0, "advance": "by_hand"}
    assert canary.stages[0] == {"name": "Two shops", "audience": "all", "weight": 1250, "evidence": evidence, **limits}
    assert "12.5 % of users of acme, globex, eu-west" in words(browser.get(response.url))
    assert "everybody of acme, globex in eu-west 12.5 %" in words(browser.get(f"/reviews/{canary.change_id}/"))


def test_mistake_in_a_plan_is_shown_and_nothing_is_stored(version, signed_in):
    """Neither a canary nor its change request, whichever stage is not as it must be."""
    browser = signed_in(crew.owner)

    for stages, told in (
        ([stage(percent="101")], "less than or equal to 100"),
        ([stage(percent="some")], "Enter a number"),
        ([stage(percent="0.001")], "no more than 2 decimal places"),
        ([stage("a", "25"), stage("b", "5")], "stage 'b' reaches fewer users than the stage before it"),
        ([stage("a"), stage("a")], "stage 'a' is given twice"),
        ([stage(name="")], "This field is required"),
        ([stage(audience="friends")], "Select a valid choice"),
        ([stage(DELETE="on")], "at least 1 element"),
    ):
        page = browser.post(PLAN, typed(*stages))
        assert page.status_code == 400
        assert told in words(page)
    assert not Canary.objects.exists()
    assert not ChangeRequest.objects.open().exists()


def test_plan_says_what_must_not_get_worse(version, signed_in):
    """Margins in points and percent, what follows without evidence at each stage, nothing where a field is empty."""
    browser = signed_in(crew.owner)
    waits = stage("Some", "5", unproven="roll_back", after_minutes="45", advance="by_itself")

    browser.post(PLAN, typed(waits, margin_schema="2.5", rollback_budget="0.5"))

    canary = Canary.objects.get()
    assert canary.guardrails["margins"] == {"error_rate": 0.005, "cost": 0.05, "schema": 0.025}
    assert canary.guardrails["budget"]["rollback"] == 0.005
    assert canary.stages[0]["evidence"] == {"unproven": "roll_back", "after_minutes": 45, "advance": "by_itself"}
    again = browser.get(f"/canaries/{canary.slug}/edit/")
    assert again.context["rails"]["margin_schema"].value() == "2.5"
    assert again.context["rails"]["margin_latency"].value() is None
    assert again.context["stages"].forms[0]["unproven"].value() == "roll_back"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"margin_cost": "", "margin_error_rate": ""}, "Give at least one guardrail a margin"),
        ({"margin_cost": "0"}, "greater than or equal to 0.01"),
        ({"margin_safety": "1"}, "only replays tell of safety; name a held-out set and a judge of it"),
        ({"held_out": "nowhere@1"}, "Select a valid choice"),
        ({"rollback_budget": "30"}, "less than or equal to 20"),
    ],
)
def test_mistake_in_the_guardrails_is_shown_and_nothing_is_stored(version, signed_in, changes, told):
    """In the words of whoever types it."""
    page = signed_in(crew.owner).post(PLAN, typed(stage(), **changes))

    assert page.status_code == 400
    assert told in words(page)
    assert not Canary.objects.exists()


def test_another_stage_is_added_to_what_was_typed(version, signed_in):
    """Nothing is judged yet, and one that stays empty is left out of the plan."""
    browser = signed_in(crew.owner)

    added = browser.post(PLAN, typed(stage(), action="add", reason=""))

    forms = added.context["stages"].forms
    assert (added.status_code, forms[0]["name"].value(), len(forms)) == (200, "5 %", 2)
    assert "This field is required" not in words(added)
    browser.post(PLAN, typed(stage(), {name: forms[1][name].value() or "" for name in stage()}))
    assert [one["name"] for one in Canary.objects.get().stages] == ["5 %"]


def test_editing_a_plan_voids_its_sign_offs(db, signed_in):
    """The page says so before and after; whoever signed must sign again, and a mistake changes nothing."""
    canary = make_canary()
    sign(canary.change, crew.approver_one, now=timezone.now())
    browser = signed_in(crew.owner)
    path = f"/canaries/{canary.slug}/edit/"

    assert "Editing voids the sign-offs so far." in words(browser.get(path))
    mistake = browser.post(path, typed(stage(percent="101")))
    assert (mistake.status_code, Canary.objects.get().stages) == (400, canary.stages)
    saved = browser.post(path, typed(stage("Some", "3")))

    assert "needs its sign-offs anew" in said(saved)[0]
    assert Canary.objects.get().stages[0]["weight"] == 300
    review = words(browser.get(f"/reviews/{canary.change_id}/"))
    assert "approver-one Approver · void Missing: 2 more from approver" in review


def test_plan_that_runs_is_not_edited(db, signed_in):
    """The refusal says why, and the stages stay."""
    canary = make_canary()
    rollouts.start_canary(canary=canary, actor=crew.owner, now=NOW)

    refused = signed_in(crew.owner).post(f"{canary.get_absolute_url()}edit/", typed(stage()))

    assert refused.status_code == 400
    assert "is running; its plan is fixed" in words(refused)
    assert Canary.objects.get().stages == canary.stages


def test_only_who_runs_canaries_plans_them(version, signed_in):
    """On-call may look at the version, not plan; who may not see the prompt finds no form."""
    refused = signed_in(crew.oncall).post(PLAN, typed(stage()))

    assert refused.status_code == 403
    assert "plan, start and promote canaries" in refused.content.decode()
    assert signed_in(make_operator("stranger")).post(PLAN, typed(stage())).status_code == 404
    assert signed_in(crew.owner).get(PLAN.replace("/2/", "/99/")).status_code == 404
    assert not Canary.objects.exists()
