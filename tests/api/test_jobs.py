"""Jobs over the API: listed and filtered by pages, without their words, and only to who may see them."""

from datetime import timedelta

from controlplane.accounts.roles import Role
from controlplane.api.cursors import CursorField
from tests.factories import NOW, crew, make_operator, make_tenant
from tests.job_rows import make_job


def test_jobs_are_listed_newest_first_and_filtered(db, as_operator):
    """By their id, their tenant and their status; a page leads to the next; nothing that a caller said is in them."""
    acme = make_tenant("acme")
    make_tenant("globex")
    queued = make_job()
    done = make_job(state="completed", at=NOW + timedelta(seconds=1), usage={"total_tokens": 3}, request_id="req_1")
    other = make_job(tenant="globex", state="failed", at=NOW + timedelta(seconds=2), error_code="unauthorized")
    auditor = as_operator(crew.auditor)

    def found(query):
        return [row["id"] for row in auditor.get(f"jobs?{query}").body["results"]]

    assert found("") == [other.name, done.name, queued.name]
    assert found("tenant=acme&status=queued") == [queued.name]
    assert found(f"job={done.name}") == [done.name]
    assert found("job=none") == []
    first = auditor.get("jobs?limit=2").body
    second = auditor.get(first["next"].partition("/api/v1/")[2]).body
    assert [row["id"] for row in second["results"]] == [queued.name]
    assert second["next"] is None
    row = auditor.get(f"jobs?job={done.pk}").body["results"][0]
    assert (row["status"], row["attempts"], row["answer_status"], row["usage"]) == (
        "completed",
        1,
        200,
        {"total_tokens": 3},
    )
    assert "secret" not in str(auditor.get("jobs").body)

    reader = as_operator(make_operator("reader", Role.AUDITOR, on=acme))
    for query in ("", "tenant=globex", f"job={other.name}"):
        assert {row["tenant"] for row in reader.get(f"jobs?{query}").body["results"]} <= {"acme"}, query
    assert as_operator(crew.owner).get("jobs").status == 403
    for query, field in (
        ("status=lost", "status"),
        ("user=zoe", "user"),
        (f"cursor={CursorField().to_representation([5, 2])}", "cursor"),
    ):
        answer = auditor.get(f"jobs?{query}")
        assert (answer.status, list(answer.body["error"]["fields"])) == (400, [field]), query
