"""The newest events of some targets."""

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection

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


def test_seldom_targets_are_found_by_the_index():
    """The record is not gone through for them, however long it is."""
    write(*(f"often-{number % 5}" for number in range(2_000)), "seldom")
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE audit_auditevent")

    plan = AuditEvent.objects.about(["seldom", "nobody"], most=12).explain()

    assert "audit_audit_target" in plan
    assert "Seq Scan" not in plan
