from datetime import timedelta

import pytest
from django.db import DatabaseError, IntegrityError, transaction

from controlplane.audit.models import AuditEvent
from controlplane.releases.operations import current_release, roll_back_to
from controlplane.routing.effects import effects_of_holding, pins_of
from controlplane.routing.errors import InvalidHold, UnknownLane
from controlplane.routing.holds import active_holds, hold_lane, let_go
from controlplane.routing.models import LaneHold, Mode
from dataplane.routing import RoutingTable
from tests.factories import NOW, crew, make_deployment, make_policy, make_routing, routing_document

pytestmark = pytest.mark.django_db

OPENAI, AZURE, ANTHROPIC = routing_document()["routes"]["chat"]["lanes"]
HOUR = timedelta(hours=1)


def hold(lane=OPENAI, mode=Mode.OPEN, *, lasts=HOUR, reason="it burns", now=NOW):
    return hold_lane(lane=lane, mode=mode, until=now + lasts, reason=reason, actor=crew.oncall, now=now)


def overrides():
    return current_release().content["sections"]["lane_overrides"]


def test_held_lane_is_in_the_release_at_once_and_its_newest_word_stands():
    """Without a sign-off; a second hold takes the place of the first, and letting go takes it out."""
    make_deployment()
    before = overrides()

    hold()
    hold(AZURE, Mode.CLOSED, lasts=2 * HOUR)
    held = overrides()
    hold(mode=Mode.CLOSED, reason="it is fine", now=NOW + timedelta(minutes=5, microseconds=7))
    again = overrides()
    let_go(lane=OPENAI, reason="done", actor=crew.oncall, now=NOW + HOUR)

    assert before == {}
    assert held == {
        AZURE: {"mode": "closed", "until": "2026-03-04T14:00:00Z", "reason": "it burns", "by": "oncall"},
        OPENAI: {"mode": "open", "until": "2026-03-04T13:00:00Z", "reason": "it burns", "by": "oncall"},
    }
    assert again[OPENAI] | {"by": "", "mode": ""} == {
        "mode": "",
        "until": "2026-03-04T13:05:00Z",
        "reason": "it is fine",
        "by": "",
    }
    assert set(overrides()) == {AZURE}
    said = AuditEvent.objects.filter(target=f"lane:{OPENAI}").order_by("seq").values_list("action", "data__reason")
    assert list(said) == [("lane.held", "it burns"), ("lane.held", "it is fine"), ("lane.let_go", "done")]


def test_lane_without_a_breaker_cannot_be_held():
    """Workers would pass the hold over, so saying that it holds would be a lie."""
    make_policy()
    document = routing_document()
    document["lanes"][OPENAI] = {**document["lanes"][OPENAI], "breaker": None}
    for route in document["routes"]:
        document["routes"][route] = {**document["routes"][route], "held_tokens": 0}
    make_routing(document)

    with pytest.raises(InvalidHold, match="has no breaker to hold"):
        hold()


def test_hold_ends_by_itself_and_leaves_the_document_as_it_is():
    """Workers look at its time; the release follows from the rows alone, so nothing has to be cut when it ends."""
    make_deployment()
    hold()
    release = current_release()

    assert set(active_holds(NOW + HOUR - timedelta(seconds=1))) == {OPENAI}
    assert active_holds(NOW + HOUR) == {}
    assert (current_release(), set(overrides())) == (release, {OPENAI})


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"lane": "gone/lane"}, UnknownLane, "'gone/lane' is not a lane of the table in force"),
        ({"lasts": timedelta(0)}, InvalidHold, "ends within 24 h"),
        ({"lasts": timedelta(hours=24, seconds=1)}, InvalidHold, "is not between"),
        ({"mode": Mode.AUTOMATIC}, InvalidHold, "let it go instead"),
        ({"reason": " "}, InvalidHold, "needs a reason"),
    ],
)
def test_hold_without_a_lane_an_end_or_a_reason_is_refused(asked, error, words):
    """Nothing is written, and nothing is released."""
    make_deployment()
    before = current_release()

    with pytest.raises(error, match=words):
        hold(**asked)

    assert (LaneHold.objects.count(), current_release()) == (0, before)


