"""What policies of a routing table do to callers, in words: beside the numbers, and for who reviews a change. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from controlplane.console.threshold_content import moved_numbers
from controlplane.console.validator_words import (
    changed_rules,
    validator_sentences,
    validator_warnings,
)
from controlplane.console.validator_words import validator_note as validator_note
from controlplane.console.wording import listed as listed
from controlplane.durations import duration
from controlplane.routing.thresholds import NOUNS, PARTS, QUOTA, REPAIR, STREAM, VALIDATOR, owners_of
from dataplane.policies import CONCURRENCY, CONTINUE, END, QUOTA_RATES, QuotaPolicy, StreamPolicy
from dataplane.repair.coerce import LABELS
from dataplane.repair.labels import Label
from dataplane.repair.policy import COERCIONS, WHOLE, RepairPolicy
from dataplane.routing import Lane, Route, RoutingTable
from dataplane.sharding import blast_radius, groups_of_twins
from dataplane.validators.policy import ValidatorPolicy

# What a route names: the attribute, what that is called, and what becomes of requests without one.
_NAMED: Final = (
    ("retry", "retry policy", "every lane is tried once"),
    ("streams", "stream policy", "its streams end with the caller's connection and cannot be read again"),
    ("repair", "repair policy", "answers that are not JSON go out as they came"),
    ("validators", "validator policy", "nothing looks at its answers before they go out"),
    ("fallback", "fallback stack", "an error says that no lane is left"),
)
WITHOUT_QUOTA: Final = "nobody waits for what its account is admitted; its 429s are met by each worker for itself"
_TRANSCRIPT: Final = {
    "keep": "Its words stay in the record",
    "digest": "Of its words only a digest and counts stay in the record",
}
# What a coercion reads, and as what.
_COERCION: Final = {
    "string_to_number": ("text that is a number", "that number"),
    "number_to_string": ("a number", "text"),
    "string_to_boolean": ("'true' or 'false' in quotes", "what it says"),
    "scalar_to_list": ("a single value", "a list of one"),
    "list_to_scalar": ("a list of one", "its value"),
    "json_string": ("JSON in quotes", "what it holds"),
    "null_to_absent": ("null", "a field that is not there"),
    "enum_case": ("a choice in capitals or without", "that choice"),
    "drop_unknown": ("an object with fields that the schema does not know", "one without them"),
    "fill_default": ("a missing field", "the schema's default"),
}
_REFUND: Final = {
    "none": "Nothing that was billed is given back",
    "undelivered": "Billed tokens that were not delivered are given back as a credit",
    "unacknowledged": "Billed tokens that the caller did not acknowledge are given back as a credit",
}


# --- one policy ------------------------------------------------------------------------------------------------------
def policy_sentences(table: RoutingTable, kind: str, slug: str) -> list[str]:
    """What a policy does, a sentence for each thing that it decides; none for one whose numbers say it all."""
    if kind == STREAM:
        return stream_sentences(table.streams[slug])
    if kind == REPAIR:
        return repair_sentences(table.repairs[slug])
    if kind == VALIDATOR:
        return validator_sentences(table.validators[slug])
    return quota_sentences(table.quotas[slug]) if kind == QUOTA else []


def policy_warnings(table: RoutingTable, kind: str, slug: str) -> list[str]:
    """What to think twice about before a policy is used as it is."""
    if kind == VALIDATOR:
        return validator_warnings(table.validators[slug])
    return repair_warnings(table.repairs[slug]) if kind == REPAIR else []


def stream_sentences(policy: StreamPolicy) -> list[str]:
    """What becomes of a stream under the policy, a sentence for each thing that it decides."""
    unread, kept = _span(policy.abandon_seconds.value), _span(policy.retention_seconds.value)
    return [
        f"A stream goes on when its caller's connection breaks; unread for {unread}, it is cancelled",
        f"It can be read again until {kept} after its end",
        f"Broken off by its provider, it {_after_a_cut(policy)}",
        _TRANSCRIPT[policy.transcript],
        _REFUND[policy.refund],
    ]


def stream_note(policy: StreamPolicy) -> str:
    """The same in half a line: 'go on for 30 s unread, are kept for 1 h, and go on elsewhere after a cut'."""
    unread, kept = _span(policy.abandon_seconds.value), _span(policy.retention_seconds.value)
    cut = "end when they are cut" if policy.on_cut == END else "go on elsewhere after a cut"
    return f"go on for {unread} unread, are kept for {kept}, and {cut}"


def quota_sentences(policy: QuotaPolicy) -> list[str]:
    """What becomes of requests to an account under the policy, a sentence for each thing that it decides."""
    spill, most = _span(policy.spill_seconds.value), _span(policy.max_wait_seconds.value)
    return [
        _admitted(policy),
        "A lower limit that the provider's headers name is kept to"
        if policy.learn
        else "What the provider's headers say of its limits is not heeded",
        f"While interactive callers wait, batch work gets {_percent(policy.batch_share.value)} of what is given out; "
        "alone, either has all of it",
        _set_aside(policy),
        f"Of tenants that wait, one of tier VIP counts as {policy.vip_weight.value:g}, of standard as "
        f"{policy.standard_weight.value:g}, of free as {policy.free_weight.value:g}",
        f"A caller waits {spill} at most while another lane is left, and {most} when none is; batch work waits as long "
        "as its deadline allows",
        f"A 429 pauses the account for the whole fleet; after that, its limits open from a tenth to all within "
        f"{_span(policy.ramp_seconds.value)}",
        f"Workers that cannot ask one another keep to 1 of {policy.fleet_workers.value:,.0f} parts of the limits each",
    ]


def repair_sentences(policy: RepairPolicy) -> list[str]:
    """What becomes of an answer that is to be JSON, a sentence for each thing that the policy decides."""
    return [
        _handed_over(policy),
        _coerced(policy),
        *_asked(policy),
        "A stream of JSON is held back until all of it is right"
        if policy.streams == WHOLE
        else "A stream of JSON goes out as far as it is certain, and ends with an error if the rest cannot be repaired",
        f"An answer that nothing could repair is an error, and is kept for {_span(policy.open_seconds.value)} for "
        "somebody to complete",
    ]


def repair_warnings(policy: RepairPolicy) -> list[str]:
    """What to think twice about: values that nobody wrote, and coercions that can never take effect."""
    said = []
    if Label.INVENTED in policy.labels:
        said.append(
            "Callers are handed values that the model did not write, or may have meant otherwise; only the answer's "
            "member ballast says so, and an application that does not read it takes them for the model's"
        )
    vain = [name for name in COERCIONS if name in policy.coercions and LABELS[name] not in policy.labels]
    said += [f"Coercion {name} is {LABELS[name]}, which is not handed over, so it never takes effect" for name in vain]
    return said


def repair_note(policy: RepairPolicy) -> str:
    """The same in half a line: 'repaired where nothing is lost, with a model's help if need be'."""
    what = "repaired where nothing is lost"
    if Label.LOSSY in policy.labels:
        what = "repaired, also where something is lost"
    if Label.INVENTED in policy.labels:
        what = "repaired, also with values that the model did not write"
    return f"{what}, {'with' if policy.asks_models else 'without'} a model's help"


