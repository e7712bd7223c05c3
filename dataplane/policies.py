"""What people decide about lanes and routes: their order, probes, breaker, retry, quota and stream policies, fallback
stacks.

All are parts of the routing table, reviewed and signed with it, and referred to by name from lanes and routes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from dataplane.documents import Node
from dataplane.thresholds import Threshold

MAX_WINDOW_SECONDS: Final = 600.0
MAX_OPEN_SECONDS: Final = 3600.0
MAX_MILLISECONDS: Final = 3_600_000.0
# A request that has failed this often is told so; more would only add load to what is failing.
MAX_ATTEMPTS: Final = 6
MAX_BACKOFF_SECONDS: Final = 60.0
# The most that retries may add to a lane's load.
MAX_BUDGET_SHARE: Final = 0.1
# A caller whose connection broke is given at least so long to come back; longer than a week, no store need keep frames.
MIN_RETENTION_SECONDS: Final = 60.0
MAX_RETENTION_SECONDS: Final = 7 * 86_400.0
MAX_ABANDON_SECONDS: Final = 3600.0
# An answer that broke off this often is not worth another provider's money.
MAX_CONTINUATIONS: Final = 3


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When the breaker of a lane opens, for how long, and what closes it again.

    Attributes:
        window_seconds: What is looked at: the attempts of the last so many seconds, of the whole fleet.
        minimum_attempts: Fewer attempts in the window open nothing.
        failure_rate: Share of attempts (0..1) whose failure is the lane's; at or above it, the breaker opens.
        timeout_rate: Share of attempts that timed out; they hold callers up, so they count sooner.
        latency_p95_ms: The objective for whole attempts; a p95 above it is a brownout.
        ttft_p95_ms: The same for the time to the first token of a stream.
        drain_tokens_per_second: The floor: a stream that gives less is dragging.
        dragging_rate: Share of streams that drag; at or above it, the breaker opens.
        open_seconds: How long the first time. Each flap multiplies it by `flap_factor`, up to `max_open_seconds`; every
            `calm_seconds` that the lane stays closed takes one flap back.
        probes: How many requests the whole fleet may try on the lane at once after that.
        healthy_probes: How many of them in a row must go well before it closes.
    """

    slug: str
    window_seconds: Threshold
    minimum_attempts: Threshold
    failure_rate: Threshold
    timeout_rate: Threshold
    latency_p95_ms: Threshold
    ttft_p95_ms: Threshold
    drain_tokens_per_second: Threshold
    dragging_rate: Threshold
    open_seconds: Threshold
    flap_factor: Threshold
    max_open_seconds: Threshold
    calm_seconds: Threshold
    probes: Threshold
    healthy_probes: Threshold

    @classmethod
    def parse(cls, slug: str, node: Node) -> BreakerPolicy:
        """Read one policy, or raise MalformedRelease. Shape: {name of each attribute: see `Threshold.parse`}."""
        members = node.members(*BREAKER_THRESHOLDS)

        def share(name: str) -> Threshold:
            return Threshold.parse(members[name], above=0, maximum=1)

        def seconds(name: str, maximum: float) -> Threshold:
            return Threshold.parse(members[name], above=0, maximum=maximum)

        policy = cls(
            slug=slug,
            window_seconds=seconds("window_seconds", MAX_WINDOW_SECONDS),
            minimum_attempts=Threshold.parse_whole(members["minimum_attempts"], minimum=1, maximum=1_000_000),
            failure_rate=share("failure_rate"),
            timeout_rate=share("timeout_rate"),
            latency_p95_ms=Threshold.parse(members["latency_p95_ms"], above=0, maximum=MAX_MILLISECONDS),
            ttft_p95_ms=Threshold.parse(members["ttft_p95_ms"], above=0, maximum=MAX_MILLISECONDS),
            drain_tokens_per_second=Threshold.parse(members["drain_tokens_per_second"], above=0, maximum=1_000_000),
            dragging_rate=share("dragging_rate"),
            open_seconds=seconds("open_seconds", MAX_OPEN_SECONDS),
            flap_factor=Threshold.parse(members["flap_factor"], above=0, maximum=10),
            max_open_seconds=seconds("max_open_seconds", MAX_OPEN_SECONDS),
            calm_seconds=seconds("calm_seconds", 86_400.0),
            probes=Threshold.parse_whole(members["probes"], minimum=1, maximum=1000),
            healthy_probes=Threshold.parse_whole(members["healthy_probes"], minimum=1, maximum=1000),
        )
        if policy.flap_factor.value < 1:
            members["flap_factor"].refuse("below 1, so that the breaker would open for less each time it flaps")
        if policy.max_open_seconds.value < policy.open_seconds.value:
            members["max_open_seconds"].refuse(f"less than open_seconds, {policy.open_seconds.value:g}")
        return policy

    def thresholds(self) -> Mapping[str, Threshold]:
        """Every number of the policy by its name, in the order of the class."""
        return {name: getattr(self, name) for name in BREAKER_THRESHOLDS}