def test_letting_go_twice_and_of_what_nobody_holds_does_nothing():
    """A second click is no second row and no release; a lane that the table lost can be let go all the same."""
    make_deployment()
    let_go(lane=OPENAI, reason="r", actor=crew.oncall, now=NOW)
    hold()
    document = routing_document()
    for route in document["routes"].values():
        route["lanes"] = [lane for lane in route["lanes"] if lane != OPENAI]
    del document["lanes"][OPENAI]
    make_routing(document)

    let_go(lane=OPENAI, reason="r", actor=crew.oncall, now=NOW)
    release = current_release()
    let_go(lane=OPENAI, reason="r", actor=crew.oncall, now=NOW)

    assert (LaneHold.objects.count(), overrides(), current_release()) == (2, {}, release)


def test_rolling_a_release_back_lets_no_lane_go():
    """An older release knew nothing of the fire; on-call's word stands until its own end."""
    make_deployment()
    old = current_release()
    make_routing(routing_document(deadline_ms=9000))
    hold()

    roll_back_to(release=old, reason="bad table", actor=crew.oncall, now=NOW)

    assert set(overrides()) == {OPENAI}
    assert current_release().content["sections"]["routing"] == old.content["sections"]["routing"]


def test_log_of_holds_is_a_record():
    """No row is changed, and none says that a lane is held without an end, or let go with one."""
    make_deployment()
    row = hold()

    with pytest.raises(DatabaseError, match="Cannot update"), transaction.atomic():
        LaneHold.objects.update(reason="never happened")
    for mode, until in ((Mode.OPEN, None), (Mode.AUTOMATIC, NOW + HOUR), (Mode.CLOSED, NOW - HOUR)):
        with pytest.raises(IntegrityError), transaction.atomic():
            LaneHold.objects.create(lane=row.lane, mode=mode, reason="r", actor="a", at=NOW, until=until)


def effects(lane, mode=Mode.OPEN, *, held_open=(), pins=(), fallbacks=False):
    table = RoutingTable.parse(routing_document(fallbacks=fallbacks))
    return effects_of_holding(table, lane, mode, held_open=held_open, pins=pins_of(pins))


def test_effect_of_a_hold_is_said_route_by_route_before_it_is_done():
    """Who serves instead; what a pinned tenant has left; and that nothing is left, in plain words."""
    pins = [["eu"], ["us"], ["us"], [], ["mars"]]

    assert effects(AZURE) == [
        f"Route chat is served by {OPENAI}, then {ANTHROPIC}",
        f"Route summaries is served by {ANTHROPIC}",
    ]
    assert effects(AZURE, held_open=[ANTHROPIC])[1:] == [
        "Every request on route summaries will get an error: no lane is left, and there is no fallback stack below"
    ]
    assert effects(OPENAI, pins=pins)[1] == (
        "Every request on route chat of the 2 tenants pinned to us will get an error: no lane is left, "
        "and there is no fallback stack below"
    )
    assert effects(OPENAI, held_open=[AZURE, ANTHROPIC], fallbacks=True) == [
        "No lane is left for every request on route chat: it gets the signed words of fallback stack help-centre"
    ]
    assert "callers wait for its failures" in effects(OPENAI, Mode.CLOSED)[0]


def test_lane_that_no_route_uses_is_held_without_any_effect():
    """And the sentence says so."""
    document = routing_document()
    document["routes"]["chat"]["lanes"] = [AZURE]

    said = effects_of_holding(RoutingTable.parse(document), OPENAI, Mode.OPEN, held_open=(), pins={})

    assert said == ["No route uses this lane, so no request is touched"]
