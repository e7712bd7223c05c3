"""The ladder over HTTP: what stands now, the two taps that engage a rung, and the one that stands it down."""

from datetime import timedelta

import pytest
from django.utils import timezone

from controlplane.ladder.models import RungActivation, RungMode, RungStoodDown
from controlplane.ladder.rungs import hold_down, stand_down
from controlplane.ladder.standing import live_activations
from tests.console.conftest import said, words
from tests.factories import crew
from tests.ladder.ladder_policies import SURFACE, engage, ladder_document, make_ladder

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ladder")]

PAGE = f"/ladder/surfaces/{SURFACE}/"
SHEET = f"{PAGE}rungs/3/"
USUAL = {"minutes": "30", "why": "capacity", "note": "", "tiers": ["vip", "standard", "free"]}


def down(**asked):
    now = timezone.now()
    return stand_down(
        surface=SURFACE, reason="it is over", actor=crew.oncall, now=now, **({"is_held_up": False} | asked)
    )


def test_page_says_what_users_read_and_offers_every_signed_rung(ladder, signed_in):
    """Nothing engaged: all six can be, and the sentence says so."""
    page = signed_in(crew.oncall).get("/ladder/")

    (row,) = page.context["surfaces"]
    assert row.sentence == "No rung of Web chat is engaged."
    assert [step.state for step in row.steps] == ["signed"] * 6
    assert page.content.decode().count("rung-act") == 6
    assert "Stand down" not in words(page)


def test_sheet_says_all_of_it_in_one_sentence_before_the_second_tap(ladder, signed_in):
    """For whom, who is exempt, what users will read, when it ends and how to undo it; everything is filled in."""
    sheet = signed_in(crew.oncall).get(SHEET)

    sentence = sheet.context["preview"].sentence
    assert sentence.startswith("All traffic of chat; VIP served in full up to 40 at once; users read: “")
    assert sentence.endswith("; undo: Stand down")
    assert sheet.content.decode().count("checked") == 5


def test_sheet_over_a_page_is_the_dialog_alone(ladder, signed_in):
    """What a script fetches is a part, not a page; the preview follows what is chosen."""
    asked = {"minutes": "60", "why": "cost", "tiers": ["free"], "note": ""}

    part = signed_in(crew.oncall).get(SHEET, asked, headers={"HX-Request": "true"})

    assert part.content.decode().startswith("<dialog")
    assert "Traffic of Free, of which nobody measured how much it is" in part.content.decode()


def test_second_tap_engages_for_everybody_and_leads_to_the_confirmation(ladder, signed_in):
    """All that there are chosen is everybody, also those who come later; the page then says by whom and until when."""
    browser = signed_in(crew.oncall)

    sent = browser.post(SHEET, USUAL)
    page = browser.get(PAGE)

    row = RungActivation.objects.get()
    assert (row.rung, row.regions, row.tiers, row.reason, row.actor) == (3, [], [], "capacity", "oncall")
    assert row.until - row.since <= timedelta(minutes=30)
    assert sent.url == f"{PAGE}#confirmation"
    assert said(sent)[0] == (
        "Rung 3, Cheaper model, for everybody on Web chat, ends after 30 min; it is on its way to every worker"
    )
    assert "Web chat is on rung 3, Cheaper model, engaged by oncall" in words(page)
    assert [step.state for step in page.context["row"].steps] == ["signed"] * 3 + ["engaged", "kept", "kept"]


def test_rung_for_one_tier_leaves_the_others_as_ever(ladder, signed_in):
    """Who reads what is said per group, the worst off first."""
    browser = signed_in(crew.oncall)
    browser.post(SHEET, USUAL | {"tiers": ["free"], "why": "cost", "note": "the  month"})

    page = browser.get("/ladder/")

    (row,) = page.context["surfaces"]
    assert [(one.who, one.rung) for one in row.readers] == [("Free", 3), ("VIP and Standard", 0)]
    assert row.engaged[0].reason == "cost: the  month"


def test_second_tap_twice_engages_once(ladder, signed_in):
    """A slow line and an impatient thumb: the second finds what the first did."""
    browser = signed_in(crew.oncall)

    browser.post(SHEET, USUAL)
    again = browser.post(SHEET, USUAL)

    assert RungActivation.objects.count() == 1
    assert said(again)[-1].startswith("Rung 3, Cheaper model is engaged already, until ")


@pytest.mark.parametrize("changes", [{"tiers": []}, {"minutes": "31"}, {"why": ""}, {"tiers": ["gold"]}])
def test_sheet_that_says_nothing_is_refused_in_words(ladder, signed_in, changes):
    """With nothing changed, and what was chosen still there."""
    answer = signed_in(crew.oncall).post(SHEET, USUAL | changes)

    assert (answer.status_code, RungActivation.objects.count()) == (400, 0)
    assert "Not engaged; nothing was changed" in words(answer)


