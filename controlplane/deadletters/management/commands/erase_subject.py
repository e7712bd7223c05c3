"""Erase what dead letters say of one user of a tenant."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from controlplane.deadletters.errors import DeadLetterError
from controlplane.deadletters.retention import erase_subject
from dataplane.idempotency import Scope


class Command(BaseCommand):
    help = (
        "Erase the payloads, error messages and user hash of every dead letter of one user of a tenant. The rows and "
        "their figures stay, and the audit record says how many went, who decided it and why. Held letters stay and "
        "are named; the command then ends with status 1."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("tenant", help="the tenant's slug")
        who = parser.add_mutually_exclusive_group(required=True)
        who.add_argument("--user", help="the user's id, as the application sends it in ballast-user")
        who.add_argument("--user-hash", help="its SHA-256, in hex")
        parser.add_argument("--actor", required=True, help="who decides this, for the audit record")
        parser.add_argument("--reason", required=True, help="why, for the audit record")

    def handle(self, *args: Any, **options: Any) -> None:
        user_hash = options["user_hash"] or Scope(options["tenant"], options["user"]).user_hash
        try:
            done = erase_subject(
                tenant=options["tenant"],
                user_hash=user_hash,
                actor=options["actor"],
                reason=options["reason"],
                now=timezone.now(),
            )
        except DeadLetterError as exc:
            raise CommandError(str(exc)) from exc
        self.stdout.write(f"erased {done.erased} dead letters")
        if done.held:
            names = ", ".join(str(name) for name in done.held)
            raise CommandError(f"{len(done.held)} are held and stay: {names}")
