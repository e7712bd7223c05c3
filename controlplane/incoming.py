"""What is refused of a request before anybody looks at it."""

from collections.abc import Callable

from django.core.exceptions import BadRequest
from django.http import HttpRequest
from django.http.response import HttpResponseBase


class RefuseNul:
    """Answers 400 where an address has a NUL in it: PostgreSQL stores none, so nothing here is called that, and each
    look-up of its own would fail over it. Bodies are the business of whoever reads them.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Let it on, or raise BadRequest."""
        if "\x00" in request.path_info or "%00" in request.META.get("QUERY_STRING", ""):
            raise BadRequest("the address has a NUL in it")
        return self._get_response(request)
