"""What other people do before or beside a walk, by the console's API."""

import json
from typing import Any

from tests.end_to_end.stack import Stack

PROMPT = "support-answer"


def submit_version(stack: Stack, *, words: str) -> int:
    """A prompt owner submits the live version of `PROMPT` with `words` added to its instructions; its number."""
    with stack.api("owner") as api:
        live = api.get(f"/prompts/{PROMPT}/versions/2").raise_for_status().json()
        messages = [dict(message) for message in live["messages"]]
        messages[0]["content"] += f" {words}"
        fields = {
            "messages": messages,
            "variables_schema": live["variables_schema"],
            "parameters": live["parameters"],
            "sample_variables": live["sample_variables"],
            "change_class": "tone",
            "rationale": "Customers asked for a name to write to",
        }
        return int(api.post(f"/prompts/{PROMPT}/versions", json=fields).raise_for_status().json()["number"])


def plan_canary(stack: Stack, *, number: int) -> dict[str, Any]:
    """A prompt owner plans a canary of that version; it has a `slug` and, for its approvers, a `change`."""
    with stack.api("owner") as api:
        path = f"/prompts/{PROMPT}/versions/{number}/canaries"
        plan = {"unit": "user", "reason": "Customers asked for a name to write to"}
        planned: dict[str, Any] = api.post(path, json=plan).raise_for_status().json()
    return planned


def sign(stack: Stack, *, change: int, username: str, role: str = "approver") -> None:
    """Somebody signs the change as it stands."""
    with stack.api(username) as api:
        digest = api.get(f"/changes/{change}").raise_for_status().json()["current_digest"]
        word = {"role": role, "decision": "approve", "digest": digest}
        api.post(f"/changes/{change}/sign-off", json=word).raise_for_status()


def break_glass(stack: Stack, *, change: int) -> None:
    """On-call lets the change pass without its sign-offs."""
    with stack.api("oncall") as api:
        digest = api.get(f"/changes/{change}").raise_for_status().json()["current_digest"]
        bypass = {"digest": digest, "incident": "INC-2040", "minutes": 30, "reason": "The old words hurt customers"}
        api.post(f"/changes/{change}/break-glass", json=bypass).raise_for_status()


def pay_debts(stack: Stack) -> None:
    """Another person reviews what broken glass let pass, as they have to."""
    with stack.api("approver-one") as api:
        for debt in api.get("/break-glass").raise_for_status().json()["results"]:
            if debt["reviewed_at"] is None:
                api.post(f"/break-glass/{debt['id']}/review", json={"note": "Right call"}).raise_for_status()


def end_canaries(stack: Stack) -> None:
    """On-call rolls back whatever canary runs of `PROMPT`."""
    with stack.api("oncall") as api:
        for canary in api.get("/canaries", params={"state": "running"}).raise_for_status().json()["results"]:
            if canary["prompt"] == PROMPT:
                path = f"/canaries/{canary['slug']}/roll-back"
                api.post(path, json={"reason": "Makes room for the next"}).raise_for_status()


def propose_words(stack: Stack, *, piece: str, said: str, instead: str) -> int:
    """Somebody who writes copy proposes the live words of `piece` with `instead` for `said`; the change."""
    with stack.api("owner") as api:
        live = api.get(f"/copy/{piece}").raise_for_status().json()["live"]["number"]
        document = api.get(f"/copy/{piece}/versions/{live}").raise_for_status().json()["document"]
        changed = json.loads(json.dumps(document).replace(said, instead))
        fields = {"document": changed, "rationale": "Say that it is a machine"}
        number = api.post(f"/copy/{piece}/versions", json=fields).raise_for_status().json()["number"]
        opened = api.post(f"/copy/{piece}/versions/{number}/propose", json={"reason": "Agreed with the help desk"})
        return int(opened.raise_for_status().json()["id"])
