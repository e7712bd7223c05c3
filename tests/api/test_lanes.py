from datetime import timedelta

import pytest
from django.utils import timezone

from controlplane.releases.operations import current_release
from controlplane.telemetry.operations import record_lane_states
from tests.factories import crew, make_policy, make_routing, routing_document
from tests.worker_reports import STILL_HEARD, lane_state, report

pytestmark = pytest.mark.django_db

OPENAI, AZURE, ANTHROPIC = routing_document()["routes"]["chat"]["lanes"]


@pytest.fixture(autouse=True)
def deployment():
    make_policy()
    make_routing()


def asked(lane=ANTHROPIC, mode="open", *, lasts=timedelta(hours=1), **fields):
    until = (timezone.now() + lasts).isoformat()
    return {"lane": lane, "mode": mode, "until": until, "reason": "it burns"} | fields


def test_lane_is_held_seen_and_let_go(as_operator):
    """At once and in the release; the answer says what it does to callers."""
    oncall = as_operator(crew.oncall)
    heard = timezone.now() + STILL_HEARD
    record_lane_states([report(sent_at=heard, lanes=(lane_state(OPENAI, "open", cause="failure_rate"),))], now=heard)

    first = oncall.post("lanes/hold", asked(AZURE))
    second = oncall.post("lanes/hold", asked())
    rows = {row["lane"]: row for row in oncall.get("lanes").body["results"]}
    held = set(current_release().content["sections"]["lane_overrides"])
    let_go = oncall.post("lanes/let-go", {"lane": ANTHROPIC, "reason": "over"})

    assert (first.status, second.status, let_go.status) == (201, 201, 200)
    assert second.body["effects"] == [
        f"Route chat is served by {OPENAI}",
        "Every request on route summaries will get an error: no lane is left, and there is no fallback stack below",
    ]
    assert (rows[ANTHROPIC]["hold"]["mode"], rows[ANTHROPIC]["hold"]["by"]) == ("open", "oncall")
    assert (rows[OPENAI]["standing"]["state"], rows[OPENAI]["hold"]) == ("open", None)
    assert (rows[AZURE]["standing"], rows[AZURE]["breaker"]) == (None, "hosted-chat")
    assert (rows[AZURE]["routes"], rows[AZURE]["quota"]) == (["chat", "summaries"], "shared")
    assert held == {AZURE, ANTHROPIC}
    assert set(current_release().content["sections"]["lane_overrides"]) == {AZURE}


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"lane": "gone/lane"}, 404, "unknown_lane"),
        ({"lasts": timedelta(hours=25)}, 400, "invalid_hold"),
        ({"lasts": timedelta(hours=-1)}, 400, "invalid_hold"),
        ({"mode": "automatic"}, 400, "invalid"),
        ({"reason": ""}, 400, "invalid"),
    ],
)
def test_hold_that_is_not_one_is_refused(as_operator, fields, status, code):
    """With a stable code, and nothing released."""
    before = current_release()

    answer = as_operator(crew.oncall).post("lanes/hold", asked(**fields))

    assert (answer.status, answer.body["error"]["code"], current_release()) == (status, code, before)


def test_lanes_take_a_fixed_number_of_queries(as_operator, queries):
    """However many workers and holds there are."""
    oncall, heard = as_operator(crew.oncall), timezone.now() + STILL_HEARD
    oncall.get("lanes")
    before = queries(lambda: oncall.get("lanes"))
    for worker in ("a", "b", "c"):
        lanes = (lane_state(OPENAI), lane_state(AZURE))
        record_lane_states([report(worker=worker, sent_at=heard, lanes=lanes)], now=heard)
    oncall.post("lanes/hold", asked(AZURE))
    oncall.post("lanes/hold", asked())

    assert queries(lambda: oncall.get("lanes")) == before
