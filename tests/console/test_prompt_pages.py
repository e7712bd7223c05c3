"""The prompt pages over HTTP: what is live, what was, what somebody wants next, and the form that submits it."""

import json

import pytest

from controlplane.approvals import operations as approvals
from controlplane.approvals.models import ChangeRequest
from controlplane.console.views.prompts import PAGE_SIZE
from controlplane.prompts import operations as prompts
from controlplane.prompts.models import Prompt, PromptVersion
from controlplane.rollouts import operations as rollouts
from tests.console.conftest import said, words
from tests.factories import (
    NOW,
    VARIABLES,
    crew,
    make_canary,
    make_deployment,
    make_live_version,
    make_operator,
    make_prompt,
    make_version,
    run_canary,
)

pytestmark = pytest.mark.usefixtures("deployment")

PAGE = "/prompts/support-answer/"
SUBMIT = f"{PAGE}submit/"


@pytest.fixture
def prompt(db):
    return make_deployment()


def typed(*texts, action="submit", **fields):
    """The submit form as a browser posts it, one system message for each of `texts`."""
    texts = texts or ("Good evening {{name}}",)
    posted = {"messages-TOTAL_FORMS": str(len(texts)), "messages-INITIAL_FORMS": "1", "action": action}
    for index, text in enumerate(texts):
        posted |= {f"messages-{index}-role": "system", f"messages-{index}-content": text}
    return {
        **posted,
        "variables_schema": json.dumps(VARIABLES),
        "parameters": '{"temperature": 0.2}',
        "sample_variables": '{"name": "Ada"}',
        "change_class": "tone",
        "rationale": "evenings differ",
        **fields,
    }


def reject(version):
    """Close a change that carries the version, for good."""
    change = prompts.propose_live(version=version, reason="r", actor=crew.owner, now=NOW)
    approvals.reject_change(change=change, actor=crew.approver_one, reason="too cold", now=NOW)


def live_number():
    return Prompt.objects.with_live().get(slug="support-answer").live_version.number


# --- the list --------------------------------------------------------------------------------------------------------
def test_list_shows_what_is_live_and_the_canary_beside_it(prompt, signed_in):
    """A prompt that serves and one that does not are told apart at a glance."""
    canary = run_canary(prompt=prompt)
    make_prompt("refund-policy")

    page = signed_in(crew.legal).get("/prompts/")

    assert "support-answer support-answer v1 v2 at Internal only chat" in words(page)
    assert f'href="{canary.get_absolute_url()}"' in page.content.decode()
    assert "refund-policy refund-policy nothing yet – chat" in words(page)


def test_operator_of_one_prompt_sees_no_other(prompt, signed_in):
    """Another's prompt is neither listed nor found, and neither is one that does not exist."""
    browser = signed_in(make_operator("newcomer", "prompt-owner", on=make_prompt("refund-policy")))

    assert "support-answer" not in browser.get("/prompts/").content.decode()
    assert browser.get("/prompts/refund-policy/submit/").status_code == 200
    for path in (PAGE, SUBMIT, f"{PAGE}versions/1/", "/prompts/nothing/"):
        assert browser.get(path).status_code == 404, path


def test_list_takes_as_many_queries_for_many_prompts_as_for_few(prompt, signed_in, queries):
    """Neither what is live nor the canaries are asked for one by one."""
    run_canary(prompt=prompt)
    browser = signed_in(crew.owner)
    browser.get("/prompts/")
    few = queries(lambda: browser.get("/prompts/"))
    for slug in ("one", "two", "three"):
        other = make_prompt(slug)
        make_live_version(other)
        run_canary(prompt=other)

    assert queries(lambda: browser.get("/prompts/")) == few


