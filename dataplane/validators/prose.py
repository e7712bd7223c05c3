"""Sentences, numbers, dates and names in what people write. Pure.

Every expression here is linear by its shape: nothing in it is tried twice at one place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from functools import lru_cache
from typing import Final

from dataplane.records import record
from dataplane.validators.patterns import compile_re2, spans

_MONTHS: Final = {
    name: number
    for number, names in enumerate(
        (
            "january jan januar janvier enero gennaio janeiro januari",
            "february feb februar février febrero febbraio fevereiro februari",
            "march mar märz mars marzo março maart",
            "april apr avril abril aprile",
            "may mai mayo maggio maio mei",
            "june jun juni juin junio giugno junho",
            "july jul juli juillet julio luglio julho",
            "august aug août agosto augustus",
            "september sep sept septembre septiembre settembre setembro",
            "october oct oktober okt octobre octubre ottobre outubro",
            "november nov novembre noviembre novembro",
            "december dec dezember dez décembre diciembre dicembre dezembro",
        ),
        start=1,
    )
    for name in names.split()
}
_MONTH: Final = "|".join(sorted(_MONTHS, key=len, reverse=True))
# RE2 finds where a date may be: Python's engine would try every month at every character.
_DATE_LIKE: Final = compile_re2(
    r"(?i)[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:T[0-9]{2}:[0-9]{2}[0-9:.+Z-]{0,20})?"
    r"|[0-9]{1,2}[./-][0-9]{1,2}[./-](?:[0-9]{4}|[0-9]{2})"
    rf"|[0-9]{{1,2}}(?:st|nd|rd|th|\.|º|er)?(?: of| de)? (?:{_MONTH})\.?,?(?: of| de)? [0-9]{{4}}"
    rf"|(?:{_MONTH})\.? [0-9]{{1,2}}(?:st|nd|rd|th)?,? [0-9]{{4}}|(?:{_MONTH})\.?,?(?: of| de)? [0-9]{{4}}"
)
_DATE: Final = re.compile(
    r"(?P<iso>(\d{4})-(\d{1,2})-(\d{1,2}))|(?P<figures>(\d{1,2})([./-])(\d{1,2})\7(\d+))"
    r"|(?P<day_first>(\d{1,2})[^\d ]*(?: of| de)? ([^\W\d]+)\.?,?(?: of| de)? (\d{4}))"
    r"|(?P<month_first>([^\W\d]+)\.? (\d{1,2})[^\d ]*,? (\d{4}))"
    r"|(?P<month>([^\W\d]+)\.?,?(?: of| de)? (\d{4}))",
    re.IGNORECASE,
)
_NEVER: Final = 2**62
_BEFORE_DATE: Final = frozenset("_.,/-")
# Digits with marks between them, as one; a mark at the end is the sentence's. It begins with a digit, so that the
# engine can skip to one, and only then looks at what is before: neither a code nor a longer number.
_NUMBER: Final = re.compile(
    r"\d(?<![\w.,]\d)(?:\d{0,2}(?:[ '’\u00a0\u202f]\d{3}(?!\d))++(?:[.,]\d++)?+|\d*+(?:[.,]\d++)*+)(?![A-Za-z]+\d)"
)
_SIGNS: Final = frozenset("-−+")
# What `read_number` reads whatever its digits are, if they are not too many.
_SIMPLE: Final = re.compile(r"[-−+]?\d++(?:[.,]\d++)?\Z")
_SPACES: Final = re.compile(r"[ '’\u00a0\u202f]")
_GOES_ON: Final = re.compile(r"-\d")
# Several rules ask the same of an answer, one after the other.
KEPT_TEXTS: Final = 8
_MAX_DIGITS: Final = 40  # of what is a number and no code
_GROUPED: Final = re.compile(r"(\d{1,3})((?:([ .,'’\u00a0\u202f])\d{3})(?:\3\d{3})*)(?:([.,])(\d+))?\Z")
# As with numbers, the engine can skip to the first character; and of many marks in a row only the first is tried.
_END: Final = re.compile(
    r"[.!?…。！？\n](?:(?<=\n)\n*+|(?<!\n)(?<![.!?…。！？].)[.!?…。！？]*+[\"'”’)\]]*+(?:(?:\s*+\[[^\[\]\n]{1,80}\])++)?+"
    r"(?:(?=\s|\Z)|(?<=[。！？])))"
)
_ABBREVIATIONS: Final = frozenset(
    word
    for line in ("e.g i.e etc z.b d.h bzw vs approx ca nr fig vol pp", "mr mrs ms dr prof st inc ltd co")
    for word in line.split()
)
_ENDS_OF_ABBREVIATIONS: Final = frozenset(word[-2:] for word in _ABBREVIATIONS)


@record
class Number:
    """A number in a text, as it is written there."""

    start: int
    end: int
    written: str

    @property
    def readings(self) -> tuple[Decimal, ...]:
        """Every value that it may be written for, the likelier first: `1.234` is 1.234 to some, 1234 to others."""
        return read_number(self.written)

    @property
    def value(self) -> Decimal:
        """The likelier reading."""
        return self.readings[0]


@record
class Day:
    """A date in a text: year, month, day (None: only the month is named), in every order it may be written in.

    `readings` are those that exist; a date such as 30 February has none.
    """

    start: int
    end: int
    readings: tuple[tuple[int, int, int | None], ...]


@lru_cache(maxsize=KEPT_TEXTS)
def dates(text: str) -> tuple[Day, ...]:
    """The dates of a text, in order."""
    found = []
    for start, end in spans(_DATE_LIKE, text):
        if start and (text[start - 1].isalnum() or text[start - 1] in _BEFORE_DATE):
            continue
        if text[end : end + 1].isalnum() or text[end : end + 1] in {"_", "/"} or _GOES_ON.match(text, end):
            continue
        match = _DATE.match(text, start, end)
        if match is not None:
            found.append(Day(start, end, tuple(dict.fromkeys(_readings(match)))))
    return tuple(found)


def _readings(found: re.Match[str]) -> Iterator[tuple[int, int, int | None]]:
    # The groups are counted: `iso` is 1 and its parts 2 to 4, and so on.
    if found["iso"]:
        candidates = [(int(found[2]), int(found[3]), int(found[4]))]
    elif found["figures"]:
        first, second, year = int(found[6]), int(found[8]), _full_year(found[9])
        orders = ((first, second), (second, first)) if found[7] == "/" else ((second, first), (first, second))
        candidates = [(year, month, day) for month, day in orders]
    elif found["day_first"]:
        candidates = [(int(found[13]), _MONTHS[found[12].lower()], int(found[11]))]
    elif found["month_first"]:
        candidates = [(int(found[17]), _MONTHS[found[15].lower()], int(found[16]))]
    else:
        yield int(found[20]), _MONTHS[found[19].lower()], None
        return
    for year, month, day in candidates:
        try:
            date(year, month, day)
        except ValueError:
            continue
        yield year, month, day


def _full_year(digits: str) -> int:
    year = int(digits)
    if len(digits) == 4:
        return year
    return 2000 + year if year < 70 else 1900 + year


@lru_cache(maxsize=KEPT_TEXTS)
def numbers(text: str) -> tuple[Number, ...]:
    """The numbers of a text, in order, but for those within its dates."""
    days = ((day.start, day.end) for day in dates(text))
    begins, ends = next(days, (_NEVER, _NEVER))
    found = []
    for match in _NUMBER.finditer(text):
        start, end = match.span()
        if end > begins:
            while ends <= start:
                begins, ends = next(days, (_NEVER, _NEVER))
            if end > begins:
                continue
        if start and text[start - 1] in _SIGNS and not (start > 1 and text[start - 2].isalnum()):
            start -= 1
        written = text[start:end]
        if (len(written) <= _MAX_DIGITS and (written.isdecimal() or _SIMPLE.match(written))) or read_number(written):
            found.append(Number(start, end, written))
    return tuple(found)


def written_numbers(text: str) -> list[str]:
    """The numbers of a text as they are written, without their signs; those of dates too."""
    return _NUMBER.findall(text)


def read_number(text: str) -> tuple[Decimal, ...]:
    """Every value that a number may be written for, the likelier first; none if it is no number."""
    if text.isdecimal() and len(text) <= _MAX_DIGITS:
        return (Decimal(text),)
    sign = "-" if text[:1] in {"-", "−"} else ""
    digits = text.lstrip("-−+")
    if len(digits) > _MAX_DIGITS:
        return ()
    if digits.isdecimal():
        return (Decimal(sign + digits),)
    grouped = _GROUPED.match(digits)
    if grouped is None or grouped[3] == grouped[4]:
        has_one_mark = digits.count(".") + digits.count(",") == 1 and not _SPACES.search(digits)
        return (Decimal(sign + digits.replace(",", ".")),) if has_one_mark else ()
    whole = sign + grouped[1] + "".join(filter(str.isdecimal, grouped[2]))
    if grouped[5]:
        return (Decimal(f"{whole}.{grouped[5]}"),)
    if len(grouped[2]) > 4 or grouped[3] not in ".,":
        return (Decimal(whole),)
    as_decimal = Decimal(sign + digits.replace(",", "."))
    # 1.234 is a decimal in English, which most models write, and 1,234 is none.
    return (as_decimal, Decimal(whole)) if grouped[3] == "." else (Decimal(whole), as_decimal)


@lru_cache(maxsize=KEPT_TEXTS)
def sentences(text: str) -> tuple[tuple[int, int], ...]:
    """Where each sentence or line begins and ends; citations in brackets behind its mark belong to it."""
    found = []
    start = 0
    for match in _END.finditer(text):
        mark, end = match.span()
        if text[mark] == "." and _is_abbreviation(text, start, mark):
            continue
        if not text[start:end].isspace():
            found.append((start, end))
        start = end
    if text[start:].strip():
        found.append((start, len(text)))
    return tuple(found)


def _is_abbreviation(text: str, start: int, end: int) -> bool:
    last = text[end - 2 : end].lower()
    if last not in _ENDS_OF_ABBREVIATIONS and not last[-1:].isspace():
        return False
    word = text[max(start, end - 12) : end].rsplit(None, 1)[-1:] or [""]
    return word[0].lower().lstrip("(") in _ABBREVIATIONS
