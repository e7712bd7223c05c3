import pytest

from controlplane.audit.models import AuditEvent
from tests.factories import crew, make_deployment, make_policy, run_canary

pytestmark = pytest.mark.django_db


def test_events_are_listed_newest_first_and_filtered(as_operator):
    """By actor, by action or its family, by target, by time."""
    run_canary()
    auditor = as_operator(crew.auditor)

    def found(query):
        return {row["action"] for row in auditor.get(f"audit/events?{query}").body["results"]}

    seqs = [row["seq"] for row in auditor.get("audit/events").body["results"]]
    assert seqs == sorted(seqs, reverse=True)
    assert found("action=canary.") == {"canary.planned", "canary.started"}
    assert found("action=canary.started") == {"canary.started"}
    assert found("target=prompt:support-answer") == {"prompt.created"}
    assert found("actor=approver-one") == {"change.approve"}
    assert found("until=2020-01-01T00:00:00Z") == set()
    assert found("since=2020-01-01T00:00:00Z&action=canary.") == {"canary.planned", "canary.started"}


def test_malformed_time_is_refused(as_operator):
    """A filter that cannot be read is not ignored: the answer would claim more than was asked."""
    answer = as_operator(crew.auditor).get("audit/events?since=yesterday")

    assert (answer.status, list(answer.body["error"]["fields"])) == (400, ["since"])


def test_one_event_shows_the_chain(as_operator):
    """Each event carries its hash and the one before it."""
    make_policy()
    auditor = as_operator(crew.auditor)

    second = auditor.get("audit/events/2").body

    assert second["previous_hash"] == AuditEvent.objects.get(seq=1).hash
    assert auditor.get("audit/events/999999").status == 404


def test_list_is_paged_within_bounds(as_operator, queries):
    """At most 200 rows at once, whatever is asked, in a fixed number of queries."""
    make_deployment()
    auditor = as_operator(crew.auditor)

    page = auditor.get("audit/events?limit=2&offset=1").body
    assert len(page["results"]) == 2
    assert page["next"] is not None
    assert page["previous"] is not None
    assert queries(lambda: auditor.get("audit/events?limit=1")) == queries(
        lambda: auditor.get("audit/events?limit=1000000")
    )
