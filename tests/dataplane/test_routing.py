"""The routing table and its chooser: strict reading, residency before anything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.errors import NoEligibleLane, UnknownRoute
from dataplane.release import MalformedRelease
from dataplane.routing import CAPABILITIES, RoutingTable, eligible_lanes

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


def test_error_says_what_excluded_each_lane_and_residency_speaks_first(section):
    """Operators read one line and know which lane to add."""
    table = RoutingTable.parse(section)

    with pytest.raises(NoEligibleLane) as error:
        eligible_lanes(table, route="chat", residency=frozenset({"eu"}), needs=frozenset({"chat", "embeddings"}))

    assert error.value.excluded == {EU: "lacks embeddings", US: "residency 'us' is outside the pin eu"}
    assert EU in str(error.value)


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
    except NoEligibleLane:
        return

    assert all(not residency or lane.residency in residency for lane in lanes)
    assert all(needs <= lane.capabilities for lane in lanes)


def test_cost_is_rounded_to_a_whole_micro(section):
    """2,500,000 micros per million tokens are 2.5 per token: 3 tokens cost 7.5, which is 8."""
    lane = RoutingTable.parse(section).lanes[EU]

    assert lane.cost_micros(input_tokens=3, output_tokens=0) == 8
    assert lane.cost_micros(input_tokens=0, output_tokens=7) == 70
