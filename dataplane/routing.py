"""Which lanes may serve a request: the routing table of a release, and the chooser that puts residency first.

Pure: no await, no I/O. The console previews a routing change with the same code that the workers decide with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar
from urllib.parse import urlsplit

from dataplane.documents import Node, child_path
from dataplane.errors.admission import NoEligibleLane
from dataplane.errors.requests import UnknownRoute, UnsupportedRequest
from dataplane.fields import OMITTABLE
from dataplane.fields import WIRES as _WIRES
from dataplane.policies import (
    BreakerPolicy,
    FallbackStack,
    ProbePolicy,
    QuotaPolicy,
    RetryPolicy,
    Steering,
    StreamPolicy,
)
from dataplane.repair.policy import RepairPolicy
from dataplane.shadow.policy import ShadowPolicy, check_shadows
from dataplane.sharding import groups_of_twins
from dataplane.thresholds import Threshold
from dataplane.validators.policy import ValidatorPolicy

WIRES: Final = frozenset(_WIRES)
# What a lane may be able to do, each with what asks for it: see `capabilities.needs_of`. `prefill` is to take a
# conversation that ends with the assistant's words.
CAPABILITIES: Final = frozenset(
    {
        "chat",
        "stream",
        "tools",
        "json_object",
        "json_schema",
        "vision",
        "audio_input",
        "audio_output",
        "file_input",
        "logprobs",
        "prefill",
        "embeddings",
    }
)
# Whoever can write JSON of a schema can write JSON.
IMPLIED: Final[Mapping[str, frozenset[str]]] = {"json_schema": frozenset({"json_object"})}
UNKNOWN_FIELDS: Final = frozenset({"pass", "refuse"})
MAX_CONTEXT_TOKENS: Final = 1_000_000_000
MAX_PRICE_MICROS: Final = 10**12
MAX_TIMEOUT_SECONDS: Final = 3600.0
MAX_DEADLINE_MS: Final = 3_600_000
MAX_HELD_TOKENS: Final = 1000
# The parts of a table that lanes and routes refer to by name; a table without them is complete too.
MAX_ANSWERED: Final = 4096
POLICY_PARTS: Final = (
    "breakers",
    "retries",
    "probes",
    "quotas",
    "streams",
    "fallbacks",
    "repairs",
    "validators",
    "shadows",
)
_SECRET: Final = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*\Z|file:/.+\Z")


@dataclass(frozen=True, slots=True)
class Provider:
    """A vendor, or a self-hosted server, and the wire format it speaks: openai, anthropic or azure-openai."""

    slug: str
    wire: str


@dataclass(frozen=True, slots=True)
class Account:
    """One credential at a provider. `secret` is a reference (`env:NAME` or `file:/path`), never the secret itself."""

    slug: str
    provider: str
    base_url: str
    secret: str
    api_version: str | None


@dataclass(frozen=True, slots=True)
class Lane:
    """Provider x region x account x model: the unit of health. Prices are micro-units of money per million tokens.

    `breaker` None: nothing is ever held back from the lane, however it does. `probe` None: it is only known by what
    callers ask it. `quota` None: nobody waits for what its account is admitted. `context_tokens` bounds a conversation
    with its answer, `max_output_tokens` the answer: a caller who asks for more is given this; None: nobody said.
    `unsupported_fields` are those that its model refuses, so they are not sent there, and the caller is told.
    """

    id: str
    provider: str
    region: str
    account: str
    model: str
    upstream_model: str
    residency: str
    capabilities: frozenset[str]
    input_micros_per_million_tokens: int
    output_micros_per_million_tokens: int
    connect_timeout_seconds: float
    first_byte_timeout_seconds: float
    idle_timeout_seconds: float
    breaker: BreakerPolicy | None = None
    probe: ProbePolicy | None = None
    quota: QuotaPolicy | None = None
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    unsupported_fields: frozenset[str] = frozenset()

    @property
    def quota_pool(self) -> str:
        """The name of the quota that the lane shares with others: its account's, of its policy."""
        return f"{self.account}/{'' if self.quota is None else self.quota.slug}"

    def cost_micros(self, *, input_tokens: int, output_tokens: int) -> int:
        """What these tokens cost on this lane, in micro-units of money, rounded half up to a whole micro."""
        million_fold = (
            input_tokens * self.input_micros_per_million_tokens + output_tokens * self.output_micros_per_million_tokens
        )
        return (million_fold + 500_000) // 1_000_000


