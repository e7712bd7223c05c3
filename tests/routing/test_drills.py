from datetime import timedelta

import pytest
from django.db import DatabaseError, transaction

from controlplane.approvals.models import ChangeRequest
from controlplane.audit.models import AuditEvent
from controlplane.releases.operations import current_release
from controlplane.routing import drills
from controlplane.routing.errors import (
    DrillUnderWay,
    InvalidDrill,
    LaneIsHeld,
    NothingLearned,
    RouteWithoutLanes,
    TenantsLeftOut,
    UnknownLane,
    UnknownProvider,
)
from controlplane.routing.holds import hold_lane, let_go
from controlplane.routing.leaving import effects_of_leaving, lanes_of, left_out, without_provider
from controlplane.routing.lessons import lessons, servable
from controlplane.routing.models import Drill, Mode, RoutingTable
from dataplane.routing import RoutingTable as Routing
from tests.factories import NOW, crew, make_deployment, make_routing, make_tenant, routing_document

OPENAI, AZURE, ANTHROPIC = routing_document()["routes"]["chat"]["lanes"]
OPENAI_EMBED, AZURE_EMBED = routing_document()["routes"]["embed"]["lanes"]
EU, US = frozenset({"eu"}), frozenset({"us"})


def start(provider="openai", *, minutes=10, reason="quarterly", now=NOW, **asked):
    return drills.start_drill(provider=provider, minutes=minutes, reason=reason, actor=crew.oncall, now=now, **asked)


def overrides():
    return current_release().content["sections"]["lane_overrides"]


@pytest.mark.django_db
def test_drill_holds_every_lane_of_a_provider_in_one_release_and_ends_by_itself_or_by_a_click():
    """It names the release that began it; one lane may come back before the others; nothing is released at its end."""
    make_deployment()
    make_tenant("acme", residency=["eu"])
    before = current_release().revision

    drill = start(now=NOW + timedelta(microseconds=7))
    held = overrides()
    let_go(lane=OPENAI, reason="enough", actor=crew.oncall, now=NOW + timedelta(minutes=4))
    halfway = drills.ends_of(drill)
    still = drills.running_drill(NOW + timedelta(minutes=4))
    drills.end_drill(drill=drill, reason="all seen", actor=crew.oncall, now=NOW + timedelta(minutes=6))
    drills.end_drill(drill=drill, reason="twice", actor=crew.oncall, now=NOW + timedelta(minutes=7))

    assert (drill.revision, set(held)) == (before + 1, {OPENAI, OPENAI_EMBED})
    assert {one["until"] for one in held.values()} == {"2026-03-04T12:10:00Z"}
    assert held[OPENAI]["reason"] == "drill, leaving openai: quarterly"
    assert drill.effects == [
        f"Route chat is served by {AZURE}, then {ANTHROPIC}",
        "Route chat refuses requests that need file_input: no lane that is left can",
        f"Route embed is served by {AZURE_EMBED}",
    ]
    assert halfway == {OPENAI: NOW + timedelta(minutes=4), OPENAI_EMBED: NOW + timedelta(minutes=10)}
    assert still == drill
    assert drills.ends_of(drill)[OPENAI_EMBED] == NOW + timedelta(minutes=6)
    assert (overrides(), drills.running_drill(NOW + timedelta(minutes=6))) == ({}, None)
    said = AuditEvent.objects.filter(target=drill.audit_name).order_by("seq").values_list("action", flat=True)
    assert list(said) == ["drill.started", "drill.ended"]

    with pytest.raises(DatabaseError, match="Cannot update"), transaction.atomic():
        Drill.objects.update(reason="never happened")

    second = start(now=NOW + timedelta(hours=1))
    assert drills.is_running(second, NOW + timedelta(hours=1, minutes=9))
    assert not drills.is_running(second, NOW + timedelta(hours=1, minutes=10))


