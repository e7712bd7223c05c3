"""The routing table and its chooser: strict reading, residency before anything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.errors.admission import NoEligibleLane
from dataplane.errors.requests import UnknownRoute, UnsupportedRequest
from dataplane.release import MalformedRelease
from dataplane.routing import CAPABILITIES, RoutingTable, eligible_lanes
from tests.dataplane.conftest import LANE, breaker_policy, stream_policy, threshold

EU = "openai/eu-west/main/gpt-4o"
US = "anthropic/us-east/claude/claude"


@pytest.fixture
def section(make_document):
    """A valid routing section that a test may spoil."""
    return make_document()["sections"]["routing"]


@pytest.mark.parametrize(
    ("path", "value", "refused_at"),
    [
        (("extra",), {}, "$.extra"),
        (("providers", "openai", "wire"), "smtp", "$.providers.openai.wire"),
        (("providers", "Open AI"), {"wire": "openai"}, '$.providers["Open AI"]'),
        (("accounts", "main", "provider"), "nobody", "$.accounts.main.provider"),
        (("accounts", "main", "base_url"), "ftp://x", "$.accounts.main.base_url"),
        (("accounts", "main", "base_url"), "https://user:pass@x", "$.accounts.main.base_url"),
        (("accounts", "main", "secret"), "sk-abcdef", "$.accounts.main.secret"),
        (("lanes", EU, "account"), "claude", f'$.lanes["{EU}"].account'),
        (("lanes", EU, "idle_timeout_seconds"), 0, f'$.lanes["{EU}"].idle_timeout_seconds'),
        (("lanes", EU, "idle_timeout_seconds"), True, f'$.lanes["{EU}"].idle_timeout_seconds'),
        (("lanes", EU, "input_micros_per_million_tokens"), -1, f'$.lanes["{EU}"].input_micros_per_million_tokens'),
        (("lanes", EU, "output_micros_per_million_tokens"), 2.5, f'$.lanes["{EU}"].output_micros_per_million_tokens'),
        (("lanes", EU, "capabilities"), ["chat", "chat"], f'$.lanes["{EU}"].capabilities[1]'),
        (("lanes", EU, "capabilities"), ["telepathy"], f'$.lanes["{EU}"].capabilities[0]'),
        (("lanes", EU, "surprise"), 1, f'$.lanes["{EU}"].surprise'),
        (("lanes", EU, "context_tokens"), 0, f'$.lanes["{EU}"].context_tokens'),
        (("lanes", EU, "max_output_tokens"), 1.5, f'$.lanes["{EU}"].max_output_tokens'),
        (("lanes", EU, "unsupported_fields"), ["seed", "seed"], f'$.lanes["{EU}"].unsupported_fields[1]'),
        (("lanes", EU, "unsupported_fields"), ["messages"], f'$.lanes["{EU}"].unsupported_fields[0]'),
        (("routes", "chat", "unknown_fields"), "ignore", "$.routes.chat.unknown_fields"),
        (("routes", "chat", "lanes"), ["openai/nowhere"], "$.routes.chat.lanes[0]"),
        (("routes", "chat", "lanes"), [EU, EU], "$.routes.chat.lanes[1]"),
        (("routes", "chat", "lanes"), [], "$.routes.chat.lanes"),
        (("routes", "chat", "deadline_ms"), 0, "$.routes.chat.deadline_ms"),
    ],
)
def test_table_that_is_not_as_promised_is_refused_by_path(section, path, value, refused_at):
    """Unknown keys, dangling references, duplicates and bad numbers are errors at their place."""
    target = section
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value

    with pytest.raises(MalformedRelease) as refusal:
        RoutingTable.parse(section, path="$")

    assert refusal.value.path == refused_at


@pytest.fixture
def guarded(section):
    """The same with everything that a table may say about trouble, which a test may spoil too."""
    section["breakers"] = {"standard": breaker_policy()}
    section["streams"] = {"resumable": stream_policy()}
    section["fallbacks"] = {
        "help": {
            "answers": {"copy": "faq", "embedding_route": "embed", "minimum_score": threshold(0.9)},
            "template": None,
            "outage": {"copy": "down"},
        }
    }
    for lane in section["lanes"].values():
        lane["breaker"] = "standard"
    section["lanes"]["embedder"] = LANE | {"model": "small", "capabilities": ["embeddings"]}
    section["routes"]["embed"] = {"lanes": ["embedder"], "deadline_ms": 1000}
    section["routes"]["chat"] |= {
        "first_token_seconds": threshold(2.5),
        "whole_answer_seconds": threshold(20, "load_test"),
        "held_tokens": 12,
        "latency_open_share": threshold(0.5),
        "fallback": "help",
        "streams": "resumable",
    }
    return section


def test_lanes_and_routes_have_the_policies_that_they_name(guarded):
    """References are resolved once, when the table is read."""
    table = RoutingTable.parse(guarded)

    chat = table.routes["chat"]
    assert all(lane.breaker is table.breakers["standard"] for lane in chat.lanes)
    assert chat.fallback is table.fallbacks["help"]
    assert chat.streams is table.streams["resumable"]
    assert table.routes["embed"].streams is None
    assert (chat.held_tokens, table.breakers["standard"].slug, chat.fallback.slug) == (12, "standard", "help")
    assert {name: number.value for name, number in chat.thresholds().items()} == {
        "first_token_seconds": 2.5,
        "whole_answer_seconds": 20,
        "latency_open_share": 0.5,
    }


def test_policies_are_optional_and_null_is_none(section):
    """A table from before there were any means the same as one that says null."""
    bare = RoutingTable.parse(section)
    for lane in section["lanes"].values():
        lane["breaker"] = None
    said = ("first_token_seconds", "whole_answer_seconds", "latency_open_share", "fallback", "streams")
    section["routes"]["chat"] |= dict.fromkeys(said) | {"held_tokens": 0}

    assert RoutingTable.parse(section | {"breakers": {}, "fallbacks": {}, "streams": {}}) == bare
    assert (bare.lanes[EU].breaker, bare.routes["chat"].fallback, bare.routes["chat"].held_tokens) == (None, None, 0)
    assert bare.routes["chat"].thresholds() == {}


@pytest.mark.parametrize(
    ("path", "value", "refused_at", "words"),
    [
        (("lanes", EU, "breaker"), "strict", f'$.lanes["{EU}"].breaker', "'strict' is not a breaker policy"),
        (("lanes", EU, "breaker"), 1, f'$.lanes["{EU}"].breaker', "expected a string"),
        (("breakers", "standard", "probes"), threshold(0), "$.breakers.standard.probes.value", "outside 1..1000"),
        (("breakers", "Very Strict"), {}, '$.breakers["Very Strict"]', "is not a slug"),
        (("breakers",), None, "$.breakers", "expected an object, got null"),
        (("routes", "chat", "fallback"), "none", "$.routes.chat.fallback", "'none' is not a fallback stack"),
        (("routes", "chat", "streams"), "kept", "$.routes.chat.streams", "'kept' is not a stream policy"),
        (("routes", "embed", "streams"), "resumable", "$.routes.embed.streams", "no lane of this route streams"),
        (("streams", "resumable", "on_cut"), "end", "$.streams.resumable.continuations", "set it to 0"),
        (("routes", "chat", "first_token_seconds"), 2.5, "$.routes.chat.first_token_seconds", "expected an object"),
        (
            ("routes", "chat", "whole_answer_seconds"),
            threshold(3601),
            "$.routes.chat.whole_answer_seconds.value",
            "at most 3600",
        ),
        (
            ("routes", "chat", "latency_open_share"),
            threshold(1.5),
            "$.routes.chat.latency_open_share.value",
            "at most 1",
        ),
        (("routes", "chat", "held_tokens"), 1001, "$.routes.chat.held_tokens", "outside 0..1000"),
        (("routes", "chat", "held_tokens"), None, "$.routes.chat.held_tokens", "expected a whole number"),
        (("lanes", US, "breaker"), None, "$.routes.chat.held_tokens", f"lane '{US}' has no breaker"),
        (("fallbacks", "help", "outage"), None, "$.fallbacks.help.outage", "expected an object"),
        (
            ("fallbacks", "help", "answers", "embedding_route"),
            "nowhere",
            "$.fallbacks.help.answers.embedding_route",
            "'nowhere' is not a route",
        ),
        (
            ("fallbacks", "help", "answers", "embedding_route"),
            "chat",
            "$.fallbacks.help.answers.embedding_route",
            f"lane '{EU}' of route 'chat' gives no embeddings",
        ),
        (
            ("routes", "embed", "lanes"),
            ["embedder", US],
            "$.fallbacks.help.answers.embedding_route",
            f"lane '{US}' of route 'embed' gives no embeddings",
        ),
    ],
)
def test_policy_that_could_not_be_followed_is_refused_by_path(guarded, path, value, refused_at, words):
    """A policy that is missing, a floor that no lane has, and embeddings from a lane that gives none are errors."""
    target = guarded
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value

    with pytest.raises(MalformedRelease, match=words) as refusal:
        RoutingTable.parse(guarded, path="$")

    assert refusal.value.path == refused_at


def test_secret_pasted_by_mistake_is_not_repeated(section):
    """The error goes to logs and pages, where a secret has no business."""
    section["accounts"]["main"]["secret"] = "sk-very-secret"

    with pytest.raises(MalformedRelease) as refusal:
        RoutingTable.parse(section)

    assert "sk-very-secret" not in str(refusal.value)


def test_second_lane_with_the_same_four_parts_is_refused(section):
    """A lane is provider, region, account and model; two ids for one lane would split its health."""
    section["lanes"]["again"] = section["lanes"][EU]

    with pytest.raises(MalformedRelease, match=EU):
        RoutingTable.parse(section)


def test_azure_account_without_api_version_is_refused(section):
    """Azure's wire has no address without one."""
    section["providers"]["openai"]["wire"] = "azure-openai"

    with pytest.raises(MalformedRelease, match="API version"):
        RoutingTable.parse(section)


