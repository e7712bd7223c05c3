"""A release that changes one section costs a worker that section, and means the same as if it had parsed everything."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from dataplane.documents import MalformedRelease
from dataplane.release import parse_document
from tests.dataplane.conftest import CANARY, DocumentFactory, copy_document


def with_copy(document: dict[str, Any]) -> dict[str, Any]:
    """The document with an outage notice below its route, and a lane that is held."""
    sections = document["sections"]
    sections["copy"] = {"down": {"version": 1, "digest": "d" * 64, "document": copy_document("outage")}}
    sections["routing"]["fallbacks"] = {"help": {"answers": None, "template": None, "outage": {"copy": "down"}}}
    sections["routing"]["routes"]["chat"]["fallback"] = "help"
    sections["lane_overrides"] = {
        "a": {"mode": "open", "until": "2026-01-02T04:00:00Z", "reason": "vendor said so", "by": "oncall"}
    }
    return document


def test_unchanged_sections_are_taken_over(make_document: DocumentFactory) -> None:
    """A knob's release shares prompts, routing, copy and access with the one before, and has its own canaries."""
    before = parse_document(with_copy(make_document(1)), digest="1" * 64)
    reach = [{"stage": "50 %", "audience": "all", "tenants": [], "regions": [], "weight": 5000}]

    after = parse_document(
        with_copy(make_document(2, canaries={"support-answer-2": CANARY | {"reach": reach}})),
        digest="2" * 64,
        current=before,
    )

    assert after.prompts is before.prompts
    assert after.routing is before.routing
    assert after.access is before.access
    assert after.copy is before.copy
    assert after.canaries["support-answer-2"].reach[0].weight == 5000


@pytest.mark.parametrize("section", ["access", "prompts", "routing", "copy", "lane_overrides"])
def test_a_changed_section_is_parsed(make_document: DocumentFactory, section: str) -> None:
    """With a base or without, the same document gives the same release."""
    before = parse_document(with_copy(make_document(1)), digest="1" * 64)
    document = with_copy(make_document(2))
    sections = document["sections"]
    if section == "access":
        sections["access"]["tenants"]["acme"]["tier"] = "free"
    elif section == "prompts":
        sections["prompts"]["support-answer"]["live"] = 2
    elif section == "routing":
        sections["routing"]["routes"]["chat"]["deadline_ms"] = 1000
    elif section == "copy":
        sections["copy"]["down"]["document"]["locales"]["en"]["text"] = "Back in {{eta_seconds}} seconds."
    else:
        del sections["lane_overrides"]

    after = parse_document(copy.deepcopy(document), digest="2" * 64, current=before)

    assert after == parse_document(document, digest="2" * 64)
    assert getattr(after, section) != getattr(before, section)


def test_equal_to_python_is_not_equal(make_document: DocumentFactory) -> None:
    """`true` that became 1 is refused by a worker that serves a release with `true`, as by one that serves nothing."""
    before = parse_document(make_document(1), digest="1" * 64)
    document = make_document(2)
    assert document["sections"]["access"]["tenants"]["acme"]["internal"] is False
    document["sections"]["access"]["tenants"]["acme"]["internal"] = 0

    with pytest.raises(MalformedRelease, match="internal"):
        parse_document(document, digest="2" * 64, current=before)


def test_a_section_taken_over_is_checked_against_its_neighbours(make_document: DocumentFactory) -> None:
    """Prompts that did not change are refused when the route they name is gone."""
    before = parse_document(make_document(1), digest="1" * 64)
    document = make_document(2)
    document["sections"]["routing"]["routes"]["other"] = document["sections"]["routing"]["routes"].pop("chat")

    with pytest.raises(MalformedRelease, match="route"):
        parse_document(document, digest="2" * 64, current=before)


@pytest.mark.parametrize("copied", [{}, {"down": "template"}])
def test_a_stack_taken_over_is_checked_against_the_copy_of_its_own_release(
    make_document: DocumentFactory, copied: dict[str, str]
) -> None:
    """Routing that did not change is refused when the words that it names are gone, or are of another kind now."""
    before = parse_document(with_copy(make_document(1)), digest="1" * 64)
    document = with_copy(make_document(2))
    document["sections"]["copy"] = {
        slug: {"version": 2, "digest": "d" * 64, "document": copy_document(kind)} for slug, kind in copied.items()
    }

    with pytest.raises(MalformedRelease, match=r"^\$\.sections\.routing\.fallbacks\.help\.outage\.copy: 'down' is"):
        parse_document(document, digest="2" * 64, current=before)