@pytest.mark.django_db
def test_drill_that_would_mislead_or_hurt_is_refused_and_changes_nothing():
    """Out of range, unknown, unheld, beside another, or with tenants left out that nobody accepted."""
    make_deployment()
    make_tenant("acme", residency=["eu"])
    make_tenant("globex")
    document = routing_document(deadline_ms=9000)
    del document["lanes"][ANTHROPIC]["breaker"]
    for route in document["routes"].values():
        route.pop("held_tokens", None)
    document["lanes"]["openai/mars/main/gpt-4o"] = {**document["lanes"][OPENAI], "region": "mars"}
    make_routing(document)
    before = current_release()

    for asked, error, words in (
        ({"minutes": 4}, InvalidDrill, "lasts 5 to 60 minutes, not 4"),
        ({"minutes": 61}, InvalidDrill, "not 61"),
        ({"reason": "  "}, InvalidDrill, "needs a reason"),
        ({"provider": ""}, InvalidDrill, "name one of the two"),
        ({"lane": OPENAI}, InvalidDrill, "name one of the two"),
        ({"provider": "mistral"}, UnknownProvider, "no lane of a provider 'mistral'"),
        ({"provider": "", "lane": "gone"}, UnknownLane, "'gone' is not a lane"),
        ({"provider": "anthropic"}, InvalidDrill, "without a breaker policy nothing holds a lane back"),
        ({"provider": "", "lane": "openai/mars/main/gpt-4o"}, InvalidDrill, "nobody would notice"),
        ({"provider": "azure"}, TenantsLeftOut, "Route embed: no lane is left for 1 tenant; it gets an error"),
        ({"gone": [AZURE_EMBED]}, TenantsLeftOut, "Route embed: no lane is left for 2 tenants"),
    ):
        with pytest.raises(error, match=words):
            start(**asked)

    until = NOW + timedelta(hours=2)
    hold_lane(lane=OPENAI, mode=Mode.OPEN, until=until, reason="it leaks", actor=crew.oncall, now=NOW)
    with pytest.raises(LaneIsHeld, match="held open by oncall until 14:00 UTC: it leaks; let it go first"):
        start()
    assert (Drill.objects.count(), current_release().revision) == (0, before.revision + 1)
    let_go(lane=OPENAI, reason="r", actor=crew.oncall, now=NOW)

    drill = start("azure", accept_left_out=True)
    assert drill.effects[-1].startswith("Route embed: no lane is left for 1 tenant; it gets an error")
    with pytest.raises(DrillUnderWay, match="leaving azure, runs until 12:10 UTC"):
        start(now=NOW + timedelta(minutes=1))


def test_tenants_are_left_out_by_their_pin_and_by_what_is_open_already():
    """A stack below is named; whoever had no lane before is not counted; nobody's route is named all the same."""
    table = Routing.parse(routing_document(fallbacks=True))
    pins = {EU: 2, US: 1, frozenset({"mars"}): 4, frozenset(): 3}

    def said(lanes, *, gone=(), pins=pins):
        return [(one.route, one.tenants, one.stack) for one in left_out(table, lanes, gone=gone, pins=pins)]

    assert said([OPENAI]) == [("chat", 1, "help-centre")]
    assert said([AZURE], gone=[ANTHROPIC]) == [("chat", 2, "help-centre"), ("summaries", 5, None)]
    assert said([AZURE], gone=[ANTHROPIC], pins={}) == [("summaries", 0, None)]
    assert "1 tenant; it gets signed copy (help-centre)" in effects_of_leaving(table, [OPENAI], gone=(), pins=pins)[-1]


def test_leaving_the_lane_that_streams_go_on_at_is_said():
    """Of routes whose policy wants them to go on; on the others a stream ended before, too."""
    table = Routing.parse(routing_document())

    assert [line for line in effects_of_leaving(table, [ANTHROPIC], gone=(), pins={}) if "break off" in line] == [
        "Streams of route chat that break off end: no lane that is left can go on with them"
    ]
    assert not any("break off" in line for line in effects_of_leaving(table, [OPENAI], gone=(), pins={}))


