"""A door that closes: ten failures for one name within five minutes, and nobody comes in under it for five more.

allauth counts the failures in Redis, by name and by address, and slides: the eleventh try would pass as soon as the
first one is five minutes old. A lock beside the count makes the five minutes start at the tenth failure.
"""

import hashlib
from datetime import UTC, datetime

from allauth.core.internal import ratelimit
from django.conf import settings
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from controlplane.accounts.models import Operator

APP = "allauth.account"
ACTION = "login_failed"


def name_key(username: str) -> str:
    """What allauth counts failed passwords of a name under: the same for every host name and spelling of it."""
    return f"name:{username.strip().casefold()}"


def factor_key(operator: Operator) -> str:
    """What allauth counts failed second factors under."""
    return f"mfa-auth-user-{operator.pk}"


def locked_until(key: str, *, now: datetime) -> datetime | None:
    """Until when the door is closed; None when it is open."""
    until = cache.get(_lock(key))
    if until is None or until <= now.timestamp():
        return None
    return datetime.fromtimestamp(until, UTC)


def lock_if_exhausted(request: HttpRequest, key: str, *, now: datetime) -> datetime | None:
    """Close the door after the failure that was one too many; until when, for the one caller who closed it."""
    rates = {ACTION: settings.SIGN_IN_NAME_RATE}
    if ratelimit.consume(request, app=APP, action=ACTION, config=rates, key=key, dry_run=True):
        return None
    until = now + settings.SIGN_IN_LOCK
    # Of two last failures at the same time, one adds: the record gets one event.
    closed = cache.add(_lock(key), until.timestamp(), timeout=settings.SIGN_IN_LOCK.total_seconds())
    return until if closed else None


def unlock(key: str) -> None:
    """Open the door at once and forget the failures."""
    cache.delete(_lock(key))
    rates = {ACTION: settings.SIGN_IN_NAME_RATE}
    ratelimit.clear(HttpRequest(), app=APP, action=ACTION, config=rates, key=key)


def refusal(request: HttpRequest, until: datetime | None, *, now: datetime) -> HttpResponse:
    """The page for whoever stands before a closed door. `until` None: it is their address that failed too often."""
    wait = (until - now if until else settings.SIGN_IN_LOCK).total_seconds()
    minutes = max(1, -(-int(wait) // 60))
    context = {"until": until, "minutes": minutes}
    headers = {"Retry-After": str(int(wait) + 1), "Cache-Control": "no-store"}
    response = render(request, "429.html", context, status=429)
    for name, value in headers.items():
        response[name] = value
    return response


def _lock(key: str) -> str:
    return f"ballast:sign-in:locked:{hashlib.sha256(key.encode()).hexdigest()}"
