from datetime import timedelta

import pytest
from django.db import connection

from controlplane.telemetry.models import WorkerEvent
from controlplane.telemetry.operations import record_events
from tests.worker_reports import NOON, report

pytestmark = pytest.mark.django_db


def test_events_of_a_lane_are_those_of_its_breaker_and_found_by_index():
    """Whatever else happened, and however much of it: the newest of a lane come first, without a sort."""

    def event(kind, seconds, **data):
        return {"at": (NOON + timedelta(seconds=seconds)).timestamp(), "kind": kind, "data": data}

    record_events(
        [
            report(
                events=(
                    event("breaker.changed", 0, lane="a", before="closed", after="open"),
                    event("breaker.withheld", 2, lane="a"),
                    event("breaker.changed", 1, lane="b"),
                    event("reports.dropped", 3, lane="a"),
                )
            )
        ]
    )
    found = WorkerEvent.objects.of_lane("a").newest()
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")

    plan = found.explain()

    assert [event.kind for event in found] == ["breaker.withheld", "breaker.changed"]
    assert "Index Scan using event_of_lane" in plan
    assert "Seq Scan" not in plan
