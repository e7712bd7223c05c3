"""Black Friday: load rises, rungs engage by themselves in signed words, VIPs are served, and all stands down again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.receivers import Receiver, is_signed, mails
from tests.end_to_end.stack import Stack

pytestmark = pytest.mark.end_to_end
SURFACE = "web-chat"
# The demo's pace is for people who watch; this one is for a test that waits for all of it.
PACE = {"step_seconds": 3, "dwell_seconds": 6, "calm_seconds": 5, "longest_calm_seconds": 60}
PATIENCE_SECONDS = 300.0
QUESTION = [{"role": "user", "content": "How long does a refund take?"}]


@pytest.fixture(scope="module")
def stack(data_dir: Path) -> Iterator[Stack]:
    """Everything that the demo runs, its made-up shoppers too."""
    processes = (
        *("simulator", "console", "ingest", "agent", "gateway", "jobs"),
        *("worker", "work", "urgent", "beat", "traffic"),
    )
    with Stack(data_dir, processes=processes, gateway_processes=2) as stack:
        stack.wait_ready()
        yield stack
    assert stack.processes() == []


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def post(stack: Stack, who: str, path: str, **body: Any) -> dict[str, Any]:
    with stack.api(who) as api:
        answer = api.post(path, json=body)
    assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"
    found: dict[str, Any] = answer.json()
    return found


def get(stack: Stack, who: str, path: str) -> Any:
    with stack.api(who) as api:
        return api.get(path).raise_for_status().json()


def hurry(stack: Stack) -> None:
    """Have another policy signed and put in force, whose ladder moves within seconds."""
    changes = {
        f"pace.{name}": {
            "value": seconds,
            "origin": "guess",
            "note": "so that a test need not wait",
            "link": "",
            "review_by": "2099-01-01",
        }
        for name, seconds in PACE.items()
    }
    change = post(stack, "oncall", f"/ladder/surfaces/{SURFACE}/thresholds", changes=changes, reason="A faster ladder")
    for who in ("approver-one", "approver-two"):
        digest = get(stack, who, f"/changes/{change['id']}")["digest"]
        post(stack, who, f"/changes/{change['id']}/sign-off", digest=digest, role="approver", decision="approve")
    post(stack, "oncall", f"/changes/{change['id']}/apply")


def shown(stack: Stack) -> dict[str, Any]:
    """What users are told."""
    found: dict[str, Any] = httpx.get(f"{stack.gateway_url}/v1/status", params={"surface": SURFACE}).json()
    return found["surfaces"][0]


def ask(stack: Stack, tenant: str, **headers: str) -> httpx.Response:
    """A question of somebody in the web chat."""
    return httpx.post(
        f"{stack.gateway_url}/v1/chat/completions",
        json={"model": "chat", "messages": QUESTION, "user": "ada"},
        headers={"authorization": f"Bearer bk-demo-{tenant}", **headers},
        timeout=60,
    )


def test_black_friday_engages_rungs_by_itself_and_leaves_a_report(stack: Stack, receiver: Receiver) -> None:
    """Nobody does anything but press the button: signed words on every rung, VIPs in full, what is promised comes,
    and not one step too many on the way up or down.
    """
    secret = post(stack, "admin", "/tenants/initech/delivery-secret")["secret"]
    hurry(stack)
    operator = stack.sign_in("oncall")
    assert shown(stack)["rung"] == 0

    assert operator.post("/ladder/demo/black-friday/", {"act": "begin"}).is_success
    stack.wait_for(lambda: shown(stack)["rung"] >= 1, PATIENCE_SECONDS)
    stack.wait_for(lambda: shown(stack)["rung"] == 4, PATIENCE_SECONDS)
    assert "we keep your question" in shown(stack)["banner"]
    promised = ask(stack, "initech", **{"ballast-deliver": receiver.url})
    written = ask(stack, "initech", **{"ballast-deliver": "mailto:ada@shop.example", "accept-language": "de"})
    vip = ask(stack, "acme")
    assert (promised.status_code, promised.headers["ballast-rung"]) == (202, "4")
    assert promised.json()["choices"][0]["message"]["content"].startswith("We have your question")
    assert promised.json()["ballast"]["job"]["deliver"] == "webhook"
    assert written.json()["choices"][0]["message"]["content"].startswith("Wir haben Ihre Frage")
    assert (vip.status_code, vip.headers["ballast-rung"]) == (200, "0")

    assert operator.post("/ladder/demo/black-friday/", {"act": "end"}).is_success
    stack.wait_for(lambda: shown(stack)["rung"] == 0, PATIENCE_SECONDS)
    stack.wait_for(lambda: receiver.taken, PATIENCE_SECONDS)
    headers, body = receiver.taken[0]
    assert is_signed(secret, headers, body)
    answer = json.loads(body)
    assert answer["status"] == "succeeded"
    assert answer["response"]["choices"][0]["message"]["content"]
    stack.wait_for(lambda: any("ada@shop.example" in mail for mail in mails(stack)), PATIENCE_SECONDS)
    (mail,) = (mail for mail in mails(stack) if "ada@shop.example" in mail)
    assert "Hier ist die Antwort" in mail

    def episode() -> dict[str, Any] | None:
        found = get(stack, "auditor", f"/ladder/surfaces/{SURFACE}/episodes")["results"]
        return found[0] if found and found[0]["ended_at"] else None

    stack.wait_for(episode, PATIENCE_SECONDS)
    over = episode()
    assert over is not None
    rungs = [step["rung"] for step in over["steps"]]
    assert rungs == [1, 2, 3, 4, 3, 2, 1, 0]
    served = get(stack, "auditor", f"/ladder/surfaces/{SURFACE}/served")
    vips = next(one for one in served["tiers"] if one["tier"] == "vip")
    assert vips["answered"] >= vips["promised"]
    with stack.api("auditor") as api:
        report = api.get(f"/ladder/surfaces/{SURFACE}/episodes/{over['id']}/postmortem").raise_for_status().text
    assert "under-way" in report