BREAKER_THRESHOLDS: Final = tuple(name for name in BreakerPolicy.__dataclass_fields__ if name != "slug")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a route's failed attempts are made again.

    Attributes:
        max_attempts: Of one request, all lanes together.
        attempts_per_lane: Before the next lane is tried.
        base_seconds, cap_seconds: The wait before the same lane is tried again is drawn from 0 up to the base, doubled
            with each attempt up to the cap. A provider's own Retry-After is kept to, up to the cap.
        floor_seconds: Added to it: each region has its own share of so much.
        budget_share: Retries that each first attempt on a lane allows (0..0.1).
        least_seconds: With less than this left of the deadline, no attempt is begun.
    """

    slug: str
    max_attempts: Threshold
    attempts_per_lane: Threshold
    base_seconds: Threshold
    cap_seconds: Threshold
    floor_seconds: Threshold
    budget_share: Threshold
    least_seconds: Threshold

    @classmethod
    def parse(cls, slug: str, node: Node) -> RetryPolicy:
        """Read one policy, or raise MalformedRelease. Shape: {name of each attribute: see `Threshold.parse`}."""
        members = node.members(*RETRY_THRESHOLDS)

        def seconds(name: str) -> Threshold:
            return Threshold.parse(members[name], above=0, maximum=MAX_BACKOFF_SECONDS)

        policy = cls(
            slug=slug,
            max_attempts=Threshold.parse_whole(members["max_attempts"], minimum=1, maximum=MAX_ATTEMPTS),
            attempts_per_lane=Threshold.parse_whole(members["attempts_per_lane"], minimum=1, maximum=MAX_ATTEMPTS),
            base_seconds=seconds("base_seconds"),
            cap_seconds=seconds("cap_seconds"),
            floor_seconds=seconds("floor_seconds"),
            budget_share=Threshold.parse(members["budget_share"], above=0, maximum=MAX_BUDGET_SHARE),
            least_seconds=seconds("least_seconds"),
        )
        if policy.cap_seconds.value < policy.base_seconds.value:
            members["cap_seconds"].refuse(f"less than base_seconds, {policy.base_seconds.value:g}")
        return policy

    def thresholds(self) -> Mapping[str, Threshold]:
        """Every number of the policy by its name, in the order of the class."""
        return {name: getattr(self, name) for name in RETRY_THRESHOLDS}


RETRY_THRESHOLDS: Final = tuple(name for name in RetryPolicy.__dataclass_fields__ if name != "slug")


@dataclass(frozen=True, slots=True)
class CachedAnswers:
    """The first rung below the lanes: answers that were written and signed beforehand.

    `copy` names signed copy of the kind `answers`. A question that is written like one of theirs is answered exactly;
    with an `embedding_route`, so is one whose embedding is at least as near as `minimum_score` (cosine, 0..1).
    """

    copy: str
    embedding_route: str | None
    minimum_score: Threshold | None


@dataclass(frozen=True, slots=True)
class FallbackStack:
    """What a route has below its lanes, in this order. Each rung is signed copy; `template` answers every question in
    the same words, `outage` says honestly that there is no answer and when to expect one.
    """

    slug: str
    answers: CachedAnswers | None
    template: str | None
    outage: str

    @classmethod
    def parse(cls, slug: str, node: Node) -> FallbackStack:
        """Read one stack, or raise MalformedRelease.

        Shape: {"answers": {"copy": slug, "embedding_route": slug or null, "minimum_score": threshold or null} or null,
                "template": {"copy": slug} or null, "outage": {"copy": slug}}.
        """
        members = node.members("answers", "template", "outage")
        answers = None
        if members["answers"].value is not None:
            inner = members["answers"].members("copy", "embedding_route", "minimum_score")
            route = inner["embedding_route"].optional_text()
            score = None
            if route is None and inner["minimum_score"].value is not None:
                inner["minimum_score"].refuse(
                    "there is no embedding_route to give a score; name one, or set it to null"
                )
            if route is not None:
                score = Threshold.parse(inner["minimum_score"], above=0, maximum=1)
            answers = CachedAnswers(inner["copy"].text(), route, score)
        template = members["template"]
        return cls(
            slug,
            answers,
            None if template.value is None else template.members("copy")["copy"].text(),
            members["outage"].members("copy")["copy"].text(),
        )

    def copy_used(self) -> Mapping[str, str]:
        """The copy that the stack names: rung -> slug. A rung's name is also the kind of copy that it takes."""
        used = {"outage": self.outage}
        if self.template is not None:
            used["template"] = self.template
        if self.answers is not None:
            used["answers"] = self.answers.copy
        return used


