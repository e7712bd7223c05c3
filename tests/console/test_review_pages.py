"""The inbox and the review page over HTTP: who is asked, what they read, what their word does, and what it does not."""

import re

import pytest
from django.utils import timezone

from controlplane.accounts import operations as accounts
from controlplane.approvals import operations as approvals
from controlplane.approvals.models import ChangeRequest, RejectedDigest, SignOff
from controlplane.approvals.policy_kind import propose_policy
from controlplane.prompts import operations as prompts
from controlplane.prompts.models import Prompt
from controlplane.routing.operations import routing_tables
from tests.console.conftest import AGO, said, words
from tests.factories import (
    NOW,
    SETUP,
    built_in_rules,
    change_policy,
    crew,
    make_canary,
    make_deployment,
    make_live_version,
    make_operator,
    make_prompt,
    make_version,
    routing_document,
    sign,
)

pytestmark = pytest.mark.usefixtures("deployment")


@pytest.fixture
def prompt(db):
    return make_deployment()


@pytest.fixture
def change(prompt):
    """v2 waits to be served to everybody, with two approvers asked."""
    return propose(prompt, "Good evening")


def propose(prompt, text="Good evening", *, actor=None):
    version = make_version(prompt, text, actor=actor)
    return prompts.propose_live(version=version, reason="evenings differ", actor=actor or crew.owner, now=NOW)


def url(change, act=""):
    return f"/reviews/{change.pk}/{act}"


def word(change, decision="approve", **fields):
    """The sign-off form as a browser posts it."""
    return {"role": "approver", "decision": decision, "digest": change.digest, **fields}


def state(change):
    return ChangeRequest.objects.get(pk=change.pk).state


# --- the inbox -------------------------------------------------------------------------------------------------------
def test_inbox_begins_with_what_waits_for_the_reader(change, signed_in):
    """However much came later: not for its author, nor for who has signed, nor for who signs nothing."""
    later = [propose(Prompt.objects.get(), f"Later {number}", actor=crew.approver_one) for number in range(25)]
    approver = signed_in(crew.approver_one)

    first = approver.get("/reviews/")
    sign(change, crew.approver_one, now=timezone.now())
    others = [browser.get("/reviews/") for browser in (approver, signed_in(crew.owner), signed_in(crew.oncall))]

    assert first.context["rows"][0]["change"] == change
    assert "Serve support-answer v2 to everybody waits for you owner" in words(first)
    for page in others:
        assert "waits for you" not in words(page)
        assert [row["change"] for row in page.context["rows"]] == later[::-1]


def test_inbox_says_how_each_change_stands(change, signed_in):
    """What is missing, that all is there, or that everything is void."""
    assert "Missing: 2 more from approver" in words(signed_in(crew.legal).get("/reviews/"))
    sign(change, crew.approver_one, crew.approver_two, now=timezone.now())
    assert "Every sign-off is there" in words(signed_in(crew.legal).get("/reviews/"))
    make_live_version(Prompt.objects.get(), "Moved")
    assert "Drifted: sign-offs are void" in words(signed_in(crew.legal).get("/reviews/"))


def test_closed_changes_stand_behind_a_tab_with_their_end(prompt, signed_in):
    """How each ended and in whose words; nothing open is among them, and the open tab says what an inbox is for."""
    rejected, withdrawn = propose(prompt, "One"), propose(prompt, "Two")
    approvals.reject_change(change=rejected, actor=crew.approver_one, reason="too cold", now=NOW)
    approvals.withdraw_change(change=withdrawn, actor=crew.owner, reason="not now", now=NOW)
    browser = signed_in(crew.auditor)

    closed, open_ = words(browser.get("/reviews/?show=closed")), words(browser.get("/reviews/"))

    assert f"CR-{rejected.pk} Serve support-answer v2 to everybody owner" in closed
    assert "rejected too cold" in closed
    assert "withdrawn not now" in closed
    assert "applied Every required sign-off is there" in closed
    assert "Nothing waits" in open_


