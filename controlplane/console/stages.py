"""The stages of a canary in words: for the stepper of a plan, and as the stops of the knob of a running canary."""

from collections.abc import Callable
from typing import Any

from controlplane.approvals.operations import Examination
from controlplane.approvals.policy import Standing
from controlplane.rollouts.models import Canary, Gate, gate_of


def steps(canary: Canary, examined: Examination) -> list[dict[str, Any]]:
    """The stages for `components/_stepper.html`, each with its gate's condition where it lies ahead."""
    standings = {gate: examined.standing(gate) for gate in Gate} if canary.change.is_open else {}
    found = []
    for index, stage in enumerate(canary.stages):
        state = (
            "now" if index == canary.position and canary.is_running else "past" if index <= canary.position else "next"
        )
        gate = standings.get(gate_of(stage))
        conditions = []
        if gate is not None and index > canary.position and gate.gate.requirements:
            conditions = [{"text": gate.sentence, "met": gate.is_open}]
        found.append({"name": stage["name"], "state": state, "detail": _beside_name(stage), "gate": conditions})
    return found


def stops(
    canary: Canary, examined: Examination, *, unproven: Callable[[int], str | None] = lambda position: None
) -> list[dict[str, Any]]:
    """The stages for `components/_knob.html`; a stop whose gate is closed, or that waits for evidence, says what is
    missing.

    Args:
        unproven: What evidence of the stages before keeps a stage, by its position, from being reached.
    """
    standings = {gate: examined.standing(gate) for gate in Gate}
    bypassed = canary.change.bypasses.in_effect(examined.at).filter(digest=examined.current.digest).exists()
    here = canary.stages[canary.position]
    found = []
    for index, stage in enumerate(canary.stages):
        ahead = index > canary.position
        gates = [standings[gate] for gate in canary.gates_up_to(index) if standings[gate].gate.requirements]
        closed = [gate for gate in gates if not gate.is_open]
        waits = unproven(index) if ahead else None
        unsigned = ahead and bool(closed) and not bypassed
        why = (
            closed[0].sentence if unsigned else "" if waits is None else "Waits for evidence; the verdict says of what"
        )
        found.append(
            {
                "value": index,
                "label": _beside_name(stage),
                "share": stage["name"],
                "moves": _moves(here, stage, ahead=ahead),
                "current": index == canary.position,
                "disabled": bool(why),
                "why": why,
                "met": _met(gates, closed, bypassed=bypassed) if ahead else "",
            }
        )
    return found


def _met(gates: list[Standing], closed: list[Standing], *, bypassed: bool) -> str:
    """What opened the way to a stop that lies ahead; nothing while it is locked, or where no gate stands."""
    if closed:
        return "glass broken" if bypassed else ""
    return "signed off" if gates else ""


def _share(stage: dict[str, Any]) -> str:
    return f"{stage['weight'] / 100:g} %"


def _people(stage: dict[str, Any]) -> str:
    who = "internal users" if stage["audience"] == "internal" else "users"
    limits = [*stage["tenants"], *stage["regions"]]
    return who + (f" of {', '.join(limits)}" if limits else "")


def _reach(stage: dict[str, Any]) -> str:
    """Who a stage reaches, in words."""
    return f"{_share(stage)} of {_people(stage)}"


def _beside_name(stage: dict[str, Any]) -> str:
    """The same for a place where the stage's name stands right above: '5 %' is not said twice."""
    return f"of {_people(stage)}" if stage["name"] == _share(stage) else _reach(stage)


def _moves(here: dict[str, Any], there: dict[str, Any], *, ahead: bool) -> str:
    """What turning the knob there does to users, in words."""
    if there is here:
        return "where it is"
    if ahead:
        return f"reaches {_reach(there)}; nobody leaves the canary"
    return f"back to {_reach(there)}; everybody else returns to the control"
