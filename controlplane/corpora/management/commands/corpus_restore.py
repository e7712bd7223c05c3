"""Restore a dump into a new namespace, and print how long that took. Nothing is switched."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.utils import timezone

from controlplane.corpora.errors import CorpusError
from controlplane.corpora.models import Dump, Namespace, Purpose
from controlplane.corpora.namespaces import create_namespace, drop_namespace, mark_ready
from controlplane.corpora.policies import promised
from controlplane.corpora.restoring import restore_dump, restore_heads


class Command(BaseCommand):
    help = (
        "Restore a dump into a new namespace of its corpus, index it and bring it up to date. Serving it is a step of "
        "its own, by a person."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dump", required=True, metavar="NAME")
        parser.add_argument("--drill", action="store_true", help="into a namespace that can never serve")
        parser.add_argument(
            "--documents", action="store_true", help="first bring back documents that were lost; none is replaced"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        dump = Dump.objects.select_related("corpus").filter(name=options["dump"]).first()
        if dump is None:
            raise CommandError(f"there is no dump {options['dump']!r}")
        try:
            if options["documents"]:
                self.stdout.write(f"{restore_heads(dump, corpus=dump.corpus)} documents brought back")
            namespace = _make(dump, Purpose.DRILL if options["drill"] else Purpose.SERVING)
        except CorpusError as exc:
            raise CommandError(str(exc)) from exc
        try:
            done = restore_dump(dump, namespace=namespace, now=timezone.now())
        except CorpusError as exc:
            with transaction.atomic():
                drop_namespace(namespace, now=timezone.now())
            raise CommandError(str(exc)) from exc
        mark_ready(namespace, now=timezone.now())
        caught_up = done.caught_up
        self.stdout.write(
            f"{namespace} (id {namespace.pk}): {done.rows} chunks, {done.bytes} bytes in {done.seconds:.1f} s"
            f" (loading {done.load_seconds:.1f} s, indexing {done.index_seconds:.1f} s)"
        )
        self.stdout.write(
            f"deleted since: {caught_up.removed} chunks; unknown: {caught_up.unknown} chunks; to be indexed:"
            f" {caught_up.stale + caught_up.missing} documents"
        )


def _make(dump: Dump, purpose: Purpose) -> Namespace:
    with transaction.atomic():
        return create_namespace(
            dump.corpus, promised(dump.corpus.slug), now=timezone.now(), purpose=purpose, fill=False, apart=True
        )