def limit_words(name: str, value: float, window_seconds: float) -> str:
    """One limit with its units: '10,000 requests in 60 s', '200 requests at once'."""
    if name == CONCURRENCY:
        return f"{value:,.10g} requests at once"
    return f"{value:,.10g} {name.replace('_', ' ')} in {_span(window_seconds)}"


def _handed_over(policy: RepairPolicy) -> str:
    said = "Handed over is what can have been meant in one way only, with nothing lost"
    more = []
    if Label.LOSSY in policy.labels:
        more.append("what lacks something that the model wrote")
    if Label.INVENTED in policy.labels:
        more.append("what the model did not write, or wrote in a way that can be read as something else")
    return f"{said}; also {listed(more)}" if more else f"{said}; what cannot be told for sure is not"


def _coerced(policy: RepairPolicy) -> str:
    declared = [_COERCION[name] for name in COERCIONS if name in policy.coercions]
    if not declared:
        return "What the schema refuses is not read as anything else than it was written as"
    (first, meant), *more = declared
    words = [f"{first} is read as {meant}", *(f"{what} as {other}" for what, other in more)]
    return f"Where the schema wants it, {listed(words)}"


def _asked(policy: RepairPolicy) -> Iterator[str]:
    if not policy.asks_models:
        yield "No model is asked about an answer that cannot be read"
        return
    if policy.continue_cut:
        yield "An answer that its length limit cut off is continued by the lane that gave it"
    if policy.surgeon_route is not None:
        yield f"A broken text alone, with its schema, is given to a model of route {policy.surgeon_route} to mend"
    if policy.ask_again:
        yield "The lane that answered is asked once more, and told what is wrong"
    calls = int(policy.max_calls.value)
    yield (
        f"That takes {calls} call{'' if calls == 1 else 's'}, {policy.max_output_tokens.value:,.0f} tokens and "
        f"{policy.max_cost_micros.value / 1e6:,.10g} USD at most for one answer"
    )


