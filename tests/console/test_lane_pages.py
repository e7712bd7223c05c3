"""The lane pages over HTTP, and what the routing page shows of breakers, holds and what is below the lanes."""

from datetime import timedelta

import pytest
from django.utils import timezone

from controlplane.routing.holds import active_holds, hold_lane
from controlplane.routing.models import LaneHold, Mode, RoutingTable
from controlplane.telemetry.operations import merge_rollups, record_events, record_lane_states
from tests.console.conftest import said, words
from tests.factories import (
    crew,
    make_demo_copy,
    make_policy,
    make_routing,
    make_tenant,
    routing_document,
)
from tests.worker_reports import STILL_HEARD, lane_state, report, rollup

OPENAI, AZURE, ANTHROPIC = routing_document()["routes"]["chat"]["lanes"]
PAGE = f"/routing/lanes/?lane={OPENAI}"


@pytest.fixture(scope="module", autouse=True)
def deployment(lasting):
    with lasting():
        make_policy()
        make_demo_copy()
        make_routing(routing_document(fallbacks=True))


@pytest.fixture
def table(db):
    return RoutingTable.objects.get()


def workers_say(*lanes, count=2, boot="b1"):
    """As many workers hold these lanes like this now, and are not silent so soon."""
    now = timezone.now()
    heard = now + STILL_HEARD
    batch = [report(worker=f"host/gateway-{at}", sent_at=heard, started_at=now, lanes=lanes) for at in range(count)]
    record_lane_states(batch, now=heard)


def breakers_did(*happened, seq=1, now=None):
    """Breakers of worker host/gateway-0 did this: (seconds ago, kind, data)."""
    now = now or timezone.now()
    events = tuple(
        {"at": (now - timedelta(seconds=ago)).timestamp(), "kind": kind, "data": data} for ago, kind, data in happened
    )
    record_events([report(worker="host/gateway-0", seq=seq, events=events)])


def changed(before, after, cause, *, lane=OPENAI, open_seconds=0.0, **measured):
    data = {"lane": lane, "before": before, "after": after, "cause": cause, "open_seconds": open_seconds}
    return "breaker.changed", data | {"generation": 1, "measured": measured}


def hold(lane=OPENAI, mode=Mode.OPEN, reason="it burns"):
    now = timezone.now()
    return hold_lane(lane=lane, mode=mode, until=now + timedelta(hours=1), reason=reason, actor=crew.oncall, now=now)


def test_routing_page_shows_each_breaker_who_holds_a_lane_and_what_is_below(table, signed_in):
    """The lamp as workers say, a hold with who and why and the way back, a rung with its words and whether signed."""
    workers_say(
        lane_state(OPENAI, "open", open_for_seconds=120.0, attempts=0, cause="failure_rate"),
        lane_state(AZURE, failures=4),
        lane_state(ANTHROPIC, "half_open", probes=1),
    )
    hold(AZURE, Mode.CLOSED, "we know why it fails")

    page = signed_in(crew.oncall).get("/routing/")

    chat = next(route for route in page.context["routes"] if route.slug == "chat")
    shown = [(row.lamp.state, row.lamp.rate, row.lamp.workers, row.lamp.cause) for row in chat.lanes]
    assert shown == [
        ("open", None, "on 2 of 2 workers", "failure rate"),
        ("held-closed", 10.0, "on 2 of 2 workers", ""),
        ("half-open", 0.0, "on 2 of 2 workers", ""),
    ]
    assert 0 < chat.lanes[0].lamp.seconds_left - STILL_HEARD.total_seconds() <= 120
    text = words(page)
    assert "we know why it fails" in text
    assert "Back to automatic" in text
    assert "Cached answers help-centre-answers@1 signed" in text
    assert "Streams by resumable go on for 30 s unread, are kept for 1 h, and go on elsewhere after a cut" in text
    assert text.count("Streams end with the caller's connection") == 1  # of summaries: embed has none
    for policies in ("Retry policies: patient", "Probe policies: idle", "Stream policies: resumable"):
        assert policies in text
    assert "Nothing below: when no lane is left, every request gets an error" in text  # of summaries
    assert "24 of 83 thresholds are guesses" in text
    for other, rate in (("embed", None), ("summaries", 10.0)):
        rows = next(route for route in page.context["routes"] if route.slug == other).lanes
        assert rows[-1].lamp.rate == rate
    assert rows[-1].hold is not None


