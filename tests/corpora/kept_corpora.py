"""Corpora under a policy in force, and what is in them, made through the operations that people use."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import transaction

from controlplane.audit import operations as audit
from controlplane.corpora.models import Corpus, CorpusPolicy, Namespace
from controlplane.corpora.namespaces import create_namespace, mark_ready
from controlplane.corpora.policies import corpus_policies, promised
from tests import corpora_documents
from tests.corpora_documents import SLUG
from tests.factories import NOW, SETUP, crew

# Of the demo's route `embed`.
MODEL = "text-embedding-3-small"


def policy_document(*, slug: str = SLUG, **changes: Any) -> dict[str, Any]:
    """The promise for one corpus that the demo's lanes can embed."""
    embedding = {"model": MODEL} | changes.pop("embedding", {})
    return {slug: corpora_documents.corpus(embedding=embedding, **changes)}


def make_policy(document: Any = None, *, now: datetime = NOW) -> CorpusPolicy:
    """A policy in force, as a deployment is set up: without sign-offs."""

    @audit.operation
    def put_in_force() -> CorpusPolicy:
        policy = corpus_policies.submit(document=document or policy_document(), rationale="r", actor=SETUP, now=now)
        corpus_policies.activate(policy, actor=SETUP, reason="set up", now=now)
        return policy

    return put_in_force()


def make_corpus(*, slug: str = SLUG, now: datetime = NOW, **changes: Any) -> Corpus:
    """A corpus that is promised and empty, without a namespace."""
    make_policy(policy_document(slug=slug, **changes), now=now)
    return Corpus.objects.get(slug=slug)


def make_namespace(corpus: Corpus, *, is_ready: bool = True, now: datetime = NOW, **asked: Any) -> Namespace:
    """A namespace of a corpus, for every document that it has."""
    with transaction.atomic():
        namespace = create_namespace(corpus, promised(corpus.slug), now=now, **asked)
    if is_ready:
        mark_ready(namespace, now=now)
    return namespace


__all__ = ["MODEL", "crew", "make_corpus", "make_namespace", "make_policy", "policy_document"]
