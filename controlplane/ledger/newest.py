"""How rows of the record are read: newest first, of the tenants that a reader may see, one page after the other."""

from collections.abc import Iterable
from datetime import date
from typing import ClassVar, Self, TypeVar
from uuid import UUID

from django.db import models
from django.db.models import Q

M = TypeVar("M", bound=models.Model)


def uuid_of(text: str) -> UUID | None:
    """The id that a text is, None for any other text."""
    try:
        return UUID(text)
    except ValueError:
        return None


class SeenQuerySet(models.QuerySet[M]):
    """Rows of tenants, each of which not everybody may see."""

    def fitting(self, tenants: Iterable[str] | None, **values: str) -> Self:
        """Rows of these tenants, None means all, with these values in their columns; "" narrows nothing."""
        rows = self if tenants is None else self.filter(tenant__in=list(tenants))
        return rows.filter(**{name: value for name, value in values.items() if value})


class TimedQuerySet(SeenQuerySet[M]):
    """Rows sorted by the time that `time` names, then by their key."""

    time: ClassVar[str] = "at"

    def newest(self) -> Self:
        return self.order_by(f"-{self.time}", "-pk")

    def between(self, since: date, until: date) -> Self:
        """Rows of [since, until): moments, or days in UTC."""
        return self.filter(**{f"{self.time}__gte": since, f"{self.time}__lt": until})

    def before(self, time: date, pk: str | int) -> Self:
        """The rows after this one when sorted newest first; the cost does not grow with the page number."""
        older = Q(**{f"{self.time}__lt": time}) | Q(**{self.time: time, "pk__lt": pk})
        # Said again without the key, since an OR is no place to enter an index at.
        return self.filter(older).filter(**{f"{self.time}__lte": time})


class NumberedQuerySet(SeenQuerySet[M]):
    """Rows whose keys grow with the time at which they were made."""

    def newest(self) -> Self:
        return self.order_by("-pk")

    def before(self, pk: UUID | int) -> Self:
        """The rows after this one when sorted newest first; the cost does not grow with the page number."""
        return self.filter(pk__lt=pk)

    def called(self, name: str, *, prefix: str) -> Self:
        """The row of that whole id, as callers know it, with `prefix`, or as it is stored; none for any other text."""
        found = uuid_of(name.removeprefix(prefix))
        return self.none() if found is None else self.filter(pk=found)
