"""Where a request stands when it comes in, and that whoever came in goes out again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.ladder.activations import Activation
from dataplane.ladder.desk import LadderDesk, Stand
from dataplane.release import Release, parse_document
from tests.dataplane.conftest import ROUTING, copy_document
from tests.ladders import activation, rung_copy, surface

NOW = datetime(2026, 3, 4, 5, 30, tzinfo=UTC)
LANES = list(ROUTING["lanes"])


class Fleet:
    """What a fleet agreed, as a test says."""

    def __init__(self) -> None:
        self.now_at = 0
        self.places = 40

    def level(self, surface: str) -> int:
        return self.now_at

    def allowance(self, surface: str, tier: str) -> int:
        return self.places if tier == "vip" else 0


def make_release(make_document: Any, *activations: dict[str, Any], **changes: Any) -> Release:
    routes = {slug: {"lanes": LANES, "deadline_ms": 30_000} for slug in ("chat", "cheap", "batch")}
    answers = {"help-answers": {"version": 1, "digest": "a" * 64, "document": copy_document("answers")}}
    document = make_document()
    document["sections"] |= {
        "routing": ROUTING | {"routes": routes},
        "copy": rung_copy() | answers,
        "ladder": {"web-chat": surface(**changes)},
        "activations": {f"a{index}": one for index, one in enumerate(activations)},
    }
    return parse_document(document | {"schema": 4}, digest="0" * 64)


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def desk(fleet: Fleet, make_document: Any) -> LadderDesk:
    made = LadderDesk(fleet=fleet, region="eu-west", wall=NOW.timestamp)
    made.adopt(make_release(make_document))
    return made


def test_request_of_a_surface_stands_where_its_ladder_does(desk: LadderDesk, fleet: Fleet) -> None:
    """One on another route stands nowhere."""
    fleet.now_at = 3

    stand = desk.enter("chat", "free")

    assert stand is not None
    assert (stand.surface.slug, stand.rung, stand.is_reserved) == ("web-chat", 3, False)
    assert desk.in_flight("web-chat") == {"free": 1}
    assert desk.enter("batch", "free") is None


def test_tier_holds_as_many_places_as_it_is_promised_here_and_the_next_one_stands_below(
    desk: LadderDesk, fleet: Fleet
) -> None:
    """A place that comes free is given again; maintenance is for everybody."""
    fleet.now_at, fleet.places = 4, 2

    first, second, third = (desk.enter("chat", "vip") for _ in range(3))
    assert [one and (one.rung, one.is_reserved) for one in (first, second, third)] == [(0, True), (0, True), (4, False)]

    assert first is not None
    desk.leave(first)
    again = desk.enter("chat", "vip")
    fleet.now_at = 6
    under_maintenance = desk.enter("chat", "vip")

    assert again is not None
    assert again.is_reserved
    assert under_maintenance is not None
    assert (under_maintenance.rung, under_maintenance.is_reserved) == (6, False)


def test_places_are_only_taken_while_a_rung_is_engaged(desk: LadderDesk, fleet: Fleet) -> None:
    """Those who came before are served in full anyway, so that the first who need a place find one."""
    fleet.places = 1
    before = desk.enter("chat", "vip")
    fleet.now_at = 1

    after = desk.enter("chat", "vip")

    assert before is not None
    assert not before.is_reserved
    assert after is not None
    assert after.is_reserved


@pytest.mark.parametrize(("level", "rung"), [(0, 0), (1, 0), (4, 0), (5, 5), (6, 6)])
def test_runner_of_a_job_is_served_in_full_until_nothing_is_generated_any_more(
    desk: LadderDesk, fleet: Fleet, level: int, rung: int
) -> None:
    """Its caller was told to wait for a full answer."""
    fleet.now_at = level

    stand = desk.enter("chat", "free", is_job=True)

    assert stand is not None
    assert stand.rung == rung


def test_people_engage_rungs_for_a_region_and_a_tier(desk: LadderDesk, fleet: Fleet, make_document: Any) -> None:
    """And hold down for everybody what triggers may do."""
    here = activation(rung=2, regions=["eu-west"], tiers=["free"])
    elsewhere = activation(rung=5, regions=["us-east"])
    hold = activation(mode="hold", rung=1)
    desk.adopt(make_release(make_document, here, elsewhere, hold))
    fleet.now_at = 4

    surface = desk.surface("web-chat")
    assert surface is not None
    assert desk.engaged(surface, "free").rung == 2
    assert desk.engaged(surface, "standard").rung == 1
    assert desk.ceiling("web-chat") == 1
    assert desk.eta_seconds(surface, desk.engaged(surface, "free")) == 30 * 60
    assert desk.eta_seconds(surface, desk.engaged(surface, "standard")) == 900


def test_rung_without_signed_words_is_passed_by_for_the_next_below(
    desk: LadderDesk, fleet: Fleet, make_document: Any
) -> None:
    """While the fleet has not heard yet that its words were withdrawn, nobody here reads them either."""
    document = make_release(make_document).ladder["web-chat"]
    assert document.engageable == (1, 2, 3, 4, 5, 6)
    fleet.now_at = 3
    rungs = {number: rung for number, rung in surface()["rungs"].items() if number != "3"}
    desk.adopt(make_release(make_document, rungs=rungs))

    stand = desk.enter("chat", "free")

    assert stand is not None
    assert stand.rung == 2


def test_order_on_this_host_stands_beside_the_release_if_its_rung_can_be_engaged(
    desk: LadderDesk, make_document: Any
) -> None:
    """What was ordered before is replaced, and a surface that is gone is passed over."""

    def order(surface: str, rung: int) -> dict[str, tuple[Activation, ...]]:
        until = datetime(2026, 3, 4, 6, tzinfo=UTC)
        one = Activation("emergency-1", surface, "engage", rung, frozenset(), frozenset(), NOW, until, "r", "root")
        return {surface: (one,)}

    known = desk.surface("web-chat")
    assert known is not None
    desk.obey(order("web-chat", 6))
    assert desk.engaged(known, "vip").rung == 6

    desk.adopt(make_release(make_document, activation(rung=2)))
    assert desk.engaged(known, "vip").rung == 6

    desk.obey(order("gone", 6))
    assert desk.engaged(known, "vip").rung == 2

    desk.obey({})
    assert desk.engaged(known, "vip").rung == 2


@given(
    st.lists(
        st.tuples(st.sampled_from(["enter", "leave"]), st.sampled_from(["vip", "standard", "free"]), st.integers(0, 6)),
        max_size=80,
    )
)
def test_whoever_came_in_goes_out_again_whatever_the_ladder_did_meanwhile(acts: list[tuple[str, str, int]]) -> None:
    """Counts never go below nothing, places never above what there are, and all is empty at the end."""
    fleet = Fleet()
    fleet.places = 3
    desk = LadderDesk(fleet=fleet, region="eu-west", wall=NOW.timestamp)
    desk.adopt(make_release(document_of_nothing))
    under_way: list[Stand] = []
    for act, tier, level in acts:
        fleet.now_at = level
        if act == "enter":
            stand = desk.enter("chat", tier)
            assert stand is not None
            under_way.append(stand)
        elif under_way:
            desk.leave(under_way.pop(0))
        assert sum(one.is_reserved for one in under_way) <= 3
        assert sum(desk.in_flight("web-chat").values()) == len(under_way)

    for stand in under_way:
        desk.leave(stand)

    assert desk.in_flight("web-chat") == {}


def document_of_nothing() -> dict[str, Any]:
    """As the fixture makes it, without a fixture, which a property test may not have."""
    sections = {"access": {"tenants": {}, "keys": {}}, "prompts": {}, "canaries": {}, "routing": ROUTING}
    head = {"seq": 0, "hash": ""}
    return {"schema": 4, "revision": 1, "cut_at": "2026-03-04T05:00:00Z", "reason": "", "audit_head": head} | {
        "sections": sections
    }
