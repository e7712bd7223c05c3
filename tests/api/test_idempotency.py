"""Idempotency keys over the API: listed and filtered by pages, each with its evidence, and only to who may see it."""

import hashlib
from uuid import uuid4

import pytest
import rfc8785

from controlplane.accounts.roles import Role
from controlplane.api.cursors import CursorField
from controlplane.ledger import keys as ledger_keys
from dataplane.idempotency import EVIDENCE, full_user_hash
from tests.factories import crew, make_operator
from tests.keyed_requests import STREAM, claim, make_keys

LIST = "idempotency-keys"


@pytest.fixture
def keys(db):
    return make_keys()


def test_keys_are_listed_newest_first_and_filtered(keys, as_operator, queries):
    """Of the last 24 h unless told; by key, request and user however old; as many queries for many as for few."""
    auditor = as_operator(crew.auditor)
    zoe = full_user_hash("zoe")

    def found(query):
        return [row["life"]["record"] for row in auditor.get(f"{LIST}?{query}").body["results"]]

    def named(*records):
        return [str(record) for record in records]

    assert found("") == named(keys.other, keys.running, keys.free, keys.taken, keys.streamed)
    assert found("key=order-1") == named(keys.old, keys.other, keys.streamed)
    assert found("key=order-1&until=2999-01-02T00:00:00Z") == []
    assert found("request=r7") == found("request=r6&tenant=acme") == named(keys.taken)
    assert found(f"user_hash={zoe}&tenant=acme") == named(keys.old, keys.streamed)
    assert found("event=taken_over") == named(keys.taken)
    row = auditor.get(f"{LIST}?event=mismatch").body["results"][0]
    assert (row["step"]["request_id"], row["step"]["detail"], row["step"]["seq"]) == ("r4", '["model"]', 6)
    life = row["life"]
    assert (life["state"], life["executions"], life["served"], life["mismatches"]) == ("done", 1, 2, 1)
    assert (life["first_request_id"], life["last_event"], life["stream_id"]) == ("r1", "mismatch", STREAM)
    assert life["expires_at"] > life["completed_at"] > life["first_at"]
    first = auditor.get(f"{LIST}?limit=3").body
    second = auditor.get(first["next"].partition("/api/v1/")[2]).body
    assert [row["life"]["record"] for row in second["results"]] == named(keys.taken, keys.streamed)
    assert second["next"] is None
    few = queries(lambda: auditor.get(LIST))
    for number in range(30):
        claim(f"many-{number}", request=f"m{number}")
    assert queries(lambda: auditor.get(LIST)) == few


def test_evidence_of_a_key_comes_with_its_bills_and_a_verdict(keys, as_operator, monkeypatch):
    """From the first step on, by pages; each hash can be taken anew. A long chain is walked for who asks."""
    auditor = as_operator(crew.auditor)
    path, steps = f"{LIST}/{keys.streamed}/evidence?limit=4", []
    while path:
        body = auditor.get(path).body
        steps += body["results"]
        path = body["next"] and body["next"].partition("/api/v1/")[2]

    assert [step["seq"] for step in steps] == [1, 2, 3, 4, 5, 6]
    for step in steps:
        at = step["at"].replace("Z", "+00:00")
        covered = {name: step[name] for name in EVIDENCE} | {"at": at}
        assert hashlib.sha256(rfc8785.dumps(covered)).hexdigest() == step["hash"], step["seq"]
    assert body["chain"] == {"rows": 6, "is_closed": False, "findings": []}
    (bill,) = body["billed"]
    assert (bill["request_id"], bill["epoch"], bill["attempts"], bill["cost_micros"]) == ("r1", 1, 2, 600)
    assert body["life"]["body_sha256"] == steps[3]["body_sha256"]
    monkeypatch.setattr(ledger_keys, "VERIFIED_AT_ONCE", 5)
    assert auditor.get(f"{LIST}/{keys.streamed}/evidence").body["chain"] is None
    assert auditor.get(f"{LIST}/{keys.streamed}/evidence?verify=true").body["chain"]["rows"] == 6
    forged = auditor.get(f"{LIST}/{keys.old}/evidence").body
    assert forged["life"]["state"] == "expired"
    assert forged["chain"]["findings"][0] == {"seq": 1, "problem": "its fields do not give its hash (altered)"}


def test_caller_sees_no_other_tenant_and_is_told_what_cannot_be_read(keys, as_operator):
    """Not by filter, not by the record; a question that is not understood is refused by its field."""
    reader = as_operator(make_operator("reader", Role.AUDITOR, on=keys.tenant))

    for query in ("", "tenant=globex", "key=order-1", "request=r10", f"user_hash={full_user_hash('zoe')}"):
        results = reader.get(f"{LIST}?{query}").body["results"]
        assert {row["life"]["tenant"] for row in results} <= {"acme"}, query
    for record in (keys.other, uuid4()):
        assert reader.get(f"{LIST}/{record}/evidence").status == 404, record
    owner = as_operator(crew.owner)
    assert [owner.get(path).status for path in (LIST, f"{LIST}/{keys.streamed}/evidence")] == [403, 404]
    mine = CursorField().to_representation(["x", 2])
    for path, field in (
        (f"{LIST}?user=zoe", "user"),
        (f"{LIST}?user_hash=zoe", "user_hash"),
        (f"{LIST}?event=lost", "event"),
        (f"{LIST}?since=2026-01-01T00:00:00Z&until=2026-03-01T00:00:00Z", "since"),
        (f"{LIST}?cursor={mine}", "cursor"),
        (f"{LIST}/{keys.streamed}/evidence?cursor={mine}", "cursor"),
        (f"{LIST}/{keys.streamed}/evidence?verify=maybe", "verify"),
    ):
        answer = reader.get(path)
        assert (answer.status, list(answer.body["error"]["fields"])) == (400, [field]), path
