"""Lists newest first, a page after the other by the key of the last row: a late page costs no more than the first."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.dateparse import parse_datetime

from controlplane.console.requests import whole_number
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


@dataclass(frozen=True, slots=True)
class KeyPage:
    """One page of a list, as `components/_key_pages.html` takes it; the addresses are "" where there is nothing."""

    rows: list[Any]
    first_url: str
    next_url: str


def newest_page(
    request: HttpRequest,
    rows: QuerySet[Any],
    *,
    size: int = PAGE_SIZE,
    parse: Callable[[str], UUID | int | None] = whole_number,
    first: str = "",
) -> KeyPage:
    """The page of rows, newest first by their key, that the address names; the next one keeps all of the address. Where
    nothing is left after the key, it is the first page again.

    One query, and none to count them; two where nothing is left.

    Args:
        rows: Of a model whose keys grow with time.
        parse: As of `page_by_key`.
        first: An annotation of the rows, True or False: those of which it is True come before the others.
    """
    kept = {name: value for name, value in request.GET.items() if name not in {"before", first}}
    before = parse(request.GET.get("before", ""))
    if before is not None:
        # With `first` in its address, the page before ended among those, and all the others are still to come.
        older = Q(pk__lt=before)
        if first:
            older &= Q(**{first: first in request.GET})
        if first and first in request.GET:
            older |= Q(**{first: False})
    ordered = rows.order_by(*([f"-{first}"] if first else []), "-pk")
    page = list((ordered if before is None else ordered.filter(older))[: size + 1])
    if not page and before is not None:
        before, page = None, list(ordered[: size + 1])
    shown = page[:size]
    next_url = ""
    if len(page) > size:
        among_first = first and getattr(shown[-1], first)
        next_url = "?" + urlencode({**kept, "before": shown[-1].pk, **({first: 1} if among_first else {})})
    return KeyPage(shown, "" if before is None else "?" + urlencode(kept), next_url)
