"""Dumps and restores, against a real database: the same rows, of one moment, and nothing that was deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.audit.models import AuditEvent
from controlplane.corpora.dumping import make_dump
from controlplane.corpora.models import Corpus, Namespace
from controlplane.corpora.restoring import restore_dump
from controlplane.corpora.vault import Vault
from tests.corpora.kept_corpora import make_corpus, make_namespace
from tests.corpora.kept_dumps import chunk_rows, directory_vault, fill, index_names
from tests.factories import NOW, make_deployment

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def kept(tmp_path: Path) -> Vault:
    return directory_vault(tmp_path / "dumps")


@pytest.fixture
def corpus() -> Corpus:
    make_deployment()
    return make_corpus()


@pytest.fixture
def namespace(corpus: Corpus) -> Namespace:
    return make_namespace(corpus, fill=False)


def test_what_is_restored_is_what_was_dumped_bit_by_bit(corpus: Corpus, namespace: Namespace, kept: Vault) -> None:
    """Ids, texts, metadata and vectors, under every index that a namespace has; and the record tells of the dump."""
    fill(corpus, namespace)
    told: list[tuple[int, int]] = []

    dump = make_dump(namespace=namespace, actor="tests", now=NOW, kept=kept, progress=lambda *at: told.append(at))
    other = make_namespace(corpus, is_ready=False, fill=False)
    restored = restore_dump(dump, namespace=other, now=NOW, kept=kept)

    assert chunk_rows(other) == chunk_rows(namespace)
    assert (dump.state, dump.rows, dump.index_rev) == ("complete", 11 + 6, 6)
    assert told[-1] == (17, 17)
    assert restored.rows == 11
    assert (restored.caught_up.removed, restored.caught_up.stale, restored.caught_up.missing) == (0, 0, 0)
    ends = {"pkey", "alive", "born", "died", "document", "near"}
    assert index_names(other) == {f"{other.table}_{end}" for end in ends}
    assert (other.index_rev, other.kept_rev, other.is_indexed) == (6, 6, True)
    assert AuditEvent.objects.get(action="corpus.dumped").data["root"] == dump.root_sha256
