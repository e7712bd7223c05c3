"""Somebody who asks for hundreds of pages in a row, of whom what stays the same is read only once."""

from copy import copy
from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.test import RequestFactory
from django.test.client import ClientHandler

from controlplane.accounts.models import Operator
from controlplane.console.status import House


class Visitor(RequestFactory):
    """A signed-in operator; None: nobody in particular. Asks through every middleware, as a browser would.

    Good while nothing lasting is changed: the operator's rights, read here and now, and the state of the house that
    every page shows at its top, read by the first one. A view that fails answers 500, and its traceback is logged.
    """

    def __init__(self, operator: Operator | None) -> None:
        super().__init__()
        self._handler = _Handler(operator)

    def request(self, **request: Any) -> HttpResponseBase:
        """The answer; what `generic` and the methods named for HTTP's return too. Pages are not kept for inspection."""
        return self._handler(self._base_environ(**request))


class _Handler(ClientHandler):
    def __init__(self, operator: Operator | None) -> None:
        super().__init__(enforce_csrf_checks=False)
        self._house: House | None = None
        self._operator = operator
        if operator is not None:
            # Asked for once each, so that every copy knows them.
            operator.has_perm("accounts.view_tenant")
            _ = operator.role_grants, operator.object_permissions

    def get_response(self, request: HttpRequest) -> HttpResponseBase:
        if self._operator is not None:
            # Where Django looks before it reads session and operator. A copy, for a view to write on.
            request._cached_user = copy(self._operator)
        if self._house is not None:
            request.ballast_house = self._house
        response = super().get_response(request)
        self._house = getattr(request, "ballast_house", None)
        return response
