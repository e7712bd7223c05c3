"""What the ladder's pages call things: signals, numbers of a policy, tiers, and for whom something is engaged. Pure."""

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from controlplane.console.threshold_words import Words
from controlplane.console.wording import listed
from controlplane.ladder.effects import TIER_NAMES
from dataplane.ladder.policy import OFF, RUNGS

EVERYBODY: Final = "everybody"
# What each signal reads, in what unit people type its thresholds, and what it is.
SIGNAL_WORDS: Final[Mapping[str, Words]] = {
    "queue_age_seconds": Words("Longest wait for quota", "s", "How long the oldest request that waits has waited"),
    "in_flight": Words("Requests under way", "requests", "Of callers, in the whole fleet"),
    "requests_per_second": Words("Requests coming in", "/s", "Whatever becomes of them; no rung makes them fewer"),
    "backlog_age_seconds": Words("Oldest question put off", "s", "How long it has waited for its answer by now"),
    "quota_utilisation": Words("Fullest account", "%", "Of its scarcest limit", 100),
    "breakers_open_share": Words("Lanes held back", "%", "Of the surface's lanes", 100),
    "error_budget_burn": Words("Error budget burn", "×", "How many times as fast as it may the budget is spent"),
    "gpu_utilisation": Words("Busiest GPU", "%", "Of the self-hosted lanes", 100),
}
_NUMBERS: Final[Mapping[str, Words]] = {
    "eta_seconds": Words("Told to wait", "s", "What users read where nobody knows better"),
    "emergency_minutes": Words("Emergency order", "min", "At most so long on a host that nobody else reaches"),
    "max_output_tokens": Words("Longest answer", "tokens", "Longer ones are cut off while the rung is engaged"),
    "sustain_seconds": Words("Pressed for", "s", "So long it has to read at or above its number before it presses"),
    "objective": Words("Objective", "%", "The share of attempts that is to succeed", 100),
    "window_seconds": Words("Window", "s", "Over how long failures are looked at"),
    "step_seconds": Words("Between steps up", "s", "At least so long a rung is given to work"),
    "dwell_seconds": Words("Stays", "s", "At least so long a rung is engaged once it is"),
    "calm_seconds": Words("Calm", "s", "So long everything has to be calm before one rung is let go"),
    "longest_calm_seconds": Words("Longest calm", "s", "However often pressure came back"),
    "reserved_concurrency": Words("Reserved places", "requests", "So many at once are served in full, in the fleet"),
    "served_share": Words("Answered by a model", "%", "Of all that they ask while rungs are engaged", 100),
}


def number_words(name: str, signals: Mapping[str, str]) -> Words:
    """The words for a threshold of a surface, such as 'triggers.queue.enter'.

    Args:
        signals: What each trigger of the surface looks at, by its slug.
    """
    part, _, rest = name.partition(".")
    owner, _, member = rest.rpartition(".")
    if part == "triggers" and member in ("enter", "exit"):
        signal = SIGNAL_WORDS[signals[owner]]
        label, meaning = (
            ("Presses at", "From here on it presses the ladder up")
            if member == "enter"
            else ("Calm at", "Above this it lets nothing down")
        )
        return Words(label, signal.unit, meaning, signal.scale, measure=signals[owner])
    return _NUMBERS[member or name]


def signal_shown(signal: str, value: float | None) -> str:
    """A reading with its unit, to what can be told apart at a glance; a dash where nobody could take it."""
    if value is None:
        return "no reading"
    words = SIGNAL_WORDS[signal]
    read = words.read(value)
    digits = 0 if float(read).is_integer() or abs(read) >= 100 else 1
    return f"{read:,.{digits}f} {words.unit}"


def tiers_shown(tiers: Collection[str]) -> str:
    """Tiers as people name them, the most promised first: 'VIP and Free'; 'everybody' where it is all of them."""
    names = [name for tier, name in TIER_NAMES.items() if tier in tiers]
    return EVERYBODY if not names or len(names) == len(TIER_NAMES) else listed(names)


def scope_shown(regions: Iterable[str], tiers: Collection[str]) -> str:
    """For whom something is engaged: 'everybody', 'Free in eu-west'."""
    where = sorted(regions)
    return f"{tiers_shown(tiers)} in {listed(where)}" if where else tiers_shown(tiers)


def rung_shown(number: int) -> str:
    """A rung as people name it: 'rung 3, Cheaper model'; 'no rung' for OFF."""
    return "no rung" if number == OFF else f"rung {number}, {RUNGS[number]}"


def clock(moment: datetime) -> str:
    """The time of day: '14:30 UTC'."""
    return f"{moment.astimezone(UTC):%H:%M} UTC"
