"""Compare a YAML configuration with the deployment, and bring the differences in by the console's own operations."""

import sys
from pathlib import Path
from typing import Any

from django.core.exceptions import PermissionDenied, ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.http import Http404
from django.utils import timezone

from controlplane.accounts.errors import AccessError
from controlplane.accounts.models import Operator
from controlplane.api.gitops.document import MalformedConfiguration, read_configuration
from controlplane.api.gitops.plan import Plan, carry_out, compare
from controlplane.approvals.errors import ApprovalError
from controlplane.ladder.errors import CopyError, LadderError
from controlplane.prompts.errors import PromptError
from controlplane.releases.errors import ReleaseError
from controlplane.rollouts.errors import RolloutError
from controlplane.routing.errors import RoutingError

REFUSALS = (
    AccessError,
    ApprovalError,
    CopyError,
    LadderError,
    PromptError,
    ReleaseError,
    RolloutError,
    RoutingError,
    Http404,
    PermissionDenied,
    ValidationError,
)


class Command(BaseCommand):
    help = (
        "Show how a configuration differs from the deployment. With --apply, take every step or none: tenants change "
        "at once; copy, routing, ladder, policy and prompts open change requests, which people sign at the console."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, metavar="FILE", help="a YAML file, or - for standard input")
        parser.add_argument("--apply", action="store_true", help="do it; without this nothing is changed")
        parser.add_argument("--actor", metavar="NAME", help="the operator in whose name, and with whose permissions")
        parser.add_argument("--reason", default="imported", help="what the record says, such as a commit's id")

    def handle(self, *args: Any, file: Path, apply: bool, actor: str | None, reason: str, **options: Any) -> None:
        now = timezone.now()
        if apply and not actor:
            raise CommandError("--apply needs --actor NAME: somebody answers for what is changed")
        try:
            plan = compare(read_configuration(_read(file)))
        except MalformedConfiguration as exc:
            raise CommandError(f"{file}: {exc}") from exc
        self._show(plan)
        if plan.problems:
            raise CommandError(f"{len(plan.problems)} of it cannot be imported; nothing was changed")
        if apply and plan.steps:
            self._carry_out(plan, actor=_operator(actor or ""), reason=reason, now=now)
        elif plan.steps:
            self.stdout.write("Nothing was changed; --apply --actor NAME does it")

    def _show(self, plan: Plan) -> None:
        for line in plan.problems:
            self.stderr.write(f"! {line}")
        for step in plan.steps:
            self.stdout.write(f"+ {step.path}: {step.what}")
        for line in plan.waiting:
            self.stdout.write(f"  {line}")
        if not (plan.steps or plan.waiting or plan.problems):
            self.stdout.write("The deployment is as the file says")

    def _carry_out(self, plan: Plan, *, actor: Operator, reason: str, now: Any) -> None:
        try:
            lines = carry_out(plan, actor=actor, reason=reason, now=now)
        except REFUSALS as exc:
            message = "; ".join(exc.messages) if isinstance(exc, ValidationError) else str(exc)
            raise CommandError(f"{message}; nothing was changed") from exc
        for line in lines:
            self.stdout.write(line)


def _read(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise CommandError(f"{file}: cannot be read: {exc}") from exc


def _operator(name: str) -> Operator:
    operator = Operator.objects.filter(username=name, is_active=True).first()
    if operator is None:
        raise CommandError(f"--actor {name!r}: there is no active operator of that name")
    return operator