@dataclass(frozen=True, slots=True)
class Route:
    """What a caller names as `model`: lanes in order of preference, how long one request may take, and what is below.

    Attributes:
        first_token_seconds: How long a stream may take to its first token before the next lane is tried; None: as long
            as the lane's own time-outs and the deadline allow.
        whole_answer_seconds: The same for an answer that comes in one piece.
        held_tokens: How many tokens of a stream are held back until the lane has shown that it gives them at least as
            fast as its breaker's floor; up to then another lane can take over unseen. 0: none.
        latency_open_share: Share (0..1) of the route's lanes that may be open for latency alone.
        fallback: What answers when no lane can; None: an error that says so.
        retry: How failed attempts are made again; None: every lane once.
        streams: How its streams are kept and taken up again; None: they end with the caller's connection.
        repair: How answers that are to be JSON, and are not, are repaired; None: they are handed over as they came.
        validators: What looks at its answers before they are handed over; None: nothing.
        shadow: How a part of its traffic is asked of candidate lanes as well; None: none is.
        steering: How the lanes are ordered.
        accounts_per_tenant: Of lanes that differ by their account alone, how many accounts each tenant reaches, so that
            a tenant that exhausts its own leaves others theirs: see `sharding`. None: all of them.
        unknown_fields: What becomes of a request with fields that the gateway does not know: "pass" sends them to lanes
            that speak OpenAI's JSON, and only there; "refuse" refuses the request.
    """

    slug: str
    lanes: tuple[Lane, ...]
    deadline_ms: int
    first_token_seconds: Threshold | None = None
    whole_answer_seconds: Threshold | None = None
    held_tokens: int = 0
    latency_open_share: Threshold | None = None
    fallback: FallbackStack | None = None
    retry: RetryPolicy | None = None
    streams: StreamPolicy | None = None
    repair: RepairPolicy | None = None
    validators: ValidatorPolicy | None = None
    shadow: ShadowPolicy | None = None
    steering: Steering = field(default_factory=Steering)
    accounts_per_tenant: int | None = None
    unknown_fields: str = "pass"

    def thresholds(self) -> dict[str, Threshold]:
        """Every number of the route that has a provenance, by its name."""
        named = {name: getattr(self, name) for name in ROUTE_THRESHOLDS}
        return {name: threshold for name, threshold in named.items() if threshold is not None}


