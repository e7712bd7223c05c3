"""Prove that nobody edited the audit record, or name every place where somebody did."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from controlplane.audit.operations import Anchor, verify
from controlplane.releases.anchors import anchors_of_releases
from dataplane.release import Envelope, ReleaseRefused, parse_trusted_keys
from dataplane.release import verify as verify_release


class Command(BaseCommand):
    help = (
        "Walk the audit chain from its first event; exit 1 and name every altered, missing, inserted, reordered or "
        "truncated event. Every release is an anchor; --release-file adds one that no database administrator can reach."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--release-file",
            type=Path,
            action="append",
            default=[],
            help="a signed release as a worker keeps it on disk; may be given several times",
        )
        parser.add_argument(
            "--trusted-keys", type=Path, help="trusted-keys.json; needed with --release-file, from a place you trust"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        anchors = [*_anchors_of_files(options["release_file"], options["trusted_keys"]), *anchors_of_releases()]
        found = verify(anchors)
        for finding in found.findings:
            self.stderr.write(f"event {finding.seq}: {finding.problem}")
        self.stdout.write(
            f"{found.events} events, head {found.head_seq} {found.head_hash}, {found.anchors} anchors checked, "
            f"{len(found.findings)} findings"
        )
        if found.findings:
            sys.exit(1)


def _anchors_of_files(paths: list[Path], trusted_keys: Path | None) -> Iterator[Anchor]:
    """The audit heads that signed release files carry.

    Raises:
        CommandError: a file cannot be read, or is not signed by a trusted key: it would prove nothing.
    """
    if paths and trusted_keys is None:
        raise CommandError("--release-file proves nothing without --trusted-keys to check its signature with")
    for path in paths:
        try:
            trusted = parse_trusted_keys((trusted_keys or Path()).read_bytes())
            release = verify_release(Envelope.from_json(path.read_bytes()), trusted=trusted, current=None)
        except (OSError, ValueError, ReleaseRefused) as exc:
            raise CommandError(f"{str(path)!r} is no anchor: {exc}") from exc
        yield Anchor(release.audit_seq, release.audit_hash, f"{path.name} (r{release.revision})")
