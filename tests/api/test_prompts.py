import pytest

from controlplane.accounts.roles import Role
from controlplane.approvals import operations as approvals
from controlplane.prompts.models import Prompt, PromptVersion
from tests.factories import (
    NOW,
    VARIABLES,
    crew,
    make_deployment,
    make_live_version,
    make_operator,
    make_prompt,
    make_version,
    sign,
)

pytestmark = pytest.mark.django_db
VERSION = {
    "messages": [{"role": "system", "content": "Good evening {{name}}"}],
    "variables_schema": VARIABLES,
    "parameters": {"temperature": 0.1},
    "sample_variables": {"name": "Ada"},
    "change_class": "tone",
    "rationale": "evenings differ",
}


def test_prompt_is_created_once(as_operator):
    """The second prompt of a name is a conflict that says so."""
    owner = as_operator(crew.owner)
    body = {"slug": "greeting", "title": "Greeting", "route": "chat"}

    first, second = owner.post("prompts", body), owner.post("prompts", body)

    assert (first.status, first.body["live_version"]) == (201, None)
    assert (second.status, second.body["error"]["code"]) == (409, "name_taken")
    assert Prompt.objects.count() == 1


def test_list_shows_only_ones_own_prompts(as_operator):
    """An owner of one prompt does not learn that another exists."""
    make_prompt("theirs")
    somebody = make_operator("somebody", Role.PROMPT_OWNER, on=make_prompt("mine"))

    answer = as_operator(somebody).get("prompts")

    assert [row["slug"] for row in answer.body["results"]] == ["mine"]
    assert answer.body["count"] == 1


def test_list_takes_as_many_queries_for_many_prompts_as_for_one(as_operator, queries):
    """A list costs the same however long it is, for who may see all and for who may see some."""
    prompt = make_deployment()
    owner, somebody = as_operator(crew.owner), as_operator(make_operator("somebody", Role.PROMPT_OWNER, on=prompt))
    for caller in (owner, somebody):
        caller.get("prompts")
    before = [queries(lambda caller=caller: caller.get("prompts")) for caller in (owner, somebody)]
    for number in range(5):
        make_live_version(make_prompt(f"prompt-{number}"))

    after = [queries(lambda caller=caller: caller.get("prompts")) for caller in (owner, somebody)]

    assert after == before


def test_version_is_submitted_and_read_back(as_operator):
    """What was sent is what is stored, with its author, number and digest."""
    make_prompt()
    owner = as_operator(crew.owner)

    submitted = owner.post("prompts/support-answer/versions", VERSION)
    read = owner.get("prompts/support-answer/versions/1")

    assert submitted.status == 201
    assert read.body == submitted.body
    assert {name: read.body[name] for name in VERSION} == VERSION
    assert (read.body["number"], read.body["author"]) == (1, "owner")


def test_same_version_twice_is_a_conflict(as_operator):
    """A second submission of the same content stores nothing."""
    make_prompt()
    owner = as_operator(crew.owner)
    owner.post("prompts/support-answer/versions", VERSION)

    again = owner.post("prompts/support-answer/versions", {**VERSION, "rationale": "once more"})

    assert (again.status, again.body["error"]["code"]) == (409, "same_content")
    assert PromptVersion.objects.count() == 1


def test_invalid_version_names_every_problem(as_operator):
    """All that is wrong is said at once, each with its path."""
    make_prompt()

    answer = as_operator(crew.owner).post(
        "prompts/support-answer/versions",
        {**VERSION, "messages": [{"role": "bard", "content": "Hi {{who}}"}], "parameters": {"temperature": 9}},
    )

    assert answer.status == 400
    paths = {problem["path"] for problem in answer.body["error"]["problems"]}
    assert {"$.messages[0].role", "$.messages[0].content", "$.parameters.temperature"} <= paths


def test_unknown_field_is_refused(as_operator):
    """A misspelt field is named, not ignored."""
    make_prompt()

    answer = as_operator(crew.owner).post("prompts/support-answer/versions", {**VERSION, "paramters": {}})

    assert answer.status == 400
    assert "paramters" in answer.body["error"]["fields"]


def test_refusal_names_the_permission_and_the_roles(as_operator):
    """Who may see but not act learns what is missing and who has it."""
    make_prompt()

    answer = as_operator(crew.auditor).post("prompts/support-answer/versions", VERSION)

    assert answer.status == 403
    assert answer.body["error"]["message"] == (
        "you lack the permission to submit versions on prompt:support-answer; it comes with the role Prompt owner"
    )


def test_missing_and_invisible_look_the_same(as_operator):
    """A prompt of others and one that does not exist give the same bytes."""
    make_prompt("theirs")
    somebody = as_operator(make_operator("somebody", Role.PROMPT_OWNER, on=make_prompt("mine")))

    invisible, missing = somebody.get("prompts/theirs"), somebody.get("prompts/nothing")

    assert invisible.status == missing.status == 404
    assert invisible.body == missing.body


