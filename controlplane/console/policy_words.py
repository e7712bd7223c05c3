"""What policies of a routing table do to callers, in words: beside the numbers, and for who reviews a change. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from controlplane.console.threshold_content import duration, moved_numbers
from controlplane.routing.thresholds import NOUNS, PARTS, owners_of
from dataplane.policies import CONTINUE, END, StreamPolicy
from dataplane.routing import Lane, RoutingTable

# What a route names: the attribute, what that is called, and what becomes of requests without one.
_NAMED: Final = (
    ("retry", "retry policy", "every lane is tried once"),
    ("streams", "stream policy", "its streams end with the caller's connection and cannot be read again"),
    ("fallback", "fallback stack", "an error says that no lane is left"),
)
_TRANSCRIPT: Final = {
    "keep": "Its words stay in the record",
    "digest": "Of its words only a digest and counts stay in the record",
}
_REFUND: Final = {
    "none": "Nothing that was billed is given back",
    "undelivered": "Billed tokens that were not delivered are given back as a credit",
    "unacknowledged": "Billed tokens that the caller did not acknowledge are given back as a credit",
}


# --- one policy ------------------------------------------------------------------------------------------------------
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
    return [*_named_effects(before, after), *_number_effects(before, after)]


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


def _details(policy: Any, lanes: Iterable[Lane]) -> tuple[str, ...]:
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
            moved = moved_numbers(known[slug].thresholds(), owner.thresholds())
            details = _said_anew(known[slug], owner)
            if moved or details:
                yield Effect(
                    f"{NOUNS[kind].capitalize()} {slug}{': ' if moved else ' changes'}{'; '.join(moved)}", details
                )


def _said_anew(before: Any, after: Any) -> tuple[str, ...]:
    """Of a stream policy, the sentences that are no longer the same."""
    if not isinstance(before, StreamPolicy) or not isinstance(after, StreamPolicy):
        return ()
    return tuple(line for line in stream_sentences(after) if line not in stream_sentences(before))