PREFERENCE: Final = "preference"
WEIGHT: Final = "weight"
SPEED: Final = "speed"
COST: Final = "cost"
STEERED_BY: Final = frozenset({PREFERENCE, WEIGHT, SPEED, COST})
MAX_WEIGHT: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Steering:
    """How a route orders its lanes: as written (preference), or by weight, speed or cost.

    `weights` are by lane, for `weight`; a lane with 0 is an alternate only.
    """

    by: str = PREFERENCE
    weights: Mapping[str, int] | None = None

    @classmethod
    def parse(cls, node: Node, lanes: Collection[str]) -> Steering:
        """Read it, or raise MalformedRelease.

        Shape: {"by": preference | weight | speed | cost, "weights": {lane of the route: int} for weight, else null}.
        """
        members = node.members("by", "weights")
        by = members["by"].one_of(STEERED_BY)
        if by != WEIGHT:
            if members["weights"].value is not None:
                members["weights"].refuse(f"lanes are ordered by {by}; set it to null")
            return cls(by)
        weights: dict[str, int] = {}
        for lane, entry in members["weights"].entries():
            if lane not in lanes:
                entry.refuse(f"{lane!r} is not a lane of this route")
            weights[lane] = entry.integer(maximum=MAX_WEIGHT)
        for lane in lanes:
            if lane not in weights:
                members["weights"].refuse(f"lane {lane!r} has no weight; 0 makes it an alternate only")
        if not any(weights.values()):
            members["weights"].refuse("every weight is 0, so that no lane would come first")
        return cls(by, weights)


@dataclass(frozen=True, slots=True)
class ProbePolicy:
    """How a lane is kept known while nobody uses it: one short question of our own, by one worker of the fleet.

    Attributes:
        idle_seconds: A lane that answered nobody for so long is asked; one that is open, as soon as it may be.
        timeout_seconds: How long it may take to answer.
    """

    slug: str
    idle_seconds: Threshold
    timeout_seconds: Threshold

    @classmethod
    def parse(cls, slug: str, node: Node) -> ProbePolicy:
        """Read one policy, or raise MalformedRelease. Shape: {name of each attribute: see `Threshold.parse`}."""
        members = node.members(*PROBE_THRESHOLDS)
        return cls(
            slug,
            Threshold.parse(members["idle_seconds"], above=0, maximum=86_400),
            Threshold.parse(members["timeout_seconds"], above=0, maximum=MAX_OPEN_SECONDS),
        )

    def thresholds(self) -> Mapping[str, Threshold]:
        """Every number of the policy by its name, in the order of the class."""
        return {name: getattr(self, name) for name in PROBE_THRESHOLDS}


PROBE_THRESHOLDS: Final = tuple(name for name in ProbePolicy.__dataclass_fields__ if name != "slug")


CONTINUE: Final = "continue"
REGENERATE: Final = "regenerate"
END: Final = "end"
ON_CUT: Final = frozenset({CONTINUE, REGENERATE, END})
KEEP: Final = "keep"
DIGEST: Final = "digest"
TRANSCRIPT: Final = frozenset({KEEP, DIGEST})
NOTHING: Final = "none"
UNDELIVERED: Final = "undelivered"
UNACKNOWLEDGED: Final = "unacknowledged"
REFUND: Final = frozenset({NOTHING, UNDELIVERED, UNACKNOWLEDGED})