def test_list_goes_on_after_a_page_and_finds_by_a_word(prompt, signed_in, queries):
    """By name, a page after the other; each takes as many queries as the first, and a word narrows them."""
    Prompt.objects.bulk_create(
        Prompt(slug=f"bulk-{number:03d}", title=f"Bulk {number}", route="chat", created_by="owner", created_at=NOW)
        for number in range(PAGE_SIZE + 10)
    )
    browser = signed_in(crew.owner)

    first = browser.get("/prompts/")
    second = browser.get(f"/prompts/{first.context['page'].next_url}")

    slugs = [row["prompt"].slug for page in (first, second) for row in page.context["rows"]]
    assert slugs == [f"bulk-{number:03d}" for number in range(PAGE_SIZE + 10)] + ["support-answer"]
    assert second.context["page"].next_url == ""
    assert queries(lambda: browser.get(f"/prompts/{first.context['page'].next_url}")) == queries(
        lambda: browser.get("/prompts/")
    )
    assert [row["prompt"].slug for row in browser.get("/prompts/?q=Bulk+17").context["rows"]] == ["bulk-017"]
    assert "No prompt fits" in browser.get("/prompts/?q=nothing").content.decode()


# --- one prompt ------------------------------------------------------------------------------------------------------
def test_prompt_page_shows_where_each_version_stands(prompt, signed_in):
    """Live, live before, tried, planned, rejected, or only submitted: each in its own word."""
    make_live_version(prompt, "Two")
    run_canary(prompt=prompt, text="Three")
    make_canary(prompt, text="Four")
    reject(make_version(prompt, "Five"))
    make_version(prompt, "Six")

    page = signed_in(crew.auditor).get(PAGE)

    states = {row["version"].number: row["state"] for row in page.context["rows"]}
    assert states == {1: "was live", 2: "live", 3: "canary", 4: "planned", 5: "rejected", 6: "submitted"}
    for number, state in states.items():
        assert f"v{number} {state} Tone a test wants it owner" in words(page)
    assert "v3 against v2 , at Internal only" in words(page)
    assert "v4 against v2 , planned by owner" in words(page)


def test_prompt_page_says_who_wrote_signed_and_put_live_what_is_live(prompt, signed_in):
    """Each is named, with the reason; who brought it back later does not hide who signed it."""
    make_live_version(prompt, "Two")
    prompts.return_to(version=prompt.versions.get(number=1), actor=crew.oncall, reason="customers complain", now=NOW)

    page = words(signed_in(crew.legal).get(PAGE))

    assert "Written by owner, " in page
    assert "by oncall: customers complain" in page
    assert "Approved by approver-one, approver-two" in page


def test_prompt_pages_take_as_many_queries_for_many_versions_as_for_few(prompt, signed_in, queries):
    """The line of versions and the comparison do not ask once per version."""
    browser = signed_in(crew.owner)
    paths = (PAGE, f"{PAGE}versions/1/", SUBMIT)
    for path in paths:
        browser.get(path)
    few = [queries(lambda path=path: browser.get(path)) for path in paths]
    for text in ("one", "two", "three"):
        make_canary(prompt, text=text)
        reject(make_version(prompt, f"not {text}"))

    assert [queries(lambda path=path: browser.get(path)) for path in paths] == few


# --- one version -----------------------------------------------------------------------------------------------------
def test_version_is_compared_with_what_is_live_unless_asked_otherwise(prompt, signed_in):
    """Word by word; `?against=` takes any other version of the prompt."""
    make_live_version(prompt, "Two")
    make_version(prompt, "Three")
    browser = signed_in(crew.legal)

    by_default = browser.get(f"{PAGE}versions/3/")
    asked = browser.get(f"{PAGE}versions/3/?against=1")

    assert "What changes against v2" in words(by_default)
    assert "<del>Two</del><ins>Three</ins>" in by_default.content.decode()
    assert "What changes against v1" in words(asked)
    assert "<del>Hi</del><ins>Three</ins>" in asked.content.decode()
    assert "Variables unchanged. Parameters unchanged." in words(asked)


def test_version_that_is_not_there_is_not_found(prompt, signed_in):
    """Neither as the page's own nor as the other side of its comparison."""
    browser = signed_in(crew.owner)

    assert browser.get(f"{PAGE}versions/99/").status_code == 404
    for against in ("99", "x", "²", "9" * 5000):
        assert browser.get(f"{PAGE}versions/1/", {"against": against}).status_code == 404


