"""A promotion's checklist as pages show it: each item with its evidence, who signed it, and whether the reader may."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from controlplane.shadows.items import Evidence, Standing
from controlplane.shadows.models import (
    SIGNATURES_NEEDED,
    ChecklistSignature,
    ChecklistState,
    Item,
    PromotionChecklist,
)
from controlplane.shadows.thresholds import BOUNDS

PILLS: Final[Mapping[Standing, tuple[str, str]]] = {
    Standing.MET: ("good", "met"),
    Standing.MOOT: ("off", "does not arise"),
    Standing.UNPROVEN: ("watch", "not proven yet"),
    Standing.NOT_MET: ("bad", "not met"),
}
STATES: Final[Mapping[ChecklistState, tuple[str, str]]] = {
    ChecklistState.OPEN: ("watch", "open"),
    ChecklistState.COMPLETE: ("good", "complete"),
    ChecklistState.PROMOTED: ("good", "promoted"),
    ChecklistState.VOID: ("bad", "void"),
    ChecklistState.WITHDRAWN: ("off", "withdrawn"),
}


@dataclass(frozen=True, slots=True)
class ItemRow:
    """One item: what it comes to now, who signed it on which figures, and whether the reader may sign. `is_void`: what
    was signed is of something else than what there is now.
    """

    item: Item
    evidence: Evidence | None
    signatures: tuple[ChecklistSignature, ...]
    may_sign: bool
    why_not: str
    is_void: bool

    @property
    def pill(self) -> dict[str, str]:
        """As `components/_pill.html` takes it: what it comes to now, else what was signed."""
        if self.is_void:
            return {"tone": "bad", "text": "void"}
        if self.evidence is None:
            text = "signed by two" if self.is_signed else f"{len(self.signatures)} signed"
            return {"tone": "good" if self.is_signed else "off", "text": text}
        tone, text = PILLS[self.evidence.standing]
        return {"tone": tone, "text": text}

    @property
    def sentence(self) -> str:
        """What there is to see now, else what was seen last."""
        if self.evidence is not None:
            return self.evidence.sentence
        return self.signatures[-1].sentence if self.signatures else "not signed"

    @property
    def link(self) -> str:
        if self.evidence is not None:
            return self.evidence.link
        return self.signatures[-1].link if self.signatures else ""

    @property
    def open_seats(self) -> range:
        return range(SIGNATURES_NEEDED - len(self.signatures))

    @property
    def is_signed(self) -> bool:
        return len(self.signatures) >= SIGNATURES_NEEDED


def item_rows(
    checklist: PromotionChecklist, evidence: Mapping[Item, Evidence], *, changed: str, signer: str, may_sign: bool
) -> list[ItemRow]:
    """Every item in order.

    Args:
        evidence: What they come to now; empty where nothing is signed any more.
        changed: As `InForce.changed`.
        signer: The reader's name in the record; `may_sign`: whether they hold the permission.
    """
    rows, void = [], is_void(checklist, changed)
    for item, signatures in ((Item(name), tuple(found)) for name, found in checklist.signed().items()):
        why_not = _why_not(checklist, evidence.get(item), signatures, signer)
        rows.append(ItemRow(item, evidence.get(item), signatures, may_sign and not why_not, why_not, void))
    return rows


def _why_not(
    checklist: PromotionChecklist,
    evidence: Evidence | None,
    signatures: tuple[ChecklistSignature, ...],
    signer: str,
) -> str:
    """Why the reader cannot sign, in words; empty: they can."""
    if evidence is None or len(signatures) >= SIGNATURES_NEEDED:
        return "nothing to sign"
    if signer == checklist.opened_by:
        return "you opened it, so two others sign"
    if any(one.signer == signer for one in signatures):
        return "you have signed; another person is needed"
    return "" if evidence.may_be_signed else "it cannot be signed before it is met"


def is_void(checklist: PromotionChecklist, changed: str) -> bool:
    """Whether its subject is another by now, be that on record already or not; `changed` as `InForce.changed`."""
    return checklist.state == ChecklistState.VOID or (checklist.is_standing and bool(changed))


def state_pill(checklist: PromotionChecklist, changed: str = "") -> dict[str, str]:
    """As `components/_pill.html` takes it; `changed` as `InForce.changed`."""
    tone, text = STATES[ChecklistState.VOID if is_void(checklist, changed) else ChecklistState(checklist.state)]
    return {"tone": tone, "text": text}


def sentence(checklist: PromotionChecklist, rows: list[ItemRow], changed: str) -> dict[str, str]:
    """The checklist in a line, as `components/_status_sentence.html` takes it."""
    tone = STATES[ChecklistState(checklist.state)][0]
    signed = sum(row.is_signed for row in rows)
    if checklist.is_standing and changed:
        return {"tone": "bad", "text": f"Void: {changed}. What was measured is of something else; open another one."}
    if checklist.state == ChecklistState.OPEN:
        missing = [row.item.label for row in rows if row.evidence is not None and not row.evidence.may_be_signed]
        tail = f" Not shown yet: {', '.join(missing).lower()}." if missing else ""
        return {"tone": tone, "text": f"{signed} of {len(rows)} items are signed by two people.{tail}"}
    if checklist.state == ChecklistState.COMPLETE:
        text = "Every item is signed by two people. A change of routing may put the lane on the route."
        return {"tone": tone, "text": text}
    return {"tone": tone, "text": f"{checklist.get_state_display()} by {checklist.ended_by}: {checklist.why_ended}."}


def threshold_rows(thresholds: Mapping[str, float]) -> list[dict[str, Any]]:
    """What the evidence is held to, for reading."""
    return [
        {"label": bound.label, "value": f"{thresholds[name]:,g}", "unit": bound.unit, "help": bound.help}
        for name, bound in BOUNDS.items()
    ]
