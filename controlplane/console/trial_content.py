"""What trials of validator policies found, as reviewers read it: per policy, per rule, and on the words themselves."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from controlplane.approvals.models import ChangeRequest
from controlplane.console.validator_words import layer_words
from controlplane.trials.models import TrialState, ValidatorTrial
from controlplane.trials.operations import trials_of
from controlplane.trials.reading import Example
from dataplane.validators.values import TEXT

# Around what was found, so that one sees what it is part of.
CONTEXT_CHARACTERS: Final = 120
# Of an answer in which nothing can be pointed at: its beginning.
BEGINNING_CHARACTERS: Final = 400


@dataclass(frozen=True, slots=True)
class RuleRow:
    """What one rule would have done, and the processor time that 99 of 100 answers took at most."""

    rule: str
    version: int
    layer: str
    counts: Mapping[str, int]
    p99: str


@dataclass(frozen=True, slots=True)
class TrialCard:
    """One policy of a change with its trial; None: it was not tried. `is_stale` says that nobody is at it any more."""

    policy: str
    routes: tuple[str, ...]
    trial: ValidatorTrial | None
    is_running: bool
    is_stale: bool
    rules: tuple[RuleRow, ...]

    @property
    def tone(self) -> str:
        """good: tried; watch: to be looked at; bad: not tried."""
        if self.trial is None or self.trial.state == TrialState.FAILED or self.is_stale:
            return "bad"
        if self.is_running:
            return "info"
        return "watch" if self.trial.would_block or self.trial.abstained or not self.trial.tried else "good"

    @property
    def text(self) -> str:
        """What there is to know of it in one sentence."""
        if self.trial is None:
            return "It was not tried on stored answers."
        if self.is_running:
            return f"It is being tried: {self.trial.tried:,} of {self.trial.available:,} stored answers so far."
        if self.is_stale:
            return "Its trial has not moved for minutes; try it again."
        if self.trial.state == TrialState.FAILED:
            return f"Its trial failed: {self.trial.problem}"
        return f"{self.trial.sentence[:1].upper()}{self.trial.sentence[1:]}."

    @property
    def notes(self) -> list[str]:
        """What the numbers do not speak of."""
        if self.trial is None or not self.trial.is_done:
            return []
        said = []
        if self.trial.tried < self.trial.available:
            said.append(
                f"Its time was over after {self.trial.tried:,} of {self.trial.available:,} stored answers; the others "
                "were not looked at."
            )
        if judges := self.trial.judges:
            names = ", ".join(judges)
            said.append(f"{names}: a model decides, which was not asked; these numbers do not speak of it.")
        return said


def trial_cards(change: ChangeRequest, *, now: datetime) -> list[TrialCard]:
    """Every validator policy that has to be tried before the change is approved; none for most changes."""
    cards = []
    for subject, trial in trials_of(change):
        running = trial is not None and trial.state == TrialState.RUNNING
        moving = trial is not None and trial.is_running(now)
        rules = tuple(_rows(trial)) if trial is not None and trial.tried else ()
        cards.append(TrialCard(subject.policy, subject.routes, trial, moving, running and not moving, rules))
    return cards


def _rows(trial: ValidatorTrial) -> Iterator[RuleRow]:
    for one in trial.rules:
        p99 = milliseconds(one["micros_p99"])
        yield RuleRow(one["rule"], one["version"], layer_words(one["layer"]), one["counts"], p99)


def milliseconds(micros: int | None) -> str:
    """Processor time for reading, with its unit."""
    if micros is None:
        return "–"
    return f"{micros / 1000:,.2f} ms" if micros < 10_000 else f"{micros / 1000:,.0f} ms"


def trial_checklist(cards: Sequence[TrialCard]) -> list[dict[str, Any]]:
    """The same for `reviews/_checklist.html`."""
    found = []
    for card in cards:
        met: bool | None = False
        if card.trial is not None and card.trial.is_done:
            # Nobody but a person can say whether it is right that something is withheld.
            met = True if card.trial.tried and not card.trial.would_block else None
        found.append({"text": f"{card.policy}: {card.text[:1].lower()}{card.text[1:].rstrip('.')}", "met": met})
    return found


# --- the words -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer; `what` names what was found there, "" in between."""

    text: str
    what: str = ""


@dataclass(frozen=True, slots=True)
class Passage:
    """What one rule found in one text of an answer. `where` is "the answer", or names the tool."""

    where: str
    pieces: tuple[Piece, ...]


def passages(example: Example) -> list[Passage]:
    """The words of an example, each text with what was found marked; none where they may not be read."""
    sample = example.sample
    if sample is None:
        return []
    texts = {TEXT: ("the answer", sample.text)}
    for place, (name, arguments) in enumerate(sample.tool_calls):
        texts[f"tool_calls[{place}]"] = (f"the arguments of {name}", arguments)
    spans: dict[str, list[Mapping[str, Any]]] = {}
    for span in example.found["spans"]:
        spans.setdefault(span["where"], []).append(span)
    if not spans:
        name, text = texts[TEXT] if sample.text else next(iter(texts.values()))
        return [Passage(name, (Piece(_cut(text)),))]
    return [Passage(texts[where][0], tuple(marked(texts[where][1], found))) for where, found in spans.items()]


def _cut(text: str) -> str:
    return text if len(text) <= BEGINNING_CHARACTERS else f"{text[:BEGINNING_CHARACTERS]}…"


def marked(text: str, spans: Sequence[Mapping[str, Any]]) -> Iterator[Piece]:
    """A text in pieces, those that were found named; what is far from any is left out, and says so by an ellipsis."""
    place = 0
    ordered = sorted(spans, key=lambda span: (span["start"], -span["end"]))
    for at, span in enumerate(ordered):
        start, end = max(span["start"], place), min(span["end"], len(text))
        if end <= start:
            continue  # part of one before it
        yield from _between(text[place:start], is_first=place == 0, is_last=False)
        names = [one["what"] for one in ordered[at:] if one["start"] < end and one["end"] > start]
        yield Piece(text[start:end], ", ".join(dict.fromkeys(names)))
        place = end
    yield from _between(text[place:], is_first=place == 0, is_last=True)


def _between(text: str, *, is_first: bool, is_last: bool) -> Iterator[Piece]:
    if is_first and len(text) > CONTEXT_CHARACTERS and not is_last:
        text = f"…{text[-CONTEXT_CHARACTERS:]}"
    elif is_last and len(text) > CONTEXT_CHARACTERS:
        text = f"{text[:CONTEXT_CHARACTERS]}…"
    elif len(text) > 2 * CONTEXT_CHARACTERS:
        text = f"{text[:CONTEXT_CHARACTERS]} … {text[-CONTEXT_CHARACTERS:]}"
    if text:
        yield Piece(text)