def test_return_is_offered_where_a_version_was_live_to_who_may(prompt, signed_in):
    """Not on what is live or never was, not to readers; but also while a canary of the old version is planned."""
    make_live_version(prompt, "Two")
    make_version(prompt, "Three")
    oncall = signed_in(crew.oncall)

    def offered(browser):
        pages = {number: browser.get(f"{PAGE}versions/{number}/").content.decode() for number in (1, 2, 3)}
        return [number for number, page in pages.items() if 'data-dialog-open="return-to"' in page]

    assert offered(oncall) == [1]
    assert offered(signed_in(crew.approver_one)) == []
    rollouts.plan_canary(
        candidate=prompt.versions.get(number=1),
        unit="user",
        stages=make_canary(prompt).stages,
        reason="was it so bad?",
        actor=crew.owner,
        now=NOW,
    )
    assert offered(oncall) == [1]


# --- submitting ------------------------------------------------------------------------------------------------------
def test_form_starts_from_what_is_live(prompt, signed_in):
    """A change is an edit; the reason is the only thing left blank."""
    page = signed_in(crew.owner).get(SUBMIT)

    assert "Starts from v1." in words(page)
    assert page.context["texts"].forms[0]["content"].value() == "Hi {{name}}"
    assert json.loads(page.context["form"]["variables_schema"].value()) == VARIABLES


def test_version_is_submitted_once(prompt, signed_in):
    """It serves nobody; the second time the page leads to the first."""
    browser = signed_in(crew.owner)

    first, second = (browser.post(SUBMIT, typed()) for _ in range(2))

    version = PromptVersion.objects.get(number=2)
    assert first.url == version.get_absolute_url()
    assert (version.author, version.sample_variables, live_number()) == ("owner", {"name": "Ada"}, 1)
    assert second.status_code == 409
    assert "support-answer v2 has exactly this content" in words(second)
    assert f'<a href="{version.get_absolute_url()}">Open v2</a>' in second.content.decode()
    assert PromptVersion.objects.count() == 2


def test_preview_shows_the_difference_and_stores_nothing(prompt, signed_in):
    """What changes against the live version, and how it reads with the samples."""
    page = signed_in(crew.owner).post(SUBMIT, typed("Good evening {{name}}", action="preview"))

    assert page.status_code == 200
    assert "<del>Hi</del><ins>Good evening</ins>" in page.content.decode()
    assert "draft, not submitted" in words(page)
    assert "Good evening Ada" in words(page)
    assert PromptVersion.objects.count() == 1


def test_mistake_in_a_version_is_shown_with_its_place(prompt, signed_in):
    """Nothing is stored, whichever field is not as it must be."""
    browser = signed_in(crew.owner)

    for wrong, told in (
        ({"variables_schema": "{"}, "not JSON: Expecting property name enclosed in double quotes in line 1, column 2"),
        ({"parameters": '{"stop": "\\ud800"}'}, "JSON that cannot be kept"),
        ({"parameters": '{"seed": ' + "9" * 5000 + "}"}, "JSON that cannot be kept"),
        ({"sample_variables": "[" * 50_000 + "]" * 50_000}, "JSON that cannot be kept"),
        ({"sample_variables": '["Ada"]'}, "expected an object"),
        ({"rationale": ""}, "This field is required"),
        ({"change_class": "huge"}, "Select a valid choice"),
        ({"messages-TOTAL_FORMS": "x"}, "Some fields are not as they must be"),
        ({"messages-0-content": "Hi {{stranger}}"}, "$.messages[0].content : "),
        ({"messages-0-content": " "}, "$.messages[0].content : must not be empty"),
        ({"parameters": '{"temprature": 1}'}, "$.parameters.temprature : "),
    ):
        page = browser.post(SUBMIT, typed(**wrong))
        assert page.status_code == 400
        assert told in words(page)
        assert "nothing was stored" in words(page)
    assert PromptVersion.objects.count() == 1


