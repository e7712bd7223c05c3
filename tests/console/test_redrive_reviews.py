"""The reviews of redrives over HTTP: each is read by whoever sees the letters of all its tenants, and listed there."""

from __future__ import annotations

import pytest

from controlplane.accounts import operations as accounts
from controlplane.accounts.models import ApiKey, Tenant
from controlplane.accounts.roles import Role
from controlplane.approvals.access import actions_on
from controlplane.approvals.models import ChangeState
from controlplane.console.palette import entries
from controlplane.deadletters import redrive
from controlplane.deadletters.access import access_plan
from controlplane.deadletters.models import DeadLetter
from controlplane.deadletters.payloads import ConfiguredStore
from controlplane.deadletters.plans import plan_named
from tests.console.conftest import said, words
from tests.deadletters.redrives import Redrive, admit, fail_job, fail_task, know_task, make_ground
from tests.factories import NOW, SETUP, crew, make_operator

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ground")]
INBOX = "/reviews/"


@pytest.fixture(scope="module")
def ground(lasting):
    """A deployment with the tenants acme and globex, for all tests here."""
    with lasting():
        make_ground()
        admit("globex")


@pytest.fixture
def own_oncall():
    """On-call of acme alone."""
    return on_call_of("acme")


def on_call_of(*slugs, role=Role.ON_CALL):
    operator = make_operator(f"{role}-of-{'-'.join(slugs)}")
    for slug in slugs:
        tenant = Tenant.objects.get(slug=slug)
        accounts.grant_role(operator=operator, role=role, target=tenant, actor=SETUP, now=NOW)
    return operator


def asked(*slugs, by=None, **fields):
    """The change request of a redrive of letters of these tenants; work of our own is of the tenant ''."""
    know_task()
    letters = [
        fail_job(ApiKey.objects.get(tenant__slug=slug), **fields) if slug else fail_task(1, tenant="") for slug in slugs
    ]
    author = by or crew.oncall
    choice = redrive.Choice(letters=[letter.pk for letter in letters])
    plan = redrive.plan_redrive(choice=choice, reason="they are back", actor=author, now=NOW)
    return redrive.propose_plan(plan=Redrive(plan, ConfiguredStore()).dry_run(), actor=author, now=NOW)


def url(change, act=""):
    return f"{INBOX}{change.pk}/{act}"


def test_whoever_plans_a_redrive_of_their_tenant_opens_its_review(own_oncall, signed_in):
    """From the plan, the inbox and the palette; they may carry it on, and sign nothing."""
    change = asked("acme", by=own_oncall)
    browser = signed_in(own_oncall)

    page = browser.get(url(change))

    assert page.status_code == 200
    assert "You wrote part of this change, so you cannot sign it." in words(page)
    assert actions_on(own_oncall, change) == {"view", "carry"}
    assert f"Review CR-{change.pk}" in words(browser.get(f"/dead-letters/redrives/{plan_named(change.target)}/"))
    assert f"CR-{change.pk}" in words(browser.get(INBOX))
    assert url(change) in [entry.url for entry in entries(own_oncall)]
    assert "is withdrawn" in said(browser.post(url(change, "withdraw/"), {"reason": "not now"}))[-1]


def test_redrive_that_is_applied_from_its_review_says_what_follows(signed_in):
    """No release is cut for it: its canary begins."""
    change = asked("acme")

    applied = signed_in(crew.oncall).post(url(change, "apply/"), follow=True)

    assert f"CR-{change.pk} is applied; the canary hands its letters in, one at a time" in said(applied)
    assert change.target_object().state == "canary"


