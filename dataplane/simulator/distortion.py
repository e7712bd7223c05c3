"""Faults on the answer itself: malformed JSON, a filtered ending, untrue usage. Pure; delivery faults live in
`script.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from dataplane.simulator.conversation import Answer, Kind, Stop, Usage
from dataplane.simulator.faults import FaultPlan
from dataplane.simulator.tokens import tokenize

# A truncated or filtered answer keeps this share of its text.
_KEPT_SHARE = 0.6


def distort_answer(answer: Answer, plan: FaultPlan) -> Answer:
    """Return `answer` with the plan's answer faults applied; usage counts the words really sent unless
    `wrong_usage` says otherwise.
    """
    if (fault := plan.get("say")) and answer.kind is Kind.TEXT:
        answer = _with_text(answer, fault.word("text"))
    if (fault := plan.get("malformed_answer")) and answer.kind is not Kind.REFUSAL:
        answer = _with_text(answer, malform(answer.text, fault.word("kind")))
    if (fault := plan.get("content_filter")) and fault.word("at") == "answer":
        answer = replace(_with_text(answer, _cut(answer.text)), stop=Stop.FILTERED)
    if fault := plan.get("wrong_usage"):
        answer = replace(answer, usage=_wrong_usage(answer.usage, fault.word("kind"), fault.number("factor")))
    return answer


def malform(text: str, kind: str) -> str:
    """Return JSON `text` spoiled in one of the ways models spoil it; a kind that needs an object leaves other text
    alone.
    """
    match kind:
        case "fence":
            return f"```json\n{text}\n```"
        case "prose":
            return f"Here is the JSON you asked for:\n\n{text}\n\nLet me know if you need anything else."
        case "truncated":
            return _cut(text)
        case "trailing_comma":
            at = max(text.rfind("}"), text.rfind("]"))
            return f"{text[:at]},{text[at:]}" if at > 0 else text
        case "single_quotes":
            return text.replace('"', "'")
        case _:
            return _with_field_spoiled(text, drop=kind == "missing_field")


def _cut(text: str) -> str:
    return text[: max(1, int(len(text) * _KEPT_SHARE))]


def _with_field_spoiled(text: str, *, drop: bool) -> str:
    """Return the object in `text` without its first field, or with that field's value of another type."""
    try:
        value: Any = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    if not isinstance(value, Mapping) or not value:
        return text
    first = next(iter(value))
    if drop:
        spoiled = {key: each for key, each in value.items() if key != first}
    else:
        spoiled = {**value, first: {"value": value[first]}}
    return orjson.dumps(spoiled).decode()


def _with_text(answer: Answer, text: str) -> Answer:
    pieces = tuple(tokenize(text))
    usage = replace(answer.usage, completion_tokens=len(pieces)) if answer.usage else None
    return replace(answer, pieces=pieces, usage=usage)


def _wrong_usage(usage: Usage | None, kind: str, factor: float) -> Usage | None:
    if usage is None or kind == "missing":
        return None
    if kind == "zero":
        return Usage(0, 0)
    return Usage(int(usage.prompt_tokens * factor), int(usage.completion_tokens * factor))