def test_table_without_a_provider_is_the_same_but_for_its_lanes_accounts_and_name():
    """A route with no other lane is named and refused; weights of what is gone go with it."""
    document = routing_document()
    document["routes"]["chat"]["steering"] = {"by": "weight", "weights": {OPENAI: 5, AZURE: 3, ANTHROPIC: 2}}

    left = without_provider(document, "openai")

    table = Routing.parse(left)
    assert [lane.id for lane in table.routes["chat"].lanes] == [AZURE, ANTHROPIC]
    assert table.routes["chat"].steering.weights == {AZURE: 3, ANTHROPIC: 2}
    assert (set(table.providers), set(table.accounts)) == (
        {"azure", "anthropic"},
        {"azure-eu", "azure-trial", "anthropic-main"},
    )
    assert left["breakers"] == document["breakers"]
    assert OPENAI in document["lanes"]  # the original is as it was
    with pytest.raises(RouteWithoutLanes, match="without 'azure' route 'embed' has no lane; give"):
        without_provider(without_provider(routing_document(), "openai"), "azure")
    with pytest.raises(UnknownProvider, match="'openai'"):
        without_provider(left, "openai")


def test_shadow_goes_on_with_the_candidates_that_a_lost_provider_leaves():
    """Without one it ends, and no drill that leaves the provider holds lanes that serve nobody."""
    document = routing_document()
    shadow = document["shadows"]["smaller-model"]
    at_anthropic = "anthropic/eu-west/trial/claude-haiku"
    own = document["lanes"][ANTHROPIC] | {"breaker": None, "probe": None, "quota": None}
    document["accounts"]["anthropic-trial"] = document["accounts"]["anthropic-main"] | {"secret": "env:TRIAL_KEY"}
    document["lanes"][at_anthropic] = own | {"account": "anthropic-trial", "model": "claude-haiku"}
    alone = without_provider(document, "azure")
    shadow["lanes"].append(at_anthropic)

    both = without_provider(document, "azure")

    assert (alone["shadows"], alone["routes"]["chat"].get("shadow")) == ({}, None)
    left = Routing.parse(both).routes["chat"].shadow
    assert (left.lanes, left.noise_lanes, left.noise_percent.value) == ((at_anthropic,), (), 0)
    assert lanes_of(Routing.parse(document), "azure") == [AZURE, "azure/eu-west/eu/text-embedding-3-small"]
    for table in (alone, both):
        Routing.parse(table)


def test_route_goes_on_spreading_its_tenants_as_far_as_it_can():
    """A route whose accounts all go spreads no more; one that keeps fewer than each tenant reached reaches these."""
    document = routing_document()
    for original, twins in ((OPENAI, ("b", "c")), (AZURE, ("d",))):
        lane = document["lanes"][original]
        for name in twins:
            document["accounts"][name] = document["accounts"][lane["account"]]
            document["lanes"][f"twin/{name}"] = lane | {"account": name}
            document["routes"]["chat"]["lanes"].append(f"twin/{name}")
    document["routes"]["chat"]["accounts_per_tenant"] = 3

    left = without_provider(document, "openai")
    then = without_provider({**left, "routes": {"chat": left["routes"]["chat"]}}, "azure")

    assert left["routes"]["chat"]["accounts_per_tenant"] == 2
    assert then["routes"]["chat"]["accounts_per_tenant"] is None
    for table in (left, then):
        Routing.parse({**table, "fallbacks": {}})


def figure(value, n=500):
    return {"value": value, "n": n}


def lane(name, *, is_left=False, p95=800.0, ttft=400.0, drain=42.0, n=500):
    """A lane of a drill's figures: the same in both periods."""
    period = {
        "attempts": n,
        "failures": 0,
        "share": 0.5,
        "latency_p95_ms": figure(p95, n),
        "ttft_p95_ms": figure(ttft, n),
        "drain_tps_p5": figure(drain, n),
    }
    idle = {**period, "attempts": 0, **{key: figure(None, 0) for key in period if "_p" in key}}
    return {"lane": name, "is_left": is_left, "before": period, "during": idle if is_left else period}


