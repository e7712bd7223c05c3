"""Put the first approval policy of a deployment in force."""

from pathlib import Path
from typing import Any

import yaml
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from controlplane.approvals import operations as approvals
from controlplane.approvals.errors import ApprovalError

BUILT_IN = settings.BASE_DIR / "fixtures" / "approval_policy.yaml"


class Command(BaseCommand):
    help = "Activate the first approval policy (the built-in one, or --file); refused once a policy is in force."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--file", type=Path, default=BUILT_IN, help="YAML list of rules")
        parser.add_argument("--actor", required=True, help="who decides this, for the audit record")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            rules = yaml.safe_load(options["file"].read_text())
            policy = approvals.bootstrap_policy(rules=rules, actor=options["actor"], now=timezone.now())
        except (OSError, yaml.YAMLError, ApprovalError) as exc:
            raise CommandError(str(exc)) from exc
        self.stdout.write(f"{policy} is in force ({len(policy.rules)} rules)")
