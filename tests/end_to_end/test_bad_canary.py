"""The promise of rollouts, end to end: a bad prompt version goes back by itself, and whoever is to know is told why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.receivers import Receiver, is_signed, mails
from tests.end_to_end.stack import Stack
from tests.end_to_end.traffic import PROMPT, Traffic, hold_ladder

pytestmark = [pytest.mark.end_to_end, pytest.mark.soak]
GATEWAY_PROCESSES = 2
QUARTER = 3
HELD_OUT = "help-centre-held-out@1"
# Longer, so that it costs more; and what it makes up stands in no source.
BAD = [
    {"role": "system", "content": "You answer questions of customers of an online shop. Be detailed and imaginative."},
    {"role": "user", "content": "{{question}}"},
]
# It takes the evidence of minutes, and this machine may stand still for some of them.
PATIENCE_SECONDS = 420.0


@pytest.fixture(scope="module")
def stack(data_dir: Path) -> Iterator[Stack]:
    """Everything that the demo runs but its traffic."""
    processes = ("simulator", "console", "ingest", "agent", "gateway", "worker", "work", "urgent", "beat")
    with Stack(data_dir, processes=processes, gateway_processes=GATEWAY_PROCESSES) as stack:
        stack.wait_ready()
        hold_ladder(stack)
        yield stack
    assert stack.processes() == []


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def traffic(stack: Stack) -> Iterator[Traffic]:
    """Many users, so that each arm has some in most groups."""
    traffic = Traffic(stack, users=600)
    yield traffic
    traffic.stop()


def post(stack: Stack, who: str, path: str, **body: Any) -> dict[str, Any]:
    with stack.api(who) as api:
        answer = api.post(path, json=body)
    assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"
    found: dict[str, Any] = answer.json()
    return found


def get(stack: Stack, who: str, path: str) -> dict[str, Any]:
    with stack.api(who) as api:
        found: dict[str, Any] = api.get(path).raise_for_status().json()
    return found


def channel(stack: Stack, receiver: Receiver) -> str:
    """Have alerts sent to the receiver and by e-mail; the webhook's secret."""
    post(stack, "admin", "/alert-channels", slug="on-call-mail", kind="email", addresses=["oncall@ballast.example"])
    made = post(stack, "admin", "/alert-channels", slug="pager", kind="webhook", url=receiver.url)
    secret: str = made["secret"]
    return secret


def start_bad_canary(stack: Stack) -> str:
    """Submit the bad version, have it signed, and bring its canary to 25 %; nobody touches it after that."""
    for running in get(stack, "owner", f"/canaries?state=running&prompt={PROMPT}")["results"]:
        post(stack, "oncall", f"/canaries/{running['slug']}/roll-back", reason="make room")
    live = get(stack, "owner", f"/prompts/{PROMPT}/versions/2")
    version = post(
        stack,
        "owner",
        f"/prompts/{PROMPT}/versions",
        messages=BAD,
        **{name: live[name] for name in ("parameters", "variables_schema", "sample_variables")},
        change_class="minor",
        rationale="Livelier answers",
    )
    anybody = {"unproven": "allow", "after_minutes": 0, "advance": "by_hand"}
    everybody = {"audience": "all", "tenants": [], "regions": [], "evidence": anybody}
    stages = [{"name": f"{percent} %", "weight": percent * 100, **everybody} for percent in (1, 5, 10, 25)]
    canary = post(
        stack,
        "owner",
        f"/prompts/{PROMPT}/versions/{version['number']}/canaries",
        unit="user",
        stages=stages,
        reason="Livelier answers",
    )
    assert canary["guardrails"]["held_out"] == HELD_OUT
    assert set(canary["guardrails"]["judges"]) == {"grounding", "safety"}
    for who in ("approver-one", "approver-two"):
        digest = get(stack, who, f"/changes/{canary['change']}")["digest"]
        post(stack, who, f"/changes/{canary['change']}/sign-off", digest=digest, role="approver", decision="approve")
    slug: str = canary["slug"]
    post(stack, "owner", f"/canaries/{slug}/start")
    post(stack, "owner", f"/canaries/{slug}/knob", position=QUARTER)
    return slug


def test_bad_version_is_detected_and_rolled_back_with_nobody_there(
    stack: Stack, receiver: Receiver, traffic: Traffic
) -> None:
    """Costlier and less grounded: it is back at control on every worker, the alert is delivered, the page says why."""
    secret = channel(stack, receiver)
    slug = start_bad_canary(stack)
    traffic.start(callers=12)

    def state() -> str:
        found: str = get(stack, "auditor", f"/canaries/{slug}")["state"]
        return found

    stack.wait_for(lambda: state() != "running", f"{slug} is rolled back", needs="worker", seconds=PATIENCE_SECONDS)
    canary = get(stack, "auditor", f"/canaries/{slug}")
    newest = get(stack, "auditor", "/releases")["results"][0]["revision"]
    stack.wait_for(lambda: in_sync(stack) == GATEWAY_PROCESSES, f"every worker serves r{newest}", needs="agent")
    stack.wait_for(lambda: len(receiver.taken) >= 1, "the alert is delivered", needs="urgent")
    seen = len(traffic.exchanges)
    stack.wait_for(lambda: len(traffic.exchanges) >= seen + 200, "callers go on", needs="gateway")
    traffic.stop()

    # Decided by statistics, with the number that failed.
    assert (canary["state"], canary["ended_by"]) == ("rolled_back", "ballast")
    failing = canary["end_evidence"]["failing"]
    assert failing["rail"] in {"cost", "grounding", "latency"}
    assert failing["lower"] > failing["margin"]
    assert canary["end_reason"].startswith("Regressed: ")
    # Everybody is on control, and the version cannot come back.
    after = traffic.exchanges[seen + 20 :]
    assert {(one.prompt, one.cohort) for one in after if one.is_good} == {(f"{PROMPT}@2", "none")}
    assert any(one.cohort == "canary" for one in traffic.exchanges[:seen])
    # Whoever is on call has heard, and can tell that it was us.
    headers, body = receiver.taken[0]
    assert is_signed(secret, headers, body)
    told = json.loads(body)
    assert told["type"] == "canary.rolled_back"
    assert told["data"]["facts"]["failing"]["rail"] == failing["rail"]
    stack.wait_for(lambda: mails(stack) != [], "the e-mail is sent", needs="urgent")
    assert any(canary["end_reason"][:40] in mail for mail in mails(stack))
    # The page says what happened and why, to whoever looks in the morning.
    browser = stack.sign_in("owner")
    page = browser.client.get(f"/canaries/{slug}/").raise_for_status().text
    browser.close()
    assert "Rolled back by itself" in page
    assert "is remembered as rejected" in page
    # Pairs were replayed all the while; none of it was anybody's traffic.
    [(pairs,)] = stack.query("SELECT count(*) FROM verdicts_replaypair WHERE problem = ''")
    [(strays,)] = stack.query("SELECT count(*) FROM ledger_usagerow WHERE kind = 'eval' AND tenant <> 'ballast'")
    assert pairs > 0
    assert strays == 0
    print(f"{slug}: {canary['end_reason']} ({canary['started_at']} to {canary['ended_at']}, {pairs} pairs)")


def in_sync(stack: Stack) -> int:
    found: int = get(stack, "auditor", "/fleet")["counts"]["in_sync"]
    return found
