"""Leave a provider for some minutes, wait, and print what that showed: for a runbook, or a schedule."""

import json
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from django.core.exceptions import PermissionDenied
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from controlplane.accounts.models import Operator
from controlplane.releases.errors import ReleaseError
from controlplane.routing import drills
from controlplane.routing.access import require_holder
from controlplane.routing.drill_words import Finding, findings
from controlplane.routing.errors import RoutingError
from controlplane.routing.models import Drill
from controlplane.telemetry.drills import MAX_RETURN, is_at_rest, may_be_over, measure
from controlplane.telemetry.lanes import open_now

_LOOK_SECONDS: Final = 1.0
_GIVE_UP: Final = MAX_RETURN + timedelta(minutes=1)


class Command(BaseCommand):
    help = (
        "Leave a provider, or one lane, for some minutes: hold its lanes open, wait, and print how long everybody took "
        "to follow, what callers saw and what it cost. Ctrl-C lets the lanes go at once."
    )

    # Arguments of the class and not patches, so that tests can lead the time.
    now: Callable[[], datetime] = staticmethod(timezone.now)
    wait: Callable[[float], None] = staticmethod(time.sleep)

    def add_arguments(self, parser: CommandParser) -> None:
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--provider", default="", metavar="NAME", help="such as openai: every lane of it")
        what.add_argument("--lane", default="", metavar="ID", help="one lane, such as openai/us-east/main/gpt-4o")
        parser.add_argument(
            "--minutes", type=int, default=10, help=f"{drills.MIN_MINUTES} to {drills.MAX_MINUTES} (default 10)"
        )
        parser.add_argument(
            "--reason", required=True, help="kept in the audit record, and shown wherever the lanes are"
        )
        parser.add_argument("--actor", required=True, metavar="NAME", help="the operator who answers for it")
        parser.add_argument(
            "--accept-left-out", action="store_true", help="go on although tenants have no lane left meanwhile"
        )
        parser.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else")

    def handle(self, *args: Any, **options: Any) -> None:
        quiet = options["json"]
        actor = _holder(options["actor"])
        drill = self._start(actor, options)
        self._say(
            f"{drill}: leaving {drill.subject} until {drill.until:%H:%M:%S} UTC, {drill.get_absolute_url()}", quiet
        )
        for line in drill.effects:
            self._say(f"  {line}", quiet)
        try:
            figures = self._follow(drill, quiet)
        except KeyboardInterrupt:
            drills.end_drill(drill=drill, reason="interrupted", actor=actor, now=self.now())
            raise CommandError(f"{drill} was interrupted; its lanes are let go") from None
        found = findings(drill, figures)
        if quiet:
            self.stdout.write(json.dumps(_whole(drill, figures, found), indent=2))
            return
        for finding in found:
            self.stdout.write(f"{'!' if finding.tone == 'bad' else '-'} {finding.text}")

    def _start(self, actor: Operator, options: Any) -> Drill:
        now = self.now()
        try:
            return drills.start_drill(
                provider=options["provider"],
                lane=options["lane"],
                minutes=options["minutes"],
                reason=options["reason"],
                actor=actor,
                now=now,
                gone=open_now(now),
                accept_left_out=options["accept_left_out"],
            )
        except (RoutingError, ReleaseError) as exc:
            raise CommandError(f"{exc}; nothing was changed") from exc

    def _follow(self, drill: Drill, quiet: bool) -> Any:
        """Tell when everybody has followed, then wait for the end and for what comes after it."""
        told = False
        while self.now() < drill.until and drills.is_running(drill, self.now()):
            if not told:
                figures = measure(drill, now=self.now())
                if figures["convergence"]["ms"] is not None:
                    told = True
                    self._say(findings(drill, figures)[0].text, quiet)
            self.wait(_LOOK_SECONDS)
        self._say("Its lanes are back; waiting until they are used again", quiet)
        end = max(drills.ends_of(drill).values())
        while True:
            now = self.now()
            if may_be_over(drill, now=now):
                figures = measure(drill, now=now)
                if is_at_rest(drill, figures, now=now) or now > end + _GIVE_UP:
                    # Whoever comes first, this or the control plane's own clock: one result stands.
                    return drills.record_result(drill=drill, figures=figures, now=now).figures
            self.wait(_LOOK_SECONDS)

    def _say(self, text: str, quiet: bool) -> None:
        if not quiet:
            self.stdout.write(text)
            self.stdout.flush()


def _holder(name: str) -> Operator:
    operator = Operator.objects.filter(username=name, is_active=True).first()
    if operator is None:
        raise CommandError(f"--actor {name!r}: there is no active operator of that name")
    try:
        require_holder(operator)
    except PermissionDenied as exc:
        raise CommandError(str(exc)) from exc
    return operator


def _whole(drill: Drill, figures: Any, found: list[Finding]) -> dict[str, Any]:
    return {
        "drill": drill.pk,
        "provider": drill.provider,
        "lanes": drill.lane_ids,
        "minutes": drill.minutes,
        "release": drill.revision,
        "effects": drill.effects,
        "findings": [finding.to_json() for finding in found],
        "figures": figures,
    }
