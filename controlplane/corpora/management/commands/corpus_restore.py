"""Restore a dump into a new namespace, and print how long that took. Nothing is switched."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from controlplane.corpora.errors import CorpusError
from controlplane.corpora.models import Dump, Purpose
from controlplane.corpora.restores import bring_back_documents, restore_beside


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
        parser.add_argument("--actor", default="command", metavar="NAME", help="who answers for it, for the record")

    def handle(self, *args: Any, **options: Any) -> None:
        dump = Dump.objects.select_related("corpus").filter(name=options["dump"]).first()
        if dump is None:
            raise CommandError(f"there is no dump {options['dump']!r}")
        actor, purpose = options["actor"], Purpose.DRILL if options["drill"] else Purpose.SERVING
        try:
            if options["documents"]:
                count = bring_back_documents(dump=dump, actor=actor, now=timezone.now())
                self.stdout.write(f"{count} documents brought back")
            made = restore_beside(dump=dump, purpose=purpose, actor=actor, now=timezone.now())
        except CorpusError as exc:
            raise CommandError(str(exc)) from exc
        done, caught_up = made.restored, made.restored.caught_up
        self.stdout.write(
            f"{made.namespace} (id {made.namespace.pk}): {done.rows} chunks, {done.bytes} bytes in {done.seconds:.1f} s"
            f" (loading {done.load_seconds:.1f} s, indexing {done.index_seconds:.1f} s)"
        )
        self.stdout.write(
            f"deleted since: {caught_up.removed} chunks; unknown: {caught_up.unknown} chunks; to be indexed:"
            f" {caught_up.stale + caught_up.missing} documents"
        )
