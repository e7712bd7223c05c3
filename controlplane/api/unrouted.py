"""What Django itself refuses or fails at, before or beside a view of the API: in the API's envelope under `/api/`, and
as Django's own pages elsewhere.
"""

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views import defaults

PREFIX = "/api/"


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """A request that is none: a host that is not ours, a header or a body beyond its limits."""
    if not request.path.startswith(PREFIX):
        return defaults.bad_request(request, exception)
    return _error(400, "bad_request", "the request cannot be read, or is larger than it may be")


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """An address that leads nowhere, such as a slug with letters that no slug has."""
    if not request.path.startswith(PREFIX):
        return defaults.page_not_found(request, exception)
    return _error(404, "not_found", "there is no such thing here, or you may not see it")


def server_error(request: HttpRequest) -> HttpResponse:
    """A mistake of ours; its traceback is in the log."""
    if not request.path.startswith(PREFIX):
        return defaults.server_error(request)
    return _error(500, "internal_error", "something went wrong here, and was logged; nothing was changed")


def _error(status: int, code: str, message: str) -> HttpResponse:
    return JsonResponse({"error": {"code": code, "message": message}}, status=status)
