"""Make the first operator of a deployment."""

from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from controlplane.accounts import operations
from controlplane.accounts.errors import AccessError
from controlplane.accounts.models import Operator
from controlplane.accounts.passwords import read_password


class Command(BaseCommand):
    help = (
        "Create an operator with the role 'admin' on everything; refused once there is one. The password is asked for, "
        "read from stdin, or taken from BALLAST_NEW_PASSWORD."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--username", required=True, help="the name in the record, for ever")
        parser.add_argument("--email", required=True, help="the address single sign-on knows them by")
        parser.add_argument("--no-password", action="store_true", help="they sign in by single sign-on only")
        parser.add_argument("--force", action="store_true", help="although there is an admin already")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["no_password"] and not settings.OIDC_ISSUER:
            raise CommandError("--no-password needs single sign-on: set BALLAST_OIDC_ISSUER first")
        person = Operator(username=options["username"], email=options["email"])
        try:
            person.clean_fields(exclude=["password"])
        except ValidationError as exc:
            problems = (f"--{name}: {' '.join(texts)}" for name, texts in exc.message_dict.items())
            raise CommandError("; ".join(problems)) from exc
        password = None if options["no_password"] else read_password(person)
        try:
            operator = operations.create_admin(
                username=person.username,
                password=password,
                email=person.email,
                force=options["force"],
                now=timezone.now(),
            )
        except AccessError as exc:
            raise CommandError(str(exc)) from exc
        self.stdout.write(f"{operator} may sign in at {settings.CONSOLE_URL}/ and give others access")
