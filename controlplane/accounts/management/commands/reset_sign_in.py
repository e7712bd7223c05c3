"""Let somebody in again who lost their password or their phone."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from controlplane.accounts import lockout, operations
from controlplane.accounts.models import Operator
from controlplane.accounts.passwords import read_password


class Command(BaseCommand):
    help = (
        "Set another password, remove every second factor, end every session and open a door that failures had closed. "
        "The password is asked for, read from stdin, or taken from BALLAST_NEW_PASSWORD."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")
        parser.add_argument("--actor", required=True, help="who decides this, for the audit record")
        parser.add_argument("--no-password", action="store_true", help="they sign in by single sign-on only")

    def handle(self, *args: Any, **options: Any) -> None:
        operator = Operator.objects.filter(username=options["username"]).first()
        if operator is None:
            raise CommandError(f"there is no operator {options['username']!r}")
        password = None if options["no_password"] else read_password(operator)
        operations.reset_sign_in(operator=operator, password=password, actor=options["actor"], now=timezone.now())
        lockout.unlock(lockout.name_key(operator.username))
        lockout.unlock(lockout.factor_key(operator))
        self.stdout.write(f"{operator} may sign in again; their sessions are over and their second factors are gone")
