"""Erase what is kept of one user of a tenant."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from controlplane.deadletters.errors import DeadLetterError
from controlplane.deadletters.subjects import erase_subject
from dataplane.idempotency import Scope


class Command(BaseCommand):
    help = (
        "Erase what is kept of the words of one user of a tenant: dead letters, jobs, answers to be given again or to "
        "be completed, transcripts, samples. Figures stay, and the audit record says how many went, who decided it and "
        "why. Objects of the payload store go in a minute and what was under way in a quarter of an hour, while beat "
        "runs; the page of erasures says when it is done. Held letters stay and are named; then the status is 1."
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
        went = ", ".join(f"{kind} {number}" for kind, number in done.counts.items() if number)
        self.stdout.write(f"erased: {went or 'there was nothing'}; under way until {done.again_at:%H:%M} UTC at least")
        if done.held:
            names = ", ".join(str(name) for name in done.held)
            raise CommandError(f"{len(done.held)} are held and stay: {names}")
