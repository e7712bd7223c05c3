"""Rules about numbers, dates and units: in the values of JSON, and as people write them. Pure."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any, Final

from dataplane.documents import Node
from dataplane.validators.folding import Fold, fold, words
from dataplane.validators.gate import Openings
from dataplane.validators.json_paths import JsonPath, Place, locate, read_exactly
from dataplane.validators.kinds import Meter, Problem
from dataplane.validators.patterns import compile_re2, pattern, spans
from dataplane.validators.prose import Day, Number, dates, numbers, sentences
from dataplane.validators.values import Channel, Output

_BOUNDS: Final[Mapping[str, Callable[[Decimal, Decimal], bool]]] = {
    "gt": lambda value, bound: value > bound,
    "ge": lambda value, bound: value >= bound,
    "lt": lambda value, bound: value < bound,
    "le": lambda value, bound: value <= bound,
}
_WORDS: Final = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
MAX_BOUND: Final = 1e18
# What differs by less is held to be the same sum.
_CENT: Final = Decimal("0.005")
_CURRENCY: Final = r"[$€£¥₹₽₩]|(?:US|A|C|NZ|HK|S)\$|USD|EUR|GBP|JPY|CHF|CAD|AUD|SEK|NOK|DKK|PLN|CZK|INR|BRL|zł|Kč|kr"
_BEFORE_MONEY: Final = re.compile(rf"(?:{_CURRENCY})\s?[-−+]?\Z")
_BEHIND_MONEY: Final = re.compile(rf"\s?(?:{_CURRENCY}|euros?\b|dollars?\b|pounds?\b|cents?\b)", re.IGNORECASE)
_BEHIND_PERCENT: Final = re.compile(r"\s?(?:%|percent\b|per cent\b|prozent\b)", re.IGNORECASE)
_CURRENCY_SIGNS: Final = frozenset("$€£¥₹₽₩")
# RE2 finds in one pass where an amount or a percentage may be, and some more: it knows the spaces and digits of ASCII
# only, so all of Unicode's are named. What each number there is, is then asked of it.
_SPACE: Final = r"[\s\v\x1c-\x1f\x{85}\pZ]?"
_MONEY_LIKE: Final = pattern(
    rf"(?i)(?:{_CURRENCY}){_SPACE}[-−+]{{0,2}}\p{{Nd}}|\p{{Nd}}{_SPACE}(?:{_CURRENCY}|euro|dollar|pound|cent)"
)
_PERCENT_LIKE: Final = pattern(rf"(?i)\p{{Nd}}{_SPACE}(?:%|percent|per cent|prozent)")
_NEAR: Final = 6  # characters between what is like one and a number that shares its mark
_PERCENT_BEGINS: Final = frozenset("%pP")
_END_OF: Final = attrgetter("end")
_UNIT: Final = re.compile(
    r"[ \u00a0\u202f-]?([^\W\d_][^\s\d,;.:!?()\[\]\"']{0,15}|[%°‰µμΩ][^\s\d,;.:!?()\[\]\"']{0,8})"
)
MAX_UNITS: Final = 200


@dataclass(frozen=True, slots=True)
class Bounds:
    """What numbers have to keep to, by the name of the bound: gt, ge, lt, le."""

    bounds: tuple[tuple[str, Decimal], ...]

    @classmethod
    def parse(cls, members: Mapping[str, Node]) -> Bounds:
        """Read those that are given."""
        found = {
            name: Decimal(repr(members[name].number(above=-MAX_BOUND, maximum=MAX_BOUND)))
            for name in _BOUNDS
            if name in members
        }
        return cls(tuple(found.items()))

    def broken_by(self, value: Decimal) -> str | None:
        """The first bound that a number does not keep to, in words."""
        for name, bound in self.bounds:
            if not _BOUNDS[name](value, bound):
                return f"{_WORDS[name]} {bound.normalize():f}"
        return None


@dataclass(frozen=True, slots=True)
class NumberPath:
    """What the numbers at a path of the JSON have to be."""

    path: JsonPath
    bounds: Bounds
    is_whole: bool
    sum_of: JsonPath | None
    is_required: bool


@dataclass(frozen=True, slots=True)
class NumberParams:
    """Numbers have to make sense: those at paths of the JSON, and amounts of money and percentages in prose."""

    paths: tuple[NumberPath, ...]
    money: Bounds
    percent: Bounds

    @classmethod
    def parse(cls, node: Node) -> NumberParams:
        """Read them, or raise MalformedRelease.

        Shape: {"paths"?: [{"path": JSON path, "gt"?, "ge"?, "lt"?, "le"?: number, "integer"?: bool,
               "sum_of"?: JSON path, "required"?: bool}], "money"?: {"gt"?, "ge"?, "lt"?, "le"?}, "percent"?: the same}.
        """
        members = node.members(optional=("paths", "money", "percent"))
        if not members:
            node.refuse("checks nothing; give 'paths', 'money' or 'percent'")
        return cls(
            tuple(map(_parse_number_path, members["paths"].items(minimum=1))) if "paths" in members else (),
            *(_parse_bounds(members[name]) if name in members else Bounds(()) for name in ("money", "percent")),
        )

    @property
    def openings(self) -> Openings | None:
        """See `Openings`; None: it always looks."""
        if self.paths:
            return None
        likes = ((self.money, _MONEY_LIKE), (self.percent, _PERCENT_LIKE))
        return Openings(None, tuple(like for bounds, like in likes if bounds.bounds))

    def problems(self, channel: Channel, output: Output, meter: Meter) -> Iterator[Problem]:
        """As `Judging.problems`."""
        if self.paths and channel.is_json:
            yield from self._in_json(channel, meter)
        for what, bounds, like, is_meant in (
            ("amount of money", self.money, _MONEY_LIKE, _is_money),
            ("percentage", self.percent, _PERCENT_LIKE, _is_percentage),
        ):
            for number in _numbers_at(spans(like.regex, channel.text), channel.text, meter) if bounds.bounds else ():
                if is_meant(channel.text, number):
                    broken = bounds.broken_by(number.value)
                    if broken is not None:
                        yield Problem(f"{what} is not {broken}", number.start, number.end)

    def _in_json(self, channel: Channel, meter: Meter) -> Iterator[Problem]:
        value = _read(channel)
        if isinstance(value, Problem):
            yield value
            return
        meter.look()
        for wanted in self.paths:
            found = list(wanted.path.select(value))
            if wanted.is_required and not found:
                yield Problem(f"{wanted.path.text} is not there", 0, len(channel.text))
            for place, number in found:
                meter.tick()
                wrong = _wrong_number(number, wanted, value)
                if wrong is not None:
                    yield Problem(f"{wanted.path.text} {wrong}", *locate(channel.text, place, tick=meter.tick))


def _parse_bounds(node: Node) -> Bounds:
    members = node.members(optional=_BOUNDS)
    if not members:
        node.refuse("no bound; give gt, ge, lt or le")
    return Bounds.parse(members)


def _parse_number_path(node: Node) -> NumberPath:
    members = node.members("path", optional=(*_BOUNDS, "integer", "sum_of", "required"))
    if len(members) == 1:
        members["path"].refuse("nothing is asked of it; give a bound, 'integer', 'sum_of' or 'required'")
    return NumberPath(
        JsonPath.parse(members["path"]),
        Bounds.parse(members),
        "integer" in members and members["integer"].flag(),
        JsonPath.parse(members["sum_of"]) if "sum_of" in members else None,
        "required" in members and members["required"].flag(),
    )


def _wrong_number(number: Any, wanted: NumberPath, value: Any) -> str | None:
    if not isinstance(number, Decimal):
        return "is no number"
    broken = wanted.bounds.broken_by(number)
    if broken is not None:
        return f"is not {broken}"
    if wanted.is_whole and number != number.to_integral_value():
        return "is not whole"
    if wanted.sum_of is not None:
        parts = [part for _, part in wanted.sum_of.select(value) if isinstance(part, Decimal)]
        if abs(sum(parts, Decimal()) - number) >= _CENT:
            return f"is not the sum of {wanted.sum_of.text}"
    return None


def _read(channel: Channel) -> Any:
    try:
        return read_exactly(channel.text)
    except ValueError:
        return Problem("no JSON", 0, len(channel.text))


def _numbers_at(places: Iterable[tuple[int, int]], text: str, meter: Meter) -> Iterator[Number]:
    """The numbers of a text that reach into one of these places, which are in order, or begin right behind it."""
    at = 0
    for start, end in places:
        meter.tick()
        found = numbers(text)
        at = bisect_left(found, start, at, key=_END_OF)
        while at < len(found) and found[at].start <= end + _NEAR:
            yield found[at]
            at += 1


def _is_money(text: str, number: Number) -> bool:
    # Most numbers stand between spaces and small letters; then no expression is asked.
    before = text[max(0, number.start - 5) : number.start].rstrip("-−+ \u00a0\u202f")[-1:]
    if before and not before.islower() and _BEFORE_MONEY.search(text, max(0, number.start - 6), number.start):
        return True
    behind = text[number.end : number.end + 2].lstrip()[:1]
    return (behind.isalpha() or behind in _CURRENCY_SIGNS) and _BEHIND_MONEY.match(text, number.end) is not None


def _is_percentage(text: str, number: Number) -> bool:
    behind = text[number.end : number.end + 2].lstrip()[:1]
    return behind in _PERCENT_BEGINS and _BEHIND_PERCENT.match(text, number.end) is not None


@dataclass(frozen=True, slots=True)
class DatePath:
    """What the dates at a path of the JSON have to be. `form` is "iso", "iso_datetime", or as strptime has it."""

    path: JsonPath
    form: str
    not_before: date | None
    not_after: date | None
    is_required: bool


@dataclass(frozen=True, slots=True)
class DateParams:
    """Dates have to exist and lie where they can: those at paths of the JSON, and those in prose.

    `order` are paths of which the first may not be later than the second, compared one by one.
    """

    paths: tuple[DatePath, ...]
    order: tuple[tuple[JsonPath, JsonPath], ...]
    prose: tuple[date | None, date | None] | None

    @classmethod
    def parse(cls, node: Node) -> DateParams:
        """Read them, or raise MalformedRelease.

        Shape: {"paths"?: [{"path": JSON path, "format": iso | iso_datetime | such as "%d.%m.%Y", "not_before"?,
               "not_after"?: "YYYY-MM-DD", "required"?: bool}], "order"?: [[path, path]],
               "prose"?: {"not_before"?, "not_after"?}}; what `order` names has to be among `paths`.
        """
        members = node.members(optional=("paths", "order", "prose"))
        if not members:
            node.refuse("checks nothing; give 'paths' or 'prose'")
        paths = tuple(map(_parse_date_path, members["paths"].items(minimum=1))) if "paths" in members else ()
        order = []
        for pair in members["order"].items(minimum=1) if "order" in members else ():
            both = pair.items(minimum=2)
            if len(both) > 2:
                pair.refuse(f"expected two paths, got {len(both)}; give each pair by itself")
            for one in both:
                if one.value not in {known.path.text for known in paths}:
                    one.refuse(f"{one.value!r} is not among 'paths', which say how its dates are written")
            order.append((JsonPath.parse(both[0]), JsonPath.parse(both[1])))
        prose = None
        if "prose" in members:
            inner = members["prose"].members(optional=("not_before", "not_after"))
            prose = _parse_range(inner)
        return cls(paths, tuple(order), prose)

    def problems(self, channel: Channel, output: Output, meter: Meter) -> Iterator[Problem]:
        """As `Judging.problems`."""
        if self.paths and channel.is_json:
            yield from self._in_json(channel, meter)
        if self.prose is not None:
            for day in dates(channel.text):
                meter.tick()
                wrong = _wrong_day(day, *self.prose)
                if wrong is not None:
                    yield Problem(f"date {wrong}", day.start, day.end)

    def _in_json(self, channel: Channel, meter: Meter) -> Iterator[Problem]:
        value = _read(channel)
        if isinstance(value, Problem):
            yield value
            return
        meter.look()
        moments: dict[str, list[tuple[Place, datetime | None]]] = {}
        for wanted in self.paths:
            found = moments[wanted.path.text] = []
            for place, written in wanted.path.select(value):
                meter.tick()
                moment = _read_moment(written, wanted.form)
                found.append((place, moment))
                wrong = f"is no date as {wanted.form!r} writes it" if moment is None else None
                if moment is not None:
                    wrong = _outside(moment.date(), wanted.not_before, wanted.not_after)
                if wrong is not None:
                    yield Problem(f"{wanted.path.text} {wrong}", *locate(channel.text, place, tick=meter.tick))
            if wanted.is_required and not found:
                yield Problem(f"{wanted.path.text} is not there", 0, len(channel.text))
        for first, second in self.order:
            for (place, earlier), (_, later) in zip(moments[first.text], moments[second.text], strict=False):
                if (
                    earlier is not None
                    and later is not None
                    and earlier.replace(tzinfo=None) > later.replace(tzinfo=None)
                ):
                    where = locate(channel.text, place, tick=meter.tick)
                    yield Problem(f"{first.text} is later than {second.text}", *where)


def _parse_date_path(node: Node) -> DatePath:
    members = node.members("path", "format", optional=("not_before", "not_after", "required"))
    form = members["format"].text()
    if form not in {"iso", "iso_datetime"}:
        sample = datetime(2026, 11, 30)  # noqa: DTZ001 - a form without an offset is what is tried
        try:
            again = datetime.strptime(sample.strftime(form), form)  # noqa: DTZ007
        except ValueError:
            again = None
        if again is None or again.date() != sample.date():
            members["format"].refuse(
                f"{form!r} does not write a whole date; there are iso, iso_datetime and such as '%d.%m.%Y'"
            )
    return DatePath(
        JsonPath.parse(members["path"]),
        form,
        *_parse_range(members),
        "required" in members and members["required"].flag(),
    )


def _parse_range(members: Mapping[str, Node]) -> tuple[date | None, date | None]:
    days: list[date | None] = []
    for name in ("not_before", "not_after"):
        if name not in members:
            days.append(None)
            continue
        text = members[name].text()
        try:
            days.append(date.fromisoformat(text))
        except ValueError:
            members[name].refuse(f"{text[:40]!r} is not a date such as '2026-03-04'")
    first, last = days
    if first is not None and last is not None and last < first:
        members["not_after"].refuse(f"before not_before, {first}, so that no date would do")
    return first, last


def _read_moment(written: Any, form: str) -> datetime | None:
    if not isinstance(written, str):
        return None
    try:
        if form == "iso":
            return datetime.combine(date.fromisoformat(written), datetime.min.time())
        if form == "iso_datetime":
            return datetime.fromisoformat(written)
        return datetime.strptime(written, form)  # noqa: DTZ007 - compared with others of the same form only
    except ValueError:
        return None


def _outside(day: date, first: date | None, last: date | None) -> str | None:
    if first is not None and day < first:
        return f"is before {first}"
    if last is not None and day > last:
        return f"is after {last}"
    return None


def _wrong_day(day: Day, first: date | None, last: date | None) -> str | None:
    """What is wrong with a date in every way in which it can be read."""
    if not day.readings:
        return "does not exist"
    wrong = None
    for year, month, number in day.readings:
        if not 1 <= year <= 9999:
            wrong = "does not exist"
            continue
        wrong = _outside(date(year, month, number or 15), first, last)
        if wrong is None:
            return None
    return wrong


@dataclass(frozen=True, slots=True)
class UnitParams:
    """Numbers carry these units and no others.

    Attributes:
        forbid: Units that no number may carry.
        require: In a sentence with a number and one of `about`, a number has to carry one of these.
        about: Words; without any, every sentence with a number.
    """

    forbid: frozenset[str]
    require: frozenset[str]
    about: tuple[str, ...]
    _about: tuple[bytes, ...] = field(repr=False, compare=False)  # folded, with a space on either side
    _forbid_like: Any = field(repr=False, compare=False)  # RE2 of what may be a number with a unit of `forbid`

    @classmethod
    def parse(cls, node: Node) -> UnitParams:
        """Read them, or raise MalformedRelease. Shape: {"forbid"?: [unit], "require"?: [unit], "about"?: [word]}.

        Units are compared as they are written, for mg and Mg are not the same.
        """
        members = node.members(optional=("forbid", "require", "about"))
        if "forbid" not in members and "require" not in members:
            node.refuse("checks nothing; give 'forbid' or 'require'")
        if "about" in members and "require" not in members:
            members["about"].refuse("says where a unit is required, and none is; give 'require'")
        units = {name: members[name].texts(minimum=1) if name in members else () for name in ("forbid", "require")}
        for name, given in units.items():
            if len(given) > MAX_UNITS:
                members[name].refuse(f"{len(given)} units, more than {MAX_UNITS}")
        both = sorted(set(units["forbid"]) & set(units["require"]))
        if both:
            members["forbid"].refuse(f"{both[0]!r} is required too; take it out of one of the lists")
        about = members["about"].texts(minimum=1) if "about" in members else ()
        return cls(
            frozenset(units["forbid"]),
            frozenset(units["require"]),
            about,
            tuple(b" %b " % b" ".join(words(word)) for word in about),
            _compile_units(units["forbid"]),
        )

    def problems(self, channel: Channel, output: Output, meter: Meter) -> Iterator[Problem]:
        """As `Judging.problems`."""
        text = channel.text
        for number in _numbers_at(spans(self._forbid_like, text), text, meter) if self.forbid else ():
            unit, end = _unit_of(text, number.end)
            if unit in self.forbid:
                yield Problem(f"number in {unit!r}", number.start, end)
        meter.look()
        if not self.require or not self._is_about(text):
            return
        found = numbers(text)
        place = 0
        for start, end in sentences(text):
            meter.tick()
            units = []
            while place < len(found) and found[place].start < end:
                units.append(_unit_of(text, found[place].end)[0])
                place += 1
            if not units or self.require.intersection(units):
                continue
            if self._is_about(text[start:end]):
                yield Problem("number without one of the units that are required", start, end)

    def _is_about(self, text: str) -> bool:
        if not self._about:
            return True
        # The words are made of this fold, which is made already if other rules ask for it.
        folded = fold(text, Fold.LETTERS)[0].encode()
        if not any(all(map(folded.__contains__, word.split())) for word in self._about):
            return False
        said = b" %b " % b" ".join(words(text))
        return any(word in said for word in self._about)


def _compile_units(units: Iterable[str]) -> Any:
    """RE2 of what may be a number with one of these units; the longest that `_UNIT` takes are found by their start."""
    written = "|".join(re.escape(unit[:16].encode(errors="replace").decode()) for unit in units)
    return compile_re2(rf"\p{{Nd}}[ \x{{a0}}\x{{202f}}-]?(?:{written})")


def _unit_of(text: str, at: int) -> tuple[str, int]:
    """The unit that begins at `at` or one mark after it, and where it ends."""
    found = _UNIT.match(text, at)
    return (found[1], found.end()) if found is not None else ("", at)