@dataclass(frozen=True, slots=True)
class StreamPolicy:
    """How a route's streams outlive what they depend on: the caller's connection, and the provider that writes them.

    Attributes:
        retention_seconds: How long after its end (60 s .. 7 days) a stream can be read again; its cursors expire then.
        abandon_seconds: How long it is generated on while nobody reads; then it is cancelled, so that nobody pays for
            what nobody wants.
        continuations: How often one stream may be taken up again after its provider broke it off; 0 exactly for `end`.
        on_cut: What follows when a provider breaks a stream off after something was delivered. "continue": it goes on
            at a lane that can be given the words so far (capability `prefill`), else it ends; "regenerate": the same,
            but where no such lane is, the question is asked anew, and what was delivered is dropped from the new answer
            if that begins with it; "end": it ends as interrupted, with a cursor to resume from.
        transcript: What stays in PostgreSQL after the end: the words ("keep"), or their digest and counts ("digest").
        refund: Which billed tokens are given back as a credit: "none", or those "undelivered", or "unacknowledged".
    """

    slug: str
    retention_seconds: Threshold
    abandon_seconds: Threshold
    continuations: Threshold
    on_cut: str
    transcript: str
    refund: str

    @classmethod
    def parse(cls, slug: str, node: Node) -> StreamPolicy:
        """Read one policy, or raise MalformedRelease.

        Shape: {"retention_seconds", "abandon_seconds", "continuations": see `Threshold.parse`,
                "on_cut": continue | regenerate | end, "transcript": keep | digest,
                "refund": none | undelivered | unacknowledged}.
        """
        members = node.members(*STREAM_THRESHOLDS, "on_cut", "transcript", "refund")
        policy = cls(
            slug=slug,
            retention_seconds=Threshold.parse(members["retention_seconds"], above=0, maximum=MAX_RETENTION_SECONDS),
            abandon_seconds=Threshold.parse(members["abandon_seconds"], above=0, maximum=MAX_ABANDON_SECONDS),
            continuations=Threshold.parse_whole(members["continuations"], minimum=0, maximum=MAX_CONTINUATIONS),
            on_cut=members["on_cut"].one_of(ON_CUT),
            transcript=members["transcript"].one_of(TRANSCRIPT),
            refund=members["refund"].one_of(REFUND),
        )
        if policy.retention_seconds.value < MIN_RETENTION_SECONDS:
            members["retention_seconds"].refuse(f"less than {MIN_RETENTION_SECONDS:g}, too short to come back in")
        if policy.on_cut == END and policy.continuations.value:
            members["continuations"].refuse("on_cut is 'end', which takes no stream up again; set it to 0")
        if policy.on_cut != END and not policy.continuations.value:
            members["continuations"].refuse(f"0, so that on_cut {policy.on_cut!r} never happens; set that to 'end'")
        return policy

    def thresholds(self) -> Mapping[str, Threshold]:
        """Every number of the policy by its name, in the order of the class."""
        return {name: getattr(self, name) for name in STREAM_THRESHOLDS}


STREAM_THRESHOLDS: Final = ("retention_seconds", "abandon_seconds", "continuations")


MAX_QUOTA_WINDOW_SECONDS: Final = 86_400.0
MAX_QUOTA: Final = 10**12
MAX_HEADROOM: Final = 0.5
MAX_WAIT_SECONDS: Final = 3600.0
MAX_WEIGHT_OF_TIER: Final = 1000.0
# What a provider counts over a window; besides, it may bound how many requests are under way at once.
QUOTA_RATES: Final = ("requests", "tokens", "input_tokens", "output_tokens")
CONCURRENCY: Final = "concurrency"
QUOTA_LIMITS: Final = (*QUOTA_RATES, CONCURRENCY)
# Thresholds of a quota policy that may be null.
QUOTA_OPTIONAL: Final = (*QUOTA_LIMITS, "vip_concurrency")


