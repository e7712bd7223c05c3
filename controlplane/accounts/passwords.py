"""Passwords that a person or a script hands to a command: never as an argument, which others can read."""

import getpass
import os
import sys

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError

from controlplane.accounts.models import Operator

VARIABLE = "BALLAST_NEW_PASSWORD"


def read_password(operator: Operator) -> str:
    """From the variable BALLAST_NEW_PASSWORD, else asked for twice at a terminal, else the first line of stdin.

    Raises:
        CommandError: none was given, the two differ, or it is too weak for `operator`.
    """
    password = os.environ.get(VARIABLE, "")
    if not password and sys.stdin.isatty():
        password = getpass.getpass(f"Password for {operator.username}: ")
        if getpass.getpass("Once more: ") != password:
            raise CommandError("the two passwords differ; nothing was changed")
    elif not password:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise CommandError(f"no password: type one, pipe one in, or set {VARIABLE}; --no-password for single sign-on")
    try:
        validate_password(password, operator)
    except ValidationError as exc:
        raise CommandError(" ".join(exc.messages)) from exc
    return password
