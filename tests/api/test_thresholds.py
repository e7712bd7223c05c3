import pytest

from controlplane.routing.models import RoutingTable
from tests.factories import crew, make_policy, make_routing

pytestmark = pytest.mark.django_db

DRILL = {"origin": "load_test", "note": "seen in the drill", "link": "/routing/", "review_by": "2099-01-01"}


@pytest.fixture(autouse=True)
def deployment():
    make_policy()
    make_routing()


def test_thresholds_are_read_and_others_proposed(as_operator):
    """A breaker policy and a route alike: a new table, which only differs in these numbers, and its change request."""
    oncall = as_operator(crew.oncall)

    read = oncall.get("breakers/hosted-chat")
    proposed = oncall.patch(
        "breakers/hosted-chat", {"thresholds": {"failure_rate": {"value": 0.4, **DRILL}}, "reason": "the drill"}
    )
    of_route = oncall.patch(
        "routes/chat", {"thresholds": {"first_token_seconds": {"value": 4, **DRILL}}, "reason": "the drill"}
    )

    rate = read.body["thresholds"]["failure_rate"]
    assert (read.body["table"], rate["value"], rate["provenance"]["origin"]) == (1, 0.5, "incident")
    assert len(read.body["thresholds"]) == 14
    assert (proposed.status, of_route.status) == (201, 201)
    assert proposed.body["kind"] == "routing.table"
    breakers = RoutingTable.objects.get(number=2).document["breakers"]
    assert breakers["hosted-chat"]["failure_rate"]["value"] == 0.4
    assert breakers["hosted-chat"]["failure_rate"]["provenance"]["author"] == "oncall"
    assert RoutingTable.objects.get(number=3).document["routes"]["chat"]["first_token_seconds"]["value"] == 4
    assert set(oncall.get("routes/chat").body["thresholds"]) == {
        "first_token_seconds",
        "whole_answer_seconds",
        "latency_open_share",
    }


def test_numbers_of_every_kind_of_policy_are_read_and_proposed(as_operator):
    """Retries, probes, streams, quotas and repairs alike; each proposal is a table that differs in that number only."""
    oncall = as_operator(crew.oncall)
    kinds = (
        ("retries/patient", "retries", "max_attempts", 3, 7),
        ("probes/idle", "probes", "idle_seconds", 90, 2),
        ("stream-policies/resumable", "streams", "retention_seconds", 7200, 3),
        ("quota-policies/shared", "quotas", "output_tokens", 500_000, 14),
        ("repair-policies/json-answers", "repairs", "max_calls", 3, 4),
    )

    for number, (path, part, name, value, count) in enumerate(kinds, start=2):
        read = oncall.get(path)
        proposed = oncall.patch(path, {"thresholds": {name: {"value": value, **DRILL}}, "reason": "the drill"})

        assert (read.status, len(read.body["thresholds"]), proposed.status) == (200, count, 201), path
        slug = path.split("/")[1]
        policy = RoutingTable.objects.get(number=number).document[part][slug]
        assert (policy[name]["value"], policy[name]["provenance"]["note"]) == (value, "seen in the drill")
        assert policy | {name: 0} == RoutingTable.objects.get(number=1).document[part][slug] | {name: 0}


def test_limit_of_a_quota_is_unset_with_null(as_operator):
    """What a policy may do without is gone from it then, and every other number is as it was."""
    oncall = as_operator(crew.oncall)

    proposed = oncall.patch("quota-policies/shared", {"thresholds": {"requests": None}, "reason": "no longer bounded"})

    before, after = (RoutingTable.objects.get(number=number).document["quotas"]["shared"] for number in (1, 2))
    assert proposed.status == 201
    assert after == before | {"requests": None}


@pytest.mark.parametrize(
    ("path", "thresholds", "status", "code"),
    [
        ("retries/gone", {"max_attempts": {"value": 2, **DRILL}}, 404, "not_found"),
        ("probes/idle", {"max_attempts": {"value": 2, **DRILL}}, 400, "invalid_threshold"),
        ("stream-policies/resumable", {"continuations": {"value": 0, **DRILL}}, 400, "invalid_routing"),
        ("repair-policies/json-answers", {"max_calls": {"value": 0, **DRILL}}, 400, "invalid_routing"),
        ("repair-policies/gone", {"max_calls": {"value": 2, **DRILL}}, 404, "not_found"),
        ("quota-policies/gone", {"requests": {"value": 2, **DRILL}}, 404, "not_found"),
        ("quota-policies/shared", {"vip_concurrency": {"value": 200, **DRILL}}, 400, "invalid_routing"),
        ("breakers/gone", {"probes": {"value": 2, **DRILL}}, 404, "not_found"),
        ("breakers/hosted-chat", {"hunger": {"value": 2, **DRILL}}, 400, "invalid_threshold"),
        ("breakers/hosted-chat", {"failure_rate": {"value": 40, **DRILL}}, 400, "invalid_routing"),
        ("breakers/hosted-chat", {"failure_rate": {"value": 0.4}}, 400, "invalid"),
        ("breakers/hosted-chat", {"failure_rate": None}, 400, "invalid_threshold"),
        ("breakers/hosted-chat", {}, 400, "invalid"),
    ],
)
def test_thresholds_that_make_no_table_are_refused(as_operator, path, thresholds, status, code):
    """Without an origin, too; nothing is stored."""
    answer = as_operator(crew.oncall).patch(path, {"thresholds": thresholds, "reason": "r"})

    assert (answer.status, answer.body["error"]["code"], RoutingTable.objects.count()) == (status, code, 1)
