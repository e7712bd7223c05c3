"""The ladder policy over HTTP: in words, number by number, and the way to another one and back."""

import pytest

from controlplane.approvals.models import ChangeRequest
from controlplane.console.forms.fields import as_yaml
from controlplane.console.ladder_policy_content import ladder_effects
from controlplane.ladder.models import LadderPolicy
from controlplane.ladder.policies import ladder_policies
from dataplane.ladder.policy import Ladder
from tests import ladders
from tests.console.conftest import said, words
from tests.dataplane.conftest import threshold
from tests.factories import crew
from tests.ladder.ladder_policies import (
    SURFACE,
    ladder_document,
    propose,
    put_in_force,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ladder")]

NUMBERS = f"/ladder/policy/surfaces/{SURFACE}/"


def busier():
    """Another policy: its trigger presses later."""
    return ladder_document(triggers={"load": ladders.trigger(enter=150)})


def typed(browser, **changes):
    """The form of numbers as a browser sends it."""
    form = browser.get(NUMBERS).context["form"]
    data = {name: form[name].value() for name in form.fields if form[name].value() not in (None, "")}
    return data | {"reason": "why"} | changes


def test_policy_is_said_in_words_with_every_number_and_its_origin(ladder, signed_in):
    """What each rung changes, what moves it, whom that spares."""
    text = words(signed_in(crew.auditor).get("/ladder/policy/"))

    assert "Models are told to be brief and cut off at 200 tokens" in text
    assert "load: requests under way at 100 requests or more for 10 s press one rung up, to rung 4 at most" in text
    assert "A rung is given 20 s to work before the next one, and stays at least 1 min" in text
    assert "VIP: 40 requests at once are served in full, short of maintenance" in text
    assert "thresholds are guesses" in text
    assert "Propose another policy" not in text  # an auditor proposes nothing


def test_other_policy_is_compared_then_submitted_for_review(ladder, signed_in):
    """A preview stores nothing and says in words what changes; a submission leads to its review."""
    browser = signed_in(crew.oncall)
    document = as_yaml(busier())

    preview = browser.post("/ladder/policy/new/", {"document": document, "action": "preview"})
    kept = LadderPolicy.objects.count()
    sent = browser.post("/ladder/policy/new/", {"document": document, "reason": "it is calm", "action": "submit"})
    review = browser.get(sent.url)

    assert "Trigger load: presses at 100 requests → 150 requests" in words(preview)
    assert kept == 1
    change = ChangeRequest.objects.get(kind="ladder.policy")
    assert sent.url == f"/reviews/{change.pk}/"
    assert "Trigger load: presses at 100 requests → 150 requests" in words(review)


@pytest.mark.parametrize(
    ("document", "refusal"),
    [("web-chat: [", "not YAML or JSON"), ("web-chat: {}", "web-chat"), ("", "This field is required")],
)
def test_document_that_is_none_is_refused_with_its_place(ladder, signed_in, document, refusal):
    """With nothing stored, and what was typed still there."""
    answer = signed_in(crew.oncall).post(
        "/ladder/policy/new/", {"document": document, "reason": "why", "action": "submit"}
    )

    assert (answer.status_code, LadderPolicy.objects.count()) == (400, 1)
    assert refusal in words(answer)


def test_policy_in_force_is_not_submitted_again(ladder, signed_in):
    """It says that it is in force and has exactly this content."""
    answer = signed_in(crew.oncall).post(
        "/ladder/policy/new/", {"document": as_yaml(ladder_document()), "reason": "why", "action": "submit"}
    )

    assert (answer.status_code, LadderPolicy.objects.count()) == (409, 1)
    assert "is in force and has exactly this content" in words(answer)


def test_earlier_policy_comes_back_in_one_click(ladder, signed_in):
    """What was approved before needs no sign-off."""
    put_in_force(busier())
    browser = signed_in(crew.oncall)

    page = browser.get("/ladder/policy/1/")
    back = browser.post("/ladder/policy/1/return/", {"reason": "it was better"})

    assert "Return to policy 1" in words(page)
    assert said(back)[0] == "Ladder policy 1 is in force; the release is on its way to the workers"
    assert ladder_policies.active().number == 1


def test_stored_policy_is_proposed_once(ladder, signed_in):
    """A second change for the same target is refused in words."""
    propose(busier())
    browser = signed_in(crew.oncall)

    page = browser.get("/ladder/policy/2/")
    again = browser.post("/ladder/policy/2/propose/", {"reason": "why"})

    assert "Review CR-" in words(page)
    assert again.url == "/ladder/policy/2/"
    assert ChangeRequest.objects.filter(kind="ladder.policy").count() == 1


def test_single_numbers_are_proposed_with_where_they_come_from(ladder, signed_in):
    """Only what differs is changed; the rest of the policy stays as it is."""
    browser = signed_in(crew.oncall)
    name = "triggers.load.enter"
    source = {
        f"{name}-origin": "load_test",
        f"{name}-note": "20 were fine",
        f"{name}-link": "/routing/",
        f"{name}-review_by": "2999-01-01",
    }

    sent = browser.post(NUMBERS, typed(browser, **{name: "120"}, **source))

    proposed = LadderPolicy.objects.get(number=2).document[SURFACE]
    assert sent.url.startswith("/reviews/")
    assert proposed["triggers"]["load"]["enter"]["value"] == 120
    assert proposed["triggers"]["load"]["enter"]["provenance"]["author"] == "oncall"
    before = ladder_document()[SURFACE]
    assert proposed["rungs"] == before["rungs"]


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({}, "Nothing differs from what is in force"),
        ({"triggers.load.enter": "120"}, "A changed number needs this"),
        (
            {
                "triggers.load.exit": "200",
                "triggers.load.exit-origin": "guess",
                "triggers.load.exit-note": "n",
                "triggers.load.exit-review_by": "2999-01-01",
            },
            "is not below 100",
        ),
    ],
)
def test_numbers_that_cannot_be_are_refused_beside_their_field(ladder, signed_in, changes, refusal):
    """With nothing stored."""
    browser = signed_in(crew.oncall)

    answer = browser.post(NUMBERS, typed(browser, **changes))

    assert (answer.status_code, LadderPolicy.objects.count()) == (400, 1)
    assert refusal in words(answer)