def _admitted(policy: QuotaPolicy) -> str:
    limits = policy.limits()
    if not limits:
        return "Only what the provider's headers say bounds what the account is sent"
    rates = [f"{limits[name]:,.10g} {name.replace('_', ' ')}" for name in QUOTA_RATES if name in limits]
    said = [f"{listed(rates)} in {_span(policy.window_seconds.value)}"] if rates else []
    if CONCURRENCY in limits:
        said.append(limit_words(CONCURRENCY, limits[CONCURRENCY], policy.window_seconds.value))
    spared = f"; {_percent(policy.headroom.value)} of that is never used"
    return f"All workers together send an account at most {', and '.join(said)}{spared}"


def _set_aside(policy: QuotaPolicy) -> str:
    if policy.vip_concurrency is None:
        return "Nothing is set aside for tier VIP"
    kept = f"{policy.vip_concurrency.value:,.0f}"
    whole = f" of {policy.concurrency.value:,.0f}" if policy.concurrency is not None else ""
    return f"{kept}{whole} requests at once are for interactive callers of tier VIP alone"


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def spread_note(route: Route) -> str:
    """Which accounts a tenant reaches, and whom it takes along: 'each tenant reaches 2 of 4 accounts; one that exhausts
    its own takes along 17 % of the others'. Empty where no lanes differ by their account alone.
    """
    groups = [group for group in groups_of_twins(route.lanes) if len(group) > 1]
    said = []
    for group in groups:
        of_which = f" of {group[0].model} in {group[0].region}" if len(groups) > 1 else ""
        said.append(f"each tenant reaches {_spread(len(group), route.accounts_per_tenant, of_which)}")
    return "; ".join(said)


def _spread(accounts: int, limit: int | None, of_which: str) -> str:
    reached = accounts if limit is None else min(limit, accounts)
    if reached == accounts:
        return f"all {accounts} accounts{of_which}; one that exhausts them takes along all the others"
    share = _rounded(blast_radius(accounts, reached))
    return f"{reached} of {accounts} accounts{of_which}; one that exhausts its own takes along {share} of the others"


def _rounded(share: float) -> str:
    # Never "0 %" of what is somebody.
    return f"{100 * share:.0f} %" if share >= 0.01 else f"{100 * share:.2g} %"


def _after_a_cut(policy: StreamPolicy) -> str:
    if policy.on_cut == END:
        return "ends as interrupted, with a cursor to resume from"
    count = int(policy.continuations.value)
    often = {1: "once", 2: "twice"}.get(count, f"{count} times")
    goes_on = f"goes on at a lane that can be given the words so far, {often} at most"
    if policy.on_cut == CONTINUE:
        return f"{goes_on}; where there is none, it ends as interrupted"
    return f"{goes_on}; where there is none, the question is asked anew, and what was delivered is not said again"


