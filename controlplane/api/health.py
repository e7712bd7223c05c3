"""Whether the console is alive, and whether it is really usable. Both are public and say nothing that is secret."""

from collections.abc import Callable
from http import HTTPStatus

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from controlplane.approvals.models import PolicyActivation
from controlplane.releases.errors import SigningKeyMissing
from controlplane.releases.models import Release
from controlplane.releases.signing import signing_key
from controlplane.vitals import CONSOLE
from dataplane.vitals import LIVE

OK = "ok"
REDIS_SECONDS = 1.0


@require_safe
@never_cache
def livez(request: HttpRequest) -> JsonResponse:
    """200 as long as the process answers, which takes its event loop and a thread, and the thread turns that live lines
    share. It looks at nothing else, since a restart mends nothing else.

    Shape: {"status": "ok|wedged", "loops": {name: {"silent_seconds", "within_seconds"}}}.
    """
    status, found = CONSOLE.answer(LIVE) or (HTTPStatus.OK, {"loops": {}})
    return JsonResponse({"status": OK if status == HTTPStatus.OK else "wedged", "loops": found["loops"]}, status=status)


@require_safe
@never_cache
def startupz(request: HttpRequest) -> JsonResponse:
    """200 once the process answers: its code is loaded then, and nothing else is waited for."""
    return JsonResponse({"status": OK})


@require_safe
@never_cache
def readyz(request: HttpRequest) -> JsonResponse:
    """200 when every check is ok, else 503; each check says what is missing and what to do. 503 too, and nothing is
    checked, once the process was told to stop.

    Shape: {"status": "ok|not ready|draining", "checks": {name: "ok" or a sentence}}.
    """
    if CONSOLE.is_draining:
        return JsonResponse({"status": "draining", "checks": {}}, status=HTTPStatus.SERVICE_UNAVAILABLE)
    checks = {name: check() for name, check in CHECKS}
    ready = all(found == OK for found in checks.values())
    return JsonResponse({"status": OK if ready else "not ready", "checks": checks}, status=200 if ready else 503)


# The sentences are fixed: an exception's own text may carry an address with a password in it.
def _database() -> str:
    try:
        connection.ensure_connection()
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return "PostgreSQL cannot be reached; check DATABASE_URL"
    return OK


def _migrations() -> str:
    try:
        executor = MigrationExecutor(connection)
        waiting = len(executor.migration_plan(executor.loader.graph.leaf_nodes()))
    except DatabaseError:
        return "unknown while PostgreSQL cannot be reached"
    return f"{waiting} migrations are not applied; run manage.py migrate" if waiting else OK


def _redis() -> str:
    try:
        with redis.Redis.from_url(
            settings.REDIS_URL, socket_connect_timeout=REDIS_SECONDS, socket_timeout=REDIS_SECONDS
        ) as client:
            client.ping()
    except redis.RedisError:
        return "Redis cannot be reached; check REDIS_URL"
    return OK


def _signing_key() -> str:
    try:
        signing_key()
    except SigningKeyMissing:
        return "the signing key cannot be read; check BALLAST_SIGNING_KEY_FILE"
    return OK


def _policy() -> str:
    try:
        return OK if PolicyActivation.objects.exists() else "no policy is in force; run manage.py bootstrap_policy"
    except DatabaseError:
        return "unknown while PostgreSQL cannot be read"


def _release() -> str:
    try:
        return OK if Release.objects.exists() else "no release was cut yet; put a routing table in force"
    except DatabaseError:
        return "unknown while PostgreSQL cannot be read"


CHECKS: tuple[tuple[str, Callable[[], str]], ...] = (
    ("database", _database),
    ("migrations", _migrations),
    ("redis", _redis),
    ("signing_key", _signing_key),
    ("approval_policy", _policy),
    ("release", _release),
)