def test_operator_of_one_prompt_finds_no_change_of_another(change, signed_in):
    """Neither listed nor found, with no act on it; nor what concerns the deployment; nor one that does not exist."""
    browser = signed_in(make_operator("newcomer", "approver", on=make_prompt("refund-policy")))
    other = routing_tables.submit(
        document=routing_document(deadline_ms=9000), rationale="r", actor=crew.oncall, now=NOW
    )
    of_routing = routing_tables.propose(version=other, reason="r", actor=crew.oncall, now=NOW)

    assert "Nothing waits" in words(browser.get("/reviews/"))
    for pk in (change.pk, of_routing.pk, 99_999, 10**20):
        assert browser.get(f"/reviews/{pk}/").status_code == 404
        assert browser.post(f"/reviews/{pk}/apply/").status_code == 404
        assert browser.post(f"/reviews/debts/{pk}/").status_code == 404
    assert state(change) == "open"


def test_review_pages_take_as_many_queries_for_many_changes_as_for_few(change, signed_in, queries):
    """Neither per change, nor per canary, nor per sign-off."""
    make_canary(Prompt.objects.get())
    sign(change, crew.approver_one, now=timezone.now())
    browser = signed_in(crew.approver_three)
    paths = ("/reviews/", "/reviews/?show=closed", url(change))
    for path in paths:
        browser.get(path)
    few = [queries(lambda path=path: browser.get(path)) for path in paths]
    for slug in ("one", "two", "three"):
        other = make_prompt(slug)
        make_live_version(other)
        sign(make_canary(other).change, crew.approver_one, now=timezone.now())
        propose(other)
    sign(change, crew.approver_two, now=timezone.now())

    assert [queries(lambda path=path: browser.get(path)) for path in paths] == few


# --- reading ---------------------------------------------------------------------------------------------------------
def test_review_shows_what_would_change_how_it_reads_and_who_must_sign(change, signed_in):
    """The difference against what is live, the checklist, and an empty seat for each person asked."""
    page = signed_in(crew.approver_one).get(url(change))

    text, html = words(page), page.content.decode()
    assert "Serve support-answer v2 to everybody open evenings differ Opened by owner" in text
    assert "<del>Hi</del><ins>Good evening</ins>" in html
    assert "Cannot be filled with the sample variables" in text
    assert text.count("Waiting Approver · not signed") == 2
    assert f"Missing: 2 more from approver on {change.digest[:8]}" in text
    assert 'data-dialog-open="sign-off"' in html
    assert f'name="digest" value="{change.digest}"' in html


def test_review_of_a_canary_shows_its_stages_and_each_gate_once(db, signed_in):
    """Gates that ask the same people share a bar; its canary is one click away."""
    canary = make_canary(change_class="legal")

    page = signed_in(crew.legal).get(url(canary.change))

    text = words(page)
    assert "To leave internal-only, and to pass half of the public and to promote" in text
    assert text.count("Waiting Legal · not signed") == 1
    assert "Internal only internal 50 % 1 % everybody 1 %" in text
    assert "Every stage but the last leaves a matched control" in text
    assert f'href="{canary.get_absolute_url()}"' in page.content.decode()


def test_review_of_routing_and_of_the_policy_shows_the_documents(prompt, signed_in):
    """The difference is there for every kind of change, and each side is named."""
    table = routing_tables.submit(
        document=routing_document(deadline_ms=9000), rationale="r", actor=crew.oncall, now=NOW
    )
    policy = approvals.submit_policy(rules=built_in_rules()[1:], rationale="r", actor=crew.admin, now=NOW)
    browser = signed_in(crew.approver_one)

    of_routing = browser.get(url(routing_tables.propose(version=table, reason="r", actor=crew.oncall, now=NOW)))
    of_policy = browser.get(url(propose_policy(policy=policy, reason="r", actor=crew.admin, now=NOW)))

    assert "Routes table 1 table 2" in words(of_routing)
    assert "9000" in words(of_routing)
    assert of_routing.context["content"]["effects"] == []
    assert "Rules policy 1 policy 2" in words(of_policy)
    assert "Legal wording" in words(of_policy)
    assert "Waiting Admin · not signed" in words(of_policy)


def test_author_is_told_why_they_cannot_sign(prompt, signed_in):
    """Not even with the role that it takes: there is no button, and a click is refused in words."""
    both = make_operator("both", "prompt-owner", "approver")
    change = propose(prompt, actor=both)
    browser = signed_in(both)

    page = browser.get(url(change))
    refused = browser.post(url(change, "sign/"), word(change))

    assert "You wrote part of this change, so you cannot sign it." in words(page)
    assert 'data-dialog-open="sign-off"' not in page.content.decode()
    assert "'both' wrote part of" in said(refused)[0]
    assert not change.sign_offs.exists()