def test_rung_that_is_gone_in_between_is_not_there(ladder, signed_in):
    """Of a surface, or of a policy that no longer has it."""
    browser = signed_in(crew.oncall)
    document = ladder_document()
    del document[SURFACE]["rungs"]["3"]
    make_ladder(document)

    assert browser.post(SHEET, USUAL).status_code == 404
    assert browser.get("/ladder/surfaces/gone/").status_code == 404
    assert RungActivation.objects.count() == 0


@pytest.mark.parametrize("who", ["owner", "auditor", "exec"])
def test_who_may_not_engage_sees_no_button_and_is_refused(ladder, signed_in, who):
    """The refusal names what is missing; looking is for everybody who works here."""
    browser = signed_in(getattr(crew, who))
    row = engage(now=timezone.now())

    page = browser.get("/ladder/")

    assert page.status_code == 200
    assert "rung-act" not in page.content.decode()
    assert "Stand down" not in words(page)
    for path in (
        SHEET,
        f"{PAGE}stand-down/",
        f"/ladder/activations/{row.pk}/end/",
        f"/ladder/activations/{row.pk}/again/",
    ):
        assert browser.post(path, USUAL).status_code == 403
    assert len(live_activations(timezone.now())) == 1


def test_stand_down_is_one_tap_and_is_taken_back_with_one(ladder, signed_in):
    """Without a word typed; for a while the page offers to engage the same again, until the same time."""
    browser = signed_in(crew.oncall)
    row = engage(3, now=timezone.now(), tiers=["free"])

    stood = browser.post(f"{PAGE}stand-down/")
    offered = browser.get("/ladder/")
    taken = browser.post(f"/ladder/activations/{row.pk}/again/")

    assert said(stood)[0] == "Stood down web-chat, which was on rung 3, Cheaper model"
    assert "Rung 3 of web-chat was stood down by oncall" in words(offered)
    assert "Engage again" in words(offered)
    (live,) = live_activations(timezone.now())
    assert (live.rung, live.tiers, live.until, live.reason) == (3, ["free"], row.until, "again: it burns")
    assert said(taken)[-1] == "Rung 3 of web-chat is on its way to every worker again"
    assert "Engage again" not in words(browser.get("/ladder/"))


def test_stand_down_twice_changes_nothing_the_second_time(ladder, signed_in):
    """And says so."""
    browser = signed_in(crew.oncall)
    engage(now=timezone.now())

    browser.post(f"{PAGE}stand-down/")
    again = browser.post(f"{PAGE}stand-down/")

    assert said(again)[-1] == "Nothing was engaged on web-chat any more; nothing was changed"
    assert RungStoodDown.objects.count() == 1


def test_way_back_from_signing_in_asks_for_another_tap(ladder, signed_in):
    """A session that ended under the thumb: nothing is changed by following a link."""
    browser = signed_in(crew.oncall)
    row = engage(now=timezone.now())

    for path in (f"{PAGE}stand-down/", f"/ladder/activations/{row.pk}/end/", f"/ladder/activations/{row.pk}/again/"):
        answer = browser.get(path)
        assert answer.url == PAGE
        assert "Nothing was changed" in said(answer)[-1]
    assert len(live_activations(timezone.now())) == 1


def test_triggers_that_are_held_down_are_said_and_let_go(ladder, signed_in):
    """By whom, until when and why, with the way back."""
    browser = signed_in(crew.oncall)
    now = timezone.now()
    row = hold_down(surface=SURFACE, until=now + timedelta(hours=1), reason="it flaps", actor=crew.oncall, now=now)

    page = browser.get("/ladder/")
    let_go = browser.post(f"/ladder/activations/{row.pk}/end/")

    assert "triggers engage nothing until" in words(page)
    assert "oncall: it flaps" in words(page)
    assert said(let_go)[0] == "Hold at rung 0 of web-chat is over; the release is on its way to the workers"
    assert live_activations(timezone.now()) == []


def test_surface_that_a_policy_dropped_is_stood_down_all_the_same(ladder, signed_in):
    """It has no page any more, so the way back leads to all of them."""
    browser = signed_in(crew.oncall)
    engage(now=timezone.now())
    make_ladder(ladder_document(slug="other"))

    answer = browser.post(f"{PAGE}stand-down/")

    assert answer.url == "/ladder/"
    assert live_activations(timezone.now()) == []


def test_ladder_pages_take_as_many_queries_for_much_as_for_little(ladder, signed_in, queries):
    """However many activations and holds there are, for however many callers."""
    browser = signed_in(crew.oncall)
    pages = ("/ladder/", PAGE, SHEET)
    engage(1, now=timezone.now())
    for page in pages:
        browser.get(page)
    few = [queries(lambda page=page: browser.get(page)) for page in pages]
    for number, tiers in ((2, ["vip"]), (3, ["free"]), (4, ["standard", "free"])):
        engage(number, now=timezone.now(), tiers=tiers)

    many = [queries(lambda page=page: browser.get(page)) for page in pages]
    assert all(now <= before for now, before in zip(many, few, strict=True)), (few, many)
    assert {one.mode for one in live_activations(timezone.now())} == {RungMode.ENGAGE}