def test_policy_pages_are_for_who_may_and_what_is_there(ladder, signed_in):
    """Looking is for everybody who works here; proposing is not; what does not exist is not there."""
    owner, oncall = signed_in(crew.owner), signed_in(crew.oncall)

    assert owner.get(NUMBERS).status_code == 200
    assert owner.get("/ladder/policy/new/").status_code == 403
    assert owner.post(NUMBERS, {"reason": "why"}).status_code == 403
    for act in ("propose", "return"):
        assert owner.post(f"/ladder/policy/1/{act}/", {"reason": "why"}).status_code == 403
    assert oncall.get("/ladder/policy/9/").status_code == 404
    assert oncall.get("/ladder/policy/surfaces/gone/").status_code == 404


def test_policy_pages_take_as_many_queries_for_much_as_for_little(ladder, signed_in, queries):
    """However many policies there are and surfaces they have."""
    browser = signed_in(crew.oncall)
    pages = ("/ladder/policy/", NUMBERS, "/ladder/policy/1/")
    put_in_force(busier())
    for page in pages:
        browser.get(page)
    few = [queries(lambda page=page: browser.get(page)) for page in pages]
    put_in_force(busier() | {"other": ladders.surface(routes=["summaries"], rungs=ladders.rungs(cheaper="chat"))})
    for number in (4, 5, 6):
        put_in_force(
            busier() | {f"other-{number}": ladders.surface(routes=["summaries"], rungs=ladders.rungs(cheaper="chat"))}
        )

    many = [queries(lambda page=page: browser.get(page)) for page in pages]
    assert all(now <= before for now, before in zip(many, few, strict=True)), (few, many)


def test_effects_name_what_a_policy_gives_takes_and_moves():
    """A surface, rungs, words, triggers, routes, and single numbers with where they come from."""
    before = Ladder.parse(ladder_document())
    rungs = ladders.rungs(cheaper="summaries")
    del rungs["6"]
    rungs["4"] = {"copy": "other-words"}
    after = Ladder.parse(
        ladder_document(
            rungs=rungs,
            regulated=True,
            eta_seconds=threshold(600),
            triggers={"load": ladders.trigger(highest=3), "queue": ladders.trigger(signal="queue_age_seconds")},
        )
        | {"mail": ladders.surface(routes=["mail"], triggers={})}
    )

    effects = {effect.sentence: effect.details for effect in ladder_effects(before, after)}

    assert list(effects) == [
        "Web chat is regulated now: legal signs its words too",
        "Rung 4 of Web chat changes",
        "Web chat loses rung 6, Maintenance: it is stepped over",
        "Trigger load of Web chat goes up to rung 3, not 4",
        "Web chat gets a trigger",
        "Numbers of Web chat move",
        "Web chat gets a ladder with the rungs 1, 2, 3, 4, 5 and 6, for mail",
    ]
    assert effects["Rung 4 of Web chat changes"] == ("Words rung-4 → other-words",)
    assert effects["Numbers of Web chat move"][0].startswith("In general: told to wait 900 s → 600 s (")
    (gone,) = ladder_effects(before, Ladder())
    assert gone.sentence == "Web chat loses its ladder: whoever engages it, nothing happens"
