"""What each threshold of a routing table means, in what unit people type it, and what measure it is held against."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from controlplane.routing.thresholds import BUDGET, QUOTA, REPAIR, SHADOW


@dataclass(frozen=True, slots=True)
class Words:
    """How one threshold is shown.

    Attributes:
        scale: The stored number times this is what people read and type: 100 for shares, which are stored as 0..1; a
            millionth for money.
        measure: Key of the telemetry measure whose chart shows it as a line; empty where nothing measured compares.
        measure_scale: What people type times this is what the axis of that chart shows.
    """

    label: str
    unit: str
    meaning: str
    scale: int | Decimal = 1
    measure: str = ""
    measure_scale: int = 1

    def typed(self, value: float) -> str:
        """The stored number as people type it, without a unit: 0.5 of a share is '50'."""
        return f"{self.read(value):.10g}"

    def stored(self, typed: Decimal) -> float:
        """The number to store for what was typed; exact where a decimal is."""
        return float(typed / self.scale)

    def shown(self, value: float) -> str:
        """The stored number with its unit."""
        return f"{self.read(value):,.10g} {self.unit}".strip()

    def read(self, value: float) -> float:
        """The stored number as people read it."""
        return value * float(self.scale)


WORDS: Final[Mapping[str, Words]] = {
    # breaker policies
    "window_seconds": Words("Window", "s", "What is looked at: the attempts of the last so many seconds, fleet-wide"),
    "minimum_attempts": Words("Attempts to judge by", "attempts", "Fewer in the window open nothing"),
    "failure_rate": Words(
        "Failure rate", "%", "From this share of failed attempts on, the breaker opens", 100, "failure_rate"
    ),
    "timeout_rate": Words(
        "Time-out rate", "%", "The same for attempts that timed out, which hold callers up", 100, "timeout_rate"
    ),
    "latency_p95_ms": Words(
        "Latency p95", "ms", "Slower than this is a brownout, and the breaker opens", 1, "latency_p95_ms"
    ),
    "ttft_p95_ms": Words("First token p95", "ms", "The same for the first token of a stream", 1, "ttft_p95_ms"),
    "drain_tokens_per_second": Words(
        "Drain floor", "tokens/s", "A stream that gives less is dragging", 1, "drain_tps_p5"
    ),
    "dragging_rate": Words("Dragging streams", "%", "From this share of dragging streams on, the breaker opens", 100),
    "open_seconds": Words("Open for", "s", "How long nothing is let through the first time"),
    "flap_factor": Words("Longer each time by", "×", "Each flap multiplies how long it stays open"),
    "max_open_seconds": Words("Open for at most", "s", "However often it flapped"),
    "calm_seconds": Words("Calm", "s", "So long closed takes one flap back"),
    "probes": Words("Probes at once", "", "How many the whole fleet may try on a lane that cooled down"),
    "healthy_probes": Words("Healthy probes", "in a row", "So many must go well before it closes"),
    # retry policies
    "max_attempts": Words("Attempts", "", "Of one request, on all lanes together"),
    "attempts_per_lane": Words("Attempts per lane", "", "Before the next lane is tried"),
    "base_seconds": Words("Shortest wait", "s", "Before the same lane is tried again; it doubles with each attempt"),
    "cap_seconds": Words("Longest wait", "s", "However often it doubled"),
    "floor_seconds": Words("Spread", "s", "Added to the wait: each region has its own share of it"),
    "budget_share": Words("Retry budget", "%", "At most this share on top of a lane's first attempts", 100),
    "least_seconds": Words("Time left", "s", "With less left of the deadline, no attempt is begun"),
    # probe policies
    "idle_seconds": Words("Asked after", "s", "A lane that answered nobody for so long is asked a short question"),
    "timeout_seconds": Words("Answer within", "s", "How long that may take"),
    # quota policies
    "requests": Words("Requests", "per window", "What the provider admits of an account, over all workers"),
    "tokens": Words("Tokens", "per window", "The same in tokens, those of questions and answers together"),
    "input_tokens": Words("Input tokens", "per window", "The same for the tokens of questions alone"),
    "output_tokens": Words("Output tokens", "per window", "The same for the tokens of answers alone"),
    "concurrency": Words("Under way at once", "requests", "At most, over all workers"),
    "headroom": Words("Headroom", "%", "This share of each limit is never used: clocks and counts may be off", 100),
    "batch_share": Words("Share of batch work", "%", "While interactive callers wait; alone, either has it all", 100),
    "vip_concurrency": Words("Kept for VIP", "requests", "Of those under way, for interactive VIP callers only"),
    "vip_weight": Words("Weight of VIP", "", "What a tenant of tier VIP gets beside others while they wait"),
    "standard_weight": Words("Weight of standard", "", "The same for a tenant of tier standard"),
    "free_weight": Words("Weight of free", "", "The same for a tenant of tier free"),
    "spill_seconds": Words("Spill after", "s", "With another lane left, a caller waits no longer for this one"),
    "max_wait_seconds": Words("Wait at most", "s", "With no other lane left; batch work waits up to its deadline"),
    "ramp_seconds": Words("Back within", "s", "After a 429, from a tenth of the limits to all of them"),
    "fleet_workers": Words(
        "Workers at most", "workers", "While they cannot ask one another, each takes its part of the limits"
    ),
    # stream policies
    "retention_seconds": Words("Kept for", "s", "So long after its end a stream can be read again"),
    "abandon_seconds": Words("Given up after", "s", "A stream that nobody reads is generated on for so long"),
    "continuations": Words("Taken up again", "times", "At most, after its provider broke a stream off"),
    # repair policies
    "max_calls": Words("Calls of models", "", "At most, to continue one answer, mend it or ask for it again"),
    "max_output_tokens": Words("Tokens of calls", "tokens", "What those may generate, all of them together"),
    "max_cost_micros": Words(
        "Cost of calls", "USD", "With so much spent on one answer, no other call is begun", Decimal("0.000001")
    ),
    # validator policies; of each rule there is one more, see `words_of`
    "window_characters": Words(
        "Held back of a stream", "characters", "At most, while they may still be part of something forbidden"
    ),
    # routes
    "first_token_seconds": Words(
        "First token within", "s", "A stream that has given none by then goes to the next lane", 1, "ttft_p95_ms", 1000
    ),
    "whole_answer_seconds": Words(
        "Whole answer within", "s", "The same for an answer in one piece", 1, "latency_p95_ms", 1000
    ),
    "latency_open_share": Words(
        "Open for slowness", "%", "At most this share of the route's lanes may be open for slowness alone", 100
    ),
    # fallback stacks
    "minimum_score": Words("Likeness", "", "A question this near to a signed one gets its answer (cosine)"),
}
# Where the same name means another thing for one kind; label and unit are the same, so that only its meaning differs.
_OF_KIND: Final = {
    (QUOTA, "window_seconds"): Words("Window", "s", "Over which the provider counts"),
    (REPAIR, "open_seconds"): Words("Open for", "s", "So long somebody can complete an answer that was beyond repair"),
}
# Of shadow policies, which share names with others and nothing else.
_OF_SHADOW: Final[Mapping[str, Words]] = {
    "percent": Words("Asked again", "%", "Of what is asked of the route and answered"),
    "noise_percent": Words("Control once more", "%", "Of what is asked again, for the noise floor"),
    "calls": Words("Calls a day", "calls", "By the whole fleet, noise included; then it rests until the next UTC day"),
    "tokens": Words("Tokens a day", "tokens", "The same, in and out"),
    "cost_micros": Words("Cost a day", "USD", "The same", Decimal("0.000001")),
    "minimum_calls": Words("Judged by", "calls", "The last calls of one process, by which it is killed or not"),
    "failure_rate": Words("Failure rate", "%", "Of those calls; above it, the shadow is killed", 100),
    "cost_ratio": Words("Cost of an answer", "times control's", "Above it, the shadow is killed"),
    "max_in_flight": Words("Calls at once", "calls", "By one shadow process"),
    "queue": Words("Waiting", "requests", "At one shadow process; what comes then is discarded"),
    "deadline_ms": Words("Time for a call", "ms", "Then it is given up, and never tried again"),
}
# Our own names for where a number comes from, and those of `components/_provenance.html`.
ORIGINS: Final[Mapping[str, tuple[str, str]]] = {
    "incident": ("incident", "Incident"),
    "load_test": ("load-test", "Load test"),
    "vendor_limit": ("vendor", "Vendor limit"),
    "guess": ("guess", "Guess"),
}


def words_of(kind: str, name: str) -> Words:
    """The words for the threshold `name` of a policy of this kind; "": whose it is does not matter, as for its unit."""
    rule, _, of_rule = name.rpartition(".")
    if rule and of_rule == BUDGET:
        return Words(f"Time for {rule}", "ms", "Processor time for one answer; over it, the rule cannot say")
    return _OF_SHADOW[name] if kind == SHADOW else _OF_KIND.get((kind, name)) or WORDS[name]


def chart_id(name: str) -> str:
    """The id of the chart on which a threshold is a line."""
    return f"chart-{name.replace('_', '-').replace('.', '-')}"
