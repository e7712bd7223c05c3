"""A release with a ladder: routes that exist, copy of the right kind, and which rungs have signed words."""

from __future__ import annotations

from typing import Any

import pytest

from dataplane.release import MalformedRelease, Release, parse_document
from tests.dataplane.conftest import ROUTING, copy_document
from tests.ladders import activation, rung_copy, rungs, surface

LANES = list(ROUTING["lanes"])
ANSWERS = {"help-answers": {"version": 1, "digest": "a" * 64, "document": copy_document("answers")}}


def parse(make_document: Any, *, copy: Any = None, **sections: Any) -> Release:
    routes = {slug: {"lanes": LANES, "deadline_ms": 30_000} for slug in ("chat", "cheap")}
    document = make_document()
    document["sections"] |= {
        "routing": ROUTING | {"routes": routes},
        "copy": rung_copy() | ANSWERS if copy is None else copy,
        "ladder": {"web-chat": surface()},
    } | sections
    return parse_document(document | {"schema": 4}, digest="0" * 64)


def test_release_of_schema_4_carries_a_ladder_and_what_people_engaged(make_document: Any) -> None:
    """One without them is complete too."""
    release = parse(make_document, activations={"a": activation(), "gone": activation(surface="old")})

    assert release.ladder["web-chat"].engageable == (1, 2, 3, 4, 5, 6)
    assert [one.id for one in release.activations["web-chat"]] == ["a"]
    assert release.activations.keys() == {"web-chat"}
    bare = parse_document(make_document() | {"schema": 4}, digest="0" * 64)
    assert (bare.ladder, bare.activations) == ({}, {})


def test_rungs_whose_words_nobody_signed_are_in_the_policy_and_cannot_be_engaged(make_document: Any) -> None:
    """People write the policy first and the words after; nothing engages a rung in between."""
    copy = rung_copy(1, 4, 5)

    release = parse(make_document, copy=copy, activations={})

    assert release.ladder["web-chat"].engageable == (1, 4)
    with pytest.raises(MalformedRelease, match="rung 5 of surface 'web-chat' has no signed words"):
        parse(make_document, copy=copy, activations={"a": activation(rung=5)})


@pytest.mark.parametrize(
    ("changes", "at", "words"),
    [
        ({"routes": ["chat", "mail"]}, "routes", "'mail' is not a route of this release"),
        ({"rungs": rungs(cheaper="gone")}, "rungs.3.route", "'gone' is not a route of this release"),
        ({"rungs": rungs(answers="rung-1")}, "rungs.5.answers", "'rung-1' is copy of the kind 'rung', not 'answers'"),
        (
            {"rungs": rungs() | {"4": {"copy": "help-answers"}}},
            "rungs.4.copy",
            "'help-answers' is copy of the kind 'answers', not 'rung'",
        ),
    ],
)
def test_ladder_that_leads_elsewhere_than_it_says_is_refused(
    make_document: Any, changes: dict[str, Any], at: str, words: str
) -> None:
    """Where it stands in the document."""
    with pytest.raises(MalformedRelease, match=words) as refusal:
        parse(make_document, ladder={"web-chat": surface(**changes)})

    assert refusal.value.path == f'$.sections.ladder["web-chat"].{at}'
