"""What pages say over HTTP of a ladder that is not there yet: of no policy, and of one whose words nobody signed."""

import pytest
from django.test import Client
from django.utils import timezone

from tests import ladders
from tests.console.conftest import said, words
from tests.factories import crew
from tests.ladder.ladder_policies import SURFACE, engage, ladder_document, make_ladder, make_words, put_in_force

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]


def test_page_without_a_ladder_says_what_it_is_for(signed_in):
    """Nobody is served anything less before a policy names a surface."""
    page = signed_in(crew.oncall).get("/ladder/")

    assert "No surface has a ladder" in words(page)


def test_unsigned_rung_is_offered_to_nobody_and_says_who_signs(signed_in):
    """The step says which words are missing and whose signature they wait for; its sheet has no button."""
    make_words(1)
    make_ladder()
    browser = signed_in(crew.oncall)

    page, sheet = browser.get("/ladder/"), browser.get(f"/ladder/surfaces/{SURFACE}/rungs/3/")

    (row,) = page.context["surfaces"]
    assert [step.state for step in row.steps] == ["unsigned"] * 5 + ["signed"]
    assert "Nobody has signed 'rung-3' yet. Exec signs it" in words(page)
    assert page.content.decode().count("rung-act") == 1
    assert "Nobody can engage this rung" in words(sheet)
    assert 'type="submit" class="btn btn-danger-solid"' not in sheet.content.decode()


def test_capacity_without_a_ladder_says_what_it_is_for(signed_in):
    """Before a policy is in force."""
    assert "No surface has a ladder" in words(signed_in(crew.exec).get("/ladder/capacity/"))


def test_people_outside_are_told_where_there_is_no_ladder():
    """Rather than shown an empty page."""
    assert "No product has such steps yet" in words(Client().get("/fairness/"))


def test_front_page_says_what_triggers_would_step_over(signed_in):
    """Rungs that triggers may engage and whose words nobody signed; of those above them nothing."""
    make_words(1, 3, 4)
    make_ladder(ladder_document(triggers={"load": ladders.trigger(highest=4)}))

    page = signed_in(crew.owner).get("/")

    (fire,) = [fire for fire in page.context["fires"] if "step over" in fire.title]
    assert fire.title == "Triggers of Web chat would step over rung 2"


def test_front_page_says_which_surface_has_no_words_at_all(signed_in):
    """Once, not for every rung of it."""
    make_ladder()

    page = signed_in(crew.owner).get("/")

    (fire,) = [fire for fire in page.context["fires"] if fire.act == "Ladder"]
    assert fire.title == "Web chat has a ladder without words"


def test_page_without_a_policy_leads_to_the_first(signed_in):
    """For who may propose one."""
    page = signed_in(crew.oncall).get("/ladder/policy/")

    assert "No policy is in force" in words(page)
    assert 'href="/ladder/policy/new/"' in page.content.decode()


def test_page_of_an_earlier_policy_says_what_has_to_be_stood_down_before(signed_in):
    """And where; the page of the one in force has nothing to say, nor does the earlier one once it is stood down."""
    make_words()
    make_ladder(ladder_document(rungs={"1": ladders.rungs()["1"]}, triggers={}))
    put_in_force(ladder_document())
    browser = signed_in(crew.oncall)
    quiet = words(browser.get("/ladder/policy/1/"))
    engaged = engage(4, now=timezone.now())

    page, in_force = browser.get("/ladder/policy/1/"), words(browser.get("/ladder/policy/2/"))
    refused = browser.post("/ladder/policy/1/return/", {"reason": "it was better"})
    browser.post(f"/ladder/activations/{engaged.pk}/end/")
    after = words(browser.get("/ladder/policy/1/"))

    assert "Rung 4 of web-chat, engaged by oncall" in words(page)
    assert "the surface has no rung 4" in words(page)
    assert f'href="/ladder/surfaces/{SURFACE}/"' in page.content.decode()
    assert "stand it down first" in said(refused)[0]
    assert all("stand it down first" not in text for text in (quiet, in_force, after))