def test_lanes_come_in_the_order_of_the_route(section):
    """The first eligible lane is the preferred one."""
    table = RoutingTable.parse(section)

    lanes = eligible_lanes(table, route="chat", residency=frozenset(), needs=frozenset({"chat"}))

    assert [lane.id for lane in lanes] == [EU, US]


def test_pinned_tenant_only_gets_lanes_inside_its_pin(section):
    """An EU tenant's bytes have no way to a US lane."""
    table = RoutingTable.parse(section)

    lanes = eligible_lanes(table, route="chat", residency=frozenset({"eu"}), needs=frozenset({"chat"}))

    assert [lane.id for lane in lanes] == [EU]


def test_what_no_lane_can_do_is_the_callers_to_change(section):
    """Whatever the pin: a route that gives no embeddings anywhere is asked for something that it does not have."""
    table = RoutingTable.parse(section)

    with pytest.raises(UnsupportedRequest) as error:
        eligible_lanes(table, route="chat", residency=frozenset({"eu"}), needs=frozenset({"chat", "embeddings"}))

    assert error.value.excluded == {EU: "lacks embeddings", US: "residency 'us' is outside the pin eu"}
    assert EU in str(error.value)


def test_lane_that_could_is_outside_the_pin(section):
    """Operators read one line and know which lane to add; residency speaks first."""
    section["lanes"][US]["capabilities"] = ["chat", "vision"]
    section["lanes"][EU]["capabilities"] = ["chat"]

    with pytest.raises(NoEligibleLane) as error:
        eligible_lanes(
            RoutingTable.parse(section),
            route="chat",
            residency=frozenset({"eu"}),
            needs=frozenset({"chat", "vision"}),
        )

    assert error.value.excluded == {EU: "lacks vision", US: "residency 'us' is outside the pin eu"}