@pytest.mark.parametrize(
    ("steering", "order"),
    [
        (
            {"by": "speed", "weights": None},
            f"by speed, now {AZURE} (90 ms) → {OPENAI} (400 ms) → {ANTHROPIC} (not known)",
        ),
        (
            {"by": "weight", "weights": {OPENAI: 3, AZURE: 1, ANTHROPIC: 0}},
            f"by weight, tried first: {OPENAI} 75 %, {AZURE} 25 %, {ANTHROPIC} 0 %",
        ),
        ({"by": "cost", "weights": None}, f"by cost, now {OPENAI} → {AZURE} → {ANTHROPIC}"),
        (None, "lanes in order of preference"),
    ],
)
def test_routing_page_says_in_which_order_lanes_are_tried_now(db, signed_in, steering, order):
    """By the workers' own rule and what they last told; a speed that nobody knows is said to be so."""
    document = routing_document()
    document["routes"]["chat"] = {**document["routes"]["chat"], "steering": steering}
    make_routing(document)
    workers_say(lane_state(OPENAI, wait_ms=400.0), lane_state(AZURE, wait_ms=90.0), lane_state(ANTHROPIC))

    page = signed_in(crew.oncall).get("/routing/")

    assert order in words(page)


def test_lane_is_held_and_let_go_in_two_clicks(table, signed_in):
    """At night no words are needed; what was said is kept, and the next page says how long it lasts."""
    browser = signed_in(crew.oncall)

    held = browser.post("/routing/lanes/hold/", {"lane": OPENAI, "mode": "open", "minutes": "15", "reason": ""})
    active = active_holds(timezone.now())
    page = browser.get(held.url)
    let_go = browser.post("/routing/lanes/let-go/", {"lane": OPENAI})

    assert held.url == f"/routing/lanes/?lane={OPENAI.replace('/', '%2F')}"
    assert "Held open for 15 min" in said(held)[0]
    assert (active[OPENAI].mode, active[OPENAI].reason) == ("open", "no reason given")
    assert active[OPENAI].until - active[OPENAI].at <= timedelta(minutes=15)
    assert "Held open by hand" in words(page)
    assert "oncall, ends in 14 min : no reason given Back to automatic" in words(page)
    assert (let_go.url, active_holds(timezone.now())) == ("/routing/", {})


@pytest.mark.parametrize(
    ("typed", "refusal"),
    [
        ({"lane": "gone/lane", "mode": "open", "minutes": "15"}, "is not a lane of the table in force"),
        ({"lane": OPENAI, "mode": "open", "minutes": "7"}, "Nothing is held"),
        ({"lane": OPENAI, "mode": "ajar", "minutes": "15"}, "Nothing is held"),
        ({}, "Nothing is held"),
    ],
)
def test_hold_that_is_not_one_is_refused_in_words(table, signed_in, typed, refusal):
    """On the routing page, with nothing changed."""
    answer = signed_in(crew.oncall).post("/routing/lanes/hold/", typed)

    assert (answer.url, LaneHold.objects.count()) == ("/routing/", 0)
    assert refusal in said(answer)[0]


def test_lane_that_one_worker_has_shut_burns_on_the_overview(table, signed_in):
    """With how many of all hold it so; and none of the others."""
    workers_say(lane_state(AZURE), lane_state(OPENAI))
    workers_say(lane_state(AZURE, "open"), lane_state(OPENAI), count=1)

    burning = signed_in(crew.oncall).get("/").context["fires"]

    (shut,) = [fire for fire in burning if "is open" in fire.title or AZURE in fire.title]
    assert AZURE in shut.title
    assert "on 1 of 2 workers" in shut.text
    assert not any(OPENAI in fire.title for fire in burning)


def test_dialog_says_in_plain_words_when_nothing_is_left(table, signed_in):
    """Before the click: which routes, how many tenants, who serves instead, and whose requests will get an error."""
    make_tenant("acme", residency=["eu"])
    make_tenant("globex")
    workers_say(lane_state(AZURE, "open"))
    browser = signed_in(crew.oncall)

    anthropic = words(browser.get(f"/routing/lanes/?lane={ANTHROPIC}"))
    openai = words(browser.get(PAGE))

    assert "Every request on route summaries will get an error: no lane is left" in anthropic
    assert (
        "No lane is left for every request on route chat of the 1 tenant pinned to eu: it gets the signed words of "
        "fallback stack help-centre" in anthropic
    )
    assert "Routes chat, summaries; 2 of 2 tenants may reach it" in anthropic
    assert f"Route chat is served by {ANTHROPIC}." in openai
    assert "Route chat; 1 of 2 tenants may reach it" in openai


