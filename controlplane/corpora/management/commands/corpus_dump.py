"""Dump what a corpus is served from, now and in the foreground."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from controlplane.corpora.dumping import make_dump
from controlplane.corpora.errors import CorpusError
from controlplane.corpora.models import Corpus
from controlplane.releases.errors import SigningKeyMissing


class Command(BaseCommand):
    help = "Dump a corpus into BALLAST_DUMP_STORE, and copy it to BALLAST_DUMP_COPY_STORE, where that is set."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--corpus", required=True, metavar="SLUG")
        parser.add_argument("--actor", default="command", metavar="NAME", help="who answers for it, for the record")

    def handle(self, *args: Any, **options: Any) -> None:
        corpus = Corpus.objects.select_related("live_namespace").filter(slug=options["corpus"]).first()
        if corpus is None or corpus.live_namespace is None:
            raise CommandError(f"there is no corpus {options['corpus']!r} that is served from anything")
        try:
            dump = make_dump(namespace=corpus.live_namespace, actor=options["actor"], now=timezone.now())
        except (CorpusError, SigningKeyMissing) as exc:
            raise CommandError(str(exc)) from exc
        copied = f"copied to {dump.copied_to}" if dump.copied_to else dump.error or "not copied: no second store is set"
        self.stdout.write(
            f"{dump.name}: {dump.rows} rows, {dump.bytes} bytes, {dump.blocks} blocks, root {dump.root_sha256},"
            f" kept until {dump.retain_until:%Y-%m-%d}; {copied}"
        )
