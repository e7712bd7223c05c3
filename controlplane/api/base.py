"""What every URL of the console API is made of: the operator, the page, the body, and the words of its schema."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from django.db.models import Model, QuerySet
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.pagination import LimitOffsetPagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from controlplane.accounts.models import Operator
from controlplane.api.throttling import CallerThrottle

F = TypeVar("F", bound=Callable[..., Any])
M = TypeVar("M", bound=Model)
AnySerializer = type[serializers.BaseSerializer[Any]]


class Pagination(LimitOffsetPagination):
    """`limit` up to 200, `offset`; the answer is {"count", "next", "previous", "results"}."""

    default_limit = 50
    max_limit = 200


class OperatorView(APIView):
    """One URL for operators, by token or by session. Each method begins with `now`, then access, then the body."""

    throttle_classes = [CallerThrottle]

    @property
    def operator(self) -> Operator:
        """Who calls; IsAuthenticated has seen to it that there is somebody."""
        operator = self.request.user
        assert isinstance(operator, Operator)  # noqa: S101 - narrows the type
        return operator

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        """Say with every answer how the caller stands."""
        finished: Response = super().finalize_response(request, response, *args, **kwargs)
        standing = getattr(request, "rate_standing", None)
        if standing is not None:
            for name, value in standing.headers().items():
                finished[name] = value
        return finished

    def page(self, rows: QuerySet[M], serializer: AnySerializer, **context: Any) -> Response:
        """One page of `rows`: two queries, and what the serializer's rows were fetched with."""
        paginator = Pagination()
        found = paginator.paginate_queryset(rows, self.request, view=self)
        return paginator.get_paginated_response(serializer(found, many=True, context=context).data)


def read(body: AnySerializer, request: Request) -> dict[str, Any]:
    """The request's body as `body` describes it.

    Raises:
        rest_framework.exceptions.ValidationError: naming the fields.
    """
    parsed = body(data=request.data)
    parsed.is_valid(raise_exception=True)
    values: dict[str, Any] = parsed.validated_data
    return values


class Strict(serializers.Serializer[Any]):
    """A request's body; a field it does not know is a mistake of the caller and said to be one."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict) and (unknown := sorted(data.keys() - self.fields.keys())):
            raise serializers.ValidationError({name: ["this operation knows no such field"] for name in unknown})
        return super().to_internal_value(data)


class Nothing(Strict):
    """No body, or an empty object."""


class Reason(Strict):
    """Why; it stays in the record."""

    reason = serializers.CharField(max_length=1000)


class ErrorBody(serializers.Serializer[Any]):
    code = serializers.CharField(help_text="Stable, for programs")
    message = serializers.CharField(help_text="For people: what, why, and what to do")
    problems = serializers.ListField(child=serializers.DictField(), required=False)
    missing = serializers.DictField(child=serializers.IntegerField(), required=False)


class ErrorEnvelope(serializers.Serializer[Any]):
    """Everything the API refuses looks like this. A body that does not fit adds `fields`: what is wrong, by field."""

    error = ErrorBody()


_REFUSALS = {
    400: "The body is not as it must be",
    403: "You may see it, but not do this; the message names the roles that may",
    404: "It does not exist, or you may not see it",
    409: "The state of things does not allow it (any more); nothing was changed",
    413: "The body is too large",
    429: "Too many calls, or too many without a good token; `Retry-After` says when there may be more",
}
PAGE_PARAMETERS = [
    OpenApiParameter("limit", int, description="Rows per page, up to 200; 50 unless told"),
    OpenApiParameter("offset", int, description="Rows to skip"),
]


def describe(
    name: str,
    summary: str,
    *,
    tag: str,
    gives: AnySerializer | serializers.BaseSerializer[Any] | None = None,
    pages_of: AnySerializer | None = None,
    takes: AnySerializer | None = None,
    status: int = 200,
    refuses: Sequence[int] = (403, 404),
    parameters: Sequence[OpenApiParameter] = (),
) -> Callable[[F], F]:
    """Say in the schema what a method is called, takes, gives and refuses."""
    found: Any = gives
    asked = list(parameters)
    if pages_of is not None:
        found, asked = _page_of(pages_of), [*asked, *PAGE_PARAMETERS]
    codes = sorted({401, 429, *refuses, *((400, 409, 413) if takes is not None else ())})
    responses: dict[int, Any] = {status: found if found is not None else OpenApiResponse(description="Done")}
    responses |= {
        code: OpenApiResponse(ErrorEnvelope, description=_REFUSALS.get(code, "No valid token or session"))
        for code in codes
    }
    decorate: Callable[[F], F] = extend_schema(
        operation_id=name, summary=summary, tags=[tag], request=takes, responses=responses, parameters=asked
    )
    return decorate


def page_schema(row: AnySerializer, **said: serializers.Field[Any, Any, Any, Any]) -> serializers.BaseSerializer[Any]:
    """A page of such rows, as the schema has it: what is `said` of the page, then its `results`."""
    name = row.__name__.removesuffix("Serializer").removesuffix("Row")
    return inline_serializer(f"{name}Page", {**said, "results": row(many=True)})


def _page_of(row: AnySerializer) -> serializers.BaseSerializer[Any]:
    return page_schema(
        row,
        count=serializers.IntegerField(),
        next=serializers.URLField(allow_null=True),
        previous=serializers.URLField(allow_null=True),
    )