# --- people's words --------------------------------------------------------------------------------------------------
def test_sign_off_fills_a_seat_until_it_is_taken_back(change, signed_in):
    """The bar names who signed; their button turns into the way back."""
    browser = signed_in(crew.approver_one)

    signed = browser.post(url(change, "sign/"), word(change, comment="reads well"))
    after = browser.get(url(change))
    taken_back = browser.post(url(change, "sign/"), word(change, "withdraw"))

    assert said(signed) == [f"You signed CR-{change.pk} as approver"]
    assert re.search(f"approver-one Approver · signed {AGO} Waiting Approver · not signed", words(after))
    assert "Missing: 1 more from approver" in words(after)
    assert "Take my sign-off back" in words(after)
    assert "reads well" in words(after)
    assert f"You took your sign-off of CR-{change.pk} back" in said(taken_back)
    assert "Missing: 2 more from approver" in words(browser.get(url(change)))


def test_word_on_something_else_than_what_is_there_now_is_refused(change, signed_in):
    """Another version went live meanwhile: the page that was read is not what would be applied."""
    make_live_version(Prompt.objects.get(), "Moved")
    browser = signed_in(crew.approver_one)

    refused = browser.post(url(change, "sign/"), word(change))
    forged = browser.post(url(change, "sign/"), word(change, digest="0" * 64))

    assert "changed since you read it" in said(refused)[0]
    assert "read it again" in said(refused)[0]
    assert "you saw 00000000" in said(forged)[-1]
    assert not change.sign_offs.exists()


def test_drifted_change_is_signed_once_its_digest_is_taken_anew(change, signed_in):
    """Until then there is no button; afterwards the earlier sign-offs are void and the page asks anew."""
    sign(change, crew.approver_one, now=timezone.now())
    make_live_version(Prompt.objects.get(), "Moved")
    browser = signed_in(crew.approver_two)

    drifted = browser.get(url(change))
    rebased = browser.post(url(change, "rebase/"))
    after = browser.get(url(change))

    assert "What would be applied has moved since this was opened" in words(drifted)
    assert 'data-dialog-open="sign-off"' not in drifted.content.decode()
    assert "earlier sign-offs are void" in said(rebased)[0]
    assert "approver-one Approver · void Missing: 2 more from approver" in words(after)
    assert 'data-dialog-open="sign-off"' in after.content.decode()


def test_request_for_changes_says_what_and_holds_the_change(change, signed_in):
    """Without words it is refused; with them the gate stays shut though everybody else has signed."""
    browser = signed_in(crew.approver_one)

    empty = browser.post(url(change, "sign/"), word(change, "request_changes", comment=" "))
    assert not change.sign_offs.exists()
    asked = browser.post(url(change, "sign/"), word(change, "request_changes", comment="shorter"))
    sign(change, crew.approver_two, crew.approver_three, now=timezone.now())

    page = words(browser.get(url(change)))
    assert said(empty) == ["Not signed: say what should change"]
    assert f"You asked for changes to CR-{change.pk}" in said(asked)
    assert "approver-one Approver · requested changes Missing: changes requested by approver-one" in page
    assert "shorter" in page


def test_nobody_signs_in_a_role_that_they_do_not_hold(change, signed_in):
    """The form offers the roles that are theirs, and takes no other."""
    browser = signed_in(crew.legal)

    refused = browser.post(url(change, "sign/"), word(change))

    assert "Not signed: Select a valid choice" in said(refused)[0]
    assert not change.sign_offs.exists()


# --- ends ------------------------------------------------------------------------------------------------------------
def test_change_is_applied_once_its_sign_offs_are_there(change, signed_in):
    """Before that the button says what it waits for and a click why not; a second click finds it closed."""
    browser = signed_in(crew.owner)

    early = words(browser.get(url(change))), browser.post(url(change, "apply/"))
    sign(change, crew.approver_one, crew.approver_two, now=timezone.now())
    applied, again = browser.post(url(change, "apply/")), browser.post(url(change, "apply/"))

    assert "Apply: sign-offs are missing" in early[0]
    assert "cannot pass 'apply' yet. Missing: 2 more from approver" in said(early[1])[0]
    assert f"CR-{change.pk} is applied; the release is on its way to the workers" in said(applied)
    assert "is applied since" in said(again)[-1]
    assert Prompt.objects.with_live().get().live_version.number == 2


