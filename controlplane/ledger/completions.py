"""Answers that nothing could repair, completed by people: what is wrong with one, and what makes it right.

What somebody supplies is put in and read by the same code as at the gateway (`dataplane/repair/completion.py`), so an
answer that is complete here is what a worker would have handed over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from controlplane.accounts.models import Operator
from controlplane.audit import operations as audit
from controlplane.ledger.repairs import Repair
from dataplane.errors.requests import InvalidRequest
from dataplane.json_answers import Readers, answer_of
from dataplane.messages import ChatRequest, Json
from dataplane.repair.coerce import errors_of
from dataplane.repair.completion import Supplied, complete
from dataplane.repair.kept import COMPLETED, OPEN
from dataplane.repair.labels import Mode
from dataplane.repair.modes import Problem, problem_of
from dataplane.repair.values import NotJson, parse
from dataplane.schema_check import SchemaChecker

# Who completed an answer, where it was not the caller with a key of theirs.
BY_OPERATOR: Final = "operator:"
MAX_FLAWS: Final = 20
# What a schema refuses of a value, without the value: whoever completes an answer need not be one who may read it.
_FACTS: Final = {
    Mode.MISSING_FIELD: "is missing",
    Mode.WRONG_TYPE: "is of another type than the schema wants",
    Mode.UNKNOWN_FIELD: "holds a field that the schema does not know",
    Mode.NOT_IN_ENUM: "is none of the choices that the schema gives",
}


class RepairError(Exception):
    """An answer was not completed; nothing was changed."""

    code = "repair_refused"


class RepairIncomplete(RepairError):
    """What was supplied cannot be put there, or does not make the answer what was asked for; the message says why."""

    code = "repair_incomplete"


class RepairOver(RepairError):
    """It is not as it was looked at any more: somebody completed it, or a part of it, or its time is over."""

    code = "repair_over"


@dataclass(frozen=True, slots=True)
class Flaw:
    """One place where an answer is not what its schema wants. `wanted` is the schema there; None: it does not say."""

    pointer: str
    mode: Mode
    wanted: Json | None

    @property
    def fact(self) -> str:
        return _FACTS.get(self.mode, "is not what the schema wants")

    @property
    def words(self) -> str:
        """For people: '/customer/name is missing'."""
        return f"{self.pointer or 'the value'} {self.fact}"


@dataclass(frozen=True, slots=True)
class Standing:
    """What can be said of an open answer without its words. `is_readable`: single fields of it can be supplied; of one
    that is not, only all of it can.
    """

    is_readable: bool
    flaws: tuple[Flaw, ...]


def standing_of(row: Repair) -> Standing:
    """How an open answer stands; the row must have its words."""
    payload = _payload(row)
    text = payload["value"]
    schema = _schema_of(payload, row.at_part)
    if text is None:
        return Standing(False, tuple(Flaw(one, Mode.MISSING_FIELD, _wanted(schema, one)) for one in row.missing))
    return Standing(True, tuple(_flaws(text, schema)))


@audit.operation
def complete_answer(*, repair: Repair, given: Supplied, reason: str, actor: Operator, now: datetime) -> Repair:
    """Put what somebody supplies into an open answer; returns it as it stands then.

    It is open still if another part of it is broken too: the next one to complete is told by `at_part`. The record says
    who supplied what places, and never the values.

    Raises:
        RepairIncomplete: it is not what was asked for yet.
        RepairOver: it was completed meanwhile, or a part of it, or its time is over.
    """
    if any("\0" in pointer for pointer in given.fields):
        raise RepairIncomplete("a JSON pointer has no NUL character")
    row = Repair.objects.get(pk=repair.pk)
    if row.state != OPEN or row.payload is None or row.expires_at <= now:
        raise _over(row, now)
    payload = _payload(row)
    try:
        completion = complete(payload, row.at_part, given, schemas=SchemaChecker())
    except InvalidRequest as exc:
        raise RepairIncomplete(_what_is_wrong(payload, row.at_part, given, exc)) from exc
    kept = orjson.dumps(completion.payload)
    changes: dict[str, Any] = {"payload": kept, "payload_bytes": len(kept)}
    if completion.flaw is None:
        changes |= {"state": COMPLETED, "completed_at": now, "completed_by": f"{BY_OPERATOR}{actor.audit_name}"}
    else:
        flaw = completion.flaw
        changes |= {"at_part": flaw.at, "mode": flaw.mode, "why": flaw.why, "missing": list(flaw.missing)}
    # The caller may complete it at the gateway between our read and our write: whoever was first has.
    open_still = Repair.objects.filter(pk=row.pk, state=OPEN, payload=bytes(row.payload), expires_at__gt=now)
    if not open_still.update(**changes):
        raise _over(Repair.objects.without_words().get(pk=row.pk), now)
    audit.record(
        "repair.completed" if completion.flaw is None else "repair.part_completed",
        actor=actor,
        target=row,
        at=now,
        data={
            "tenant": row.tenant,
            "at": row.at_part,
            "fields": [] if given.whole is not None else sorted(given.fields),
            "reason": reason,
        },
    )
    return Repair.objects.without_words().get(pk=row.pk)


@audit.operation
def read_words(*, repair: Repair, actor: Operator, now: datetime) -> Mapping[str, Any] | None:
    """The words of an answer, or None where its time is over. Who reads them is recorded.

    Shape: see `dataplane.repair.kept.OpenAnswer.payload`.
    """
    row = Repair.objects.with_words(now).filter(pk=repair.pk).first()
    if row is None:
        return None
    audit.record("repair.read", actor=actor, target=row, at=now, data={"tenant": row.tenant})
    return _payload(row)


def _payload(row: Repair) -> dict[str, Any]:
    payload: dict[str, Any] = orjson.loads(bytes(row.payload or b"null"))
    return payload


def _over(row: Repair, now: datetime) -> RepairOver:
    if row.state == COMPLETED:
        return RepairOver(f"{row.name} was completed by {row.completed_by} meanwhile; nothing was changed")
    if row.state == OPEN and row.expires_at > now:
        return RepairOver(f"a part of {row.name} was completed meanwhile; look at it again, nothing was changed")
    return RepairOver(f"the time of {row.name} is over, and its words are deleted; the request has to be made anew")


# --- what is wrong ---------------------------------------------------------------------------------------------------
def _what_is_wrong(payload: Mapping[str, Any], at: str, given: Supplied, refused: InvalidRequest) -> str:
    """Why what was supplied does not do, by places alone: the reason of the reader quotes the model's words."""
    try:
        text = given.put_into(payload["value"], at=at)
    except InvalidRequest:
        return str(refused)  # of the places that were supplied
    flaws = _flaws(text, _schema_of(payload, at))
    said = "; ".join(flaw.words for flaw in flaws) or "it is no value of the kind that was asked for"
    return f"{at} is not what was asked for yet: {said}"


