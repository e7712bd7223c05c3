"""Shadow policies in the routing table: what they may say, and what keeps them apart from all that serves callers."""

from __future__ import annotations

import pytest

from dataplane.documents import MalformedRelease
from dataplane.release import parse_document
from dataplane.shadow.policy import SHADOW_THRESHOLDS
from tests.dataplane.conftest import LANE, threshold

from .shadow_world import CANDIDATE, CONTROL, TWIN, shadow_policy, shadow_routing

PLACE = "$.sections.routing.shadows.trial"


@pytest.fixture
def parse(make_document):
    """Reads a release whose routing section is given."""
    return lambda routing: parse_document(make_document(routing=routing), digest="0" * 64).routing


def test_route_is_given_its_policy_with_every_number_and_its_origin(parse):
    """Lanes are named, numbers carry their provenance, and the route has the policy itself."""
    table = parse(shadow_routing(shadow_policy(percent=12.34, noise_percent=5, cost_ratio=1.5)))

    policy = table.routes["chat"].shadow
    assert policy is table.shadows["trial"]
    assert (policy.lanes, policy.noise_lanes, policy.all_lanes) == ((CANDIDATE,), (TWIN,), (CANDIDATE, TWIN))
    assert tuple(policy.thresholds()) == SHADOW_THRESHOLDS
    assert (policy.percent.value, policy.cost_ratio.value) == (12.34, 1.5)
    assert all(one.provenance.author == "oncall" for one in policy.thresholds().values())


def test_table_without_shadows_is_complete(parse, make_document):
    """Releases of before say nothing of shadows, and have none."""
    table = parse_document(make_document(), digest="0" * 64).routing

    assert table.shadows == {}
    assert table.routes["chat"].shadow is None


@pytest.mark.parametrize(
    ("policy", "place", "fact"),
    [
        (shadow_policy(lanes=()), "lanes", "at least 1 element"),
        (shadow_policy(lanes=("nowhere",)), "lanes[0]", "'nowhere' is not a lane"),
        (shadow_policy(lanes=(CANDIDATE, CANDIDATE)), "lanes[1]", "given twice"),
        (shadow_policy(percent=101), "percent.value", "at most 100"),
        (shadow_policy(percent=-1), "percent.value", "-1 is not above"),
        (shadow_policy(percent=0.005), "percent", "at most two decimals"),
        (shadow_policy(percent=-0.0005), "percent", "from 0"),
        (shadow_policy(noise_percent=5, noise_lanes=()), "noise_lanes", "nothing can be asked for noise_percent"),
        (shadow_policy(noise_lanes=(CANDIDATE,)), "noise_lanes[0]", "'gpt-5' serves no route"),
        (shadow_policy(calls=0), "budget.calls.value", "outside"),
        (shadow_policy(failure_rate=0), "kill.failure_rate.value", "not above 0"),
        (shadow_policy(queue=1001), "queue.value", "outside"),
        (shadow_policy(max_in_flight=0), "max_in_flight.value", "outside"),
        (shadow_policy() | {"more": 1}, "more", "unknown key"),
    ],
)
def test_policy_that_cannot_be_meant_is_refused_with_its_place(parse, policy, place, fact):
    """Whoever wrote it is told where and why."""
    with pytest.raises(MalformedRelease) as refusal:
        parse(shadow_routing(policy))

    assert str(refusal.value).startswith(f"{PLACE}.{place}: ")
    assert fact in str(refusal.value)


def test_lane_on_an_account_that_serves_callers_is_refused_with_both(parse):
    """A shadow that spent callers' quota would not be one."""
    with pytest.raises(
        MalformedRelease, match=f"lane '{TWIN}' has account 'trial', which lane .*route 'other'"
    ) as said:
        parse(shadow_routing_with_route_on_trial())

    assert said.value.path == f"{PLACE}.lanes[0]"


def shadow_routing_with_route_on_trial():
    """A table in which another route uses the shadow's account."""
    routing = shadow_routing(shadow_policy(lanes=(TWIN,), noise_lanes=()))
    routing["routes"]["other"] = {"lanes": [CANDIDATE], "deadline_ms": 1000}
    return routing


def test_account_with_the_secret_of_one_that_serves_callers_is_refused(parse):
    """Another name for the same credential is no credential of its own."""
    routing = shadow_routing()
    routing["accounts"]["trial"]["secret"] = "env:A_KEY"

    with pytest.raises(MalformedRelease, match="has the secret of account 'main', which serves route 'chat'"):
        parse(routing)


def test_candidate_that_serves_the_route_is_refused(parse):
    """It is asked anyway."""
    with pytest.raises(MalformedRelease, match=f"lane '{CONTROL}' has account 'main'"):
        parse(shadow_routing(shadow_policy(lanes=(CONTROL,))))


@pytest.mark.parametrize(
    ("changes", "fact"),
    [({"capabilities": ["embeddings"]}, "does not chat"), ({"probe": "often"}, "has a probe policy")],
)
def test_lane_that_cannot_stand_apart_is_refused(parse, changes, fact):
    """Gateways would ask a probed lane by themselves, and one that does not chat cannot be asked at all."""
    routing = shadow_routing(lanes={CANDIDATE: LANE | {"account": "trial", "model": "gpt-5"} | changes})
    routing["probes"] = {"often": {name: threshold(60) for name in ("idle_seconds", "timeout_seconds")}}

    with pytest.raises(MalformedRelease, match=fact):
        parse(routing)


def test_digest_follows_what_is_decided_and_not_why(parse):
    """A better reason for the same number leaves what was killed killed; another number is another policy."""
    first = parse(shadow_routing(shadow_policy())).shadows["trial"].digest
    argued = shadow_policy()
    argued["percent"]["provenance"]["note"] = "after the incident"

    same = parse(shadow_routing(argued)).shadows["trial"].digest
    other = parse(shadow_routing(shadow_policy(percent=99.99))).shadows["trial"].digest

    assert same == first
    assert other != first