def test_lane_page_tells_what_its_breaker_did_and_by_which_numbers(table, signed_in):
    """Newest first, in words; events of other lanes are not among them."""
    trip = {"threshold": "failure_rate", "value": 0.54, "limit": 0.5, "attempts": 67, "failures": 36}
    slow = {"threshold": "latency_p95_ms", "value": 0.12, "limit": 0.05, "attempts": 50, "failures": 1}
    workers_say(lane_state(OPENAI), count=1)
    breakers_did(
        (50, *changed("closed", "open", "tripped", open_seconds=10.0, **trip)),
        (40, *changed("open", "half_open", "cooled_down")),
        (39, *changed("half_open", "closed", "probes_passed")),
        (20, "breaker.withheld", {"lane": OPENAI, "reason": "route 'chat' would have too little", "measured": slow}),
        (10, *changed("closed", "open", "tripped", lane=AZURE, open_seconds=99.0, **trip)),
    )
    hold(reason="a drill")

    page = signed_in(crew.auditor).get(PAGE)

    steps = [(step.title, step.why, step.numbers) for step in page.context["steps"]]
    assert steps == [
        (
            "Stayed closed",
            "route 'chat' would have too little",
            "12 % of attempts were over the limit of latency p95, 5 % may be; 1 failures in 50 attempts",
        ),
        ("Closed", "The probes went well", ""),
        ("Half-open", "Its time was over; probes are let through", ""),
        (
            "Opened for 10 s",
            "A threshold was crossed",
            "Failure rate 54 %, limit 50 %; 36 failures in 67 attempts",
        ),
    ]
    marks = page.context["charts"][0].figure["layout"]["annotations"]
    assert [mark["text"] for mark in marks] == ["closed", "open"]
    assert "host/gateway-0 closed" in words(page)
    assert "a drill" in words(page)
    assert 'data-dialog-open="hold-open"' not in page.content.decode()  # an auditor holds nothing


def test_lane_that_is_not_in_the_table_is_not_there(table, signed_in):
    """And holding needs the permission, which the refusal names."""
    assert signed_in(crew.oncall).get("/routing/lanes/?lane=gone/lane").status_code == 404
    refused = signed_in(crew.owner).post("/routing/lanes/hold/", {"lane": OPENAI, "mode": "open", "minutes": "15"})
    assert refused.status_code == 403
    assert "hold a lane open or closed" in refused.content.decode()


def test_open_lane_is_on_fire_and_a_held_one_is_watched(table, signed_in):
    """Since when, by what, and what serves instead; that it failed until then is no second fire."""
    now = timezone.now()
    at = now.replace(second=now.second // 10 * 10, microsecond=0) - timedelta(seconds=20)
    merge_rollups([report(rollup(at, lane=OPENAI, requests=100, errors=90))], now=now)
    workers_say(lane_state(OPENAI, "open", cause="failure_rate"), lane_state(ANTHROPIC))
    opened, failed = changed("closed", "open", "tripped"), changed("half_open", "open", "probe_failed")
    breakers_did((70, *opened), (5, *failed), now=now)
    hold(AZURE, reason="a drill")

    page = signed_in(crew.approver_one).get("/")

    since = (now - timedelta(seconds=70)).strftime("%H:%M")
    fires = {fire.title: (fire.tone, fire.text, fire.url) for fire in page.context["fires"] if "ane" in fire.title}
    assert set(fires) == {f"Lane {OPENAI} is open", f"Lane {AZURE} is held open"}
    tone, text, url = fires[f"Lane {OPENAI} is open"]
    assert (tone, url) == ("bad", f"/routing/lanes/?lane={OPENAI.replace('/', '%2F')}")
    assert text == f"Open on 2 of 2 workers since {since} UTC, by failure rate; chat is served by {ANTHROPIC}"
    tone, text, _ = fires[f"Lane {AZURE} is held open"]
    assert tone == "watch"
    assert text.startswith("Held open by oncall since ")
    assert text.endswith(f": a drill; chat is served by {ANTHROPIC}; summaries is served by {ANTHROPIC}")
    assert "2 lanes are open." in page.context["status_text"]
    assert "Held lane" in words(page)  # among the last changes


def test_lane_pages_take_as_many_queries_for_much_as_for_little(table, signed_in, queries):
    """However many workers, events, holds and lanes there are."""
    browser = signed_in(crew.oncall)
    pages = (PAGE, "/routing/lanes/", "/routing/", "/")
    workers_say(lane_state(OPENAI, "open"), count=1)
    breakers_did((9, *changed("closed", "open", "tripped")))
    hold(AZURE)
    for page in pages:
        browser.get(page)
    few = [queries(lambda page=page: browser.get(page)) for page in pages]
    workers_say(*(lane_state(lane, "open") for lane in (OPENAI, AZURE, ANTHROPIC)), count=5)
    breakers_did(*[(at, *changed("closed", "open", "tripped")) for at in range(20)], seq=2)
    for lane in (OPENAI, AZURE, ANTHROPIC):
        hold(lane)

    many = [queries(lambda page=page: browser.get(page)) for page in pages]
    assert all(now <= before for now, before in zip(many, few, strict=True)), (few, many)
