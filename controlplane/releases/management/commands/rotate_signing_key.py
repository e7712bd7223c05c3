"""Give the key that signs releases a successor, step by step, or at once when it is compromised."""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from controlplane.accounts.operations import SYSTEM
from controlplane.corpora.records import Dump, RecoveryDrill
from controlplane.releases import rotation
from controlplane.releases.errors import ReleaseError
from controlplane.releases.trust import trust
from dataplane.release import parse_trusted_keys
from dataplane.trust import encoded


class Command(BaseCommand):
    help = (
        "status: where the rotation stands. begin: make the next key and have every host believe it. switch: sign with "
        "it. retire: have no host believe the old one. compromised: all of it at once, waiting for nobody. Each step "
        "says what stands in its way; each may be repeated. Run them where the signing key lies."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("step", choices=sorted(self._steps()))
        parser.add_argument(
            "--without",
            action="append",
            default=[],
            metavar="WORKER",
            help="a worker that is gone; it is not waited for",
        )
        parser.add_argument(
            "--key", metavar="KEY_ID", help="of compromised: which key; unless told, the one that signs"
        )
        parser.add_argument("--reason", default="", help="of compromised: why; it stays in the audit record")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self._steps()[options["step"]](options)
        except (ReleaseError, OSError) as exc:
            raise CommandError(str(exc)) from exc

    def _steps(self) -> dict[str, Callable[[dict[str, Any]], None]]:
        return {
            "status": self._status,
            "begin": self._begin,
            "switch": self._switch,
            "retire": self._retire,
            "compromised": self._compromised,
        }

    def _status(self, options: dict[str, Any]) -> None:
        state = rotation.standing(now=timezone.now())
        self._say(f"signs now:   {state.signing}")
        self._say(f"signs next:  {state.next or 'no key is announced'}")
        self._say(f"signed before, still believed: {', '.join(state.old) or 'none'}")
        self._say(f"has not heard of the last step: {', '.join(state.waiting) or 'nobody'}")

    def _begin(self, options: dict[str, Any]) -> None:
        key_id = rotation.announce(actor=SYSTEM, now=timezone.now())
        self._say(f"Key {key_id} is announced; it lies in {rotation.next_key_file()}.")
        self._say("Next: switch, once `status` says that everybody has heard. It waits for no time of day.")

    def _switch(self, options: dict[str, Any]) -> None:
        key_id = rotation.switch(actor=SYSTEM, now=timezone.now(), without=options["without"])
        self._say(f"Releases are signed with {key_id} from now on. Next: retire, once every worker serves one.")
        with suppress(OSError, ValueError):
            if key_id not in parse_trusted_keys(settings.TRUSTED_KEYS_FILE.read_bytes()):
                self._say(f"New hosts begin with {settings.TRUSTED_KEYS_FILE}: let theirs hold")
                self._keys()

    def _retire(self, options: dict[str, Any]) -> None:
        gone = rotation.retire(actor=SYSTEM, now=timezone.now(), without=options["without"])
        self._say(f"No host believes {', '.join(gone)} any more. New hosts begin with a trusted keys file: let it hold")
        self._keys()

    def _compromised(self, options: dict[str, Any]) -> None:
        if not options["reason"].strip():
            raise CommandError("say why with --reason; it stays in the audit record")
        reason = options["reason"].strip()
        now = timezone.now()
        old, key_id = rotation.replace_compromised(actor=SYSTEM, reason=reason, now=now, key_id=options["key"])
        self._say(f"Key {old} is compromised: {key_id} signs, and hosts stop believing {old} as they hear of it.")
        waiting = rotation.standing(now=timezone.now()).waiting
        self._say(f"Has not heard yet: {', '.join(waiting) or 'nobody'}; look again with `status`.")
        self._say(
            "On hosts that are away, and on every new one, put this into the trusted keys file, and nothing else:"
        )
        self._keys()
        reports = RecoveryDrill.objects.filter(report_signature__key_id=old).count()
        dumps = Dump.objects.filter(deleted_at__isnull=True).count()
        self._say(
            f"What it signed is not believed any more: {reports} reports of game days, and of {dumps} dumps those"
        )
        self._say("that were made until now. Make dumps anew, and drill again.")

    def _keys(self) -> None:
        self._say(json.dumps({key_id: encoded(key) for key_id, key in sorted(trust().keys.items())}, indent=2))

    def _say(self, line: str) -> None:
        self.stdout.write(line)
