"""Numbers, dates and units that cannot be right, in JSON and in prose."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.documents import MalformedRelease
from dataplane.validators.check import check
from dataplane.validators.prose import dates, numbers, read_number, sentences
from dataplane.validators.values import Output
from tests.dataplane.validators.policies import no_time, one


def objections(kind: str, params: dict[str, Any], text: str, *, is_json: bool = False) -> list[tuple[str, str]]:
    """What a rule objects to, and in which words of the text."""
    (finding,) = check([one(kind, params)], Output(text, is_json=is_json), cpu_clock=no_time).findings
    return [(span.what, text[span.start : span.end]) for span in finding.spans]


ORDER = '{"items": [{"price": 19.99, "n": 2}, {"price": -1, "n": 1.5}], "total": 18.99, "vat": "x", "a b": 0}'


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ({"path": "$.items[*].price", "gt": 0}, [("$.items[*].price is not above 0", "-1")]),
        ({"path": "$.items[*].price", "ge": -1, "lt": 19.99}, [("$.items[*].price is not below 19.99", "19.99")]),
        ({"path": "$.items[*].n", "integer": True}, [("$.items[*].n is not whole", "1.5")]),
        ({"path": "$.total", "sum_of": "$.items[*].price"}, []),
        ({"path": "$.total", "sum_of": "$.items[*].n"}, [("$.total is not the sum of $.items[*].n", "18.99")]),
        ({"path": "$.vat", "le": 1}, [("$.vat is no number", '"x"')]),
        ({"path": '$["a b"]', "gt": 0}, [('$["a b"] is not above 0', "0")]),
        ({"path": "$.items[1].price", "ge": 0}, [("$.items[1].price is not at least 0", "-1")]),
        ({"path": "$.discount", "ge": 0}, []),
        ({"path": "$.discount", "required": True}, [("$.discount is not there", ORDER)]),
    ],
)
def test_numbers_at_a_path_are_held_to_their_bounds(path: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    """Each is shown where it stands in the text, however the JSON is laid out."""
    assert objections("numbers", {"paths": [path]}, ORDER, is_json=True) == expected
    spaced = ORDER.replace(":", " :\n ")
    assert len(objections("numbers", {"paths": [path]}, spaced, is_json=True)) == len(expected)


@pytest.mark.parametrize("text", ["", "no", '{"a": NaN}', '{"a": 1'])
def test_what_is_to_be_json_and_is_none_is_a_finding(text: str) -> None:
    """A rule about its numbers cannot pass what it cannot read."""
    assert [what for what, _ in objections("numbers", {"paths": [{"path": "$.a", "gt": 0}]}, text, is_json=True)] == [
        "no JSON"
    ]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("It costs $-5, not €12.50 or 3.000,00 EUR.", ["-5", "3.000,00"]),
        ("120 % of 99 percent", ["120"]),
        ("US$ 2,500 and 2500 dollars; 2500 pieces", ["2,500", "2500"]),
        ("On 2026-03-04 we had 5000 visitors, 100% of them happy.", []),
    ],
)
def test_amounts_and_percentages_in_prose_are_held_to_their_bounds(text: str, wrong: list[str]) -> None:
    """Other numbers are not."""
    params = {"money": {"gt": 0, "lt": 1000}, "percent": {"ge": 0, "le": 100}}

    assert [words for _, words in objections("numbers", params, text)] == wrong


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ("1,234.50", ["1234.5"]),
        ("1.234,50", ["1234.5"]),
        ("1 234,5", ["1234.5"]),
        ("1'234.5", ["1234.5"]),
        ("1.234", ["1.234", "1234"]),
        ("1,234", ["1234", "1.234"]),
        ("12,5", ["12.5"]),
        ("-0.50", ["-0.5"]),
        ("1,234,567", ["1234567"]),
        ("1.2.3", []),
        ("1" * 41, []),
    ],
)
def test_number_is_read_in_every_way_it_may_be_meant(written: str, values: list[str]) -> None:
    """The likelier first; a version is no number."""
    assert list(read_number(written)) == [Decimal(value) for value in values]


def test_numbers_and_dates_of_a_text_are_told_apart() -> None:
    """What belongs to a date is no number, and what belongs to a code is neither."""
    text = "On 3 March 2026 and 2026-03-04, 1,234.50 of 5-10 units 1Z999AA1 v1.2.3 (04/05/2026), May 2026, 3.5x."

    days = dates(text)

    assert [text[day.start : day.end] for day in days] == ["3 March 2026", "2026-03-04", "04/05/2026", "May 2026"]
    assert days[2].readings == ((2026, 4, 5), (2026, 5, 4))
    assert days[3].readings == ((2026, 5, None),)
    assert [text[one.start : one.end] for one in numbers(text)] == ["1,234.50", "5", "10", "3.5"]


@pytest.mark.parametrize(
    ("written", "reading"),
    [
        ("March 3rd, 2026", (2026, 3, 3)),
        ("3. März 2026", (2026, 3, 3)),
        ("3 de marzo de 2026", (2026, 3, 3)),
        ("1er mars 2026", (2026, 3, 1)),
        ("03.03.26", (2026, 3, 3)),
        ("2026-3-3", (2026, 3, 3)),
        ("2026-03-03T10:00:00Z", (2026, 3, 3)),
    ],
)
def test_date_is_read_as_people_write_it(written: str, reading: tuple[int, int, int]) -> None:
    """In several languages and orders."""
    (day,) = dates(f"until {written}, at most")

    assert reading in day.readings


def test_dates_in_prose_exist_and_lie_in_their_range() -> None:
    """A date that can be read in two ways is only wrong if both are."""
    text = "From 30 February 2026 or 31.12.1999 to 1 January 2031; 04/05/2026 and 2026-12-31 are fine."

    assert objections("dates", {"prose": {"not_before": "2020-01-01", "not_after": "2030-12-31"}}, text) == [
        ("date does not exist", "30 February 2026"),
        ("date is before 2020-01-01", "31.12.1999"),
        ("date is after 2030-12-31", "1 January 2031"),
    ]


BOOKING = '{"from": "2026-03-05", "to": "2026-03-04", "paid": "04.03.2026", "at": "2026-03-04T10:00:00+01:00"}'


def test_dates_at_paths_are_parsed_in_their_form_in_range_and_in_order() -> None:
    """Each wrong one is shown."""
    paths = [
        {"path": "$.from", "format": "iso", "not_before": "2026-01-01"},
        {"path": "$.to", "format": "iso", "not_after": "2026-03-03"},
        {"path": "$.paid", "format": "%d.%m.%Y"},
        {"path": "$.at", "format": "iso_datetime", "required": True},
    ]

    assert objections(
        "dates", {"paths": paths, "order": [["$.from", "$.to"], ["$.paid", "$.at"]]}, BOOKING, is_json=True
    ) == [
        ("$.from is later than $.to", '"2026-03-05"'),
        ("$.to is after 2026-03-03", '"2026-03-04"'),
    ]
    wrong = [{"path": "$.paid", "format": "iso"}, {"path": "$.gone", "format": "iso", "required": True}]
    assert objections("dates", {"paths": wrong}, BOOKING, is_json=True) == [
        ("$.gone is not there", BOOKING),
        ("$.paid is no date as 'iso' writes it", '"04.03.2026"'),
    ]


def test_forbidden_units_and_missing_ones_are_found() -> None:
    """A dose in ounces; a sentence about a dose without any unit that is meant."""
    params = {"forbid": ["oz", "gr"], "require": ["mg", "ml"], "about": ["dose", "take"]}
    text = "Take 2 oz daily. The dose is 500 mg. TAKE 3 tablets! He weighs 70 kg. Dosage 5 is not a word."

    assert objections("units", params, text) == [
        ("number without one of the units that are required", "Take 2 oz daily."),
        ("number in 'oz'", "2 oz"),
        ("number without one of the units that are required", " TAKE 3 tablets!"),
    ]


def test_units_are_compared_as_they_are_written() -> None:
    """A milligram is no megagram."""
    assert objections("units", {"forbid": ["Mg", "°F", "%"]}, "5 mg, 5 Mg, 70 °F, 5% and 5-Mg") == [
        ("number in 'Mg'", "5 Mg"),
        ("number in '°F'", "70 °F"),
        ("number in '%'", "5%"),
        ("number in 'Mg'", "5-Mg"),
    ]


MARKS = ["$", "€", "US$", "USD", "usd", "CHF", "%", "percent", "Per Cent", "oz", "Mg", "mg", "euros", "cents"]
DIGITS_AND_SPACES = ["5", "7,5", "1 234", "٣", " ", "  ", "\t", "\u00a0", "\u2003", "-", "−", "+", ".", "x", "é"]
AMONG_NUMBERS = st.lists(st.sampled_from(MARKS + DIGITS_AND_SPACES), max_size=14).map("".join)
PERCENT = re.compile(r"\s?(?:%|percent\b|per cent\b|prozent\b)", re.IGNORECASE)
MONEY_BEHIND = re.compile(r"\s?(?:[$€]|US\$|USD|CHF|EUR|euros?\b|cents?\b)", re.IGNORECASE)
MONEY_BEFORE = re.compile(r"(?:[$€]|US\$|USD|CHF)\s?[-−+]?\Z")
UNIT = re.compile(r"[ \u00a0\u202f-]?([^\W\d_][^\s\d,;.:!?()\[\]\"']{0,15}|%[^\s\d,;.:!?()\[\]\"']{0,8})")


@settings(max_examples=300)
@given(AMONG_NUMBERS)
def test_no_number_is_passed_over_for_what_is_sought_beside_it(text: str) -> None:
    """What asks each number for what stands around it finds the same amounts, percentages and units."""
    found = numbers(text)
    amounts = [one for one in found if MONEY_BEHIND.match(text, one.end) or MONEY_BEFORE.search(text, 0, one.start)]
    percents = [one for one in found if PERCENT.match(text, one.end)]
    units = [one for one in found if (unit := UNIT.match(text, one.end)) and unit[1] in {"oz", "Mg", "%"}]

    def places(kind: str, params: dict[str, Any]) -> list[int]:
        (finding,) = check([one(kind, params)], Output(text), cpu_clock=no_time).findings
        return [span.start for span in finding.spans]

    impossible = {"gt": 1e17}
    assert places("numbers", {"money": impossible}) == [one.start for one in amounts]
    assert places("numbers", {"percent": impossible}) == [one.start for one in percents]
    assert places("units", {"forbid": ["oz", "Mg", "%"]}) == [one.start for one in units]


def test_sentences_end_where_people_end_them() -> None:
    """Not within numbers or after abbreviations; a citation behind the mark belongs to it."""
    text = "It costs 3.50, e.g. today. [1] Dr. Who came! Did he?\nYes\n\n- no"

    assert [text[start:end].strip() for start, end in sentences(text)] == [
        "It costs 3.50, e.g. today. [1]",
        "Dr. Who came!",
        "Did he?",
        "Yes",
        "- no",
    ]


@pytest.mark.parametrize(
    ("kind", "params", "words"),
    [
        ("numbers", {}, "checks nothing"),
        ("numbers", {"money": {}}, "no bound"),
        ("numbers", {"paths": [{"path": "$.a"}]}, "nothing is asked of it"),
        ("numbers", {"paths": [{"path": "a", "gt": 0}]}, "does not begin with"),
        ("numbers", {"paths": [{"path": "$..a", "gt": 0}]}, "is no step"),
        ("dates", {}, "checks nothing"),
        ("dates", {"paths": [{"path": "$.a", "format": "%d"}]}, "does not write a whole date"),
        ("dates", {"paths": [{"path": "$.a", "format": "iso"}], "order": [["$.a", "$.b"]]}, "is not among 'paths'"),
        ("dates", {"prose": {"not_before": "2026-01-02", "not_after": "2026-01-01"}}, "no date would do"),
        ("units", {}, "checks nothing"),
        ("units", {"forbid": ["g"], "require": ["g"]}, "is required too"),
        ("units", {"forbid": ["g"], "about": ["x"]}, "give 'require'"),
    ],
)
def test_parameters_that_check_nothing_or_make_no_sense_are_refused(
    kind: str, params: dict[str, Any], words: str
) -> None:
    """Nobody is told that something is checked which is not."""
    with pytest.raises(MalformedRelease, match=words):
        one(kind, params)


@pytest.mark.parametrize(
    "text",
    [
        "1," * 50_000,
        "9" * 100_000,
        "." * 100_000 + "x",
        "Dr. " * 25_000,
        "3 March " * 12_000,
        " " * 100_000,
        "$" * 100_000,
    ],
    ids=lambda text: text[:8],
)
def test_evil_prose_is_read_to_its_end(text: str) -> None:
    """A hundred thousand characters made to be tried again and again."""
    for kind, params in (
        ("numbers", {"money": {"gt": 0}}),
        ("dates", {"prose": {}}),
        ("units", {"require": ["mg"]}),
        ("support", {"numbers": 1, "dates": 1, "names": 1, "question": False}),
        ("citations", {"form": "ids", "minimum": 0, "each_number": True}),
    ):
        (finding,) = check([one(kind, params)], Output(text), cpu_clock=no_time).findings
        assert "the rule failed" not in finding.why