def test_version_renders_as_a_worker_would(as_operator):
    """Sample variables by default, others on request, and the worker's own words when they do not fit."""
    make_prompt()
    owner = as_operator(crew.owner)
    owner.post("prompts/support-answer/versions", VERSION)

    own = owner.post("prompts/support-answer/versions/1/render")
    other = owner.post("prompts/support-answer/versions/1/render", {"variables": {"name": "Bo"}})
    wrong = owner.post("prompts/support-answer/versions/1/render", {"variables": {"name": 3}})

    assert own.body["messages"] == [{"role": "system", "content": "Good evening Ada"}]
    assert other.body["messages"] == [{"role": "system", "content": "Good evening Bo"}]
    assert wrong.body["messages"] is None
    assert "support-answer@1" in wrong.body["error"]


def test_draft_is_checked_without_being_stored(as_operator):
    """A draft is filled like a version; one with errors lists them, and neither leaves a trace."""
    make_prompt()
    owner = as_operator(crew.owner)
    draft = {"messages": VERSION["messages"], "variables_schema": VARIABLES, "variables": {"name": "Ada"}}

    good = owner.post("prompts/support-answer/check", draft)
    bad = owner.post("prompts/support-answer/check", {**draft, "variables_schema": {}})

    assert good.body == {
        "messages": [{"role": "system", "content": "Good evening Ada"}],
        "error": "",
        "problems": [],
    }
    assert bad.body["messages"] is None
    assert bad.body["problems"][0]["is_error"]
    assert not PromptVersion.objects.exists()


def test_difference_names_what_changed(as_operator):
    """Two versions differ where they differ, and nowhere else."""
    prompt = make_prompt()
    make_version(prompt, "Hello")
    make_version(prompt, "Good day")

    answer = as_operator(crew.auditor).get("prompts/support-answer/versions/1/diff/2")

    assert [row["path"] for row in answer.body["differences"]] == ["$.digest", "$.messages[0].content"]
    assert answer.body["differences"][1]["after"] == "Good day {{name}}"


def test_first_version_goes_live_by_change_request(as_operator):
    """Proposing opens a change for exactly this version; it serves nobody yet."""
    prompt = make_deployment()
    version = make_version(prompt, "Dear")

    answer = as_operator(crew.owner).post(
        f"prompts/support-answer/versions/{version.number}/propose-live", {"reason": "why"}
    )

    assert (answer.status, answer.body["kind"], answer.body["state"]) == (201, "prompt.live", "open")
    prompt.refresh_from_db()
    assert prompt.live_version_id != version.pk


def test_return_to_an_earlier_version_is_one_call_that_can_be_repeated(as_operator):
    """On-call goes back without sign-offs; the second call changes nothing."""
    prompt = make_deployment()
    first = prompt.live_version
    second = make_live_version(prompt, "Dear")
    oncall = as_operator(crew.oncall)

    answers = [
        oncall.post(f"prompts/support-answer/versions/{first.number}/return-to", {"reason": "complaints"})
        for _ in range(2)
    ]

    assert [answer.status for answer in answers] == [200, 200]
    assert answers[1].body["live_version"]["number"] == first.number
    assert prompt.live_changes.count() == 3
    assert second.number == 2


def test_never_live_version_is_not_returned_to(as_operator):
    """Going back is only for what was approved and live before."""
    version = make_version(make_deployment(), "Dear")

    answer = as_operator(crew.oncall).post(
        f"prompts/support-answer/versions/{version.number}/return-to", {"reason": "complaints"}
    )

    assert (answer.status, answer.body["error"]["code"]) == (409, "never_live")


def test_action_without_a_reason_is_refused(as_operator):
    """The record wants to know why."""
    make_deployment()

    answer = as_operator(crew.oncall).post("prompts/support-answer/versions/1/return-to")

    assert (answer.status, list(answer.body["error"]["fields"])) == (400, ["reason"])


def test_applied_change_shows_in_the_prompt(as_operator):
    """After two sign-offs the owner applies over the API and the prompt serves the version."""
    prompt = make_deployment()
    version = make_version(prompt, "Dear")
    owner = as_operator(crew.owner)
    change = owner.post(f"prompts/support-answer/versions/{version.number}/propose-live", {"reason": "why"}).body
    sign(approvals.ChangeRequest.objects.get(pk=change["id"]), crew.approver_one, crew.approver_two, now=NOW)

    refused = owner.post(f"changes/{change['id']}/apply", {"force": True})
    live = owner.get("prompts/support-answer").body["live_version"]

    assert refused.status == 400
    assert live["number"] == 1
