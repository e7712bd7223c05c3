"""The admin calls: fault rules, limits, counters, a fresh start. JSON in, JSON out."""

from __future__ import annotations

from collections.abc import Mapping
from hmac import compare_digest
from typing import Any

import orjson

from dataplane.simulator.fault_rules import FaultBook
from dataplane.simulator.faults import FAULTS, BadFault
from dataplane.simulator.limit_book import BadLimit, LimitBook
from dataplane.simulator.state import SimulatorState

_RULES = "/admin/faults"


def may_administer(headers: Mapping[bytes, bytes], token: str | None) -> bool:
    """Say whether the caller carries the admin token; without a token set anyone may, as befits a fixture on
    loopback.
    """
    if token is None:
        return True
    return compare_digest(headers.get(b"authorization", b""), b"Bearer " + token.encode())


def handle_admin(
    method: str, path: str, body: bytes, *, book: FaultBook, limits: LimitBook, state: SimulatorState, now: float
) -> tuple[int, Any]:
    """Carry out one admin call and return its status and JSON value.

    GET /admin/faults, POST /admin/faults, DELETE /admin/faults, DELETE /admin/faults/{id}, GET /admin/limits,
    POST /admin/limits, DELETE /admin/limits, GET /admin/catalogue, GET /admin/state, POST /admin/reset (counters, rules
    and limits).
    """
    match method, path:
        case "GET", "/admin/faults":
            return 200, {"rules": [rule.to_json() for rule in book.list_rules()]}
        case "POST", "/admin/faults":
            return _add_rules(body, book=book, now=now)
        case "DELETE", "/admin/faults":
            return 200, {"removed": book.clear()}
        case "DELETE", _ if path.startswith(f"{_RULES}/"):
            rule_id = path.removeprefix(f"{_RULES}/")
            if rule_id.isdecimal() and book.remove(int(rule_id)):
                return 200, {"removed": 1}
            return 404, _error(f"no fault rule {rule_id!r}")
        case "GET", "/admin/limits":
            return 200, {"limits": [limit.to_json() for limit in limits.list_limits()]}
        case "POST", "/admin/limits":
            return _add_limits(body, limits=limits, now=now)
        case "DELETE", "/admin/limits":
            return 200, {"removed": limits.clear()}
        case "GET", "/admin/catalogue":
            return 200, {"faults": describe_faults()}
        case "GET", "/admin/state":
            return 200, state.to_json(limits.books(now=now))
        case "POST", "/admin/reset":
            state.reset()
            limits.clear()
            return 200, {"removed": book.clear()}
        case _:
            return 404, _error(f"no admin call {method} {path}")


def describe_faults() -> list[dict[str, Any]]:
    """Return the table of faults as JSON."""
    return [
        {
            "name": name,
            "phase": spec.phase.value,
            "summary": spec.summary,
            "parameters": {
                key: {"default": parameter.default, "choices": list(parameter.choices)}
                if isinstance(parameter.default, str)
                else {"default": parameter.default, "minimum": parameter.minimum, "maximum": parameter.maximum}
                for key, parameter in spec.parameters.items()
            },
        }
        for name, spec in FAULTS.items()
    ]


def _add_rules(body: bytes, *, book: FaultBook, now: float) -> tuple[int, Any]:
    try:
        rules = book.add(orjson.loads(body), now=now)
    except orjson.JSONDecodeError as exc:
        return 400, _error(f"the body is not JSON: {exc}")
    except BadFault as exc:
        return 400, _error(str(exc))
    return 201, {"rules": [rule.to_json() for rule in rules]}


def _add_limits(body: bytes, *, limits: LimitBook, now: float) -> tuple[int, Any]:
    try:
        added = limits.add(orjson.loads(body), now=now)
    except orjson.JSONDecodeError as exc:
        return 400, _error(f"the body is not JSON: {exc}")
    except BadLimit as exc:
        return 400, _error(str(exc))
    return 201, {"limits": [limit.to_json() for limit in added]}


def _error(message: str) -> dict[str, Any]:
    return {"error": {"type": "invalid_request_error", "code": "bad_admin_call", "message": message}}
