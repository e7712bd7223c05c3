"""Delete the transcripts of old streams; their rows and digests stay."""

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from controlplane.ledger.streams import forget_transcripts


class Command(BaseCommand):
    help = (
        "Delete the transcripts of streams that ended over DAYS days ago. Their rows, digests and figures stay, and "
        "the audit record says how many went, who decided it and why."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("days", type=int, metavar="DAYS", help="0 forgets all that have ended")
        parser.add_argument("--tenant", default="", help="of this tenant only, by its slug")
        parser.add_argument("--actor", required=True, help="who decides this, for the audit record")
        parser.add_argument("--reason", required=True, help="why, for the audit record")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["days"] < 0:
            raise CommandError(f"{options['days']} days ago is in the future; name 0 or more")
        now = timezone.now()
        before, forgotten = now - timedelta(days=options["days"]), 0
        asked = {name: options[name] for name in ("tenant", "actor", "reason")}
        while some := forget_transcripts(before=before, now=now, **asked):
            forgotten += some
        self.stdout.write(f"forgot {forgotten} transcripts")
