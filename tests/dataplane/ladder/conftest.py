"""Releases that have a ladder."""

from __future__ import annotations

from typing import Any

import pytest

from dataplane.release import parse_document
from tests.dataplane.conftest import copy_document
from tests.ladders import rung_copy, rungs, surface

from .steps_world import Standing, ladder_document

ANSWERS = {"version": 3, "digest": "a" * 64, "document": copy_document("answers")}


@pytest.fixture
def ladder_sections():
    """Builds the sections of a release whose surface has all six rungs, of which those of `copy` have signed words;
    `changes` are of the surface.
    """

    def make(*, copy: Any = None, answers: Any = ANSWERS, **changes: Any) -> dict[str, Any]:
        ladder = {"web-chat": surface(rungs=rungs(cheaper="chat")) | changes}
        return {"ladder": ladder, "copy": {**(rung_copy() if copy is None else copy), "help-answers": answers}}

    return make


@pytest.fixture
def ladder_release(make_document, ladder_sections):
    """Builds such a release, parsed."""

    def make(**changes: Any) -> Any:
        return parse_document(make_document(**ladder_sections(**changes)), digest="d" * 64)

    return make


@pytest.fixture
def stand(make_document):
    """Makes pipelines whose surface stands on a rung."""

    def make(rung, *, document=None, **options):
        return Standing(ladder_document(make_document, **(document or {})), rung=rung, **options)

    return make
