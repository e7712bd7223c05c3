"""An episode as a document to work on: what is known is filled in, what people have to say is asked for. Pure."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Final

from controlplane.telemetry.ladder_capacity import spoken
from controlplane.telemetry.ladder_episodes import Episode
from dataplane.ladder.policy import RUNGS, Surface
from dataplane.thresholds import Threshold

_NAMES: Final = {"vip": "VIP", "standard": "Standard", "free": "Free"}
_WORDS: Final = {
    "answered": "answered by a model",
    "copy": "answered by signed words",
    "later": "put off, with a promise",
    "refused": "refused",
    "failed": "failed",
    "cancelled": "left by their callers",
    "rejected": "callers' own mistakes",
}
_ORIGINS: Final = {
    "incident": "an incident",
    "load_test": "a load test",
    "vendor_limit": "a vendor's limit",
    "guess": "a guess",
}


def postmortem(episode: Episode, *, surface: Surface | None, url: str = "") -> str:
    """The document, in Markdown; what people wrote is quoted, so that it can be no part of its form.

    Args:
        surface: Of the policy that is in force, whose thresholds are listed; None: it has no such surface any more.
        url: Where the console is, in front of links to its own pages; without a slash at its end.
    """
    title = surface.title if surface is not None else episode.surface
    parts = [
        [f"# Postmortem: {_text(title)}, {_day(episode.since)}"],
        _happened(episode),
        _steps(episode),
        _touched(episode),
        _paid(episode),
        _thresholds(episode, surface, url),
        ["## What worked", "", "- "],
        ["## What did not work", "", "- "],
        ["## Actions", "", "| What | Who | Until |", "|---|---|---|", "| | | |"],
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _happened(episode: Episode) -> list[str]:
    lasted = spoken(episode.duration.total_seconds())
    end = f"until {_moment(episode.until)} UTC ({lasted})" if episode.until else f"and is still on after {lasted}"
    highest = f"{episode.highest} ({RUNGS[episode.highest]})"
    first = episode.steps[0]
    how = "People engaged it." if first.is_by_people else "Triggers engaged it by themselves."
    return [
        "## What happened",
        "",
        f"Rungs of `{episode.surface}` were on from {_moment(episode.since)} UTC {end}, up to rung {highest}. {how}",
        "",
        f"It began so: {_text(first.sentence)}.",
        "",
        "Why it came to this: ",
    ]


def _steps(episode: Episode) -> list[str]:
    rows = [f"| {_moment(step.at)} | {step.before} → {step.rung} | {_text(step.sentence)} |" for step in episode.steps]
    return ["## Timeline", "", "| UTC | Rung | What |", "|---|---|---|", *rows]


def _touched(episode: Episode) -> list[str]:
    share = f" ({episode.touched_requests / episode.requests:.0%})".replace("%", " %") if episode.requests else ""
    said = f"Of {episode.requests:,} requests, {episode.touched_requests:,}{share} were served on a rung."
    rows = [
        f"| {rung} {RUNGS[rung]} | {_NAMES.get(tier, _text(tier))} | {requests:,} |"
        for rung, by_tier in episode.touched.items()
        for tier, requests in by_tier.items()
    ]
    table = ["", "| Rung | Tier | Requests |", "|---|---|---|", *rows] if rows else []
    came = [f"- {count:,} {_WORDS[name]}" for name, count in _in_order(episode)]
    return ["## Who was touched", "", said, *table, "", "What became of all of them:", "", *(came or ["- nothing"])]


def _in_order(episode: Episode) -> Iterator[tuple[str, int]]:
    for name in _WORDS:
        if count := episode.outcomes.get(name, 0):
            yield name, count


def _paid(episode: Episode) -> list[str]:
    waits = "Nobody got an answer at once."
    if episode.wait_p50_ms is not None and episode.wait_p95_ms is not None:
        waits = (
            f"Whoever got an answer at once waited {episode.wait_p50_ms / 1000:.1f} s for its end (p50), "
            f"{episode.wait_p95_ms / 1000:.1f} s (p95)."
        )
    by_hour = episode.cost_per_hour_micros
    rate = "" if by_hour is None else f", {_money(by_hour)} an hour"
    return [
        "## Wait and cost",
        "",
        waits,
        "",
        f"It cost {_money(episode.cost_micros)}{rate}; the hour before it, {_money(episode.cost_before_micros)}.",
    ]


def _thresholds(episode: Episode, surface: Surface | None, url: str) -> list[str]:
    head = ["## Thresholds, and where they come from", ""]
    if surface is None:
        return [*head, "The ladder policy that is in force does not have this surface."]
    pressed = {step.trigger for step in episode.steps if step.trigger}
    named = [
        (name, threshold)
        for name, threshold in surface.thresholds()
        if not name.startswith("triggers.") or name.split(".")[1] in pressed
    ]
    rows = [_row(name, threshold, url) for name, threshold in named]
    return [*head, "As they are in force now.", "", "| Threshold | Value | From | Set |", "|---|---|---|---|", *rows]


def _row(name: str, threshold: Threshold, url: str) -> str:
    found = threshold.provenance
    note = f"{_ORIGINS[found.origin]}: {_text(found.note)}"
    if found.link:
        link = f"{url}{found.link}" if found.link.startswith("/") else found.link
        note += f" (<{_link(link)}>)"
    return f"| `{name}` | {threshold.value:g} | {note} | {found.on} by {_text(found.author)} |"


def _money(micros: float) -> str:
    return f"{micros / 1e6:,.2f} USD"


def _day(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d}"


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _text(words: str) -> str:
    """What somebody wrote, on one line, with nothing in it that Markdown would take for its own."""
    return "".join(f"\\{one}" if one in "\\`*_{}[]<>()#|!~" else one for one in " ".join(words.split()))


def _link(address: str) -> str:
    """An address between angle brackets and in a cell of a table."""
    return "".join(_escaped(address))


def _escaped(address: str) -> Iterable[str]:
    for one in address:
        yield f"%{ord(one):02X}" if one in "<>| \t\n\r" else one