def _schema_of(payload: Mapping[str, Any], at: str) -> Json | None:
    readers = Readers(ChatRequest(route="", messages=[], parameters=payload["asked"]), SchemaChecker())
    parts = {part.name: part for part in readers.parts_of(answer_of(payload["body"]))}
    return readers.schema_of(parts[at])


def _flaws(text: str, schema: Json | None) -> Sequence[Flaw]:
    """What a schema refuses of a text, the first MAX_FLAWS by their place; nothing where there is no schema to ask."""
    validator = None if schema is None else SchemaChecker().validator(schema)
    if validator is None:
        return []
    try:
        value = parse(text)
    except NotJson:
        return []
    found: dict[str, Mode] = {}
    for problem in (problem_of(error) for error in errors_of(validator, value, characters=len(text))):
        found |= _by_place(problem)
    return [Flaw(place, mode, _wanted(schema, place)) for place, mode in sorted(found.items())[:MAX_FLAWS]]


def _by_place(problem: Problem) -> dict[str, Mode]:
    return dict.fromkeys(problem.missing, Mode.MISSING_FIELD) or {problem.pointer: problem.mode}


def _wanted(schema: Json | None, pointer: str) -> Json | None:
    """What a schema says of a place in plain `properties` and `items`; None where it says it in another way."""
    node: Any = schema
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        members = node.get("properties")
        node = members.get(name) if isinstance(members, dict) else node.get("items") if name.isdecimal() else None
        if not isinstance(node, dict):
            return None
    return node if isinstance(node, dict) else None
