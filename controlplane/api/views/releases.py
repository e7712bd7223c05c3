"""Releases and the fleet over HTTP."""

from collections.abc import Sequence
from math import ceil
from typing import Any, ClassVar

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import OperatorView, Reason, describe, read
from controlplane.api.cursors import CURSOR_PARAMETERS, Filters, cursor_key, next_page, page_of, read_query, text_key
from controlplane.api.differences import differences
from controlplane.api.views.prompts import DifferenceRow
from controlplane.releases import operations
from controlplane.releases.access import access_release, require_viewer, visible_releases
from controlplane.releases.fleet import fleet_of, heard_by_name, named_counts, picture_of, waited_ms
from controlplane.releases.models import Convergence, Release, worker_counts

TAG = "releases"


class ReleaseRow(serializers.ModelSerializer[Release]):
    class Meta:
        model = Release
        fields: ClassVar = ["revision", "digest", "key_id", "reason", "actor", "clicked_at", "restores"]


class EnvelopeRow(serializers.Serializer[Any]):
    """A release as workers receive and verify it."""

    document = serializers.CharField(help_text="Canonical JSON (RFC 8785), byte for byte what was signed")
    digest = serializers.CharField(help_text="SHA-256 of the document, in hex")
    key_id = serializers.CharField()
    signature = serializers.CharField(help_text="Ed25519 over 'ballast.release.v1\\n' + document, base64")


class ReleaseDiff(serializers.Serializer[Any]):
    before = serializers.IntegerField()
    after = serializers.IntegerField()
    differences = DifferenceRow(many=True)


class WorkerRow(serializers.Serializer[Any]):
    name = serializers.CharField()
    kind = serializers.CharField(help_text="'gateway' serves traffic, 'agent' carries releases to a host")
    host = serializers.CharField()
    pid = serializers.IntegerField()
    status = serializers.CharField()
    state = serializers.ChoiceField([state.value.replace(" ", "-") for state in Convergence])
    revision = serializers.IntegerField(allow_null=True)
    digest = serializers.CharField(allow_blank=True)
    in_flight = serializers.IntegerField()
    seen_at = serializers.DateTimeField()
    ack_ms = serializers.FloatField(allow_null=True, help_text="From the click to its ACK of the current release")
    reason = serializers.CharField(allow_blank=True, help_text="Why it refuses the current release")


class Counts(serializers.Serializer[Any]):
    """How many of the gateways that count towards convergence stand how."""

    expected = serializers.IntegerField()
    in_sync = serializers.IntegerField()
    behind = serializers.IntegerField()
    refused = serializers.IntegerField()
    silent = serializers.IntegerField()


class ClickToAck(serializers.Serializer[Any]):
    """Over the gateways that ran when the current release was clicked; None before the first ACK."""

    acks = serializers.IntegerField()
    p50_ms = serializers.FloatField(allow_null=True)
    p99_ms = serializers.FloatField(allow_null=True)


class FleetState(serializers.Serializer[Any]):
    now = serializers.DateTimeField()
    current = ReleaseRow(allow_null=True)
    counts = Counts()
    click_to_ack = ClickToAck()
    workers = WorkerRow(many=True, help_text="By name, a page of them; all else is of the whole fleet")
    next = serializers.URLField(allow_null=True, help_text="Null: there are no further workers")


class Releases(OperatorView):
    @describe("releases_list", "Releases, newest first", tag=TAG, pages_of=ReleaseRow, refuses=(403,))
    def get(self, request: Request) -> Response:
        return self.page(visible_releases(self.operator), ReleaseRow)


class OneRelease(OperatorView):
    @describe("releases_retrieve", "One release, without its document", tag=TAG, gives=ReleaseRow, refuses=(404,))
    def get(self, request: Request, revision: int) -> Response:
        return Response(ReleaseRow(access_release(self.operator, revision)).data)


class ReleaseDocument(OperatorView):
    @describe("releases_document", "A release as it was signed", tag=TAG, gives=EnvelopeRow, refuses=(404,))
    def get(self, request: Request, revision: int) -> Response:
        return Response(access_release(self.operator, revision).envelope().to_mapping())


class CompareReleases(OperatorView):
    @describe(
        "releases_diff", "What differs between two releases' sections", tag=TAG, gives=ReleaseDiff, refuses=(404,)
    )
    def get(self, request: Request, revision: int, other: int) -> Response:
        before, after = (access_release(self.operator, which).content["sections"] for which in (revision, other))
        found = differences(before, after, path="$.sections")
        return Response(ReleaseDiff({"before": revision, "after": other, "differences": found}).data)


class RollBackRelease(OperatorView):
    @describe(
        "releases_roll_back",
        "Return to what an earlier release served, as a new release; needs no sign-off",
        tag=TAG,
        takes=Reason,
        gives=ReleaseRow,
        status=201,
    )
    def post(self, request: Request, revision: int) -> Response:
        now = timezone.now()
        release = access_release(self.operator, revision, "roll_back_release")
        restored = operations.roll_back_to(release=release, **read(Reason, request), actor=self.operator, now=now)
        return Response(ReleaseRow(restored).data, status=201)


class FleetView(OperatorView):
    @describe(
        "fleet_retrieve",
        "The fleet beside the current release, and its workers by name",
        tag="fleet",
        gives=FleetState,
        refuses=(400, 403),
        parameters=CURSOR_PARAMETERS,
    )
    def get(self, request: Request) -> Response:
        now = timezone.now()
        require_viewer(self.operator)
        asked = read_query(Filters, request)
        (after,) = cursor_key(asked, text_key) if "cursor" in asked else ("",)
        workers, more = page_of(heard_by_name(now=now, after=after), asked)
        seen = fleet_of(workers, now=now)
        current = seen.current
        counts = named_counts(worker_counts(current, now=now))
        return Response(
            {
                **seen.to_json(),
                "current": ReleaseRow(current).data if current else None,
                "counts": counts,
                "picture": picture_of(current.revision if current else None, **counts),
                "click_to_ack": click_to_ack(waited_ms(current, now=now) if current else []),
                "next": next_page(request, asked, [workers[-1].name, ""] if more else None),
            }
        )


def click_to_ack(waited: Sequence[float]) -> dict[str, Any]:
    """Of how long gateways waited, in ascending order. Shape: see `ClickToAck`."""
    return {"acks": len(waited), "p50_ms": _nearest_rank(waited, 0.50), "p99_ms": _nearest_rank(waited, 0.99)}


def _nearest_rank(ascending: Sequence[float], share: float) -> float | None:
    return ascending[ceil(share * len(ascending)) - 1] if ascending else None