def _span(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 60 else duration(seconds)


# --- what a change does ----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Effect:
    """One thing that a change of routing does, and what that means, a sentence each."""

    sentence: str
    details: tuple[str, ...] = ()


def table_effects(before: RoutingTable | None, after: RoutingTable) -> list[Effect]:
    """What putting `after` in force changes about policies: which ones routes get and lose, and which numbers move."""
    return [
        *_named_effects(before, after),
        *_quota_effects(before, after),
        *_spread_effects(before, after),
        *_number_effects(before, after),
    ]


def _named_effects(before: RoutingTable | None, after: RoutingTable) -> Iterator[Effect]:
    for slug, route in after.routes.items():
        known = before.routes.get(slug) if before else None
        for attribute, noun, without in _NAMED:
            old, new = (getattr(one, attribute) if one else None for one in (known, route))
            if new is not None and (old is None or old.slug != new.slug):
                instead = f" instead of {old.slug}" if old is not None else ""
                yield Effect(f"Route {slug} takes {noun} {new.slug}{instead}", _details(new, route.lanes))
            elif old is not None and new is None:
                yield Effect(f"Route {slug} loses {noun} {old.slug}: {without}")


def _quota_effects(before: RoutingTable | None, after: RoutingTable) -> Iterator[Effect]:
    """Which lanes get another quota policy, or none: one effect for all lanes with the same change."""
    moved: dict[tuple[str | None, str | None], list[str]] = {}
    for lane_id, lane in after.lanes.items():
        known = before.lanes.get(lane_id) if before else None
        old, new = (one.quota.slug if one is not None and one.quota else None for one in (known, lane))
        if old != new:
            moved.setdefault((old, new), []).append(lane_id)
    for (old, new), lanes in moved.items():
        who = f"Lane {lanes[0]}" if len(lanes) == 1 else f"Lanes {listed(lanes)}"
        if new is None:
            yield Effect(f"{who} {'loses' if len(lanes) == 1 else 'lose'} quota policy {old}: {WITHOUT_QUOTA}")
            continue
        instead = f" instead of {old}" if old is not None else ""
        verb = "takes" if len(lanes) == 1 else "take"
        yield Effect(f"{who} {verb} quota policy {new}{instead}", tuple(quota_sentences(after.quotas[new])))


def _spread_effects(before: RoutingTable | None, after: RoutingTable) -> Iterator[Effect]:
    for slug, route in after.routes.items():
        known = before.routes.get(slug) if before else None
        old, new = (spread_note(one) if one is not None else "" for one in (known, route))
        if new and new != old and (known is not None or route.accounts_per_tenant is not None):
            yield Effect(f"Route {slug}: {new}", (f"Until now: {old}",) if old else ())


def _details(policy: Any, lanes: Iterable[Lane]) -> tuple[str, ...]:
    if isinstance(policy, RepairPolicy):
        return (*repair_warnings(policy), *repair_sentences(policy))
    if isinstance(policy, ValidatorPolicy):
        return (*validator_warnings(policy), *validator_sentences(policy))
    if not isinstance(policy, StreamPolicy):
        return ()
    sentences = stream_sentences(policy)
    if policy.on_cut == CONTINUE and not any("prefill" in lane.capabilities for lane in lanes):
        sentences.append("No lane of the route can be given the words so far, so none goes on after that")
    return tuple(sentences)


def _number_effects(before: RoutingTable | None, after: RoutingTable) -> Iterator[Effect]:
    if before is None:
        return
    for kind in PARTS:
        known = owners_of(before, kind)
        for slug, owner in owners_of(after, kind).items():
            if slug not in known:
                continue
            old, new = known[slug].thresholds(), owner.thresholds()
            if kind == VALIDATOR:  # of a rule that came or went, the rule is what matters
                old, new = ({name: side[name] for name in side if name in old and name in new} for side in (old, new))
            moved = moved_numbers(old, new)
            details = _said_anew(known[slug], owner)
            if moved or details:
                yield Effect(
                    f"{NOUNS[kind].capitalize()} {slug}{': ' if moved else ' changes'}{'; '.join(moved)}", details
                )


def _said_anew(before: Any, after: Any) -> tuple[str, ...]:
    """Of a stream, quota or repair policy, the sentences that are no longer the same; of validators, what is."""
    if isinstance(before, ValidatorPolicy) and isinstance(after, ValidatorPolicy):
        new = [line for line in validator_warnings(after) if line not in validator_warnings(before)]
        return (*new, *changed_rules(before, after))
    if isinstance(before, StreamPolicy) and isinstance(after, StreamPolicy):
        known, said = stream_sentences(before), stream_sentences(after)
    elif isinstance(before, QuotaPolicy) and isinstance(after, QuotaPolicy):
        known, said = quota_sentences(before), quota_sentences(after)
    elif isinstance(before, RepairPolicy) and isinstance(after, RepairPolicy):
        known = [*repair_warnings(before), *repair_sentences(before)]
        said = [*repair_warnings(after), *repair_sentences(after)]
    else:
        return ()
    return tuple(line for line in said if line not in known)
