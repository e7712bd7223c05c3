"""Prove that a dump is what was written and signed, or name the block that is not."""

import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from controlplane.corpora.dump_checks import TrustedKeys, Verified, trusted_keys, verify_folder
from controlplane.corpora.dumping import verify_dump
from controlplane.corpora.errors import CorpusError
from controlplane.corpora.models import Dump
from controlplane.corpora.vault import open_vault
from dataplane.release import parse_trusted_keys


class Command(BaseCommand):
    help = (
        "Read a dump whole; exit 1 and name the block that is not what was signed. With --store no database is asked: "
        "a folder that was carried somewhere else is proved by the trusted keys alone."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dump", required=True, metavar="NAME", help="the name of its folder")
        parser.add_argument(
            "--store", default="", metavar="URL", help="file:///directory or s3://bucket/prefix with that folder in it"
        )
        parser.add_argument(
            "--trusted-keys", type=Path, help="trusted-keys.json, from a place you trust; else this deployment's"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        name = options["dump"]
        try:
            found = self._verify(name, options["store"], options["trusted_keys"])
        except CorpusError as exc:
            raise CommandError(str(exc)) from exc
        if found.flaw is not None:
            self.stderr.write(f"{name}: {found.flaw}")
            sys.exit(1)
        self.stdout.write(f"{name}: {found.blocks} blocks are what was signed, root {found.root}")

    def _verify(self, name: str, store: str, keys: Path | None) -> Verified:
        if store:
            return verify_folder(open_vault(store), name, trusted=_read(keys))
        dump = Dump.objects.filter(name=name).first()
        if dump is None:
            raise CommandError(f"there is no dump {name!r}; with --store it is looked for in a store alone")
        return verify_dump(dump, now=timezone.now())


def _read(path: Path | None) -> TrustedKeys:
    if path is None:
        return trusted_keys()
    try:
        return parse_trusted_keys(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise CommandError(f"--trusted-keys {str(path)!r}: {exc}") from exc
