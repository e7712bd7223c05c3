"""Answers that were to be JSON over the API: counted, listed by pages, and completed by who may."""

from datetime import timedelta

import orjson
import pytest
from django.utils import timezone

from controlplane.accounts.roles import Role
from controlplane.api.cursors import CursorField
from controlplane.audit.models import AuditEvent
from controlplane.ledger.repairs import Repair
from controlplane.telemetry.operations import merge_rollups
from tests.factories import NOW, crew, make_operator, make_routing, make_tenant
from tests.repair_rows import SCHEMA, answer, asked, make_repair
from tests.worker_reports import NOON, report, rollup


@pytest.fixture
def acme(db):
    make_tenant("globex")
    return make_tenant("acme")


def test_answers_are_listed_newest_first_and_filtered(acme, as_operator):
    """By their id, tenant and status; a page leads to the next; none of the model's words is in them."""
    waiting = make_repair()
    done = make_repair(state="completed", at=NOW + timedelta(seconds=1))
    other = make_repair(tenant="globex", state="expired", at=NOW + timedelta(seconds=2))
    oncall = as_operator(crew.oncall)

    def found(query):
        return [row["id"] for row in oncall.get(f"repairs?{query}").body["results"]]

    assert found("") == [other.name, done.name, waiting.name]
    assert found("tenant=acme&status=open") == [waiting.name]
    assert found(f"repair={done.name}") == [done.name]
    assert found("repair=none") == []
    first = oncall.get("repairs?limit=2").body
    second = oncall.get(first["next"].partition("/api/v1/")[2]).body
    assert ([row["id"] for row in second["results"]], second["next"]) == ([waiting.name], None)
    row = oncall.get(f"repairs?repair={done.pk}").body["results"][0]
    assert (row["status"], row["at"], row["mode"], row["missing_fields"], row["completed_by"]) == (
        "completed",
        "text",
        "missing_field",
        ["/topic"],
        "7",
    )
    assert "secret" not in str(oncall.get("repairs").body)
    reader = as_operator(make_operator("reader", Role.AUDITOR, on=acme))
    for query in ("", "tenant=globex", f"repair={other.name}"):
        assert {row["tenant"] for row in reader.get(f"repairs?{query}").body["results"]} <= {"acme"}, query
    assert as_operator(crew.owner).get("repairs").status == 403
    for query, field in (
        ("status=lost", "status"),
        ("user=zoe", "user"),
        (f"cursor={CursorField().to_representation([5, 2])}", "cursor"),
    ):
        answered = oncall.get(f"repairs?{query}")
        assert (answered.status, list(answered.body["error"]["fields"])) == (400, [field]), query


def test_one_answer_says_what_is_wrong_where_and_its_words_are_a_thing_apart(acme, as_operator):
    """By either way of writing its id; who reads the words is on record, and of what is over there is nothing."""
    row = make_repair(at=timezone.now())
    over = make_repair(at=timezone.now(), state="expired")
    oncall, auditor = as_operator(crew.oncall), as_operator(crew.auditor)

    told = oncall.get(f"repairs/{row.name}")
    words = auditor.get(f"repairs/{row.pk}/words")

    assert (told.body["status"], told.body["is_readable"]) == ("open", True)
    assert told.body["flaws"] == [
        {"pointer": "/topic", "problem": "missing_field", "wanted": SCHEMA["properties"]["topic"]}
    ]
    assert "secret" not in str(told.body)
    assert words.body["value"].startswith('{"answer": "secret words"')
    assert "secret" in words.body["why"]
    assert AuditEvent.objects.filter(action="repair.read", actor="auditor").count() == 1
    assert oncall.get(f"repairs/{row.name}/words").status == 403
    assert auditor.get(f"repairs/{over.name}").body["flaws"] == []
    assert auditor.get(f"repairs/{over.name}/words").body["value"] is None
    assert auditor.get("repairs/rep_1").status == 404


def complete(caller, row, reason="they told us", **given):
    return caller.post(f"repairs/{row.name}/complete", {"reason": reason, **given})


def test_answer_is_completed_by_fields_or_by_the_whole_value(acme, as_operator):
    """It is what its caller fetches then, with a note of who supplied what; the record names places and no values."""
    oncall = as_operator(crew.oncall)
    row, whole = make_repair(at=timezone.now()), make_repair(at=timezone.now())

    done = complete(oncall, row, fields={"/topic": "orders"})
    other = complete(oncall, whole, value={"answer": "a", "topic": "refunds"})

    assert (done.status, done.body["status"], done.body["completed_by"]) == (200, "completed", "operator:oncall")
    assert other.body["status"] == "completed"
    said = [orjson.loads(bytes(Repair.objects.get(pk=one.pk).payload))["body"] for one in (row, whole)]
    assert [orjson.loads(one["choices"][0]["message"]["content"])["topic"] for one in said] == ["orders", "refunds"]
    event = AuditEvent.objects.get(action="repair.completed", target=row.audit_name)
    assert event.data == {"tenant": "acme", "at": "text", "fields": ["/topic"], "reason": "they told us"}
    again = complete(oncall, row, fields={"/topic": "orders"})
    assert (again.status, again.body["error"]["code"]) == (409, "repair_over")