@dataclass(frozen=True, slots=True)
class QuotaPolicy:
    """What an account may ask of its provider, and how the fleet shares it. Lanes of one account that name the same
    policy share one quota.

    Attributes:
        window_seconds: Over which the provider counts.
        requests, tokens, input_tokens, output_tokens: What it admits in one window; `tokens` counts both directions
            together. None: not bounded here; with `learn`, as the provider's headers say.
        concurrency: How many requests may be under way at once; None: not bounded.
        headroom: Share (0..0.5) of each limit that is left alone, so that clocks, counts and leases may be a bit off.
        batch_share: Share (0..0.5) that batch work gets while interactive callers wait; alone, either class has it all.
        vip_concurrency: Of `concurrency`, what only interactive callers of tier VIP may use; None: nothing.
        vip_weight, standard_weight, free_weight: How much a tenant of the tier gets beside one of another, while both
            wait.
        spill_seconds: With another lane left, a caller waits at most so long for this one.
        max_wait_seconds: With no other lane left, an interactive caller waits at most so long. Batch work waits as long
            as its deadline allows.
        ramp_seconds: After a 429, the time from a tenth of the limits to all of them.
        fleet_workers: How many gateway processes there are at most. While they cannot ask one another, each takes its
            part of the limits.
        learn: Whether a lower limit that the provider's headers name is kept to.
    """

    slug: str
    window_seconds: Threshold
    requests: Threshold | None
    tokens: Threshold | None
    input_tokens: Threshold | None
    output_tokens: Threshold | None
    concurrency: Threshold | None
    headroom: Threshold
    batch_share: Threshold
    vip_concurrency: Threshold | None
    vip_weight: Threshold
    standard_weight: Threshold
    free_weight: Threshold
    spill_seconds: Threshold
    max_wait_seconds: Threshold
    ramp_seconds: Threshold
    fleet_workers: Threshold
    learn: bool

    @classmethod
    def parse(cls, slug: str, node: Node) -> QuotaPolicy:
        """Read one policy, or raise MalformedRelease.

        Shape: {"learn": bool, name of each other attribute: see `Threshold.parse`}; the limits and `vip_concurrency`
        may be null.
        """
        members = node.members(*QUOTA_THRESHOLDS, "learn")

        def limit(name: str, *, minimum: int = 1) -> Threshold | None:
            if members[name].value is None:
                return None
            return Threshold.parse_whole(members[name], minimum=minimum, maximum=MAX_QUOTA)

        def number(name: str, maximum: float) -> Threshold:
            return Threshold.parse(members[name], above=0, maximum=maximum)

        policy = cls(
            slug=slug,
            window_seconds=number("window_seconds", MAX_QUOTA_WINDOW_SECONDS),
            requests=limit("requests"),
            tokens=limit("tokens"),
            input_tokens=limit("input_tokens"),
            output_tokens=limit("output_tokens"),
            concurrency=limit("concurrency"),
            headroom=number("headroom", MAX_HEADROOM),
            batch_share=number("batch_share", MAX_HEADROOM),
            vip_concurrency=limit("vip_concurrency"),
            vip_weight=number("vip_weight", MAX_WEIGHT_OF_TIER),
            standard_weight=number("standard_weight", MAX_WEIGHT_OF_TIER),
            free_weight=number("free_weight", MAX_WEIGHT_OF_TIER),
            spill_seconds=number("spill_seconds", MAX_WAIT_SECONDS),
            max_wait_seconds=number("max_wait_seconds", MAX_WAIT_SECONDS),
            ramp_seconds=number("ramp_seconds", MAX_WAIT_SECONDS),
            fleet_workers=Threshold.parse_whole(members["fleet_workers"], minimum=1, maximum=100_000),
            learn=members["learn"].flag(),
        )
        if not policy.learn and not policy.limits():
            node.refuse("it bounds nothing; name a limit, or let it learn the provider's")
        policy._check_concurrency(members)
        return policy

    def _check_concurrency(self, members: Mapping[str, Node]) -> None:
        if self.concurrency is None:
            if self.vip_concurrency is not None:
                members["vip_concurrency"].refuse("there is no concurrency to take it from; set that, or this to null")
            return
        if self.concurrency.value < self.fleet_workers.value:
            members["concurrency"].refuse(
                f"less than fleet_workers, {self.fleet_workers.value:g}; alone, a worker could send nothing"
            )
        if self.vip_concurrency is not None and self.vip_concurrency.value >= self.concurrency.value:
            members["vip_concurrency"].refuse(f"leaves nobody else any of concurrency, {self.concurrency.value:g}")

    def limits(self) -> dict[str, float]:
        """What is bounded: name of QUOTA_LIMITS -> how much."""
        return {name: limit.value for name in QUOTA_LIMITS if (limit := getattr(self, name)) is not None}

    def weight(self, tier: str) -> float:
        """What a tenant of `tier` weighs."""
        weight: Threshold = getattr(self, f"{tier}_weight")
        return weight.value

    def thresholds(self) -> Mapping[str, Threshold]:
        """Every number of the policy that is set, by its name, in the order of the class."""
        named = {name: getattr(self, name) for name in QUOTA_THRESHOLDS}
        return {name: threshold for name, threshold in named.items() if threshold is not None}


QUOTA_THRESHOLDS: Final = tuple(name for name in QuotaPolicy.__dataclass_fields__ if name not in ("slug", "learn"))
