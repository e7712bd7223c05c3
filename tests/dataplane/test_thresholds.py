"""Numbers with an origin: a number out of range, or an origin that nobody could look up, is refused at its place."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from dataplane.documents import MalformedRelease, Node
from dataplane.thresholds import ORIGINS, Threshold
from tests.dataplane.conftest import threshold


def read(document: dict[str, Any]) -> Threshold:
    return Threshold.parse(Node(document, "$.t"), above=0, maximum=100)


def test_threshold_keeps_its_number_and_where_it_comes_from() -> None:
    """Everything that a person needs to argue with the number is there."""
    measured = read(threshold(12.5, "incident"))

    assert measured.value == 12.5
    assert (measured.provenance.origin, measured.provenance.link) == ("incident", "https://evidence.example/7")
    assert (measured.provenance.note, measured.provenance.author) == ("what the lane can do", "oncall")
    assert (measured.provenance.on, measured.provenance.review_by) == (date(2026, 1, 2), date(2026, 4, 2))


def test_only_a_guess_is_a_guess_and_needs_no_evidence() -> None:
    """Every other origin leads somewhere, or is refused."""
    assert read(threshold(1)).provenance.is_guess
    for origin in ORIGINS - {"guess"}:
        document = threshold(1, origin)
        assert not read(document).provenance.is_guess

        document["provenance"]["link"] = ""
        with pytest.raises(MalformedRelease, match=r"^\$\.t\.provenance\.link: must not be empty$"):
            read(document)


def test_number_is_overdue_from_the_day_after_its_review() -> None:
    """The day of the review itself is still in time."""
    provenance = read(threshold(1)).provenance

    assert not provenance.is_overdue(date(2026, 4, 2))
    assert provenance.is_overdue(date(2026, 4, 3))


@pytest.mark.parametrize(
    "value", [0, -1, 100.5, True, "5", None, float("nan"), float("inf"), pytest.param(10**400, id="1e400")]
)
def test_number_out_of_range_is_refused(value: Any) -> None:
    """The range is above 0 up to 100, the upper end included; JSON's endless integers are numbers too."""
    assert read(threshold(100)).value == 100

    with pytest.raises(MalformedRelease) as refusal:
        read(threshold(value))

    assert refusal.value.path == "$.t.value"


@pytest.mark.parametrize("value", [0, 1.0, 2.5, 8, True])
def test_number_that_counts_is_whole(value: Any) -> None:
    """1 to 7 attempts, not 2.5 of them."""
    assert Threshold.parse_whole(Node(threshold(7), "$"), minimum=1, maximum=7).value == 7

    with pytest.raises(MalformedRelease) as refusal:
        Threshold.parse_whole(Node(threshold(value), "$"), minimum=1, maximum=7)

    assert refusal.value.path == "$.value"


@pytest.mark.parametrize(
    ("member", "value", "words"),
    [
        ("origin", "hunch", "'hunch' is not one of guess, incident, load_test, vendor_limit"),
        ("origin", None, "expected a string, got null"),
        ("note", "", "must not be empty"),
        ("author", "", "must not be empty"),
        ("link", "evidence.example/7", "neither an http"),
        ("link", "//evidence.example/7", "neither an http"),
        ("link", "javascript:alert(1)", "neither an http"),
        ("link", "https://", "neither an http"),
        ("link", "http://[", "neither an http"),
        ("on", "2026-02-30", "is not a date"),
        ("on", "20260102", "is not a date"),
        ("on", "2026-W01-5", "is not a date"),
        ("on", "2026-01-02T00:00:00Z", "is not a date"),
        ("review_by", "soon", "is not a date"),
        ("review_by", "2026-01-02", "2026-01-02 is not after 2026-01-02, the day the number was set"),
        ("expires", "never", "unknown key"),
    ],
)
def test_origin_that_cannot_be_looked_up_is_refused_by_path(member: str, value: Any, words: str) -> None:
    """A spelling mistake in the provenance is as wrong as one in the number."""
    document = threshold(1, "load_test")
    document["provenance"][member] = value

    with pytest.raises(MalformedRelease, match=words) as refusal:
        read(document)

    assert refusal.value.path == f"$.t.provenance.{member}"


@pytest.mark.parametrize("link", ["/drills/7", "http://a", "HTTPS://evidence.example/a?b#c"])
def test_evidence_is_an_address_or_a_page_of_the_console(link: str) -> None:
    """Either can be clicked."""
    document = threshold(1, "vendor_limit")
    document["provenance"]["link"] = link

    assert read(document).provenance.link == link


def test_number_without_provenance_is_refused() -> None:
    """A bare number is no threshold."""
    for document, missing in (({"value": 1}, "'provenance'"), ({"provenance": {}}, "'value'")):
        with pytest.raises(MalformedRelease, match=f"missing key {missing}"):
            read(document)
    with pytest.raises(MalformedRelease, match="expected an object, got a number"):
        Threshold.parse(Node(1, "$"), above=0, maximum=100)
