"""Black Friday: load rises, rungs engage by themselves in signed words, VIPs are served, and all stands down again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.receivers import Receiver, is_signed, mails
from tests.end_to_end.stack import Browser, Stack

pytestmark = [pytest.mark.end_to_end, pytest.mark.soak]
SURFACE = "web-chat"
# The demo's pace is for people who watch; this one is for a test that waits for all of it.
PACE = {"step_seconds": 3, "dwell_seconds": 6, "calm_seconds": 6, "longest_calm_seconds": 60}
PATIENCE_SECONDS = 300.0
BUTTON = "/ladder/demo/black-friday/"
QUESTION = [{"role": "user", "content": "How long does a refund take?"}]
ADDRESS = "ada@shop.example"


@pytest.fixture(scope="module")
def stack(data_dir: Path) -> Iterator[Stack]:
    """Everything that the demo runs but its shadow, its made-up shoppers too."""
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


@pytest.fixture
def oncall(stack: Stack) -> Iterator[Browser]:
    browser = stack.sign_in("oncall")
    yield browser
    browser.close()


def call(stack: Stack, who: str, method: str, path: str, **body: Any) -> Any:
    with stack.api(who) as api:
        answer = api.request(method, path, json=body or None)
    assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"
    return answer.json()


def hurry(stack: Stack) -> None:
    """Have another policy signed and put in force, whose ladder moves within seconds."""
    source = {"origin": "guess", "note": "so that a test need not wait", "link": "", "review_by": "2099-01-01"}
    numbers = {f"pace.{name}": {"value": seconds, **source} for name, seconds in PACE.items()}
    path = f"/ladder/surfaces/{SURFACE}/thresholds"
    change = call(stack, "oncall", "PATCH", path, thresholds=numbers, reason="A faster ladder")["id"]
    for who in ("approver-one", "approver-two"):
        digest = call(stack, who, "GET", f"/changes/{change}")["digest"]
        decided = {"digest": digest, "role": "approver", "decision": "approve"}
        call(stack, who, "POST", f"/changes/{change}/sign-off", **decided)
    call(stack, "oncall", "POST", f"/changes/{change}/apply")


def make_secret(stack: Stack, tenant: str) -> str:
    """With what webhooks to a tenant are signed, as its page shows it once."""
    admin = stack.sign_in("admin")
    page = admin.post(f"/access/tenants/{tenant}/webhook-secret/", {"reason": "answers that come later"})
    admin.close()
    shown = re.search(r"whsec_[A-Za-z0-9+/=]+", page.text)
    assert shown is not None, page.text[:2000]
    return shown[0]


def told(stack: Stack) -> dict[str, Any]:
    """What users are told of the web chat."""
    answer = httpx.get(f"{stack.gateway_url}/v1/status", params={"surface": SURFACE}, timeout=30).raise_for_status()
    found: dict[str, Any] = answer.json()["surfaces"][0]
    return found


def ask(stack: Stack, tenant: str, **headers: str) -> httpx.Response:
    """A question of somebody in the web chat."""
    return httpx.post(
        f"{stack.gateway_url}/v1/chat/completions",
        json={"model": "chat", "messages": QUESTION, "user": "ada"},
        headers={"authorization": f"Bearer bk-demo-{tenant}", **headers},
        timeout=60,
    )


def look(stack: Stack, tenant: str, job: str) -> dict[str, Any]:
    """The job, as its tenant sees it."""
    headers = {"authorization": f"Bearer bk-demo-{tenant}"}
    answer = httpx.get(f"{stack.gateway_url}/v1/jobs/{job}", headers=headers, timeout=60)
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def said(answer: httpx.Response) -> str:
    words: str = answer.json()["choices"][0]["message"]["content"]
    return words


def test_black_friday_engages_rungs_by_itself_and_leaves_a_report(
    stack: Stack, receiver: Receiver, oncall: Browser
) -> None:
    """Nobody does anything but press the button: signed words on every rung, VIPs in full, what is promised comes, and
    not one step too many on the way down.
    """
    secret = make_secret(stack, "initech")
    hurry(stack)

    def everywhere(rung: int) -> bool:
        # Each look may meet the other process, which follows a second later.
        return all(told(stack)["rung"] == rung for _ in range(8))

    assert everywhere(0)

    assert oncall.post(BUTTON, {"act": "begin"}).status_code == httpx.codes.FOUND
    stack.wait_for(lambda: everywhere(4), "rung 4 is engaged", needs="traffic", seconds=PATIENCE_SECONDS)
    assert "we keep your question" in told(stack)["banner"]
    promised = ask(stack, "initech", **{"ballast-deliver": receiver.url})
    written = ask(stack, "initech", **{"ballast-deliver": f"mailto:{ADDRESS}", "accept-language": "de"})
    vip = ask(stack, "acme")
    assert (promised.status_code, promised.headers["ballast-rung"]) == (202, "4")
    assert said(promised).startswith("We have your question")
    assert promised.json()["ballast"]["job"]["deliver"] == "webhook"
    assert said(written).startswith("Wir haben Ihre Frage")
    assert (vip.status_code, vip.headers["ballast-rung"]) == (200, "0")
    page = oncall.client.get("/ladder/").raise_for_status().text
    assert "we keep your question" in page

    assert oncall.post(BUTTON, {"act": "end"}).status_code == httpx.codes.FOUND
    stack.wait_for(lambda: everywhere(0), "the ladder stands down", needs="gateway", seconds=PATIENCE_SECONDS)
    stack.wait_for(lambda: receiver.taken != [], "the answer is delivered", needs="work", seconds=PATIENCE_SECONDS)
    headers, body = receiver.taken[0]
    assert is_signed(secret, headers, body)
    answer = json.loads(body)
    assert (answer["status"], answer["job"]) == ("completed", promised.json()["ballast"]["job"]["id"])
    assert answer["response"]["choices"][0]["message"]["content"]

    def mail() -> str:
        return next((one for one in mails(stack) if ADDRESS in one), "")

    stack.wait_for(lambda: mail() != "", "the e-mail is sent", needs="work", seconds=PATIENCE_SECONDS)
    assert "Ihre Antwort von Web chat" in mail()
    job = promised.json()["ballast"]["job"]["id"]
    stack.wait_for(lambda: look(stack, "initech", job)["delivery"]["status"] == "delivered", "its job says so")

    def episodes() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = call(stack, "auditor", "GET", f"/ladder/surfaces/{SURFACE}/episodes")["results"]
        return found

    stack.wait_for(
        lambda: bool(episodes()) and episodes()[0]["until"] is not None, "the episode is told", needs="ingest"
    )
    over = episodes()[0]
    rungs = [0] + [step["rung"] for step in over["steps"]]
    top = rungs.index(4)
    assert rungs[: top + 1] == [0, 1, 2, 3, 4]
    # However long the machine stood still, it came down one rung at a time and went up again for nobody.
    assert all(after < before for before, after in pairwise(rungs[top:]))
    assert over["later"] > 0
    served = call(stack, "auditor", "GET", f"/ladder/surfaces/{SURFACE}/served")["tiers"]
    tiers = {one["tier"]: one for one in served}
    vips, free = tiers["vip"], tiers["free"]
    # Some of the shoppers' answers are broken on purpose, so the promise is held against the interval.
    assert vips["answered"]["high"] >= vips["promised_share"]
    assert vips["reserved"] > 0
    assert free["answered"]["value"] < vips["answered"]["value"]
    print(f"rungs {rungs}; answered at once: VIP {vips['answered']}, free {free['answered']}; later {over['later']}")
    with stack.api("auditor") as api:
        path = f"/ladder/surfaces/{SURFACE}/episodes/{over['id']}/postmortem"
        report = api.get(path).raise_for_status().text
    assert "under-way" in report
    assert "INC-226" in report
