"""Dead letters and redrives over the API: listed, read, decided; planned, tried dry, signed, started, reported."""

from __future__ import annotations

import pytest
from django.utils import timezone

from controlplane.accounts.models import ApiKey
from controlplane.accounts.roles import Role
from controlplane.deadletters import execution
from controlplane.deadletters.models import DeadLetter, RedrivePlan
from controlplane.deadletters.payloads import ConfiguredStore
from dataplane.deadletters import Category
from tests.deadletters.letters import ADA, make_letter
from tests.deadletters.redrives import admit, fail_job, make_ground
from tests.factories import crew, make_operator

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ground")]


@pytest.fixture(scope="module")
def ground(lasting):
    """A deployment with the tenant acme, for all tests here."""
    with lasting():
        make_ground()


@pytest.fixture
def key():
    return ApiKey.objects.get(tenant__slug="acme")


def young(key, **fields):
    return fail_job(key, at=timezone.now(), **fields)


def run_steps(plan):
    for _ in range(3):
        row = RedrivePlan.objects.get(pk=plan)
        execution.take_step(row.pk, row.step, store=ConfiguredStore(), now=timezone.now)


def test_letters_are_listed_filtered_and_read_without_personal_data(key, as_operator):
    """By pages, newest first, and only those of the caller's tenants."""
    body = {"model": "chat", "messages": [{"role": "user", "content": "I am ada@example.org"}]}
    letters = [young(key, body=body) for _ in range(3)]
    theirs = make_letter(tenant=admit("globex").tenant.slug, category=Category.BUG)
    oncall = as_operator(crew.oncall)

    first = oncall.get("dead-letters?tenant=acme&limit=2").body
    second = oncall.get(first["next"].partition("/api/v1/")[2]).body
    one = oncall.get(f"dead-letters/{letters[0].pk}").body

    names = [row["id"] for row in first["results"] + second["results"]]
    assert names == [str(letter.pk) for letter in reversed(letters)]
    assert second["next"] is None
    assert [row["id"] for row in oncall.get("dead-letters?state=open&kind=errand").body["results"]] == [str(theirs.pk)]
    assert (one["state"], one["category"], one["payload_problem"]) == ("open", "dependency", "")
    assert "I am [" in one["payload"]
    assert "ada@example.org" not in str(one)
    groups = oncall.get("dead-letters/groups").body
    assert groups["count"] == 2
    assert {row["kind"]: row["open"] for row in groups["results"]} == {"job": 3, "errand": 1}
    reader = as_operator(make_operator("reader", Role.ON_CALL, on=key.tenant))
    assert reader.get("dead-letters/groups").body["count"] == 1
    assert reader.get("dead-letters?tenant=globex").body["results"] == []
    assert reader.get(f"dead-letters/{theirs.pk}").status == 404
    assert oncall.get("dead-letters?state=lost").status == 400


def test_people_decide_hold_and_read(key, as_operator):
    """With a reason, of letters that they may decide about; a payload in full for who may read it."""
    mine, theirs = young(key), make_letter(tenant=admit("globex").tenant.slug)
    oncall, auditor = as_operator(crew.oncall), as_operator(crew.auditor)
    reader = as_operator(make_operator("reader", Role.ON_CALL, on=key.tenant))

    both = {"event": "discarded", "letters": [str(mine.pk), str(theirs.pk)], "reason": "r"}
    assert reader.post("dead-letters/decide", both).status == 404
    assert DeadLetter.objects.open().count() == 2
    assert oncall.post("dead-letters/decide", both | {"event": "purged"}).status == 400
    assert oncall.post("dead-letters/decide", both).body == {"letters": 2}
    assert oncall.post("dead-letters/decide", both).status == 409
    assert oncall.post("dead-letters/decide", both | {"event": "reopened"}).status == 200

    past = {"reason": "r", "until": "2020-01-01T00:00:00Z"}
    assert oncall.post(f"dead-letters/{mine.pk}/hold", past).body["error"]["code"] == "hold_in_the_past"
    assert oncall.post(f"dead-letters/{mine.pk}/hold", {"reason": "case 7"}).body["hold_by"] == "oncall"
    assert oncall.post(f"dead-letters/{mine.pk}/release", {"reason": "closed"}).body["hold_by"] == ""
    assert oncall.post(f"dead-letters/{mine.pk}/read", {"reason": "curious"}).status == 403
    assert "Where is my parcel?" in auditor.post(f"dead-letters/{mine.pk}/read", {"reason": "case 7"}).body["payload"]


