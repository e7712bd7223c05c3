"""Evidence of canaries, as gateways would have reported it."""

from datetime import datetime, timedelta
from typing import Any

from controlplane.approvals import operations as approvals
from controlplane.prompts import operations as prompts
from controlplane.rollouts import operations as rollouts
from controlplane.rollouts.guardrails import RAILS, Guardrails, default_guardrails
from controlplane.rollouts.models import DEFAULT_STAGES, Canary
from controlplane.telemetry.evidence import record_evidence
from controlplane.verdicts import watching
from dataplane.evidence import GROUPS
from tests.factories import FIVE_PERCENT, NOW, ONE_PERCENT, crew, make_canary, make_prompt, sign
from tests.worker_reports import cell, cells

# Of the rails that live traffic alone tells of, in the test world.
LIVE_RAILS = ("error_rate", "cost", "latency")
# Of the demo.
HELD_OUT = "help-centre-held-out@1"


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


# --- for browsers ----------------------------------------------------------------------------------------------------
def furnish(now: datetime) -> Canary:
    """In a house with the demo, put a canary of a prompt of its own at its first stage, which waits for evidence, as if
    it had begun an hour before `now`; there is no evidence yet.
    """
    begun = now - timedelta(hours=1)
    prompt = make_prompt("parcel-answer", now=begun - timedelta(hours=1))
    control, candidate = (
        prompts.submit_version(
            prompt=prompt,
            messages=[
                {"role": "system", "content": f"You answer questions of customers of an online shop. {manner}"},
                {"role": "user", "content": "{{question}}"},
            ],
            variables_schema={
                "type": "object",
                "properties": {"question": {"type": "string"}},
                "required": ["question"],
            },
            parameters={"temperature": 0.2, "max_tokens": 400},
            change_class="tone",
            rationale=rationale,
            actor=crew.owner,
            now=begun,
        )
        for manner, rationale in (
            ("Be brief and concrete: say what happens next and when.", "To begin with"),
            ("Be detailed and imaginative.", "Livelier answers"),
        )
    )
    first = prompts.propose_live(version=control, reason="To begin with", actor=crew.owner, now=begun)
    sign(first, crew.approver_one, crew.approver_two, now=begun)
    approvals.apply_change(change=first, actor=crew.owner, now=begun)
    judged = guardrails("error_rate", "cost", "grounding", held_out=HELD_OUT, judges={"grounding": "grounded@1"})
    canary = rollouts.plan_canary(
        candidate=candidate,
        unit="user",
        stages=stages()[FIVE_PERCENT:],
        guardrails=judged,
        reason="Livelier answers",
        actor=crew.owner,
        now=begun,
    )
    sign(canary.change, crew.approver_one, crew.approver_two, now=begun)
    return rollouts.start_canary(canary=canary, actor=crew.owner, now=begun)


def tell(canary: str, *, now: datetime, requests: int, seq: int, dearer: float = 1.0) -> None:
    """So many requests in every group of both arms, as `report_cells`, in some groups dearer than in others and most of
    them grounded; what the candidate's cost is `dearer` times control's.
    """
    arms = {}
    for place, (arm, times) in enumerate({"canary": dearer, "control": 1.0}.items()):
        rows = []
        for group in range(GROUPS):
            spread = 1 + 0.01 * ((group * 7 + place) % 5 - 2)
            checked = requests // 2
            grounded = checked - (checked * ((group + place) % 3)) // 100
            cost = round(300 * requests * times * spread)
            rows.append(cell(group, requests, cost_micros=cost, grounding_checked=checked, grounded=grounded))
        arms[arm] = cells(*rows, canary=canary, arm=arm)
    told = {"worker": "web-1", "boot": "b1", "seq": seq, "sent_at": now.timestamp(), "exposures": []}
    record_evidence([told | {"evidence": list(arms.values())}], now=now)


def look(slug: str, *, now: datetime) -> None:
    """Look at one canary as workers would, and do what follows."""
    canary = Canary.objects.with_parts().get(slug=slug)
    watching.act(canary, watching.look_at(canary, now=now), now=now)