def test_closed_change_keeps_the_sign_offs_that_carried_it(change, signed_in):
    """Whatever was decided since: another version is live, one who signed has left, and no rule speaks of it now."""
    leaver = make_operator("leaver", "approver")
    sign(change, crew.approver_one, leaver, now=timezone.now())
    approvals.apply_change(change=change, actor=crew.owner, now=timezone.now())
    make_live_version(Prompt.objects.get(), "Another")
    accounts.revoke_role(grant=leaver.grants.get(), actor=SETUP, now=timezone.now())
    change_policy([rule for rule in built_in_rules() if rule["kind"] != "prompt.live"], now=timezone.now())

    page = signed_in(crew.auditor).get(url(change))

    text = words(page)
    assert "applied Every required sign-off is there" in text
    assert re.search(f"leaver Approver · signed {AGO} Every required sign-off is there on {change.digest[:8]}", text)
    assert "void" not in text
    assert "data-dialog-open" not in page.content.decode()


def test_change_is_rejected_with_a_reason_and_its_content_remembered(change, signed_in):
    """Without one it stays open; a second click, like one on any closed change, is told how it ended."""
    browser = signed_in(crew.approver_one)
    other = propose(Prompt.objects.get(), "Two")
    approvals.withdraw_change(change=other, actor=crew.owner, reason="r", now=NOW)

    silent = browser.post(url(change, "reject/"))
    assert state(change) == "open"
    rejected, again, late = (
        browser.post(url(one, "reject/"), {"reason": "too cold"}) for one in (change, change, other)
    )

    assert "Say why" in said(silent)[0]
    assert f"CR-{change.pk} is rejected, and its content is remembered" in said(rejected)
    assert said(again)[-1].startswith(f"CR-{change.pk} is rejected since ")
    assert said(late)[-1].startswith(f"CR-{other.pk} is withdrawn since ")
    assert RejectedDigest.objects.get().reason == "too cold"
    assert (state(change), state(other)) == ("rejected", "withdrawn")


def test_change_is_withdrawn_with_a_reason(change, signed_in):
    """By its author; a second click is told since when."""
    browser = signed_in(crew.owner)

    silent = browser.post(url(change, "withdraw/"))
    assert state(change) == "open"
    withdrawn, again = (browser.post(url(change, "withdraw/"), {"reason": "not now"}) for _ in range(2))

    assert "Say why" in said(silent)[0]
    assert f"CR-{change.pk} is withdrawn; it may be opened again" in said(withdrawn)
    assert "is withdrawn since" in said(again)[-1]
    assert state(change) == "withdrawn"


def test_change_that_a_canary_carries_is_ended_on_its_page(db, signed_in):
    """The review offers neither way out nor a button to apply, and says where they are."""
    change = make_canary().change
    browser = signed_in(crew.approver_one)

    html = browser.get(url(change)).content.decode()
    refused = [browser.post(url(change, act), {"reason": "x"}) for act in ("reject/", "withdraw/", "apply/")]

    assert 'data-dialog-open="reject"' not in html
    assert 'data-dialog-open="withdraw"' not in html
    assert f"Apply CR-{change.pk}" not in html
    assert [said(one)[-1].partition(";")[2] for one in refused] == [
        " roll the canary back or give it up instead",
        " give the canary up instead",
        "",
    ]
    assert "step by step on its own page" in said(refused[2])[-1]
    assert state(change) == "open"


def test_reading_is_not_deciding(change, signed_in):
    """An auditor reads everything and gets no button; each refusal names what it takes."""
    browser = signed_in(crew.auditor)

    html = browser.get(url(change)).content.decode()

    for act in ("sign", "apply", "reject", "withdraw", "rebase", "break-glass"):
        refused = browser.post(url(change, f"{act}/"), word(change, reason="x"))
        assert refused.status_code == 403
        assert "it comes with the role" in refused.content.decode()
        assert f"/{act}/" not in html
    assert "data-dialog-open" not in html
    assert (state(change), SignOff.objects.filter(change=change).count()) == ("open", 0)
