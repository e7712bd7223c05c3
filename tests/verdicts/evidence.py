"""Evidence of canaries, as gateways would have reported it."""

from typing import Any

from controlplane.rollouts import operations as rollouts
from controlplane.rollouts.guardrails import RAILS, Guardrails, default_guardrails
from controlplane.rollouts.models import DEFAULT_STAGES, Canary
from controlplane.telemetry.evidence import record_evidence
from dataplane.evidence import GROUPS
from tests.factories import NOW, ONE_PERCENT, crew, make_canary, sign
from tests.worker_reports import cell, cells

# Of the rails that live traffic alone tells of, in the test world.
LIVE_RAILS = ("error_rate", "cost", "latency")


def guardrails(*rails: str, **changes: Any) -> dict[str, Any]:
    """Guardrails of these rails alone, with their usual margins and minimums."""
    policy = default_guardrails() | {"margins": {key: RAILS[key].margin for key in rails or LIVE_RAILS}}
    return Guardrails.parse(policy | changes).to_json()


def stages(**evidence: Any) -> list[dict[str, Any]]:
    """The usual stages, each of which asks for this before the next."""
    asked = {"unproven": "wait", "after_minutes": 0, "advance": "by_hand"} | evidence
    return [{**stage, "evidence": asked} for stage in DEFAULT_STAGES]


def run_judged(position: int = ONE_PERCENT, *, signed: bool = True, rails: Any = None, **evidence: Any) -> Canary:
    """A running canary with guardrails at this stage, whose stages ask for such evidence; for none, unless told."""
    canary = make_canary(stages=stages(unproven="allow"))
    canary = rollouts.change_plan(
        canary=canary,
        unit="user",
        stages=stages(**(evidence or {"unproven": "allow"})),
        guardrails=rails or guardrails(),
        actor=crew.owner,
        now=NOW,
    )
    if signed:
        sign(canary.change, crew.approver_one, crew.approver_two)
    canary = rollouts.start_canary(canary=canary, actor=crew.owner, now=NOW)
    Canary.objects.filter(pk=canary.pk).update(position=position, moved_at=NOW)
    return Canary.objects.with_parts().get(pk=canary.pk)


def report_cells(
    canary: str, *, requests: int = 100, seq: int = 1, candidate: Any = None, control: Any = None, now: Any = NOW
) -> None:
    """So many requests in every group of both arms; `candidate` and `control` are other sums of each group there."""
    arms = {"canary": candidate or {}, "control": control or {}}
    rows = [
        cells(*(cell(group, requests, **sums) for group in range(GROUPS)), canary=canary, arm=arm)
        for arm, sums in arms.items()
    ]
    report = {
        "worker": "web-1",
        "boot": "b1",
        "seq": seq,
        "sent_at": now.timestamp(),
        "evidence": rows,
        "exposures": [],
    }
    record_evidence([report], now=now)


def report_exposures(canary: str, *rows: dict[str, Any], now: Any = NOW) -> None:
    """Who was served what."""
    exposures = [row | {"canary": canary} for row in rows]
    report = {"worker": "web-1", "boot": "b1", "seq": 1, "sent_at": now.timestamp(), "evidence": []}
    record_evidence([report | {"exposures": exposures}], now=now)
