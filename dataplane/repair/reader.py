"""Reads JSON out of what a model wrote: the rungs of the ladder that ask nobody (R0 to R3). Pure.

What is JSON already stays the very same text. What is not is read in every way that the rungs know, and the most
certain reading that meets the schema is taken, if its label is allowed; else what is wrong is told, the same for the
same text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import orjson

from dataplane.messages import Json
from dataplane.repair import candidates, extraction, missing
from dataplane.repair.coerce import Coercer
from dataplane.repair.extraction import OBJECT, OBJECT_OR_LIST, Broken, Extract
from dataplane.repair.labels import Edit, Label, Mode, Rung, worst
from dataplane.repair.modes import Problem, mode_of_edits, mode_of_problems, why
from dataplane.repair.transducer import Transducer, Unreadable
from dataplane.repair.values import MAX_CHARACTERS, MAX_DEPTH, NotJson, Reading, is_too_deep, key, parse
from dataplane.schema_check import SchemaChecker

Wants = Literal["object", "value"]

_ANY_OBJECT: Final[Json] = {"type": "object"}
_LABELS: Final = {label: place for place, label in enumerate(Label)}
_NOT_JSON: Final = object()
_ORJSON_MAY_REFUSE: Final = re.compile(r"\\u[dD]|\d[eE]\+?\d\d|(?<!\d)\d{300}")


@dataclass(frozen=True, slots=True)
class Repaired:
    """JSON that meets the schema, and how it came about.

    Attributes:
        text: JSON; on rung STRICT the very same str that was read.
        rung: The highest that was needed, STRICT to COERCE.
        edits: What was changed; none on STRICT.
        mode: What was wrong; None where nothing was.
    """

    text: str
    rung: Rung
    edits: tuple[Edit, ...]
    mode: Mode | None

    @property
    def label(self) -> Label:
        """How far it may be trusted."""
        return worst(edit.label for edit in self.edits)


@dataclass(frozen=True, slots=True)
class Unrepaired:
    """A text that gave no reading that may be handed over.

    Attributes:
        why: What is wrong, for people and for a model that is asked again; the same for the same text.
        missing: JSON pointers of the required fields that are absent.
        best: The best reading that was refused by its label or the schema only.
        is_cut: The text ended too early.
    """

    mode: Mode
    why: str
    missing: tuple[str, ...]
    best: Repaired | None
    is_cut: bool


@dataclass(frozen=True, slots=True)
class _Judged:
    """A reading, the rung that it took, and what the schema refuses of it."""

    reading: Reading
    rung: Rung
    problems: tuple[Problem, ...]

    @property
    def label(self) -> Label:
        return worst(edit.label for edit in self.reading.edits)

    def as_repaired(self) -> Repaired:
        edits = self.reading.edits
        return Repaired(self.reading.text, self.rung, edits, mode_of_edits(edits))


class JsonReader:
    """Reads texts that are to meet one schema. Cheap to make: what is compiled is kept by `schemas`."""

    __slots__ = ("_coercions", "_labels", "_schema", "_schemas", "_starts", "_validator")

    def __init__(
        self,
        schema: Json | None,
        *,
        coercions: frozenset[str],
        labels: frozenset[Label],
        wants: Wants | None = None,
        schemas: SchemaChecker | None = None,
    ) -> None:
        """Make one for a request.

        Args:
            schema: What the value has to meet; one that cannot be compiled is not checked.
            coercions: Names of `policy.COERCIONS` that are declared.
            labels: The edits that may be handed over.
            wants: "object" where nothing else will do; None: as the schema says, and an object without one.
            schemas: Where compiled schemas are kept.
        """
        if wants is None:
            wants = "object" if schema is None or schema.get("type") == "object" or "properties" in schema else "value"
        self._starts = OBJECT if wants == "object" else OBJECT_OR_LIST
        self._coercions = coercions
        self._labels = labels
        self._schemas = SchemaChecker() if schemas is None else schemas
        self._schema = schema
        self._validator: Any = None

    @property
    def starts(self) -> str:
        """With what a value may begin, `{` or one of `{[`."""
        return self._starts

    @property
    def labels(self) -> frozenset[Label]:
        """The edits that may be handed over."""
        return self._labels

    @property
    def coerces(self) -> bool:
        """Whether what is read may be changed to meet the schema."""
        return bool(self._coercions) and self._schema is not None

    def read(self, text: str, *, is_cut: bool = False, sent: str = "") -> Repaired | Unrepaired:
        """Return the most certain reading that may be handed over, or what is wrong.

        Args:
            is_cut: The text was cut off, so that nothing that completes it is better than invented.
            sent: What was handed over of it already: readings that begin so come first.
        """
        if len(text) > MAX_CHARACTERS:
            told = f"it has {len(text)} characters, and at most {MAX_CHARACTERS} are read"
            return Unrepaired(Mode.TOO_LARGE, told, (), None, is_cut)
        value = _strict(text)
        if value is not _NOT_JSON:
            if is_too_deep(text):
                return Unrepaired(Mode.TOO_DEEP, f"it is nested more than {MAX_DEPTH} deep", (), None, is_cut)
            return self._of_json(text, value, is_cut=is_cut)
        return self._of_other(text, is_cut=is_cut, sent=sent)

    def _of_json(self, text: str, value: Any, *, is_cut: bool) -> Repaired | Unrepaired:
        """R0, and R3 for what is JSON but not the value that is wanted."""
        validator = self._compiled()
        edits: tuple[Edit, ...] = ()
        if is_cut and isinstance(value, int | float) and not isinstance(value, bool):
            # Of all values, only a number can be cut off and still be one.
            edits = (Edit.of("truncated", len(text), "", "", Label.INVENTED),)
        elif (self._starts != OBJECT or isinstance(value, dict)) and (validator is None or _is_valid(validator, value)):
            return Repaired(text, Rung.STRICT, (), None)
        return self._chosen([self._judged(Reading(text, edits), Rung.STRICT)], text, None, is_cut=is_cut, sent="")

    def _of_other(self, text: str, *, is_cut: bool, sent: str) -> Repaired | Unrepaired:
        """R1 to R3. The cheap rungs end the search where they leave no doubt."""
        extracted = extraction.extract(text, starts=self._starts)
        judged = self._told_apart([self._judged(one, _rung(one)) for one in extraction.readings(extracted)])
        broken = extracted.most_likely_broken()
        if judged and broken is not None and not broken.is_meant:
            broken = None  # a remark in brackets, beside a value
        if not judged and self._starts != OBJECT:
            bare = extraction.bare_value(text)
            if bare is not None and _strict(bare.text) is not _NOT_JSON:
                judged = [self._judged(bare, Rung.EXTRACT)]
        is_lost = broken is not None and broken.problem.mode is Mode.TOO_DEEP  # what no mark more would change
        if not is_lost and not any(self._is_certain(one, sent) for one in judged):
            found = [self._judged(one, Rung.SYNTAX) for one in self._completed(extracted, broken, is_cut=is_cut)]
            judged += found
            if not any(self._is_certain(one, sent) for one in found):
                judged += [self._judged(one, Rung.SYNTAX) for one in _guessed(extracted, broken)]
        return self._chosen(judged, text, broken, is_cut=is_cut, sent=sent)

    def _completed(self, extracted: Extract, broken: Broken | None, *, is_cut: bool) -> list[Reading]:
        """The readings with one mark more: of the value that is broken, and of everything, where it may be a part."""
        start, end = extracted.span
        start = end - len(extracted.text[start:end].lstrip())
        regions = {(start, end)}
        if broken is not None:
            regions.add((broken.at, broken.end))
        found: dict[str, list[Reading]] = {}
        for at, stop in sorted(regions):
            region = extracted.text[at:stop]
            failed_at, is_short = _failure(region)
            given, is_all = missing.readings(
                region, failed_at=failed_at, is_cut=is_cut or is_short, starts=self._starts
            )
            certain = [one for one in given if worst(edit.label for edit in one.edits) is Label.LOSSLESS]
            about = extraction.around(extracted.text, at, stop)
            for one in given:
                edits = one.edits
                if not is_all or len(certain) != 1:
                    edits = tuple(replace(edit, label=Label.INVENTED) for edit in edits)
                edits = tuple(replace(edit, at=edit.at + at) for edit in edits)
                read = Reading(extraction.lead(extracted.text, at) + one.text, (*about, *edits))
                found.setdefault(key(one.text), []).append(read)
        if len({said for said, ways in found.items() if any(_is_lossless(way) for way in ways)}) > 1:
            return [_guess(way) for ways in found.values() for way in ways]
        return [way for ways in found.values() for way in ways]

    def _told_apart(self, judged: list[_Judged]) -> list[_Judged]:
        """Of several values, the only one that meets the schema is told apart by it."""
        fitting = {key(one.reading.text) for one in judged if not one.problems}
        if self._schema is None or self._compiled() is None or len(fitting) != 1 or len(judged) == 1:
            return judged
        return [one if one.problems else replace(one, reading=extraction.told_apart(one.reading)) for one in judged]

    def _judged(self, reading: Reading, rung: Rung) -> _Judged:
        """A reading held against the schema, and coerced to it if that can be done."""
        validator = self._compiled()
        value = parse(reading.text)
        wrong = []
        if self._starts == OBJECT and not isinstance(value, dict):
            kind = "list" if isinstance(value, list) else "text" if isinstance(value, str) else "bare value"
            wrong.append(Problem("", Mode.WRONG_TYPE, f"an object is wanted, and it is a {kind}"))
        if validator is None:
            return _Judged(reading, rung, tuple(wrong))
        if not wrong and _is_valid(validator, value):
            return _Judged(reading, rung, ())
        coerced, problems = Coercer(self._wanted(), validator, coercions=self._coercions).coerce(reading)
        if coerced is None or (self._starts == OBJECT and not coerced.text.lstrip().startswith("{")):
            return _Judged(reading, rung, tuple(problems or wrong))
        return _Judged(coerced, rung if coerced is reading or coerced == reading else Rung.COERCE, ())

    def _chosen(
        self, judged: list[_Judged], text: str, broken: Broken | None, *, is_cut: bool, sent: str
    ) -> Repaired | Unrepaired:
        """The reading that is handed over, or why none is."""

        def order(one: _Judged) -> tuple[bool, bool, int, int]:
            follows = one.reading.text.startswith(sent)
            return one.label not in self._labels, not follows, _LABELS[one.label], len(one.reading.edits)

        fitting = min((one for one in judged if not one.problems), key=order, default=None)
        if fitting is not None and fitting.label in self._labels:
            return fitting.as_repaired()
        if fitting is not None:
            best = fitting.as_repaired()
            edit = next(edit for edit in best.edits if edit.label is best.label)
            told = f"it can only be read with an edit that is {best.label}, {edit.kind} at "
            told += edit.path or f"character {edit.at}"
            if broken is not None:
                told = f"{broken.problem}; {told}"
            is_short = is_cut or (broken is not None and broken.problem.is_cut)
            mode = mode_of_edits(best.edits) or Mode.SYNTAX
            if broken is not None and edit.kind == "library":
                mode = broken.problem.mode
            mode = Mode.TRUNCATED if is_short else mode
            return Unrepaired(mode, told, (), best, is_short)
        refused = min(judged, key=order, default=None)
        return self._refused(refused, text, broken, is_cut=is_cut)

    def _refused(self, refused: _Judged | None, text: str, broken: Broken | None, *, is_cut: bool) -> Unrepaired:
        """What is wrong with a text of which no reading meets the schema, or that has none."""
        is_short = is_cut or (broken is not None and broken.problem.is_cut)
        problems = () if refused is None else refused.problems
        absent = tuple(dict.fromkeys(name for problem in problems for name in problem.missing))
        if refused is None:
            absent = self._required()
        best = None if refused is None else refused.as_repaired()
        facts = [] if broken is None else [str(broken.problem)]
        if refused is not None:
            facts.append(why(problems))
        if is_short:
            return Unrepaired(Mode.TRUNCATED, "; ".join(facts) or "the text ends before a value", absent, best, True)
        if refused is not None and (broken is None or refused.label is Label.LOSSLESS):
            return Unrepaired(mode_of_problems(problems), facts[-1], absent, best, False)
        if broken is not None:
            return Unrepaired(broken.problem.mode, "; ".join(facts), absent, best, False)
        kind = "an object" if self._starts == OBJECT else "an object or a list"
        if not text.strip():
            return Unrepaired(Mode.EMPTY, f"it is empty, and {kind} is wanted", absent, None, False)
        if is_too_deep(text):
            return Unrepaired(Mode.TOO_DEEP, f"it is nested more than {MAX_DEPTH} deep", absent, None, False)
        told = f"no value begins in its {len(text)} characters, and {kind} is wanted"
        return Unrepaired(Mode.EXTRA_PROSE, told, absent, None, False)

    def _required(self) -> tuple[str, ...]:
        """The fields that an object needs, where nothing of it is there."""
        validator = self._compiled()
        if validator is None:
            return ()
        _, problems = Coercer(self._wanted(), validator, coercions=frozenset()).coerce(Reading("{}", ()))
        return tuple(dict.fromkeys(name for problem in problems for name in problem.missing))

    def _is_certain(self, one: _Judged, sent: str) -> bool:
        return not one.problems and one.label is Label.LOSSLESS and one.reading.text.startswith(sent)

    def _wanted(self) -> Json:
        return _ANY_OBJECT if self._schema is None else self._schema

    def _compiled(self) -> Any:
        """The validator; None where nothing is checked."""
        if self._validator is None:
            if self._schema is not None:
                self._validator = self._schemas.validator(self._schema)
            if self._validator is None and self._starts == OBJECT:
                self._validator = self._schemas.validator(_ANY_OBJECT)
        return self._validator


def _strict(text: str) -> Any:
    """The value of a text that is JSON, as a schema sees it; _NOT_JSON for another."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        # It refuses some JSON too: numbers beyond its floats, and lone surrogates in escapes.
        if not _ORJSON_MAY_REFUSE.search(text):
            return _NOT_JSON
    try:
        return parse(text)
    except NotJson:
        return _NOT_JSON


