"""Lists newest first, a page after the other by the key of the last row: a late page costs no more than the first."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from django.http import HttpRequest
from django.utils.dateparse import parse_datetime

from controlplane.ledger.newest import uuid_of

PAGE_SIZE: Final = 50


def page_by_key(
    request: HttpRequest,
    rows: Any,
    kept: Mapping[str, object],
    *,
    size: int = PAGE_SIZE,
    parse: Callable[[str], UUID | int | None] = uuid_of,
) -> tuple[list[Any], str]:
    """The rows of the page that the address names, and the query of the page after it, "" after the last.

    Args:
        rows: A QuerySet that knows `newest` and `before`.
        kept: What else the next page's query says.
        parse: Gives the key that a text in an address is, None for any other text.
    """
    before = parse(request.GET.get("before", ""))
    page = list((rows if before is None else rows.before(before)).newest()[: size + 1])
    shown = page[:size]
    return shown, "?" + urlencode({**kept, "before": shown[-1].pk}) if len(page) > size else ""


def page_by_time(request: HttpRequest, rows: Any) -> tuple[list[Any], str]:
    """As `page_by_key`, of rows that have a time `at` beside their key; the next page keeps all of the address."""
    last = _seen_last(request)
    page = list((rows.before(*last) if last else rows).newest()[: PAGE_SIZE + 1])
    shown = page[:PAGE_SIZE]
    if len(page) <= PAGE_SIZE:
        return shown, ""
    kept = {key: value for key, value in request.GET.items() if key not in {"before", "id"}}
    return shown, "?" + urlencode({**kept, "before": shown[-1].at.isoformat(), "id": shown[-1].pk})


def _seen_last(request: HttpRequest) -> tuple[datetime, str] | None:
    """The last row of the page before; None on the first page."""
    at = parse_datetime(request.GET.get("before", ""))
    return (at, request.GET.get("id", "").replace("\0", "")) if at is not None and at.tzinfo is not None else None
