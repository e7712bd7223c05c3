"""Fault rules set by an admin call: which requests they hit, how often, and for how long."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from random import Random
from typing import Any

from dataplane.simulator.conversation import Wire
from dataplane.simulator.faults import BadFault, Fault, read_faults

_FIELDS = frozenset({"fault", "wire", "model", "account", "operation", "probability", "count", "until", "for_seconds"})
OPERATIONS: tuple[str, ...] = ("chat", "embeddings")


@dataclass(slots=True)
class FaultRule:
    """One rule; `hits` counts the requests it struck. `until` is in epoch seconds; None for no end. `remaining`
    None for no limit.
    """

    id: int
    faults: tuple[Fault, ...]
    wire: Wire | None
    model: str | None
    account: str | None
    operation: str | None
    probability: float
    remaining: int | None
    until: float | None
    hits: int = 0

    def matches(self, *, wire: Wire, operation: str, model: str, account: str, now: float) -> bool:
        """Say whether the rule is alive and meant for such a request: `model` is a glob, `account` the end of the
        API key.
        """
        return (
            (self.wire is None or self.wire is wire)
            and (self.operation is None or self.operation == operation)
            and (self.model is None or fnmatchcase(model, self.model))
            and (self.account is None or account.endswith(self.account))
            and (self.remaining is None or self.remaining > 0)
            and (self.until is None or now < self.until)
        )

    def to_json(self) -> dict[str, Any]:
        """Return the rule as the admin list shows it."""
        return {
            "id": self.id,
            "fault": [fault.to_json() for fault in self.faults],
            "wire": self.wire.value if self.wire else None,
            "model": self.model,
            "account": self.account,
            "operation": self.operation,
            "probability": self.probability,
            "count": self.remaining,
            "until": datetime.fromtimestamp(self.until, UTC).isoformat() if self.until is not None else None,
            "hits": self.hits,
        }


class FaultBook:
    """All rules in force; the draws for `probability` come from one seeded generator, so a run can be repeated."""

    def __init__(self, *, seed: int) -> None:
        self._seed = seed
        self._rng = Random(seed)  # noqa: S311 - repeatable faults are the point
        self._rules: dict[int, FaultRule] = {}
        self._last_id = 0

    @property
    def empty(self) -> bool:
        """True when no request can be struck."""
        return not self._rules

    def add(self, value: Any, *, now: float) -> list[FaultRule]:
        """Add one rule or a list of them, all or none, and return them.

        Shape: {"fault": "status:code=503", "wire": "openai", "model": "gpt-4o*", "account": "-backup",
        "operation": "chat",
        "probability": 0.2, "count": 5, "until": "2026-01-01T00:00:00Z" or epoch seconds, "for_seconds": 30}; only "
        "`fault` is required.

        Raises:
            BadFault: naming the field that is wrong.
        """
        entries = value if isinstance(value, list) else [value]
        rules = [_read_rule(entry, id_=self._last_id + at, now=now) for at, entry in enumerate(entries, start=1)]
        self._last_id += len(rules)
        self._rules.update((rule.id, rule) for rule in rules)
        return rules

    def remove(self, rule_id: int) -> bool:
        """Remove one rule; False when there is none with this id."""
        return self._rules.pop(rule_id, None) is not None

    def clear(self) -> int:
        """Remove every rule, start the draws anew, and return how many there were."""
        count = len(self._rules)
        self._rules.clear()
        self._rng = Random(self._seed)  # noqa: S311 - repeatable faults are the point
        return count

    def list_rules(self) -> list[FaultRule]:
        """Return every rule, spent ones too, oldest first."""
        return list(self._rules.values())

    def strike(self, *, wire: Wire, operation: str, model: str, account: str, now: float) -> Iterable[Fault]:
        """Return the faults of every rule that hits this request, and count the hits."""
        struck: list[Fault] = []
        for rule in self._rules.values():
            if not rule.matches(wire=wire, operation=operation, model=model, account=account, now=now):
                continue
            if rule.probability < 1.0 and self._rng.random() >= rule.probability:
                continue
            rule.hits += 1
            if rule.remaining is not None:
                rule.remaining -= 1
            struck.extend(rule.faults)
        return struck


def _read_rule(entry: Any, *, id_: int, now: float) -> FaultRule:
    if not isinstance(entry, Mapping):
        raise BadFault(f"rule {entry!r} is not an object")
    for field in entry:
        if field not in _FIELDS:
            raise BadFault(f"unknown field {field!r} in a fault rule; known: {', '.join(sorted(_FIELDS))}")
    if not entry.get("fault"):
        raise BadFault("a fault rule needs the field 'fault'")
    return FaultRule(
        id=id_,
        faults=read_faults(entry["fault"]),
        wire=_read_wire(entry.get("wire")),
        model=_read_text(entry, "model"),
        account=_read_text(entry, "account"),
        operation=_read_operation(entry.get("operation")),
        probability=_read_number(entry, "probability", 0.0, 1.0) if "probability" in entry else 1.0,
        remaining=int(_read_number(entry, "count", 1, 1e9)) if entry.get("count") is not None else None,
        until=_read_until(entry, now=now),
    )


def _read_wire(value: Any) -> Wire | None:
    if value is None:
        return None
    try:
        return Wire(value)
    except ValueError as exc:
        raise BadFault(f"field 'wire' is {value!r}; expected one of {', '.join(wire.value for wire in Wire)}") from exc


def _read_operation(value: Any) -> str | None:
    if value is not None and value not in OPERATIONS:
        raise BadFault(f"field 'operation' is {value!r}; expected one of {', '.join(OPERATIONS)}")
    return str(value) if value is not None else None


def _read_text(entry: Mapping[str, Any], field: str) -> str | None:
    value = entry.get(field)
    if value is not None and not isinstance(value, str):
        raise BadFault(f"field {field!r} is {value!r}; expected text")
    return value


def _read_number(entry: Mapping[str, Any], field: str, low: float, high: float) -> float:
    value = entry[field]
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise BadFault(f"field {field!r} is {value!r}; expected a number from {low:g} to {high:g}")
    return float(value)


def _read_until(entry: Mapping[str, Any], *, now: float) -> float | None:
    if entry.get("for_seconds") is not None:
        return now + _read_number(entry, "for_seconds", 0, 1e9)
    until = entry.get("until")
    if until is None or (isinstance(until, int | float) and not isinstance(until, bool)):
        return until
    try:
        moment = datetime.fromisoformat(until)
    except (TypeError, ValueError) as exc:
        raise BadFault(f"field 'until' is {until!r}; expected an ISO-8601 time or epoch seconds") from exc
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