ROUTE_THRESHOLDS: Final = ("first_token_seconds", "whole_answer_seconds", "latency_open_share")


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """The section `routing` of a release, every reference resolved."""

    providers: dict[str, Provider]
    accounts: dict[str, Account]
    lanes: dict[str, Lane]
    routes: dict[str, Route]
    breakers: dict[str, BreakerPolicy] = field(default_factory=dict)
    fallbacks: dict[str, FallbackStack] = field(default_factory=dict)
    retries: dict[str, RetryPolicy] = field(default_factory=dict)
    probes: dict[str, ProbePolicy] = field(default_factory=dict)
    streams: dict[str, StreamPolicy] = field(default_factory=dict)
    quotas: dict[str, QuotaPolicy] = field(default_factory=dict)
    repairs: dict[str, RepairPolicy] = field(default_factory=dict)
    validators: dict[str, ValidatorPolicy] = field(default_factory=dict)
    shadows: dict[str, ShadowPolicy] = field(default_factory=dict)
    # What `eligible_lanes` has answered: the same few questions come with every request.
    answered: dict[tuple[str, frozenset[str], frozenset[str]], tuple[Lane, ...]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @classmethod
    def parse(cls, section: object, *, path: str = "$.sections.routing") -> RoutingTable:
        """Read the section, or say where it is wrong.

        Shape: {"providers": {slug: {"wire"}}, "accounts": {slug: {"provider", "base_url", "secret", "api_version"}},
                "lanes": {id: {...}}, "routes": {slug: {"lanes": [lane id, ...], "deadline_ms": int, ...}}} and, where
                there are such policies, {"breakers": {slug: see BreakerPolicy}, "fallbacks": {slug: see
                FallbackStack}, "retries": {slug: see RetryPolicy}, "probes": {slug: see ProbePolicy}, "streams":
                {slug: see StreamPolicy}, "quotas": {slug: see QuotaPolicy}, "repairs": {slug: see RepairPolicy},
                "validators": {slug: see ValidatorPolicy}, "shadows": {slug: see ShadowPolicy}}.
        Raises:
            MalformedRelease: an unknown or missing key, a dangling reference, a duplicate or a number out of range,
                naming the JSON path.
        """
        members = Node(section, path).members("providers", "accounts", "lanes", "routes", optional=POLICY_PARTS)
        providers = {
            slug: Provider(slug, node.members("wire")["wire"].one_of(WIRES))
            for slug, node in members["providers"].slugged_entries()
        }
        accounts = {slug: _parse_account(slug, node, providers) for slug, node in members["accounts"].slugged_entries()}
        breakers = _parse_policies(members.get("breakers"), BreakerPolicy.parse)
        fallbacks = _parse_policies(members.get("fallbacks"), FallbackStack.parse)
        retries = _parse_policies(members.get("retries"), RetryPolicy.parse)
        probes = _parse_policies(members.get("probes"), ProbePolicy.parse)
        streams = _parse_policies(members.get("streams"), StreamPolicy.parse)
        quotas = _parse_policies(members.get("quotas"), QuotaPolicy.parse)
        repairs = _parse_policies(members.get("repairs"), RepairPolicy.parse)
        validators = _parse_policies(members.get("validators"), ValidatorPolicy.parse)
        shadows = _parse_policies(members.get("shadows"), ShadowPolicy.parse)
        lanes: dict[str, Lane] = {}
        identities: dict[tuple[str, str, str, str], str] = {}
        for lane_id, node in members["lanes"].entries():
            lane = _parse_lane(lane_id, node, providers, accounts, breakers, probes, quotas)
            identity = (lane.provider, lane.region, lane.account, lane.model)
            if identity in identities:
                node.refuse(f"same provider, region, account and model as lane {identities[identity]!r}")
            identities[identity] = lane_id
            lanes[lane_id] = lane
        routes = {
            slug: _parse_route(slug, node, lanes, fallbacks, retries, streams, repairs, validators, shadows)
            for slug, node in members["routes"].slugged_entries()
        }
        for slug, stack in fallbacks.items():
            if stack.answers is not None and stack.answers.embedding_route is not None:
                _check_embedding_route(members["fallbacks"], slug, stack.answers.embedding_route, routes)
        for slug, repair in repairs.items():
            if repair.surgeon_route is not None:
                path = child_path(child_path(members["repairs"].path, slug), "surgeon_route")
                _check_chat_route(Node(repair.surgeon_route, path), routes)
        for slug, policy in validators.items():
            _check_judges(members["validators"], slug, policy, routes)
        if shadows:
            check_shadows(members["shadows"], shadows, lanes=lanes, routes=routes, accounts=accounts)
        return cls(
            providers,
            accounts,
            lanes,
            routes,
            breakers,
            fallbacks,
            retries,
            probes,
            streams,
            quotas,
            repairs,
            validators,
            shadows,
        )


_Policy = TypeVar("_Policy")


def _parse_policies(node: Node | None, parse: Callable[[str, Node], _Policy]) -> dict[str, _Policy]:
    return {} if node is None else {slug: parse(slug, entry) for slug, entry in node.slugged_entries()}


def _check_embedding_route(fallbacks: Node, slug: str, name: str, routes: Mapping[str, Route]) -> None:
    node = Node(name, child_path(child_path(fallbacks.path, slug), "answers") + ".embedding_route")
    route = routes[node.reference(routes, to="route")]
    for lane in route.lanes:
        if "embeddings" not in lane.capabilities:
            node.refuse(f"lane {lane.id!r} of route {name!r} gives no embeddings")


def _check_judges(section: Node, slug: str, policy: ValidatorPolicy, routes: Mapping[str, Route]) -> None:
    """Whether the judges of a policy can be asked."""
    path = child_path(child_path(section.path, slug), "rules")
    for index, rule in enumerate(section.value[slug]["rules"]):
        if rule["id"] in {judge.id for judge in policy.judges}:
            _check_chat_route(Node(rule["params"]["route"], f"{path}[{index}].params.route"), routes)


def _check_chat_route(node: Node, routes: Mapping[str, Route]) -> None:
    """Whether a route that we ask by ourselves can chat."""
    route = routes[node.reference(routes, to="route")]
    for lane in route.lanes:
        if "chat" not in lane.capabilities:
            node.refuse(f"lane {lane.id!r} of route {route.slug!r} does not chat")


def _parse_account(slug: str, node: Node, providers: dict[str, Provider]) -> Account:
    members = node.members("provider", "base_url", "secret", "api_version")
    base_url = members["base_url"].text()
    try:
        parts = urlsplit(base_url)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.username is not None or parts.query or parts.fragment:
        members["base_url"].refuse(f"{base_url!r} is not an http(s) address without credentials, query or fragment")
    secret = members["secret"].text()
    if not _SECRET.match(secret):
        # The value is not repeated: someone may have pasted the secret itself.
        members["secret"].refuse("expected a reference, env:NAME or file:/path")
    provider = members["provider"].reference(providers, to="provider")
    api_version = members["api_version"].optional_text()
    if api_version is None and providers[provider].wire == "azure-openai":
        members["api_version"].refuse("an azure-openai account needs an API version")
    return Account(slug, provider, base_url.rstrip("/"), secret, api_version)


def _parse_lane(
    lane_id: str,
    node: Node,
    providers: dict[str, Provider],
    accounts: dict[str, Account],
    breakers: dict[str, BreakerPolicy],
    probes: dict[str, ProbePolicy],
    quotas: dict[str, QuotaPolicy],
) -> Lane:
    members = node.members(
        "provider",
        "region",
        "account",
        "model",
        "upstream_model",
        "residency",
        "capabilities",
        "input_micros_per_million_tokens",
        "output_micros_per_million_tokens",
        "connect_timeout_seconds",
        "first_byte_timeout_seconds",
        "idle_timeout_seconds",
        optional=("breaker", "probe", "quota", "context_tokens", "max_output_tokens", "unsupported_fields"),
    )
    if not lane_id or not lane_id.isascii() or not lane_id.isprintable() or " " in lane_id:
        node.refuse(f"{lane_id!r} is not a lane id (printable ASCII without spaces)")
    provider = members["provider"].reference(providers, to="provider")
    account = members["account"].reference(accounts, to="account")
    if accounts[account].provider != provider:
        members["account"].refuse(
            f"account {account!r} belongs to provider {accounts[account].provider!r}, not {provider!r}"
        )
    for item in members["capabilities"].items(minimum=1):
        item.one_of(CAPABILITIES)
    unsupported = members.get("unsupported_fields")
    for item in () if unsupported is None else unsupported.items():
        item.one_of(OMITTABLE)
    return Lane(
        id=lane_id,
        provider=provider,
        region=members["region"].text(),
        account=account,
        model=members["model"].text(),
        upstream_model=members["upstream_model"].text(),
        residency=members["residency"].text(),
        capabilities=with_implied(members["capabilities"].texts()),
        input_micros_per_million_tokens=members["input_micros_per_million_tokens"].integer(maximum=MAX_PRICE_MICROS),
        output_micros_per_million_tokens=members["output_micros_per_million_tokens"].integer(maximum=MAX_PRICE_MICROS),
        connect_timeout_seconds=members["connect_timeout_seconds"].number(above=0, maximum=MAX_TIMEOUT_SECONDS),
        first_byte_timeout_seconds=members["first_byte_timeout_seconds"].number(above=0, maximum=MAX_TIMEOUT_SECONDS),
        idle_timeout_seconds=members["idle_timeout_seconds"].number(above=0, maximum=MAX_TIMEOUT_SECONDS),
        breaker=_optional_reference(members.get("breaker"), breakers, to="breaker policy"),
        probe=_optional_reference(members.get("probe"), probes, to="probe policy"),
        quota=_optional_reference(members.get("quota"), quotas, to="quota policy"),
        context_tokens=_optional_tokens(members.get("context_tokens")),
        max_output_tokens=_optional_tokens(members.get("max_output_tokens")),
        unsupported_fields=frozenset(() if unsupported is None else unsupported.texts()),
    )


def with_implied(capabilities: Iterable[str]) -> frozenset[str]:
    """These capabilities with those that come with them."""
    given = frozenset(capabilities)
    return given.union(*(IMPLIED[name] for name in given if name in IMPLIED))


def _optional_tokens(node: Node | None) -> int | None:
    return None if node is None or node.value is None else node.integer(minimum=1, maximum=MAX_CONTEXT_TOKENS)


def _optional_reference(node: Node | None, known: Mapping[str, _Policy], *, to: str) -> _Policy | None:
    return None if node is None or node.value is None else known[node.reference(known, to=to)]


def _optional_threshold(node: Node | None, *, maximum: float) -> Threshold | None:
    return None if node is None or node.value is None else Threshold.parse(node, above=0, maximum=maximum)


def _parse_route(
    slug: str,
    node: Node,
    lanes: dict[str, Lane],
    fallbacks: dict[str, FallbackStack],
    retries: dict[str, RetryPolicy],
    streams: dict[str, StreamPolicy],
    repairs: dict[str, RepairPolicy],
    validators: dict[str, ValidatorPolicy],
    shadows: dict[str, ShadowPolicy],
) -> Route:
    members = node.members(
        "lanes",
        "deadline_ms",
        optional=(
            "first_token_seconds",
            "whole_answer_seconds",
            "held_tokens",
            "latency_open_share",
            "fallback",
            "retry",
            "streams",
            "repair",
            "validators",
            "shadow",
            "steering",
            "accounts_per_tenant",
            "unknown_fields",
        ),
    )
    members["lanes"].texts(minimum=1)
    chosen = tuple(lanes[item.reference(lanes, to="lane")] for item in members["lanes"].items())
    unknown_fields = members.get("unknown_fields")
    held = members.get("held_tokens")
    held_tokens = 0 if held is None else held.integer(maximum=MAX_HELD_TOKENS)
    if held is not None and held_tokens:
        without = next((lane.id for lane in chosen if lane.breaker is None), None)
        if without is not None:
            held.refuse(f"lane {without!r} has no breaker, so there is no floor to hold tokens back for")
    stream_policy = _optional_reference(members.get("streams"), streams, to="stream policy")
    if stream_policy is not None and not any("stream" in lane.capabilities for lane in chosen):
        members["streams"].refuse("no lane of this route streams, so there is nothing to keep; set it to null")
    return Route(
        slug,
        chosen,
        members["deadline_ms"].integer(minimum=1, maximum=MAX_DEADLINE_MS),
        first_token_seconds=_optional_threshold(members.get("first_token_seconds"), maximum=MAX_TIMEOUT_SECONDS),
        whole_answer_seconds=_optional_threshold(members.get("whole_answer_seconds"), maximum=MAX_TIMEOUT_SECONDS),
        held_tokens=held_tokens,
        latency_open_share=_optional_threshold(members.get("latency_open_share"), maximum=1),
        fallback=_optional_reference(members.get("fallback"), fallbacks, to="fallback stack"),
        retry=_optional_reference(members.get("retry"), retries, to="retry policy"),
        streams=stream_policy,
        repair=_optional_reference(members.get("repair"), repairs, to="repair policy"),
        validators=_optional_reference(members.get("validators"), validators, to="validator policy"),
        shadow=_optional_reference(members.get("shadow"), shadows, to="shadow policy"),
        steering=_parse_steering(members.get("steering"), chosen),
        accounts_per_tenant=_parse_spread(members.get("accounts_per_tenant"), chosen),
        unknown_fields="pass" if unknown_fields is None else unknown_fields.one_of(UNKNOWN_FIELDS),
    )


def _parse_steering(node: Node | None, lanes: tuple[Lane, ...]) -> Steering:
    return Steering() if node is None or node.value is None else Steering.parse(node, [lane.id for lane in lanes])


def _parse_spread(node: Node | None, lanes: tuple[Lane, ...]) -> int | None:
    if node is None or node.value is None:
        return None
    most = max(map(len, groups_of_twins(lanes)))
    if most < 2:
        node.refuse("no two lanes of this route differ by their account alone, so there is nothing to spread over")
    return node.integer(minimum=1, maximum=most)


def eligible_lanes(
    table: RoutingTable, *, route: str, residency: frozenset[str], needs: frozenset[str]
) -> tuple[Lane, ...]:
    """The lanes of `route`, in its order, that may serve the request. Residency is looked at before anything else.

    Args:
        residency: Where the tenant's bytes may go; empty means anywhere.
        needs: Capabilities that the request uses, such as {"chat", "stream", "tools"}.
    Raises:
        UnknownRoute: the table has no such route.
        UnsupportedRequest: no lane of the route can do what it asks, wherever it is: that is the caller's to change.
        NoEligibleLane: those that can are outside the pin; it says what excluded each lane.
    """
    question = (route, residency, needs)
    known = table.answered.get(question)
    if known is not None:
        return known
    chosen = table.routes.get(route)
    if chosen is None:
        raise UnknownRoute(route)
    eligible = tuple(
        lane for lane in chosen.lanes if (not residency or lane.residency in residency) and needs <= lane.capabilities
    )
    if not eligible:
        excluded = {lane.id: _why_excluded(lane, residency, needs) for lane in chosen.lanes}
        if any(needs <= lane.capabilities for lane in chosen.lanes):
            raise NoEligibleLane(route, excluded=excluded)
        raise UnsupportedRequest(route, excluded=excluded)
    if len(table.answered) < MAX_ANSWERED:
        table.answered[question] = eligible
    return eligible


def _why_excluded(lane: Lane, residency: frozenset[str], needs: frozenset[str]) -> str:
    if residency and lane.residency not in residency:
        return f"residency {lane.residency!r} is outside the pin {', '.join(sorted(residency))}"
    return f"lacks {', '.join(sorted(needs - lane.capabilities))}"