FIGURES = {
    "lanes": [
        lane(AZURE, p95=812.0, drain=31.0),
        lane(ANTHROPIC, p95=640.0, drain=50.0),
        lane(OPENAI, is_left=True, p95=900.0, drain=60.0),
        lane(AZURE_EMBED, n=99),
    ],
    "convergence": {"ms": 412.0, "acked": 2},
}


def guessed(document, kind, slug, *names):
    """The document, in which nobody has measured these."""
    for name in names:
        said = document[kind][slug][name]["provenance"]
        document[kind][slug][name]["provenance"] = {**said, "origin": "guess", "link": ""}
    return document


def test_drill_teaches_the_guesses_that_it_measured_by_the_slowest_lane():
    """A lane that was left counts with what it did before; under 100 observations nothing is learned."""
    document = guessed(routing_document(), "breakers", "hosted-chat", "latency_p95_ms", "drain_tokens_per_second")
    guessed(document, "breakers", "embeddings", "latency_p95_ms")
    guessed(document, "routes", "chat", "first_token_seconds")
    drill = Drill(pk=3, provider="openai", lanes=[{"lane": OPENAI, "hold": 1}], began_at=NOW, until=NOW)

    learned = lessons(Routing.parse(document), drill, FIGURES)

    assert {(one.kind, one.slug, one.name): one.after for one in learned} == {
        ("breaker", "hosted-chat", "latency_p95_ms"): 1400.0,  # 1.5 × 900, to two digits upwards
        ("breaker", "hosted-chat", "drain_tokens_per_second"): 15.0,  # half of 31, downwards
        ("route", "chat", "first_token_seconds"): 1.2,
    }
    note = learned[0].note(drill)
    assert f"1.5 × the p95 latency, which was 900 ms over 500 on {OPENAI} before it, the slowest of 3 lanes" in note
    fast = {"lanes": [lane(AZURE, drain=1e9)]}
    assert [one.name for one in lessons(Routing.parse(document), drill, fast)].count("drain_tokens_per_second") == 1
    kept = servable(document, lessons(Routing.parse(document), drill, fast), drill, on=NOW.date())
    assert "drain_tokens_per_second" not in [one.name for one in kept]  # no worker would take such a number


@pytest.mark.django_db
def test_what_was_learned_and_leaving_for_good_go_through_sign_offs():
    """One table each, with the drill as evidence; a result is kept once, and teaches nothing twice."""
    make_deployment()
    make_routing(guessed(routing_document(), "breakers", "hosted-chat", "latency_p95_ms"))
    drill = start()
    with pytest.raises(NothingLearned):
        drills.propose_lessons(drill=drill, reason="r", actor=crew.oncall, now=NOW)
    later = NOW + timedelta(minutes=12)
    first = drills.record_result(drill=drill, figures=FIGURES, now=later)
    again = drills.record_result(drill=drill, figures={"lanes": []}, now=later)
    drill = Drill.objects.get(pk=drill.pk)

    values = drills.propose_lessons(drill=drill, reason="measured", actor=crew.oncall, now=later)
    leaving = drills.propose_leaving(drill=drill, reason="for good", actor=crew.oncall, now=later)

    assert (again, again.figures) == (first, FIGURES)
    proposed = RoutingTable.objects.get(number=values.content["number"]).document["breakers"]["hosted-chat"]
    said = proposed["latency_p95_ms"]["provenance"]
    assert (proposed["latency_p95_ms"]["value"], proposed["drain_tokens_per_second"]["value"]) == (1400, 15)
    assert (said["origin"], said["link"], said["author"]) == ("load_test", f"/routing/drills/{drill.pk}/", "oncall")
    assert (said["on"], said["review_by"]) == ("2026-03-04", "2026-08-31")
    assert "openai" not in RoutingTable.objects.get(number=leaving.content["number"]).document["providers"]
    assert ChangeRequest.objects.open().filter(kind="routing.table").count() == 2
    make_routing(RoutingTable.objects.get(number=values.content["number"]).document, now=later)
    with pytest.raises(NothingLearned, match="nothing that is a guess"):
        drills.propose_lessons(drill=drill, reason="again", actor=crew.oncall, now=later)