def test_rejected_content_is_refused_with_the_reason_of_its_rejection(prompt, signed_in):
    """It does not come back under another number, and its own page offers no way forward."""
    reject(make_version(prompt, "Good evening"))
    browser = signed_in(crew.owner)

    page, own = browser.post(SUBMIT, typed("Good evening {{name}}")), browser.get(f"{PAGE}versions/2/")

    assert "This content was rejected too cold" in words(own)
    assert "Plan a canary" not in words(own)
    assert 'data-dialog-open="go-live"' not in own.content.decode()
    assert page.status_code == 409
    assert "was rejected on 2026-03-04 by 'approver-one': too cold" in words(page)
    assert PromptVersion.objects.count() == 2


def test_another_message_is_added_to_what_was_typed(prompt, signed_in):
    """Every field keeps its text, JSON that does not parse included, and nothing is judged yet."""
    samples, schema = '{"name": "Ada"', {"type": "object", "title": "Größe"}
    asked = typed(action="add", rationale="", sample_variables=samples, variables_schema=json.dumps(schema))

    browser = signed_in(crew.owner)

    page = browser.post(SUBMIT, asked)

    form, texts = page.context["form"], page.context["texts"]
    assert (page.status_code, form.errors) == (200, {})
    assert [text["content"].value() for text in texts.forms] == ["Good evening {{name}}", None]
    assert form["sample_variables"].value() == samples
    assert json.loads(form["variables_schema"].value()) == schema
    assert form["change_class"].value() == "tone"
    miscounted = browser.post(SUBMIT, {**asked, "messages-TOTAL_FORMS": "²"})
    assert miscounted.context["texts"].total_form_count() == 1


# --- acts on a version -----------------------------------------------------------------------------------------------
def test_proposing_to_everybody_takes_a_reason_and_leads_to_its_review(prompt, signed_in):
    """Without a reason nothing is opened, nor for what is live; with one nobody is served it before it is signed."""
    make_version(prompt, "Two")
    browser = signed_in(crew.owner)

    refused = browser.post(f"{PAGE}versions/2/propose/", {"reason": " "})
    live = browser.post(f"{PAGE}versions/1/propose/", {"reason": "again"})
    assert not ChangeRequest.objects.open().exists()
    proposed = browser.post(f"{PAGE}versions/2/propose/", {"reason": "clearer"})

    change = ChangeRequest.objects.open().get()
    assert "Say why" in said(refused)[0]
    assert "is live already" in said(live)[-1]
    assert (proposed.url, change.reason, live_number()) == (f"/reviews/{change.pk}/", "clearer", 1)


def test_return_takes_a_reason_and_one_click(prompt, signed_in):
    """Without one nothing changes, nor to what never was live; with one it is live again, and a second click idle."""
    make_live_version(prompt, "Two")
    make_version(prompt, "Three")
    browser = signed_in(crew.oncall)

    refused = browser.post(f"{PAGE}versions/1/return/")
    never = browser.post(f"{PAGE}versions/3/return/", {"reason": "x"})
    assert live_number() == 2
    returned = browser.post(f"{PAGE}versions/1/return/", {"reason": "customers complain"})
    browser.post(f"{PAGE}versions/1/return/", {"reason": "customers complain"})

    assert "Say why" in said(refused)[0]
    assert "was never live; start a canary of it instead" in said(never)[-1]
    assert "support-answer v1 is live again" in said(returned)
    assert (live_number(), prompt.live_changes.count()) == (1, 3)


def test_readers_submit_propose_and_return_nothing(prompt, signed_in):
    """Each refusal names the role that it takes."""
    make_live_version(prompt, "Two")
    browser = signed_in(crew.auditor)

    for path in ("submit/", "versions/1/propose/", "versions/1/return/"):
        refused = browser.post(f"{PAGE}{path}", typed(reason="x"))
        assert refused.status_code == 403
        assert "Prompt owner" in refused.content.decode()
    assert (PromptVersion.objects.count(), live_number()) == (2, 2)
