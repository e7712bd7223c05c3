"""Go on after the database was restored from a backup, with workers that have seen later releases."""

import json
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from controlplane.releases.errors import ReleaseError
from controlplane.releases.operations import current_release, resume_after_restore
from controlplane.releases.sections import all_sections
from dataplane.release import Envelope, Release, ReleaseRefused, parse_trusted_keys, verify


class Command(BaseCommand):
    help = (
        "After a restore: cut what the restored database says as a release that is newer than every release that "
        "workers have, since they refuse older ones. Say where release files of workers are, which are evidence too: "
        "keep them. --dry-run says what workers would go back to."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--release-file", type=Path, nargs="+", required=True, help="as agents of hosts keep it")
        parser.add_argument(
            "--trusted-keys", type=Path, default=settings.TRUSTED_KEYS_FILE, help="what the files are verified with"
        )
        parser.add_argument("--actor", required=True, help="who decides this, for the audit record")
        parser.add_argument("--reason", required=True, help="why, for the audit record")
        parser.add_argument("--dry-run", action="store_true", help="change nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        found = [_read(path, options["trusted_keys"]) for path in options["release_file"]]
        seen, document = max(found, key=lambda one: one[0].revision)
        self.stdout.write(
            f"the restored record ends at {current_release() or 'no release'}; workers have seen r{seen.revision}, "
            f"which knows of audit event {seen.audit_seq}"
        )
        restored = {section.name: section.compile() for section in all_sections()}
        lost = document["sections"]
        different = sorted(name for name in lost.keys() | restored if lost.get(name) != restored.get(name))
        self.stdout.write(f"what workers would get differs from what they have in: {', '.join(different) or 'nothing'}")
        if options["dry_run"]:
            return
        try:
            release = resume_after_restore(
                seen=seen, actor=options["actor"], reason=options["reason"], now=timezone.now()
            )
        except ReleaseError as exc:
            raise CommandError(str(exc)) from exc
        self.stdout.write(f"{release} is what workers get now, with what the restored database says")


def _read(path: Path, trusted_keys: Path) -> tuple[Release, dict[str, Any]]:
    """A release as a worker keeps it, and its document.

    Raises:
        CommandError: it cannot be read, or is not signed by a trusted key: anybody could have us skip revisions.
    """
    try:
        envelope = Envelope.from_json(path.read_bytes())
        release = verify(envelope, trusted=parse_trusted_keys(trusted_keys.read_bytes()), current=None)
        return release, json.loads(envelope.document)
    except (OSError, ValueError, ReleaseRefused) as exc:
        raise CommandError(f"{str(path)!r} is no release: {exc}") from exc