def test_answer_with_another_broken_part_stays_open(acme, as_operator):
    """Which part that is, and what is wrong there, is in the response."""
    calls = answer(arguments=("{}", '{"answer": "b"}'))
    payload = {"body": calls, "asked": asked(is_tool=True), "value": '{"answer": "a"}'}
    row = make_repair(at=timezone.now(), at_part="tool_calls[0]", payload=payload)

    half = complete(as_operator(crew.admin), row, fields={"/topic": "orders"}).body

    assert (half["status"], half["at"], [flaw["pointer"] for flaw in half["flaws"]]) == (
        "open",
        "tool_calls[1]",
        ["/topic"],
    )


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ({"fields": {"/topic": "weather"}}, "repair_incomplete", "none of the choices"),
        ({"fields": {"/parcels": 3}}, "repair_incomplete", "/topic is missing"),
        ({"fields": {"topic": "orders"}}, "repair_incomplete", "no JSON pointer"),
        ({"fields": {"/a\0": 1}}, "repair_incomplete", "NUL"),
        ({"value": None}, "repair_incomplete", "it is no value of the kind|another type"),
        ({"fields": {}}, "invalid", "fields"),
        ({}, "invalid", "fields"),
        ({"fields": {"/topic": "orders"}, "value": {}}, "invalid", "fields"),
        ({"value": 2**70}, "invalid", "value"),
        ({"fields": {"/topic": "orders"}, "reason": ""}, "invalid", "reason"),
        ({"fields": {"/topic": "orders"}, "colour": "red"}, "invalid", "colour"),
    ],
)
def test_what_does_not_complete_an_answer_is_refused(acme, as_operator, given, code, words):
    """With a code for programs and the places for people; nothing is stored."""
    row = make_repair(at=timezone.now())

    refused = complete(as_operator(crew.oncall), row, **given)

    error = refused.body["error"]
    assert (refused.status, error["code"]) == (400, code)
    assert any(one in error["message"] or one in error.get("fields", {}) for one in words.split("|"))
    assert "secret" not in str(error)
    assert Repair.objects.get(pk=row.pk).state == "open"


def test_outcomes_are_counted_by_place_and_by_what_became_of_them(db, as_operator):
    """Of one prompt or lane, or all; the range is told as it was counted."""
    make_routing()
    merge_rollups(
        [
            report(
                rollup(NOON, outputs={"repair:none:r0_strict:lossless": 7, "validator:x@1:block:": 2}),
                rollup(NOON, outputs={"repair:missing_field:r7_failed:": 1}, lane="azure/x"),
            )
        ],
        now=NOON,
    )
    reader = as_operator(crew.legal)
    path = "answers/repair-outcomes"
    period = "since=2026-03-04T11:59:07Z&until=2026-03-04T12:05:00Z"

    found = reader.get(f"{path}?{period}").body

    assert (found["since"], found["until"]) == ("2026-03-04T11:59:00Z", "2026-03-04T12:05:00Z")
    shared = {"prompt": "support-answer", "version": 12}
    failed = {**shared, "lane": "azure/x", "mode": "missing_field", "rung": "r7_failed", "label": "", "count": 1}
    strict = {**shared, "lane": "openai/eu-west/main/gpt-4o", "mode": "none", "rung": "r0_strict", "label": "lossless"}
    assert found["results"] == [failed, strict | {"count": 7}]
    assert reader.get(f"{path}?{period}&lane=azure/x").body["results"] == [failed]
    assert reader.get(f"{path}?{period}&prompt=refund-policy").body["results"] == []
    assert reader.get(path).body["results"] == []
    first = reader.get(f"{path}?{period}&limit=1").body
    assert (found["next"], first["results"]) == (None, [failed])
    rest = reader.get(first["next"].partition("/api/v1/")[2]).body
    assert (rest["results"], rest["next"], rest["since"]) == ([strict | {"count": 7}], None, found["since"])
    for query in ("since=2026-03-04T12:00:00Z&until=2026-05-04T12:00:00Z", "until=2026-03-04T12:00:00Z&colour=red"):
        assert reader.get(f"{path}?{query}").status == 400, query
