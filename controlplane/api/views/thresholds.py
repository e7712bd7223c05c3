"""The thresholds of policies and routes over HTTP: read them, and propose others."""

from functools import partial
from typing import Any

from rest_framework import serializers

from controlplane.accounts.models import Operator
from controlplane.api.base import OperatorView
from controlplane.api.thresholds import Found, ThresholdRow, threshold_view
from controlplane.routing import operations
from controlplane.routing.access import access_policy
from controlplane.routing.thresholds import (
    BREAKER,
    NOUNS,
    PROBE,
    QUOTA,
    REPAIR,
    RETRY,
    ROUTE,
    STREAM,
    VALIDATOR,
    owners_of,
)


class Thresholds(serializers.Serializer[Any]):
    slug = serializers.CharField()
    table = serializers.IntegerField(help_text="The routing table in force, which they are part of")
    thresholds = serializers.DictField(child=ThresholdRow(), help_text="By name")


def _view(kind: str, name: str, *, reading: str = "", proposing: str = "") -> type[OperatorView]:
    """The endpoint of one kind of policies.

    Args:
        name: As of `threshold_view`.
        reading, proposing: What else the schema says of each.
    """

    def found(operator: Operator, slug: str) -> Found:
        routing = access_policy(operator, kind, slug)
        return Found(owners_of(routing.table, kind)[slug].thresholds(), routing.row.number)

    return threshold_view(
        name=name,
        tag="routing",
        summaries=(
            f"The thresholds of one {NOUNS[kind]} of the table in force{reading}",
            f"Propose other thresholds of a {NOUNS[kind]}{proposing}: a new routing table and its change request",
        ),
        gives=Thresholds,
        found=found,
        access_to_propose=lambda operator, slug: access_policy(operator, kind, slug, "propose_routing"),
        propose=partial(operations.propose_thresholds, kind=kind),
    )


OneBreaker = _view(BREAKER, "breakers")
OneRoute = _view(ROUTE, "routes")
OneRetryPolicy = _view(RETRY, "retries")
OneProbePolicy = _view(PROBE, "probes")
OneQuotaPolicy = _view(
    QUOTA,
    "quota_policies",
    reading="; a limit that it does not bound is left out",
    proposing=", or limits that it did not have",
)
OneStreamPolicy = _view(STREAM, "stream_policies")
OneRepairPolicy = _view(REPAIR, "repair_policies")
OneValidatorPolicy = _view(
    VALIDATOR, "validator_policies", reading="; those of a rule have its name in front, as in 'no-cards.budget_ms'"
)