def test_redrive_goes_all_its_way(key, as_operator):
    """Planned, tried dry, opened, signed by another, started, paused, resumed, stopped; with its report."""
    letters = [young(key) for _ in range(2)]
    broken = young(key, body={"model": "chat"})
    oncall, approver = as_operator(crew.oncall), as_operator(crew.approver_one)
    asked = {
        "letters": [str(letter.pk) for letter in [*letters, broken]],
        "edit": {"merge": {"temperature": 0}},
        "reason": "they are back",
        "canary_letters": 1,
    }
    assert oncall.post("redrive-plans", asked | {"edit": {"body": {"a": 1}}}).body["error"]["code"] == "bad_edit"
    assert oncall.post("redrive-plans", asked | {"per_minute": 0}).body["error"]["code"] == "bad_plan"
    assert approver.post("redrive-plans", asked).status == 403

    plan = oncall.post("redrive-plans", asked).body
    url = f"redrive-plans/{plan['id']}"
    assert (plan["state"], plan["size"], plan["is_edited"], plan["size_class"]) == ("planned", 3, True, "small")
    assert oncall.post(f"{url}/start").body["error"]["code"] == "plan_moved"
    assert oncall.post(f"{url}/dry-run").body["state"] == "checking"
    run_steps(plan["id"])
    report = oncall.get(url).body["report"]
    assert report["verdicts"]["would_run"] == 2
    assert report["refusals"][0]["letters"] == 1
    change = oncall.post(f"{url}/open").body
    assert (change["kind"], change["author"]) == ("deadletters.redrive", "oncall")
    assert oncall.post(f"{url}/start").body["error"]["code"] == "not_approved"
    digest = approver.get(f"changes/{change['id']}").body["current_digest"]
    word = {"role": "approver", "decision": "approve", "digest": digest}
    assert approver.post(f"changes/{change['id']}/sign-off", word).status == 200
    assert oncall.post(f"{url}/start").body["state"] == "canary"
    run_steps(plan["id"])
    assert oncall.post(f"{url}/pause", {"reason": "lunch"}).body["state"] == "paused"
    assert oncall.post(f"{url}/pause", {"reason": "lunch"}).status == 409
    assert oncall.post(f"{url}/resume", {"reason": "back"}).body["state"] == "canary"
    assert oncall.post(f"{url}/stop", {}).status == 400
    assert oncall.post(f"{url}/stop", {"reason": "enough"}).body["note"] == "enough"

    rows = approver.get(f"{url}/letters").body["results"]
    assert [(row["verdict"], row["state"]) for row in rows] == [
        ("would_run", "handed_in"),
        ("would_run", "planned"),
        ("refused", "skipped"),
    ]
    assert '+  "temperature": 0' in rows[0]["diff"]
    assert approver.get("redrive-plans").body["count"] == 1
    other = oncall.post("redrive-plans", asked | {"letters": asked["letters"][1:2], "edit": None}).body
    assert oncall.post(f"redrive-plans/{other['id']}/withdraw", {"reason": "r"}).body["state"] == "withdrawn"


def test_retention_is_set_and_subjects_are_erased(key, as_operator):
    """By whoever may; an erasure takes a hash, never an id."""
    admin, oncall = as_operator(crew.admin), as_operator(crew.oncall)
    rule = {"tenant": "acme", "days": 7, "reason": "the contract says so"}

    assert admin.post("retention-rules", rule).body["days"] == 7
    assert admin.post("retention-rules", rule | {"tenant": "nobody"}).body["error"]["code"] == "bad_retention"
    assert [row["tenant"] for row in oncall.get("retention-rules").body["results"]] == ["acme"]
    assert oncall.post("retention-rules", rule).status == 403
    assert admin.post("retention-rules/remove", {"tenant": "acme", "reason": "it ended"}).status == 200
    assert admin.post("retention-rules/remove", {"tenant": "acme", "reason": "it ended"}).status == 404

    letter = make_letter()
    asked = {"tenant": "acme", "user_hash": ADA, "reason": "ticket 9"}
    assert admin.post("erasures", asked | {"user_hash": "ada"}).status == 400
    assert admin.post("erasures", asked | {"tenant": "nobody"}).status == 404
    made = admin.post("erasures", asked).body
    assert (made["erased"], made["held"], made["state"], made["counts"]["jobs"]) == (1, [], "under_way", 0)
    assert [row["id"] for row in admin.get("erasures").body["results"]] == [made["id"]]
    assert oncall.get("erasures").status == 403
    assert ADA not in str(made)
    assert oncall.get(f"dead-letters/{letter.pk}").body["payload_problem"].startswith("It is purged")
