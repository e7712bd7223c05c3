"""Streams over the API: listed and filtered by pages, each with what is known of it, and only to who may see it."""

from datetime import timedelta

import pytest
from django.utils import timezone

from controlplane.accounts.roles import Role
from controlplane.api.cursors import CursorField
from controlplane.audit.models import AuditEvent
from controlplane.ledger.streams import record_streams
from tests.factories import crew, make_operator, make_tenant
from tests.worker_reports import FRAMES, NOON, delivery, stream_row

CUT, ON, OTHER, OLD = ("c" * 32, "a" * 32, "b" * 32, "e" * 32)


@pytest.fixture
def streams(db):
    """Three streams just now, of two tenants, one cut and gone on with by another; and one of long ago."""
    acme, _ = make_tenant("acme"), make_tenant("globex")
    now = timezone.now() - timedelta(minutes=3)
    cut = {
        "outcome": "interrupted",
        "code": "upstream_interrupted",
        "delivered": 10,
        "delivered_tokens": 25,
        "acked": 0,
    }
    record_streams(
        streams=[
            stream_row(CUT, at=now, key_id="7", transcript=FRAMES, **cut | {"acked_tokens": 0}),
            stream_row(ON, at=now + timedelta(seconds=9), request_id="req-2", continues=CUT, route="embed"),
            stream_row(OTHER, at=now, request_id="req-3", tenant="globex", continues=CUT, billed_tokens=1),
            stream_row(OLD, at=NOON, request_id="req-4"),
        ],
        deliveries=[],
    )
    read = [delivery(f"d{n}", CUT, at=now, delivered_tokens=90, acked_tokens=80) for n in range(5)]
    record_streams(streams=[], deliveries=read)
    return acme


def test_streams_are_listed_newest_first_and_filtered(streams, as_operator):
    """Of the last 24 h unless told; of one request however old it is."""
    auditor = as_operator(crew.auditor)

    def found(query):
        return [row["stream_id"] for row in auditor.get(f"streams?{query}").body["results"]]

    assert found("") == [ON, CUT, OTHER]
    assert found("request=req-4") == [OLD]
    assert found("request=req-1&tenant=globex") == []
    assert found("tenant=globex") == [OTHER]
    assert found("key=7") == [CUT]
    assert found("route=embed") == [ON]
    assert found("outcome=interrupted") == [CUT]
    assert found("in_order=false") == [OTHER]
    assert found("in_order=true") == [ON, CUT]
    assert found("until=2026-03-05T00:00:00Z") == [OLD]
    first = auditor.get("streams?limit=1&in_order=true").body
    second = auditor.get(first["next"].partition("/api/v1/")[2]).body
    assert [row["stream_id"] for row in second["results"]] == [CUT]
    assert second["next"] is None


def test_one_stream_comes_with_how_it_stands_what_wrote_it_and_each_credit(streams, as_operator):
    """Its row as it ended, and what is known now beside it."""
    auditor = as_operator(crew.auditor)
    row = auditor.get(f"streams/{CUT}").body

    assert (row["outcome"], row["billed_tokens"], row["kept_transcript"]) == ("interrupted", 100, True)
    assert row["standing"] == {
        "delivered": 40,
        "acked": 40,
        "delivered_tokens": 90,
        "acked_tokens": 80,
        "resumed": True,
        "in_order": True,
        "credit_micros": 100,
    }
    assert [segment["model"] for segment in row["segments"]] == ["gpt-4o"]
    assert [credit["change_micros"] for credit in row["credits"]] == [750, -650]
    assert row["continued_by"] == [ON]
    assert "frames" in row
    assert "transcript" not in row


def test_deliveries_follow_each_other_by_pages(streams, as_operator):
    """Newest first, also where all share a moment."""
    auditor = as_operator(crew.auditor)
    path, ids = f"streams/{CUT}/deliveries?limit=2", []
    while path:
        page = auditor.get(path).body
        ids += [row["delivery_id"] for row in page["results"]]
        path = page["next"] and page["next"].partition("/api/v1/")[2]

    assert ids == ["d4", "d3", "d2", "d1", "d0"]


def test_days_are_listed_newest_first_and_filtered(streams, as_operator):
    """Of the last 30 days unless told."""
    auditor = as_operator(crew.auditor)
    days = auditor.get("streams/days").body["results"]
    cut = next(row for row in days if row["outcome"] == "interrupted")

    assert (cut["streams"], cut["resumed"], cut["drifted"], cut["refund_micros"]) == (1, 1, 0, 100)
    assert sum(row["streams"] for row in days) == 3
    assert [row["tenant"] for row in auditor.get("streams/days?tenant=globex").body["results"]] == ["globex"]
    assert auditor.get("streams/days?route=none").body == {"next": None, "results": []}
    old = auditor.get("streams/days?since=2026-03-04&until=2026-03-05").body["results"]
    assert [(row["day"], row["billed_tokens"], row["acked_tokens"]) for row in old] == [("2026-03-04", 100, 50)]
    pages = auditor.get("streams/days?limit=1").body
    assert len(auditor.get(pages["next"].partition("/api/v1/")[2]).body["results"]) == 1


def test_words_are_read_by_who_may_and_the_record_says_so(streams, as_operator):
    """An admin is refused; nothing is recorded where there was nothing to read."""
    auditor, admin = as_operator(crew.auditor), as_operator(crew.admin)

    assert auditor.get(f"streams/{CUT}/transcript").body == {"frames": FRAMES, "intact": True}
    assert auditor.get(f"streams/{ON}/transcript").body == {"frames": None, "intact": False}
    refused = admin.get(f"streams/{CUT}/transcript")
    assert (refused.status, "it comes with the role Auditor" in refused.body["error"]["message"]) == (403, True)
    assert [event.target for event in AuditEvent.objects.filter(action="transcript.read")] == [f"stream:{CUT}"]


def test_caller_who_may_see_one_tenants_usage_gets_no_others(streams, as_operator):
    """Not by filter, not by id; who may see nobody's is refused."""
    reader = as_operator(make_operator("reader", Role.AUDITOR, on=streams))

    for path in ("streams?", "streams/days?", "streams?request=req-3", "streams?tenant=globex"):
        assert {row["tenant"] for row in reader.get(path).body["results"]} <= {"acme"}, path
    for path in (OTHER, f"{OTHER}/deliveries", f"{OTHER}/transcript", "nowhere", "%00"):
        assert reader.get(f"streams/{path}").status == 404, path
    owner = as_operator(crew.owner)
    assert [owner.get(path).status for path in ("streams", "streams/days", f"streams/{CUT}")] == [403, 403, 404]


def test_question_that_cannot_be_read_is_refused_by_its_field(streams, as_operator):
    """Ignored, it would get an answer that claims more than was asked."""
    auditor = as_operator(crew.auditor)
    mine = CursorField().to_representation([1, 2])

    for path, field in (
        ("streams?since=yesterday", "since"),
        ("streams?since=2026-01-01T00:00:00Z&until=2026-03-01T00:00:00Z", "since"),
        ("streams?outcome=lost", "outcome"),
        ("streams?lane=x", "lane"),
        (f"streams?cursor={mine}", "cursor"),
        (f"streams/days?cursor={mine}", "cursor"),
        (f"streams/{CUT}/deliveries?cursor={mine}", "cursor"),
        (f"streams/{CUT}/deliveries?limit=0", "limit"),
    ):
        answer = auditor.get(path)
        assert (answer.status, list(answer.body["error"]["fields"])) == (400, [field]), path
