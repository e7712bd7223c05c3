"""What ladders did, over HTTP: episodes and post-mortems, capacity, what people outside read, and the front page."""

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from controlplane.approvals.models import ChangeRequest
from controlplane.ladder.policies import ladder_policies
from controlplane.ladder.rungs import stand_down
from tests.console.conftest import words
from tests.dataplane.conftest import threshold
from tests.factories import NOW, crew, make_tenant
from tests.ladder.ladder_policies import (
    SURFACE,
    engage,
    ladder_document,
    propose,
    put_in_force,
)
from tests.ladders import trigger

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ladder")]

PAGE = f"/ladder/surfaces/{SURFACE}/"


@pytest.fixture
def episode(ladder):
    """Rung 3 was on for ten minutes, an hour ago; the address of its page."""
    begun = timezone.now().replace(microsecond=0) - timedelta(hours=1)
    engage(3, now=begun, lasts=timedelta(minutes=50))
    stand_down(surface=SURFACE, reason="over", actor=crew.oncall, now=begun + timedelta(minutes=10), is_held_up=False)
    return f"{PAGE}episodes/{int(begun.timestamp())}/"


def test_episode_is_told_step_by_step_and_written_as_a_document(episode, signed_in):
    """From the surface's page: who did what when, for how long, and a document to work on."""
    browser = signed_in(crew.auditor)

    surface, page = browser.get(PAGE), browser.get(episode)
    document = browser.get(f"{episode}postmortem.md")

    assert f'href="{episode}"' in surface.content.decode()
    text = words(page)
    assert "Rung 3 engaged by oncall: it burns" in text
    assert "Rung 3 stood down by oncall: over" in text
    assert "10 min" in text
    assert document["Content-Type"] == "text/markdown; charset=utf-8"
    assert document.content.decode().startswith("# Postmortem: Web chat")


@pytest.mark.parametrize("number", [0, 1, 10**9, 10**17])
def test_episode_that_never_was_is_not_there(episode, signed_in, number):
    """Nor has it a document."""
    browser = signed_in(crew.auditor)

    assert browser.get(f"{PAGE}episodes/{number}/").status_code == 404
    assert browser.get(f"{PAGE}episodes/{number}/postmortem.md").status_code == 404


def test_capacity_says_in_a_sentence_how_much_rungs_were_on(episode, signed_in):
    """Nobody reported meanwhile, and that is said rather than that all was well; the same as CSV."""
    browser = signed_in(crew.exec)

    page = browser.get("/ladder/capacity/?days=7")
    table = b"".join(browser.get(f"/ladder/capacity/{SURFACE}/export/?days=7").streaming_content).decode()

    assert "Nobody told of this surface in the last 7 days." in words(page)
    assert table.splitlines()[0].startswith("surface,since,until,rung,name")
    assert len(table.splitlines()) == 7


@pytest.mark.parametrize("days", ["", "0", "x", "999", "²"])
def test_capacity_takes_any_range_for_one(ladder, signed_in, days):
    """What is no number of days, or too many, is a page all the same; a surface that is none is not there."""
    browser = signed_in(crew.exec)

    assert browser.get(f"/ladder/capacity/?days={days}").status_code == 200
    assert browser.get("/ladder/capacity/?surface=gone").status_code == 404


def test_people_outside_read_promises_beside_what_was_measured(ladder):
    """Without signing in; tiers and every exemption, and nobody's name."""
    make_tenant("acme")

    page = Client().get("/fairness/")

    text = words(page)
    assert page.status_code == 200
    assert "VIP 40 requests at once 99 % of questions nobody asked" in text
    assert "VIP: up to 40 questions at once are answered as if nothing were engaged, short of maintenance." in text
    assert "Our own tests of models are never put on a ladder." in text
    assert "which nobody has signed yet" in text
    assert "acme" not in page.content.decode()
    assert "oncall" not in page.content.decode()


def test_people_outside_are_told_how_many_signed_the_policy(ladder):
    """Of the policy in force, also where somebody came back to it."""
    signed = put_in_force(ladder_document(eta_seconds=threshold(77)))
    put_in_force(ladder_document(eta_seconds=threshold(78)))

    ladder_policies.return_to(version=signed, actor=crew.oncall, reason="r", now=NOW)

    assert "which 2 people signed. As of" in words(Client().get("/fairness/"))


def test_front_page_names_the_rung_that_is_on_and_by_whom(ladder, signed_in):
    """In the sentence that is on every page, and among what is on fire."""
    browser = signed_in(crew.owner)
    off = browser.get("/").context["status_text"]
    row = engage(3, now=timezone.now())

    page = browser.get("/")

    assert "Ladder off." in off
    assert f"Ladder: Web chat on rung 3 since {row.since:%H:%M} UTC, by oncall." in page.context["status_text"]
    (fire,) = [fire for fire in page.context["fires"] if "rung" in fire.title]
    assert (fire.tone, fire.title, fire.url) == ("bad", "Web chat is on rung 3", PAGE)


def test_palette_leads_to_engaging_and_standing_down(ladder, signed_in):
    """For who may; others find the page."""

    def labels(operator):
        return {entry["label"] for entry in signed_in(operator).get("/palette.json").json()["entries"]}

    oncall, auditor = labels(crew.oncall), labels(crew.auditor)

    assert {"Engage a rung of Web chat", "Stand down Web chat", "Ladder of Web chat"} <= oncall
    assert "Ladder of Web chat" in auditor
    assert not {"Engage a rung of Web chat", "Stand down Web chat"} & auditor


def test_review_tries_the_policy_on_the_stored_load(ladder, signed_in):
    """Where none is stored it says so; who looks at a change of words is told that it alters no ladder."""
    words_change = ChangeRequest.objects.filter(kind="copy.version").first()
    _, change = propose(ladder_document(triggers={"load": trigger(enter=150)}))
    browser = signed_in(crew.approver_one)

    review, tried = browser.get(f"/reviews/{change.pk}/"), browser.get(f"/reviews/{change.pk}/ladder/")

    assert f'hx-get="/reviews/{change.pk}/ladder/"' in review.content.decode()
    assert "No readings are stored, so nothing can be tried." in words(tried)
    assert "This change alters no surface's ladder" in words(browser.get(f"/reviews/{words_change.pk}/ladder/"))


def test_record_pages_take_as_many_queries_for_much_as_for_little(episode, signed_in, queries):
    """However many episodes there were."""
    browser = signed_in(crew.oncall)
    pages = (PAGE, episode, "/ladder/capacity/", "/")
    for page in pages:
        browser.get(page)
    few = [queries(lambda page=page: browser.get(page)) for page in pages]
    for days in range(2, 6):
        engage(2, now=timezone.now() - timedelta(days=days))

    many = [queries(lambda page=page: browser.get(page)) for page in pages]
    assert all(now <= before for now, before in zip(many, few, strict=True)), (few, many)
