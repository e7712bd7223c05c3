"""What the tests of signing in share: a person with a password, a browser at the door, and the record of both."""

import re
from datetime import timedelta

from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value, yield_hotp_counters_from_time
from django.core.cache import cache
from django.test import Client
from django.urls import reverse

from controlplane.accounts import operations as accounts
from controlplane.accounts.models import Operator
from controlplane.audit.models import AuditEvent
from tests.factories import NOW, SETUP

PASSWORD = "correct horse battery staple"
PATIENCE_SECONDS = 60  # with Redis, and with a provider: what is away refuses at once, what is only slow is waited for


def make_person(name: str = "ada", *, password: str | None = PASSWORD, email: str | None = None) -> Operator:
    """An operator who can sign in."""
    address = email if email is not None else f"{name}@ballast.example"
    return accounts.create_operator(username=name, password=password, email=address, actor=SETUP, now=NOW)


def sign_in(browser: Client, name: str = "ada", password: str = PASSWORD, **extra):
    """Send the sign-in form."""
    return browser.post(reverse("account_login"), {"login": name, "password": password}, **extra)


def is_in(browser: Client) -> bool:
    """Whether the browser's session is somebody's, asked of a page."""
    return browser.get(reverse("mfa_index")).status_code == 200


def events(action: str = "") -> list[AuditEvent]:
    """What the record says about signing in, oldest first."""
    found = AuditEvent.objects.exclude(action="operator.created").order_by("seq")
    return list(found.filter(action=action) if action else found)


def actions() -> list[str]:
    return [event.action for event in events()]


def let_pass(span: timedelta) -> None:
    """Move what is remembered back by `span`.

    allauth reads time.time() and Redis has a clock of its own, so no clock can be handed in; the memory can be aged.
    """
    seconds = span.total_seconds()
    for key in _keys():
        value = cache.get(key)
        if isinstance(value, float):
            kept = value - seconds
            cache.set(key, kept, 600)
        elif isinstance(value, list):
            cache.set(key, [at - seconds for at in value], 600)


def forget(part: str) -> None:
    """Drop every key with `part` in it."""
    cache.delete_many([key for key in _keys() if part in key])


def _keys() -> list[str]:
    """The keys of the cache, as `cache` takes them."""
    client = cache._cache.get_client()
    return [re.sub(r"^:1:", "", key.decode()) for key in client.keys(":1:*")]


def code_of(secret: str, *, step: int = 0) -> str:
    """The six digits an app shows now; `step` periods of 30 s later or earlier."""
    counters = list(yield_hotp_counters_from_time())
    return format_hotp_value(hotp_value(secret, counters[len(counters) // 2] + step))


def enrol(browser: Client) -> str:
    """Set up an app for whoever is signed in, and return its secret."""
    confirm(browser)
    page = browser.get(reverse("mfa_activate_totp"))
    secret: str = page.context["form"].secret
    answer = browser.post(reverse("mfa_activate_totp"), {"code": code_of(secret)})
    assert answer.status_code == 302, answer.content
    return secret


def confirm(browser: Client, password: str = PASSWORD) -> None:
    """Type the password once more, as every change of a second factor asks."""
    browser.post(reverse("account_reauthenticate"), {"password": password})
