"""The section `corpora` of a release."""

from __future__ import annotations

from typing import Any

import pytest

from dataplane.documents import MalformedRelease
from dataplane.release import parse_document
from dataplane.retrieval.policy import BANNER, BLOCK, Corpora
from tests.corpora_documents import SLUG, banner_copy, corpora, corpus, embedding_routing


def test_policy_says_what_is_promised_of_each_corpus() -> None:
    """What people wrote is what workers hold, every number with its provenance."""
    found = Corpora.parse(corpora(tenants=["acme"]))[SLUG]

    assert (found.title, found.embedding.model, found.recovery.strategy) == (
        "Help centre",
        "embedding",
        "restore",
    )
    assert [found.admits(tenant) for tenant in ("acme", "globex")] == [True, False]
    assert dict(found.thresholds())["recovery.rto_seconds"].value == 900


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"store": "paper"}, r"\$\.help-centre\.store: 'paper' is not one of pgvector, qdrant"),
        ({"embedding": {"dimensions": 2001}}, r"dimensions: 2001 is outside 1\.\.2000"),
        ({"chunking": {"overlap_characters": 101}}, r"overlap_characters: 101 is outside 0\.\.100"),
        ({"recovery": {"dump_hours": 0}}, r"dump_hours: it is to be restored from a dump, and none is ever made"),
        ({"freshness": {"on_breach": "shrug"}}, r"'shrug' is not one of banner, block"),
    ],
)
def test_promise_that_cannot_be_kept_is_refused_with_its_path(changes: dict[str, Any], fact: str) -> None:
    """Whoever writes a policy learns which member is wrong, before anybody signs it."""
    with pytest.raises(MalformedRelease, match=fact.replace(r"\$\.help-centre", r'\$\["help-centre"\]')):
        Corpora.parse(corpora(**changes), path="$")


def test_banner_of_unsigned_words_blocks(make_document: Any) -> None:
    """Until somebody signs the words, an old corpus answers nothing at all."""
    sections = {"corpora": corpora(), "routing": embedding_routing()}

    bare = parse_document(make_document(**sections), digest="0" * 64)
    signed = parse_document(make_document(**sections, copy=banner_copy()), digest="1" * 64)

    assert bare.corpora[SLUG].on_breach == BLOCK
    assert signed.corpora[SLUG].on_breach == BANNER


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"embedding": {"route": "nowhere"}}, "'nowhere' is not a route of this release"),
        ({"embedding": {"model": "gpt-4o"}}, "no lane of route 'embed' embeds by 'gpt-4o'"),
    ],
)
def test_corpus_that_no_lane_embeds_is_refused(make_document: Any, changes: dict[str, Any], fact: str) -> None:
    """A release in which nobody could find anything is never served."""
    with pytest.raises(MalformedRelease, match=fact):
        parse_document(make_document(corpora={SLUG: corpus(**changes)}, routing=embedding_routing()), digest="0" * 64)
