"""Pages by key: a late page costs no more than the first, and what arrives meanwhile shifts nothing."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import AnySerializer, Strict, page_schema

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
CURSOR_PARAMETERS = [
    OpenApiParameter("limit", int, description="Rows per page, up to 200; 50 unless told"),
    OpenApiParameter("cursor", description="Where to go on, out of `next`; opaque"),
]


class CursorField(serializers.Field[Any, Any, Any, Any]):
    """The key of the last row that was seen, as text that no caller takes apart."""

    def to_internal_value(self, data: Any) -> list[Any]:
        try:
            key = json.loads(urlsafe_b64decode(str(data).encode()))
        except (NotBase64, ValueError):
            key = None
        if not isinstance(key, list) or len(key) != 2:
            raise serializers.ValidationError("this is no cursor that we gave; begin without one")
        return key

    def to_representation(self, value: Any) -> str:
        return urlsafe_b64encode(json.dumps(value).encode()).decode()


def next_url(request: Request, asked: dict[str, str], key: list[Any]) -> str:
    """The address of the page after the row with `key`; `asked` is what the caller asked for, made explicit."""
    query = urlencode({**asked, "cursor": CursorField().to_representation(key)})
    return request.build_absolute_uri(f"{request.path}?{query}")


class Filters(Strict):
    """The query of a list; a parameter that it does not know would claim a narrower answer than was given, so it is
    refused.
    """

    limit = serializers.IntegerField(required=False, min_value=1, default=DEFAULT_LIMIT)
    cursor = CursorField(required=False)


def read_query(filters: type[Filters], request: Request) -> dict[str, Any]:
    """What the caller asks for, as `filters` describes it.

    Raises:
        rest_framework.exceptions.ValidationError: naming the parameters.
    """
    parsed = filters(data=request.query_params.dict())
    parsed.is_valid(raise_exception=True)
    asked: dict[str, Any] = parsed.validated_data
    return asked


def cursor_key(asked: dict[str, Any], *parsers: Callable[[Any], Any]) -> tuple[Any, ...]:
    """What the cursor holds, each of its values read by its parser; a caller may have made it up."""
    try:
        return tuple(parse(value) for parse, value in zip(parsers, asked["cursor"], strict=False))
    except (TypeError, ValueError, OverflowError):
        raise serializers.ValidationError({"cursor": ["this is no cursor of this list; begin without one"]}) from None


def moment(text: str) -> datetime:
    """An aware moment in ISO-8601, or ValueError."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"{text!r} has no zone")
    return at


def text_key(value: Any) -> str:
    """Text that a row could hold, or ValueError."""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{value!r} is no text that a row could hold")
    return value


def page_of(rows: Any, asked: dict[str, Any]) -> tuple[list[Any], bool]:
    """The rows of this page, and whether there are more."""
    limit = min(asked["limit"], MAX_LIMIT)
    found = list(rows[: limit + 1])
    return found[:limit], len(found) > limit


def next_page(request: Request, asked: dict[str, Any], key: list[Any] | None) -> str | None:
    """The address of the next page, or None if `key` is: this one was the last. What is None was not asked for."""
    if key is None:
        return None
    kept = {name: value for name, value in asked.items() if name != "cursor" and value is not None}
    return next_url(
        request, {name: value.isoformat() if isinstance(value, date) else value for name, value in kept.items()}, key
    )


@dataclass(frozen=True, slots=True)
class Order:
    """How the rows of a list follow each other, newest first, and what its cursor holds of one.

    Args:
        key: The two values of a row; JSON must have them.
        parsers: What makes of them what `before` of the rows takes, or raises ValueError; fewer than two if it takes
            fewer.
    """

    key: Callable[[Any], list[Any]]
    parsers: tuple[Callable[[Any], Any], ...]


BY_TIME: Final = Order(lambda row: [row.at.isoformat(), row.pk], (moment, text_key))
BY_DAY: Final = Order(lambda row: [row.day.isoformat(), row.pk], (date.fromisoformat, int))
# Ids that begin with the time at which they were made.
BY_ID: Final = Order(lambda row: [str(row.pk), ""], (lambda value: UUID(str(value)),))


def older_pages_of(row: AnySerializer) -> serializers.BaseSerializer[Any]:
    """What `newest_page` answers, in the words of the schema."""
    return page_schema(row, next=serializers.URLField(allow_null=True, help_text="Null: there are no older ones"))


def newest_page(rows: Any, request: Request, asked: dict[str, Any], *, order: Order, row: AnySerializer) -> Response:
    """The newest of `rows`, or what follows the cursor's, each as `row` has it; one query, and none to count them.

    Args:
        rows: A QuerySet that knows `newest` and, as `order` calls it, `before`.
        asked: What `read_query` gave, made explicit: the next page asks for the same.
    """
    if "cursor" in asked:
        rows = rows.before(*cursor_key(asked, *order.parsers))
    page, more = page_of(rows.newest(), asked)
    key = order.key(page[-1]) if more else None
    return Response({"next": next_page(request, asked, key), "results": row(page, many=True).data})
