"""What the thresholds of every versioned document look like over HTTP: those of one entry, and others proposed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.accounts.models import Operator
from controlplane.api.base import AnySerializer, OperatorView, Strict, describe, read
from controlplane.api.views.changes import ChangeRow
from controlplane.versioned.numbers import NewValue
from controlplane.versioned.operations import ProposeNumbers
from dataplane.thresholds import ORIGINS, Threshold


class ProvenanceRow(serializers.Serializer[Any]):
    origin = serializers.ChoiceField(sorted(ORIGINS))
    note = serializers.CharField()
    link = serializers.CharField(allow_blank=True)
    author = serializers.CharField()
    on = serializers.DateField()
    review_by = serializers.DateField()
    is_overdue = serializers.BooleanField()


class ThresholdRow(serializers.Serializer[Any]):
    value = serializers.FloatField()
    provenance = ProvenanceRow()


class NewThreshold(Strict):
    value = serializers.FloatField(help_text="Shares as 0..1; the unit is in the threshold's name")
    origin = serializers.ChoiceField(sorted(ORIGINS))
    note = serializers.CharField(max_length=500)
    link = serializers.CharField(max_length=500, allow_blank=True, default="", help_text="Only a guess may have none")
    review_by = serializers.DateField()


class NewThresholds(Strict):
    thresholds = serializers.DictField(
        child=NewThreshold(allow_null=True),
        allow_empty=False,
        help_text="Those to change, by name; null unsets what may be unset",
    )
    reason = serializers.CharField(max_length=1000)


@dataclass(frozen=True, slots=True)
class Found:
    """The thresholds of one entry in force, by their names; of routing, with the number of the table too."""

    thresholds: Mapping[str, Threshold]
    table: int | None = None


def threshold_view(
    *,
    name: str,
    tag: str,
    summaries: tuple[str, str],
    gives: AnySerializer,
    found: Callable[[Operator, str], Found],
    access_to_propose: Callable[[Operator, str], object],
    propose: ProposeNumbers,
) -> type[OperatorView]:
    """The URL of one kind of entries: read the thresholds of one that is in force, and propose others.

    Args:
        name: With which the names of its operations begin.
        summaries: Of reading and of proposing, as the schema has them.
        gives: Shows `slug`, `thresholds`, and `table` if it names it.
        found: By the entry's slug, for an operator who may look at it.
        access_to_propose: Raises unless the operator may propose others.
    """
    reading, proposing = summaries

    class ThresholdsOfOne(OperatorView):
        @describe(f"{name}_retrieve", reading, tag=tag, gives=gives, refuses=(404,))
        def get(self, request: Request, slug: str) -> Response:
            today = timezone.now().date()
            entry = found(self.operator, slug)
            rows = {one: _plain(threshold, today=today) for one, threshold in entry.thresholds.items()}
            return Response(gives({"slug": slug, "table": entry.table, "thresholds": rows}).data)

        @describe(f"{name}_propose", proposing, tag=tag, takes=NewThresholds, gives=ChangeRow, status=201)
        def patch(self, request: Request, slug: str) -> Response:
            now = timezone.now()
            access_to_propose(self.operator, slug)
            asked = read(NewThresholds, request)
            changes = {one: new and NewValue(**new) for one, new in asked["thresholds"].items()}
            change = propose(slug=slug, changes=changes, reason=asked["reason"], actor=self.operator, now=now)
            return Response(ChangeRow(change).data, status=201)

    return ThresholdsOfOne


def _plain(threshold: Threshold, *, today: date) -> Mapping[str, Any]:
    """A threshold as `ThresholdRow` shows it."""
    said = threshold.provenance
    provenance = {name: getattr(said, name) for name in ("origin", "note", "link", "author", "on", "review_by")}
    return {"value": threshold.value, "provenance": provenance | {"is_overdue": said.is_overdue(today)}}
