"""Shadows and promotions over the API."""

from datetime import timedelta

import pytest
import redis
from django.conf import settings
from django.utils import timezone

from controlplane.releases.operations import current_release
from controlplane.shadows import flags
from controlplane.shadows.operations import policy_in_force
from controlplane.telemetry.shadows import record_shadows
from dataplane.shadow.switch import killed_key
from tests.factories import crew, make_policy, make_routing
from tests.shadow_rows import CANDIDATE_LANE, POLICY, shadow_document, shadow_row
from tests.worker_reports import report

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def policy(monkeypatch):
    monkeypatch.setattr(flags, "TIMEOUT_SECONDS", 60.0)
    make_policy()
    make_routing(shadow_document())
    found = policy_in_force(POLICY)
    at = (timezone.now() - timedelta(minutes=1)).replace(second=0, microsecond=0)
    record_shadows([report(shadow=(shadow_row(at, asked=60, digest=found.digest),))], now=timezone.now())
    yield found
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        client.delete(killed_key(found.digest))


def test_shadow_is_read_killed_and_lifted(as_operator, policy):
    """As on the page: at once, in the release, and with a reason."""
    oncall = as_operator(crew.oncall)

    before = oncall.get("shadows").body["results"][0]
    killed = oncall.post("shadows/trial/kill", {"reason": "too dear"})
    again = oncall.post("shadows/trial/kill", {"reason": "too dear"})
    held = current_release().content["sections"]["shadow_holds"]
    during = oncall.get("shadows/trial").body
    lifted = oncall.post("shadows/trial/lift", {"reason": "mended"})

    assert (before["policy"], before["state"], before["last_24_h"]["asked"]) == (POLICY, "running", 60)
    assert (killed.status, killed.body["kind"], killed.body["by"]) == (200, "killed", "oncall")
    assert (again.status, again.body["error"]["code"]) == (409, "shadow_is_killed")
    assert set(held) == {policy.digest}
    assert (during["state"], during["reason"], during["by"]) == ("killed", "too dear", "oncall")
    assert (lifted.status, lifted.body["kind"]) == (200, "lifted")
    assert oncall.post("shadows/trial/lift", {"reason": "again"}).body["error"]["code"] == "shadow_runs"
    assert oncall.post("shadows/trial/kill", {}).status == 400
    assert oncall.get("shadows/other").status == 404


def test_checklist_is_opened_read_signed_and_withdrawn(as_operator):
    """Evidence is measured by the system; what it does not show cannot be signed."""
    oncall, approver = as_operator(crew.oncall), as_operator(crew.approver_one)
    asked = {"route": "chat", "lane": CANDIDATE_LANE, "reason": "as good"}
    few = {"comparisons": 50, "days": 1}

    wrong = oncall.post("promotion-checklists", asked | {"thresholds": {"mood": 1}})
    opened = oncall.post("promotion-checklists", asked | {"thresholds": few})
    path = f"promotion-checklists/{opened.body['id']}"
    twice = oncall.post("promotion-checklists", asked)
    signed = approver.post(f"{path}/sign", {"item": "comparisons"})
    refused = approver.post(f"{path}/sign", {"item": "golden"})
    listed = approver.get("promotion-checklists").body["results"]
    withdrawn = oncall.post(f"{path}/withdraw", {"reason": "too early"})

    assert (wrong.status, wrong.body["error"]["code"]) == (400, "invalid_thresholds")
    assert (opened.status, opened.body["state"], opened.body["changed"]) == (201, "open", "")
    assert {one["item"]: one["standing"] for one in opened.body["evidence"]}["comparisons"] == "met"
    assert (twice.status, twice.body["error"]["code"]) == (409, "checklist_exists")
    assert [(one["signer"], one["figures"]) for one in signed.body["signatures"]] == [
        ("approver-one", {"answered": 60, "days": 1})
    ]
    assert (refused.status, refused.body["error"]["code"]) == (409, "not_met")
    assert [one["id"] for one in listed] == [opened.body["id"]]
    assert (withdrawn.body["state"], withdrawn.body["why_ended"]) == ("withdrawn", "too early")
    assert approver.get(path).body["evidence"] == []
