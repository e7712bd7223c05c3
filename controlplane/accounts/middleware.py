"""What stands before every view: a second factor where one is asked for, and words for when Redis is away."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import render
from django.urls import reverse
from django_htmx.http import HttpResponseClientRedirect
from redis.exceptions import RedisError

from controlplane.accounts import second_factor
from controlplane.accounts.models import Operator

GetResponse = Callable[[HttpRequest], HttpResponse]
# What an operator without a second factor may do: set one up, which asks who they are, or leave.
WITHOUT_FACTOR: Final = frozenset({"mfa_activate_totp", "account_reauthenticate", "account_logout"})
PUBLIC: Final = frozenset({"livez", "readyz", "startupz"})
RETRY_SECONDS: Final = 10

logger = logging.getLogger(__name__)


class RequireSecondFactor:
    """With BALLAST_REQUIRE_MFA, leads an operator who has no second factor to setting one up, from every other page.

    Asked of sessions, of which the API takes some too. A call with an operator token has no session and is not asked.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self._get_response(request)

    def process_view(
        self, request: HttpRequest, view: object, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> HttpResponse | None:
        """None to go on."""
        match = request.resolver_match
        name = match.url_name if match else None
        if name in WITHOUT_FACTOR | PUBLIC or not isinstance(request.user, Operator):
            return None
        if not second_factor.is_missing(request.user):
            return None
        if request.path.startswith("/api/"):
            message = "this deployment asks for a second factor; set one up at the console first"
            return JsonResponse({"error": {"code": "second_factor_required", "message": message}}, status=403)
        url = reverse("mfa_activate_totp")
        if getattr(request, "htmx", False):
            return HttpResponseClientRedirect(url)
        return HttpResponseRedirect(url)


class SignInNeedsRedis:
    """Signing in fails closed: without Redis nobody could count failures, so the doors stay shut and the page says so.

    Sessions lie in PostgreSQL: who is in stays in.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self._get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """The page, for a Redis that failed while somebody signed in; None for anything else."""
        if not isinstance(exception, RedisError) or not request.path.startswith("/accounts/"):
            return None
        logger.error("signing in is closed while Redis is away: %s", exception.__class__.__name__)
        response = render(request, "503.html", status=503)
        response["Retry-After"] = str(RETRY_SECONDS)
        return response
