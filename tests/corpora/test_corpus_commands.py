"""Dumps from a shell: made, proved and restored."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from django.conf import settings as deployed
from django.core.management import CommandError, call_command

from controlplane.audit.models import AuditEvent
from controlplane.corpora.dump_keeping import VERIFY, run_dump, run_verification
from controlplane.corpora.models import Corpus, Document, Dump, Namespace
from controlplane.work.handlers import Attempt
from dataplane.ids import new_id
from tests.corpora.kept_corpora import make_corpus, make_namespace
from tests.corpora.kept_dumps import chunk_rows, fill, head_rows
from tests.factories import NOW, make_deployment

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def corpus(settings, tmp_path: Path) -> Corpus:
    """One that is served, with stores of its own for its dumps."""
    settings.DUMP_STORE, settings.DUMP_COPY_STORE = ((tmp_path / name).as_uri() for name in ("dumps", "copies"))
    make_deployment()
    corpus = make_corpus()
    namespace = make_namespace(corpus, fill=False)
    fill(corpus, namespace)
    Corpus.objects.filter(pk=corpus.pk).update(live_namespace=namespace)
    return Corpus.objects.get(pk=corpus.pk)


def run(name: str, **options: object) -> str:
    out = StringIO()
    call_command(name, stdout=out, stderr=out, **options)
    return out.getvalue()


def test_dump_is_made_proved_and_restored_from_a_shell(corpus: Corpus, settings, tmp_path: Path) -> None:
    """The copy is proved in its own store by the trusted keys alone; lost documents come back on the way."""
    assert corpus.live_namespace is not None
    before = chunk_rows(corpus.live_namespace), head_rows(corpus)

    made = run("corpus_dump", corpus=corpus.slug)
    dump = Dump.objects.get()
    verified = run("corpus_verify", dump=dump.name)
    keys = deployed.SIGNING_KEY_FILE.parent / "trusted-keys.json"
    copy = run("corpus_verify", dump=dump.name, store=settings.DUMP_COPY_STORE, trusted_keys=keys)
    Document.objects.all().delete()
    restored = run("corpus_restore", dump=dump.name, documents=True, actor="oncall")

    assert f"{dump.name}: 17 rows" in made
    assert f"copied to {settings.DUMP_COPY_STORE}" in made
    assert f"2 blocks are what was signed, root {dump.root_sha256}" in verified
    assert copy == verified
    assert "6 documents brought back" in restored
    newest = Namespace.objects.first()
    assert newest is not None
    assert (newest.state, chunk_rows(newest), head_rows(corpus)) == ("ready", *before)
    recorded = AuditEvent.objects.filter(action__contains="restored").order_by("seq")
    assert list(recorded.values_list("action", "actor")) == [
        ("corpus.documents_restored", "oncall"),
        ("corpus.restored", "oncall"),
    ]


def test_flawed_dump_ends_with_1_and_is_restored_by_no_command(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The block is named, and no namespace is left behind."""
    run("corpus_dump", corpus=corpus.slug)
    dump = Dump.objects.get()
    block = tmp_path / "dumps" / dump.name / "chunks-000000"
    block.chmod(0o644)
    data = block.read_bytes()
    block.write_bytes(data[:20] + b"\xff" + data[21:])

    with pytest.raises(SystemExit) as ended:
        run("corpus_verify", dump=dump.name)
    with pytest.raises(CommandError, match="is not restored: chunks-000000: its bytes are not those"):
        run("corpus_restore", dump=dump.name)

    assert ended.value.code == 1
    assert set(Namespace.objects.values_list("state", flat=True)) == {"ready", "dropped"}


def test_workers_make_and_verify_what_was_asked_for(corpus: Corpus) -> None:
    """As durable work: a dump of what serves, then the finding in its row."""
    attempt = Attempt(new_id(NOW.timestamp()), VERIFY, 1, "")  # type: ignore[arg-type]

    run_dump({"corpus": corpus.slug, "actor": "oncall"}, attempt)
    dump = Dump.objects.get()
    run_verification({"dump": dump.pk}, attempt)

    dump.refresh_from_db()
    assert (dump.state, dump.actor, dump.verify_error) == ("complete", "oncall", "")
    assert dump.verified_at is not None
    assert dump.copied_at is not None