def _is_valid(validator: Any, value: Any) -> bool:
    try:
        valid: bool = validator.is_valid(value)
    except ValueError:  # a lone surrogate
        return False
    return valid


def _rung(reading: Reading) -> Rung:
    """What stands around a value is extracted; any other edit is one of its syntax."""
    extracts = {"byte_order_mark", "fence", "prose", "repeated", "other_value"}
    return Rung.EXTRACT if all(edit.kind in extracts for edit in reading.edits) else Rung.SYNTAX


def _failure(region: str) -> tuple[int, bool]:
    """Where a text cannot be read on, or more comes than one value; and whether it only ends too early."""
    reader = Transducer()
    try:
        reader.feed(region)
        reader.finish()
    except Unreadable as problem:
        return problem.at, problem.is_cut
    return len(region) - len(reader.rest.lstrip()), False


def _guessed(extracted: Extract, broken: Broken | None) -> Iterator[Reading]:
    """What is left of a value that was cut off, and what the library makes of it."""
    text = extracted.text
    if broken is None:
        return
    about = extraction.around(text, broken.at, broken.end)
    edits = (*about, Edit.of("truncated", broken.problem.at, text[broken.problem.at : broken.end], "", Label.INVENTED))
    prefix = broken.prefix[: broken.whole_values]
    if prefix and broken.problem.is_cut:
        yield Reading(extraction.lead(text, broken.at) + prefix + broken.closers, edits)
    guess = candidates.library_reading(text[broken.at : broken.end])
    if guess is not None:
        edits = tuple(replace(edit, at=edit.at + broken.at) for edit in guess.edits)
        yield Reading(guess.text, (*about, *edits))


def _is_lossless(reading: Reading) -> bool:
    return worst(edit.label for edit in reading.edits) is Label.LOSSLESS


def _guess(reading: Reading) -> Reading:
    edits = tuple(
        replace(edit, label=Label.INVENTED) if edit.kind == "missing_mark" else edit for edit in reading.edits
    )
    return Reading(reading.text, edits)