@pytest.mark.parametrize("slugs", [("globex",), ("acme", "globex"), ("",), ("", "acme")])
def test_redrive_that_is_not_all_theirs_does_not_exist_for_them(slugs, own_oncall, signed_in):
    """Neither listed nor found, as if it were not there, though one of its letters is their own tenant's."""
    change = asked(*slugs)
    browser = signed_in(own_oncall)

    assert "Nothing waits" in words(browser.get(INBOX))
    assert url(change) not in [entry.url for entry in entries(own_oncall)]
    for pk in (change.pk, change.pk + 1):
        assert browser.get(f"{INBOX}{pk}/").status_code == 404
        assert browser.post(f"{INBOX}{pk}/withdraw/", {"reason": "r"}).status_code == 404


def test_pages_of_letters_name_the_redrives_that_the_reader_may_open(own_oncall, signed_in):
    """Of a letter, and of its group: those of their own tenant alone, though another's holds the same letter."""
    asked("acme", "globex")
    theirs = asked("acme", by=own_oncall)
    letter = DeadLetter.objects.get(redrives__plan=plan_named(theirs.target))
    choice = redrive.Choice(fingerprint=letter.fingerprint)
    both = redrive.plan_redrive(choice=choice, reason="all", actor=crew.oncall, now=NOW)
    own = redrive.plan_redrive(
        choice=redrive.Choice(fingerprint=letter.fingerprint, tenants=["acme"]), reason="r", actor=own_oncall, now=NOW
    )

    shown = [
        {plan.pk for plan in signed_in(operator).get(url).context["plans"]}
        for operator in (own_oncall, crew.oncall)
        for url in (f"/dead-letters/letters/{letter.pk}/", f"/dead-letters/groups/{letter.fingerprint}/")
    ]

    one = plan_named(theirs.target)
    assert shown == [{one, own.pk}, {own.pk}, {one, own.pk, both.pk}, {own.pk, both.pk}]


def test_roles_on_all_its_tenants_together_show_a_redrive(signed_in):
    """Each on a tenant of its own, whatever role it is that shows letters; and no longer once one is taken back."""
    change = asked("acme", "globex")
    both = on_call_of("acme", "globex")
    readers = (both, on_call_of("acme", "globex", role=Role.LEGAL), crew.legal, crew.auditor)

    seen = [signed_in(operator).get(url(change)).status_code for operator in readers]
    accounts.revoke_role(grant=both.grants.last(), actor=SETUP, now=NOW)

    assert seen == [200, 200, 200, 200]
    assert signed_in(both).get(url(change)).status_code == 404


def test_only_who_signs_redrives_is_asked_in_the_inbox(own_oncall, signed_in):
    """To see one is not to be asked about it: the badge counts what waits for one's own word."""
    asked("acme", has_tools=True)

    said_to = [
        signed_in(operator).get("/status.json").json()["data"]["badges"].get("reviews")
        for operator in (own_oncall, crew.approver_one)
    ]

    assert said_to == [None, 1]


def test_withdrawn_change_of_a_plan_that_was_proposed_again_is_read_still(own_oncall, signed_in):
    """Each change request has its review, for whoever may read the plan."""
    first = asked("acme", by=own_oncall)
    browser = signed_in(own_oncall)
    browser.post(url(first, "withdraw/"), {"reason": "not now"})
    plan = access_plan(own_oncall, plan_named(first.target))
    second = redrive.propose_plan(plan=plan, actor=own_oncall, now=NOW)

    pages = [browser.get(url(change)) for change in (first, second)]

    assert [page.status_code for page in pages] == [200, 200]
    assert [page.context["change"].state for page in pages] == [ChangeState.WITHDRAWN, ChangeState.OPEN]


def test_reviews_take_as_many_queries_for_many_redrives_as_for_few(own_oncall, signed_in, queries):
    """Neither per plan nor per tenant."""
    change = asked("acme", by=own_oncall)
    browser = signed_in(own_oncall)
    paths = (INBOX, url(change))
    for path in paths:
        browser.get(path)
    few = [queries(lambda path=path: browser.get(path)) for path in paths]
    for slugs in (("acme",), ("acme",), ("globex",), ("acme", "globex")):
        asked(*slugs)

    assert [queries(lambda path=path: browser.get(path)) for path in paths] == few
