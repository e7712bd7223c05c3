"""A ladder policy in words: what each rung changes, what moves a surface along them, whom that spares, and where every
number comes from; and what another policy would change. Pure.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date

from controlplane.console.ladder_words import SIGNAL_WORDS, number_words, signal_shown
from controlplane.console.policies import entry_effects, moved_numbers
from controlplane.console.policy_words import Effect
from controlplane.console.threshold_content import Groups, number_groups
from controlplane.console.threshold_words import Words
from controlplane.console.wording import listed
from controlplane.durations import duration
from controlplane.ladder.checks import Library
from controlplane.ladder.effects import TIER_NAMES, effect_preview
from dataplane.ladder.policy import RUNGS, Ladder, Rung, Surface, Trigger
from dataplane.ladder.signals import Budget, Gauge


@dataclass(frozen=True, slots=True)
class RungWords:
    """One rung: what it changes for callers, the copy that it shows, and what is missing before it can be engaged."""

    rung: Rung
    change: str
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SurfaceWords:
    """One surface of a policy, for reading. `groups`: its numbers by what they are of."""

    surface: Surface
    rungs: tuple[RungWords, ...]
    triggers: tuple[str, ...]
    pace: str
    promises: tuple[str, ...]
    groups: Groups


def surface_words(surface: Surface, known: Library, *, today: date) -> SurfaceWords:
    """A surface in words."""
    return SurfaceWords(
        surface=surface,
        rungs=tuple(
            RungWords(rung, rung_change(surface, number), tuple(known.missing(surface, rung)))
            for number, rung in surface.rungs.items()
        ),
        triggers=tuple(trigger_sentence(trigger) for trigger in surface.triggers.values()),
        pace=pace_sentence(surface),
        promises=tuple(promise_sentences(surface)),
        groups=number_groups(surface.thresholds(), surface_number_words(surface), group_of, today=today),
    )


def rung_change(surface: Surface, number: int) -> str:
    """What a rung adds to those below it, as the sheet that engages it says."""
    return effect_preview(surface, number, share=None).changes[-1].partition(": ")[2]


def trigger_sentence(trigger: Trigger) -> str:
    """What a trigger does, in one sentence."""
    signal = trigger.signal
    return (
        f"{trigger.slug}: {SIGNAL_WORDS[signal].label.lower()} at {signal_shown(signal, trigger.enter.value)} or more "
        f"for {duration(trigger.sustain_seconds.value)} press one rung up, to rung {trigger.highest} at most; "
        f"at {signal_shown(signal, trigger.exit.value)} or less they let go{_source(trigger.source)}"
    )


def _source(source: Budget | Gauge | None) -> str:
    if isinstance(source, Budget):
        over = duration(source.window_seconds.value)
        return f". Measured against {100 * source.objective.value:.10g} % of attempts that succeed, over {over}"
    return "" if source is None else f". Read from {source.metric} of {source.url}"


def pace_sentence(surface: Surface) -> str:
    """How fast a ladder moves by itself."""
    pace = surface.pace
    step, dwell, calm, longest = (
        duration(one.value)
        for one in (pace.step_seconds, pace.dwell_seconds, pace.calm_seconds, pace.longest_calm_seconds)
    )
    return (
        f"A rung is given {step} to work before the next one, and stays at least {dwell}. Everything has to be calm "
        f"for {calm} before one rung is let go, and for up to {longest} where pressure keeps coming back."
    )


def promise_sentences(surface: Surface) -> Iterator[str]:
    """What customers of each tier are promised, the most promised first."""
    for tier, name in TIER_NAMES.items():
        promise = surface.promises.get(tier)
        if promise is None:
            yield f"{name}: nothing is promised"
            continue
        places = promise.reserved_concurrency.value
        kept = f"{places:,.0f} requests at once are served in full, short of maintenance" if places else "no places"
        yield f"{name}: {kept}; {100 * promise.served_share.value:.10g} % of what they ask is answered by a model"


# --- numbers ---------------------------------------------------------------------------------------------------------
def surface_number_words(surface: Surface) -> Callable[[str], Words]:
    """The words for each threshold of a surface; those of triggers are said by what they look at."""
    signals = {slug: trigger.signal for slug, trigger in surface.triggers.items()}
    return lambda name: number_words(name, signals)


def group_of(name: str) -> str:
    """Under which heading a threshold stands, such as 'Trigger queue'."""
    part, _, rest = name.partition(".")
    owner = rest.rpartition(".")[0]
    if part == "rungs":
        return f"Rung {owner}, {RUNGS[int(owner)]}"
    if part == "triggers":
        return f"Trigger {owner}"
    if part == "promises":
        return f"Promised to {TIER_NAMES[owner]}"
    return "Pace" if part == "pace" else "In general"


# --- what another policy changes -------------------------------------------------------------------------------------
def ladder_effects(before: Ladder | None, after: Ladder) -> list[Effect]:
    """What putting `after` in force changes, surface by surface."""
    return entry_effects(
        before,
        after,
        gone=lambda surface: f"{surface.title} loses its ladder: whoever engages it, nothing happens",
        changed=_of_surface,
    )


def _of_surface(before: Surface | None, after: Surface) -> Iterator[Effect]:
    if before is None:
        rungs = listed([str(number) for number in after.rungs])
        triggers = tuple(trigger_sentence(trigger) for trigger in after.triggers.values())
        yield Effect(f"{after.title} gets a ladder with the rungs {rungs}, for {listed(list(after.routes))}", triggers)
        return
    if before.routes != after.routes:
        yield Effect(f"{after.title} is served by {listed(list(after.routes))}, not {listed(list(before.routes))}")
    if before.regulated != after.regulated:
        kept = "regulated now: legal signs its words too" if after.regulated else "regulated no longer"
        yield Effect(f"{after.title} is {kept}")
    for number in sorted({*before.rungs, *after.rungs}):
        yield from _of_rung(before.rungs.get(number), after.rungs.get(number), after)
    for slug in sorted({*before.triggers, *after.triggers}):
        yield from _of_trigger(slug, before.triggers.get(slug), after.triggers.get(slug), after)
    if moved := moved_numbers(before, after, surface_number_words(after), label=_number_label):
        yield Effect(f"Numbers of {after.title} move", moved)


def _number_label(name: str, words: Words) -> str:
    return f"{group_of(name)}: {words.label.lower()}"


def _of_rung(before: Rung | None, after: Rung | None, surface: Surface) -> Iterator[Effect]:
    if before is None and after is not None:
        yield Effect(f"{surface.title} gets rung {after.number}, {after.name}", (rung_change(surface, after.number),))
    elif before is not None and after is None:
        yield Effect(f"{surface.title} loses rung {before.number}, {before.name}: it is stepped over")
    elif before is not None and after is not None:
        details = [
            f"{noun} {old or 'nothing'} → {new or 'nothing'}"
            for noun, old, new in (
                ("Words", before.copy, after.copy),
                ("Known answers", before.answers, after.answers),
                ("Served by route", before.route, after.route),
                ("The model is told", before.instruction, after.instruction),
            )
            if old != new
        ]
        if details:
            yield Effect(f"Rung {after.number} of {surface.title} changes", tuple(details))


def _of_trigger(slug: str, before: Trigger | None, after: Trigger | None, surface: Surface) -> Iterator[Effect]:
    if before is None and after is not None:
        yield Effect(f"{surface.title} gets a trigger", (trigger_sentence(after),))
    elif before is not None and after is None:
        yield Effect(f"{surface.title} loses trigger {slug}: nothing engages a rung because of it")
    elif before is not None and after is not None:
        if before.signal != after.signal:
            looks = f"{SIGNAL_WORDS[after.signal].label.lower()}, not {SIGNAL_WORDS[before.signal].label.lower()}"
            yield Effect(f"Trigger {slug} of {surface.title} looks at {looks}")
        if before.highest != after.highest:
            yield Effect(f"Trigger {slug} of {surface.title} goes up to rung {after.highest}, not {before.highest}")
