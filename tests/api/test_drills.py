from datetime import timedelta

import pytest
from django.utils import timezone

from controlplane.routing import drills
from controlplane.routing.models import Drill
from controlplane.telemetry.drills import measure
from tests.factories import crew, make_policy, make_routing, make_tenant

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def deployment():
    make_policy()
    make_tenant("acme", residency=["eu"])
    make_routing()


def asked(provider="openai", **fields):
    return {"provider": provider, "minutes": 5, "reason": "runbook"} | fields


def test_drill_is_started_seen_and_ended(as_operator):
    """The answer says what it does to callers; figures are live until they are kept."""
    oncall = as_operator(crew.oncall)

    started = oncall.post("drills", asked())
    path = f"drills/{started.body['id']}"
    seen = oncall.get(path)
    ended = oncall.post(f"{path}/end", {"reason": "enough"})
    over = oncall.get(path)
    listed = oncall.get("drills")

    assert (started.status, ended.status) == (201, 200)
    assert started.body["effects"][0].startswith("Route chat is served by azure/")
    assert (seen.body["is_running"], over.body["is_running"], over.body["is_final"]) == (True, False, False)
    assert seen.body["findings"][0]["text"] == "No worker was heard of, so nobody had to follow"
    assert seen.body["figures"]["callers"]["during"]["requests"] == 0
    assert [row["id"] for row in listed.body["results"]] == [started.body["id"]]


def test_drill_that_is_none_is_refused_with_a_stable_code(as_operator):
    """Before and after one runs; nothing is proposed from what was not measured."""
    oncall = as_operator(crew.oncall)

    def refusal(path, body):
        answer = oncall.post(path, body)
        return answer.status, answer.body["error"]["code"]

    assert refusal("drills", asked(minutes=3)) == (400, "invalid_drill")
    assert refusal("drills", asked("mistral")) == (404, "unknown_provider")
    assert refusal("drills", asked("azure")) == (409, "tenants_left_out")
    assert refusal("drills", asked(lanes=[])) == (400, "invalid")
    drill = oncall.post("drills", asked("azure", accept_left_out=True)).body["id"]
    assert refusal("drills", asked()) == (409, "drill_under_way")
    assert refusal(f"drills/{drill}/propose-values", {"reason": "r"}) == (409, "nothing_learned")


def test_leaving_for_good_is_proposed_from_a_drill(as_operator):
    """A change request like every other."""
    began = timezone.now() - timedelta(minutes=30)
    drill = drills.start_drill(provider="openai", minutes=5, reason="r", actor=crew.oncall, now=began)
    drills.record_result(drill=drill, figures=measure(drill, now=timezone.now()), now=timezone.now())

    answer = as_operator(crew.oncall).post(f"drills/{drill.pk}/propose-leaving", {"reason": "for good"})
    final = as_operator(crew.auditor).get(f"drills/{drill.pk}")

    assert (answer.status, answer.body["kind"]) == (201, "routing.table")
    assert (final.body["is_final"], final.body["lessons"]) == (True, [])
    assert Drill.objects.count() == 1