def test_unknown_route_is_the_callers_mistake(section):
    """`model` names a route, and the error says where the routes are listed."""
    with pytest.raises(UnknownRoute, match="/v1/models"):
        eligible_lanes(RoutingTable.parse(section), route="gpt-9", residency=frozenset(), needs=frozenset())


@given(
    residency=st.frozensets(st.sampled_from(["eu", "us", "apac"])),
    needs=st.frozensets(st.sampled_from(sorted(CAPABILITIES))),
)
def test_no_lane_outside_the_pin_is_ever_eligible(make_document, residency, needs):
    """Whatever is asked for, residency holds."""
    table = RoutingTable.parse(make_document()["sections"]["routing"])
    try:
        lanes = eligible_lanes(table, route="chat", residency=residency, needs=needs)
    except (NoEligibleLane, UnsupportedRequest):
        return

    assert all(not residency or lane.residency in residency for lane in lanes)
    assert all(needs <= lane.capabilities for lane in lanes)


def test_cost_is_rounded_to_a_whole_micro(section):
    """2,500,000 micros per million tokens are 2.5 per token: 3 tokens cost 7.5, which is 8."""
    lane = RoutingTable.parse(section).lanes[EU]

    assert lane.cost_micros(input_tokens=3, output_tokens=0) == 8
    assert lane.cost_micros(input_tokens=0, output_tokens=7) == 70
