"""What the ladder's pages say of workers: what triggers engaged and read, who engaged what, and orders on hosts."""

from datetime import timedelta

import pytest
from django.utils import timezone

from controlplane.console.ladder_triggers import trigger_row
from controlplane.ladder.models import RungMode
from controlplane.ladder.standing import live_activations
from controlplane.releases.operations import record_reports
from controlplane.telemetry.ladder_states import record_ladder_events, record_ladder_states
from dataplane.ladder.policy import Ladder
from tests.console.conftest import said, words
from tests.factories import crew
from tests.ladder.ladder_policies import SURFACE, engage, ladder_document
from tests.ladders import trigger
from tests.worker_reports import STILL_HEARD, ladder_state, report

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ladder")]

PAGE = f"/ladder/surfaces/{SURFACE}/"


def workers_say(*states, events=()):
    """As many workers hold the ladder like this now, and are not silent so soon."""
    now = timezone.now()
    heard = now + STILL_HEARD
    batch = [
        report(worker=f"host/gateway-{at}", sent_at=heard, started_at=now, ladders=(state,), events=events)
        for at, state in enumerate(states)
    ]
    record_reports(batch, now=heard)
    record_ladder_states(batch, now=heard)
    record_ladder_events(batch)


def moved(before, after, *, generation=1):
    data = {"surface": SURFACE, "before": before, "after": after, "cause": "pressed", "trigger": "load"}
    data |= {"reading": 130.0, "readings": {"load": 130.0}, "generation": generation}
    return {"at": timezone.now().timestamp(), "kind": "ladder.moved", "data": data}


def test_rung_that_triggers_engaged_is_said_with_what_pressed(signed_in):
    """Since when and by which trigger, on the step and in the sentence that is on every page."""
    state = ladder_state(level=2, engaged={"vip": 2, "standard": 2, "free": 2}, readings={"load": 130.0})
    workers_say(state, state, events=(moved(1, 2),))

    page = signed_in(crew.oncall).get("/ladder/")

    (row,) = page.context["surfaces"]
    assert row.sentence.startswith("Web chat is on rung 2, No tools, engaged by trigger load at ")
    assert [step.state for step in row.steps] == ["signed"] * 4 + ["engaged", "kept"]
    assert [(one.who, one.rung) for one in row.readers] == [("Everybody", 2)]
    (load,) = row.triggers
    assert (load.reading, load.tone, load.distance) == ("130 requests", "bad", "presses, 30 requests over")
    assert "Ladder: Web chat on rung 2 since " in page.context["status_text"]
    assert "by trigger load." in page.context["status_text"]


def test_standing_down_what_triggers_engaged_holds_them_down_and_says_so(signed_in):
    """Else they would engage it again at once; the page then says until when, and no longer offers to stand down."""
    state = ladder_state(level=2, engaged={"vip": 2, "standard": 2, "free": 2})
    workers_say(state)
    browser = signed_in(crew.oncall)

    stood = browser.post(f"{PAGE}stand-down/")
    page = browser.get("/ladder/")

    assert said(stood)[0] == "Its triggers pressed, so they are held down for 15 min"
    (held,) = live_activations(timezone.now())
    assert (held.mode, held.rung) == (RungMode.HOLD, 0)
    (row,) = page.context["surfaces"]
    assert (row.rung, row.can_stand_down) == (0, False)
    assert row.sentence.startswith("No rung of Web chat is engaged; triggers engage nothing until ")


def test_rung_is_confirmed_worker_by_worker(signed_in):
    """Who engaged it already and who did not yet; once all have, it is said to be so."""
    row = engage(3, now=timezone.now())
    browser = signed_in(crew.oncall)

    workers_say(ladder_state(ids=[row.name]), ladder_state())
    part = browser.get(PAGE)
    workers_say(ladder_state(ids=[row.name]), ladder_state(ids=[row.name]))
    whole = browser.get(PAGE)

    assert "Engaged on 1 of 2 workers…" in words(part)
    assert "every 2s" in part.content.decode()
    assert "engaged on 1 of 2 workers" in words(part)
    assert "Engaged on every worker" in words(whole)


def test_order_on_a_host_is_shown_with_who_gave_it_and_where(signed_in):
    """It is engaged where this console reaches nobody, so it is taken back there."""
    until = (timezone.now() + timedelta(hours=1)).timestamp()
    order = {"id": "emergency-1", "surface": SURFACE, "rung": 6, "until": until, "reason": "cut off", "by": "ada"}
    given = {"at": timezone.now().timestamp(), "kind": "ladder.ordered", "data": order}
    workers_say(ladder_state(ids=["emergency-1"]), ladder_state(), events=(given,))

    page = signed_in(crew.oncall).get("/ladder/")

    (row,) = page.context["surfaces"]
    assert (row.rung, row.can_stand_down) == (6, False)
    assert row.readers[0].who == "Everybody at 1 of 2 workers, by order on the host"
    assert "Rung 6 ordered on the host of 1 of 2 workers by ada: cut off" in words(page)


def test_rung_for_one_region_is_said_beside_what_the_rest_reads(signed_in):
    """Callers outside the region are served as ever, and so it is put."""
    now = timezone.now()
    record_reports([report(worker="host/gateway-0", sent_at=now) | {}], now=now)
    engage(4, now=now, tiers=["free"], regions=["eu-west"])

    page = signed_in(crew.oncall).get("/ladder/")

    (row,) = page.context["surfaces"]
    assert [(one.who, one.rung) for one in row.readers] == [
        ("Free in eu-west", 4),
        ("VIP and Standard in eu-west; everybody outside eu-west", 0),
    ]


@pytest.mark.parametrize(
    ("reading", "tone", "shown", "distance"),
    [
        (None, "off", "no reading", "neither presses nor lets down"),
        (0, "good", "0 requests", "calm; 100 requests until it presses"),
        (60, "good", "60 requests", "calm; 40 requests until it presses"),
        (80, "watch", "80 requests", "holds; 20 requests until it presses"),
        (100, "bad", "100 requests", "presses"),
        (250, "bad", "250 requests", "presses, 150 requests over"),
    ],
)
def test_trigger_says_how_far_it_is_from_moving_anything(reading, tone, shown, distance):
    """Between its two numbers nothing moves; what nobody could read is not taken for calm."""
    surface = Ladder.parse(ladder_document(triggers={"load": trigger()}))[SURFACE]

    row = trigger_row(surface.triggers["load"], reading)

    assert (row.tone, row.reading, row.distance) == (tone, shown, distance)
    assert 0 <= row.exit_place < row.enter_place <= 100
    assert row.place is None or 0 <= row.place <= 100
