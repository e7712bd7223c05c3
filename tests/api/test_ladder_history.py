"""What a surface's ladder did, over the API, and what another policy would have done."""

import csv
from datetime import timedelta

import pytest
from django.utils import timezone

from tests.dataplane.conftest import threshold
from tests.factories import crew, make_operator
from tests.ladder.ladder_policies import SURFACE, ladder_document
from tests.ladders import trigger
from tests.telemetry.ladder_history import climbs, take
from tests.worker_reports import report, surface_load, surface_row

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ladder")]

BUCKET, MINUTE, HOUR = timedelta(seconds=10), timedelta(minutes=1), timedelta(hours=1)
PATHS = ("served", "episodes", "episodes/1", "episodes/1/postmortem", "capacity", "readings")


@pytest.fixture
def past():
    """Two hours ago an hour with rung 1 on began, for which every reading and some requests are stored."""
    start = (timezone.now() - 2 * HOUR).replace(second=0, microsecond=0)
    climbs((start, 1), (start + HOUR, 0))
    loads = tuple(surface_load(start + number * BUCKET, in_flight=150.0, level=1) for number in range(360))
    rows = (surface_row(start, rung=1, requests=30), surface_row(start, tier="vip", requests=10, reserved=10))
    take(report(surfaces=rows, surface_readings=loads), now=timezone.now())
    return start


def test_history_is_told(as_operator, past):
    """What tiers were served beside their promise, and the episode by itself and among others."""
    oncall = as_operator(crew.oncall)

    served = oncall.get(f"ladder/surfaces/{SURFACE}/served")
    listed = oncall.get(f"ladder/surfaces/{SURFACE}/episodes")
    number = int(past.timestamp())
    one = oncall.get(f"ladder/surfaces/{SURFACE}/episodes/{number}")

    tiers = {row["tier"]: row for row in served.body["tiers"]}
    assert (served.status, list(tiers)) == (200, ["vip", "standard", "free"])
    assert (tiers["vip"]["reserved_share"], tiers["vip"]["promised_share"], tiers["vip"]["is_kept"]) == (
        1.0,
        0.99,
        True,
    )
    assert (tiers["free"]["requests"], tiers["standard"]["answered"]["value"]) == (30, None)
    assert (listed.status, one.status) == (200, 200)
    assert listed.body["results"] == [one.body]
    assert (one.body["id"], one.body["highest"], one.body["touched"]) == (number, 1, {"1": {"free": 30}})
    assert [step["cause"] for step in one.body["steps"]] == ["pressed", "eased"]


def test_postmortem_is_markdown(as_operator, past):
    """To be saved and worked on."""
    answer = as_operator(crew.oncall).get(f"ladder/surfaces/{SURFACE}/episodes/{int(past.timestamp())}/postmortem")

    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/markdown; charset=utf-8")


def test_capacity_is_json_and_csv(as_operator, past):
    """The same figures; a mistake is told as JSON in both."""
    oncall = as_operator(crew.oncall)

    found = oncall.get(f"ladder/surfaces/{SURFACE}/capacity?days=1")
    table = oncall.client.get(f"/api/v1/ladder/surfaces/{SURFACE}/capacity?days=1&format=csv", headers=oncall.headers)
    wrong = [oncall.get(f"ladder/surfaces/{SURFACE}/capacity?days={days}") for days in ("0", "36", "x")]
    wrong.append(oncall.get(f"ladder/surfaces/{SURFACE}/capacity?days=0&format=csv"))

    assert (found.status, found.body["verdict"]) == (200, "unknown")  # of an hour nobody can say
    assert found.body["rungs"][0] | {"share": 1.0} == {
        "rung": 1,
        "name": "Shorter answers",
        "seconds": 3600.0,
        "on_seconds": 3600.0,
        "share": 1.0,
        "requests": 30,
        "request_share": 0.75,
        "verdict": "undersized",
    }
    rows = list(csv.DictReader(table.content.decode().splitlines()))
    assert (table.headers["Content-Type"], rows[0]["on seconds"]) == ("text/csv; charset=utf-8", "3600.0")
    assert [answer.status for answer in wrong] == [400] * 4
    assert all("days" in answer.body["error"]["fields"] for answer in wrong)


def test_load_is_read_and_another_policy_tried_on_it(as_operator, past):
    """That in force unless told of another; nothing is changed by it."""
    oncall = as_operator(crew.oncall)
    lazy = ladder_document(triggers={"load": trigger() | {"enter": threshold(1000)}})

    load = oncall.get(f"ladder/surfaces/{SURFACE}/readings")
    now = oncall.post(f"ladder/surfaces/{SURFACE}/simulate")
    then = oncall.post(f"ladder/surfaces/{SURFACE}/simulate", {"document": lazy})

    assert (load.status, load.body["points"][0]["values"]["in_flight"]) == (200, 150.0)
    assert load.body["sentence"].endswith("no gap")
    assert [move["after"] for move in now.body["moves"]] == [1, 2, 3, 4]
    assert (then.status, then.body["moves"], then.body["happened"]) == (200, [], {"0": 0.0, "1": 3600.0})


@pytest.mark.parametrize("document", [{}, {"web-chat": {}}, []])
def test_policy_that_cannot_be_tried_is_refused(as_operator, past, document):
    """It has no such surface, or is none."""
    answer = as_operator(crew.oncall).post(f"ladder/surfaces/{SURFACE}/simulate", {"document": document})

    assert (answer.status, list(answer.body["error"]["fields"])) == (400, ["document"])


def test_range_has_to_be_one(as_operator, past):
    """A beginning before its end, and at most 31 days."""
    oncall = as_operator(crew.oncall)
    now = timezone.now()
    wrong = [
        f"until={(now - 2 * HOUR):%Y-%m-%dT%H:%M:%SZ}&since={now:%Y-%m-%dT%H:%M:%SZ}",
        f"since={now - timedelta(days=32):%Y-%m-%dT%H:%M:%SZ}",
        "since=yesterday",
    ]

    for path in ("served", "episodes", "readings"):
        answers = [oncall.get(f"ladder/surfaces/{SURFACE}/{path}?{asked}") for asked in wrong]
        assert [answer.status for answer in answers] == [400] * 3


def test_nothing_is_told_to_whoever_may_not_look(as_operator, past):
    """Who may look at no ladder finds none; what does not exist is not found by anybody."""
    paths = [f"ladder/surfaces/{SURFACE}/{path}" for path in PATHS]
    nobody, oncall = as_operator(make_operator("nobody")), as_operator(crew.oncall)

    assert {nobody.get(path).status for path in paths} == {404}
    assert nobody.post(f"ladder/surfaces/{SURFACE}/simulate").status == 404
    assert {oncall.get(path.replace(SURFACE, "gone")).status for path in paths} == {404}
    assert {oncall.get(path).status for path in paths if "episodes/1" in path} == {404}


def test_queries_do_not_grow_with_the_past(as_operator, past, queries):
    """As many for twenty episodes as for one."""
    oncall = as_operator(crew.oncall)
    oncall.get("me")  # a token is noted as used, once
    few = queries(lambda: oncall.get(f"ladder/surfaces/{SURFACE}/episodes"))
    steps = []
    for number in range(20):
        steps += [(past + HOUR + number * MINUTE, 1), (past + HOUR + number * MINUTE + MINUTE / 2, 0)]
    climbs(*steps, first=3)

    assert queries(lambda: oncall.get(f"ladder/surfaces/{SURFACE}/episodes")) == few
    assert len(oncall.get(f"ladder/surfaces/{SURFACE}/episodes").body["results"]) == 21
