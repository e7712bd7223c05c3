"""What the demo is given beyond its own data, so that no page is empty."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.browser.caller import Caller
from tests.browser.pages import KEY
from tests.end_to_end.stack import Stack
from tests.worker_reports import FRAMES, delivery, quota_state, report, rollup, segment, stream_row

RECORD = """
import json
from datetime import datetime, timedelta, UTC
from controlplane.ledger.streams import record_streams
from controlplane.telemetry.operations import merge_rollups, record_events, record_quota_states
from tests.alerts.channels import furnish as furnish_alerts
from tests.corpora.game_days import furnish as furnish_game_days
from tests.deadletters.redrives import furnish as furnish_letters
from tests.repair_rows import make_repair
from tests.shadows.promotions import furnish as furnish_shadows
from tests.validator_tables import furnish
record_streams(**json.loads({streams!r}))
record_quota_states(json.loads({reports!r}), now=datetime.now(UTC) + timedelta(hours=1))
record_events(json.loads({reports!r}))
now = datetime.now(UTC)
merge_rollups(json.loads({answers!r}), now=now)
make_repair(at=now, state="completed", completed_by="operator:oncall")
furnish_shadows(now)  # first, since what is proposed then is of the table in force
furnish(now)
furnish_letters(now)
furnish_alerts(now)
furnish_game_days(now)
make_repair(at=now, tenant="globex", why='/topic: "' + "x" * 200 + '" is not one of "orders" or "refunds"')
"""


def streams() -> dict[str, Any]:
    """What a worker would report: a stream of two lanes that broke off and was read later, and one out of order."""
    now = datetime.now(UTC)
    cut = stream_row(
        "c" * 32,
        at=now,
        outcome="interrupted",
        code="upstream_interrupted",
        delivered=20,
        delivered_tokens=50,
        transcript=FRAMES,
        segments=[
            segment(last_seq=15, partial=True, estimated=True),
            segment("anthropic/eu-west/main/claude-sonnet-4-5", how="prefill", cause="upstream_timeout", first_seq=16),
        ],
    )
    odd = stream_row("d" * 32, at=now - timedelta(days=2), generated_tokens=120, continues="c" * 32)
    return {
        "streams": [cut, odd],
        "deliveries": [delivery("1" * 32, "c" * 32, at=now, delivered_tokens=90, acked_tokens=60)],
    }


def reports() -> list[dict[str, Any]]:
    """What two workers would report of a quota: paused, with callers waiting, and one of them alone. They are heard of
    for an hour, so that they are not silent before somebody looks.
    """
    now = datetime.now(UTC)
    waits = {"waiting": {"interactive": 31, "batch": 120}, "eta_seconds": {"interactive": 14.0, "batch": None}}
    learned = {"limits": {"requests": 8000, "concurrency": 200}, "learned": {"requests": 8000}, "waited_ms_p95": 900.5}
    known = quota_state("anthropic-main", **waits, **learned, used_share=0.96, paused_seconds=12)
    lone = quota_state("anthropic-main", is_alone=True, ramp=0.4)
    paused = {"pool": known["pool"], "account": "anthropic-main", "lane": "anthropic/eu-west/main/claude-sonnet-4-5"}
    events = (
        {"at": now.timestamp(), "kind": "quota.paused", "data": {**paused, "seconds": 12, "reason": "answered 429"}},
        {"at": now.timestamp() - 60, "kind": "quota.alone", "data": {**paused, "reason": "redis does not answer"}},
    )
    later = now + timedelta(hours=1)
    return [
        report(worker="walker/gateway-0", sent_at=later, quotas=(known,), events=events),
        report(worker="walker/gateway-1", sent_at=later, quotas=(lone,)),
    ]


def answers() -> list[dict[str, Any]]:
    """What a worker would report of JSON answers of the last hours: most right, some repaired, a few failed; and what
    validators said of them.
    """
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    wrong = {
        "repair:fenced:r1_extract:lossless": 6,
        "repair:extra_prose:r1_extract:lossless": 3,
        "repair:commas:r2_syntax:lossless": 2,
        "repair:quotes:r2_syntax:lossless": 1,
        "repair:wrong_type:r3_coerce:lossless": 4,
        "repair:literals:r2_syntax:lossy": 1,
        "repair:truncated:r4_continue:lossless": 2,
        "repair:missing_field:r6_ask_again:lossless": 2,
        "repair:missing_field:r7_failed:": 1,
    }
    looked_at = {
        "validator:no-secrets@1:pass:": 400,
        "validator:no-payment-data@1:pass:": 396,
        "validator:no-payment-data@1:block:": 3,
        "validator:no-payment-data@1:abstain:block": 1,
        "validator:no-addresses@2:repair:": 5,
        "validator:sane-amounts@1:warn:": 4,
        "validator:answer:pass:": 388,
        "validator:answer:block:": 3,
        "validator:answer:block:abstained": 1,
        "validator:answer:repair:": 5,
        "validator:answer:warn:": 3,
    }
    lanes = ("openai/us-east/main/gpt-4o", "anthropic/eu-west/main/claude-sonnet-4-5")
    rollups = [
        rollup(
            now - timedelta(minutes=10 * (step + 1)),
            lane=lane,
            version=3,
            canary="",
            outputs={"repair:none:r0_strict:lossless": 400 + 20 * step}
            | {key: count for place, (key, count) in enumerate(wrong.items()) if (place + step) % 3}
            | {key: count * (1 + (step % 4 == 0)) for key, count in looked_at.items()},
        )
        for step in range(12)
        for lane in lanes
    ]
    return [report(*rollups, worker="walker/gateway-2")]


def furnish(stack: Stack) -> None:
    """Put on record, for the demo of a running stack: a planned canary beside the running one, a drill, attempts, a
    key, a job, streams, a quota that callers wait for, JSON answers, of which two were beyond repair, what validators
    withheld, a change of those that was tried on stored answers, and dead letters with redrives.
    """
    caller = Caller(stack)
    for _ in range(2):
        caller.ask("walker", key="order-8e03978e-40d5-43e8-bc93-6894a57f9324")
    caller.hand_in()
    caller.close()
    stack.wait_for(lambda: stack.query("SELECT 1 FROM ledger_usagerow LIMIT 1") != [], "the attempt is recorded")
    stack.wait_for(lambda: stack.query(KEY) != [], "the repeated answer is on record")
    stack.wait_for(lambda: stack.query("SELECT 1 FROM ledger_job WHERE state = 'completed'") != [], "the job is done")
    told = {"streams": streams(), "reports": reports(), "answers": answers()}
    stack.manage("shell", "-c", RECORD.format(**{name: json.dumps(rows) for name, rows in told.items()}))
    with stack.api("owner") as api:
        planned = api.get("/canaries", params={"state": "planned"}).json()["results"]
        if not planned:
            api.post(
                "/prompts/support-answer/versions/1/canaries", json={"unit": "user", "reason": "To look at it"}
            ).raise_for_status()
    with stack.api("oncall") as api:
        if not api.get("/drills").json()["results"]:
            asked = {"lane": "anthropic/eu-west/main/claude-sonnet-4-5", "minutes": 5, "reason": "To look at it"}
            drill = api.post("/drills", json=asked).raise_for_status().json()
            api.post(f"/drills/{drill['id']}/end", json={"reason": "Seen"}).raise_for_status()
        if not api.get("/ladder/activations").json()["results"]:
            until = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
            asked = {"surface": "web-chat", "rung": 1, "until": until, "reason": "To look at it"}
            api.post("/ladder/activations", json=asked).raise_for_status()
            over = {"reason": "Seen", "is_held_up": False}
            api.post("/ladder/surfaces/web-chat/stand-down", json=over).raise_for_status()
