"""Broken glass over HTTP: the dialog on the review page, the debt that it leaves, and who pays it."""

import re

import pytest
from django.utils import timezone

from controlplane.accounts import operations as accounts
from controlplane.approvals.models import BreakGlass
from controlplane.prompts import operations as prompts
from tests.console.conftest import AGO, said, words
from tests.factories import NOW, SETUP, break_glass, crew, make_canary, make_deployment, make_version

pytestmark = pytest.mark.usefixtures("deployment")


@pytest.fixture
def change(db):
    """The change of a planned canary: what glass can be broken on."""
    return make_canary().change


def url(change, act=""):
    return f"/reviews/{change.pk}/{act}"


def test_glass_is_broken_for_an_incident_on_what_was_read(change, signed_in):
    """Not without an incident, not for hours on end, and not on a plan that was edited since."""
    browser = signed_in(crew.oncall)
    asked = {"reason": "customers see errors", "incident": "INC-7", "minutes": "30", "digest": change.digest}

    html = browser.get(url(change)).content.decode()
    for wrong in ({"incident": " "}, {"reason": ""}, {"minutes": "241"}, {"minutes": "x"}, {"digest": ""}):
        refused = browser.post(url(change, "break-glass/"), {**asked, **wrong})
        assert "A bypass needs a reason, the id of the incident" in said(refused)[-1]
    unread = browser.post(url(change, "break-glass/"), {**asked, "digest": "0" * 64})
    assert not BreakGlass.objects.exists()
    broken = browser.post(url(change, "break-glass/"), asked)

    assert 'data-dialog-open="break-glass"' in html
    assert html.count(f'name="digest" value="{change.digest}"') == 1
    assert "read it again" in said(unread)[-1]
    assert "Glass broken until" in said(broken)[-1]
    told = f"INC-7 oncall broke the glass {AGO} : customers see errors[.] Lapses in 29 min"
    assert re.search(told, words(browser.get(url(change))))


def test_debt_is_paid_by_somebody_else_who_says_what_they_found(change, signed_in):
    """It stands in the inbox until then; not its maker, not without words, and not twice."""
    debt = break_glass(change, now=timezone.now())
    pay, approver = f"/reviews/debts/{debt.pk}/", signed_in(crew.approver_one)
    accounts.grant_role(operator=crew.oncall, role="approver", target=None, actor=SETUP, now=NOW)
    maker = signed_in(crew.oncall)

    inbox, offered = words(approver.get("/reviews/")), approver.get(url(change)).content.decode()
    silent, own = approver.post(pay), maker.post(pay, {"reason": "fine"})
    assert BreakGlass.objects.unpaid().exists()
    paid, again = (approver.post(pay, {"reason": "right call"}) for _ in range(2))

    assert f"Unpaid break-glass debt oncall bypassed CR-{change.pk} for INC-7" in inbox
    assert f'data-dialog-open="debt-{debt.pk}"' in offered
    assert f'data-dialog-open="debt-{debt.pk}"' not in maker.get(url(change)).content.decode()
    assert "a review says what was found" in said(silent)[-1]
    assert "nobody reviews their own bypass" in said(own)[-1]
    assert f"The bypass of CR-{change.pk} is reviewed" in said(paid)
    assert "was reviewed before" in said(again)[-1]
    assert re.search(f"Reviewed by approver-one {AGO} : right call", words(approver.get(url(change))))
    assert "Unpaid" not in words(approver.get("/reviews/"))


def test_glass_is_not_offered_where_nothing_could_lapse(db, signed_in):
    """Going live does not undo itself, so there is no button and a click is refused."""
    version = make_version(make_deployment(), "Good evening")
    change = prompts.propose_live(version=version, reason="r", actor=crew.owner, now=NOW)
    browser = signed_in(crew.oncall)

    html = browser.get(url(change)).content.decode()
    refused = browser.post(
        url(change, "break-glass/"), {"reason": "x", "incident": "y", "minutes": "5", "digest": change.digest}
    )

    assert 'data-dialog-open="break-glass"' not in html
    assert "cannot lapse by itself" in said(refused)[0]
    assert not BreakGlass.objects.exists()
