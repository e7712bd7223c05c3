"""The newest events of some targets."""

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.audit import operations as audit
from controlplane.audit.models import AuditEvent

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 3, 4, tzinfo=UTC)


@audit.operation
def write(*targets):
    """One event about each target."""
    for number, target in enumerate(targets):
        audit.record("prompt.created", actor="owner", target=target, at=NOW + timedelta(seconds=number))


def test_the_newest_events_of_several_targets_come_newest_first():
    """As many as are asked for, of these targets alone, whichever of them they are about."""
    write("a", "b", "a", "c", "b", "a")

    found = list(AuditEvent.objects.about(["a", "b", "a", "nobody"], most=3))

    assert [event.target for event in found] == ["a", "b", "a"]
    assert [event.seq for event in found] == sorted((event.seq for event in found), reverse=True)
    assert list(AuditEvent.objects.about([], most=3)) == []


def test_each_target_is_looked_up_by_itself():
    """One query, which names the targets and how many of each: the record is not gone through for seldom ones."""
    write(*(f"often-{number % 5}" for number in range(20)), "seldom")

    with CaptureQueriesContext(connection) as queries:
        found = [event.target for event in AuditEvent.objects.about(["seldom", "nobody"], most=12)]

    assert found == ["seldom"]
    (query,) = queries
    assert "CROSS JOIN LATERAL" in query["sql"]
    assert "'{nobody,seldom}'" in query["sql"]
