"""Eval sets, judges and labelled answers, made through the same operations that people use."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from controlplane.evals import operations
from controlplane.evals.calibration import run_calibration
from controlplane.evals.errors import NoAnswer
from controlplane.evals.judges.deterministic import DeterministicJudge
from controlplane.evals.models import Calibration, EvalSet, EvalSetVersion, Judge, JudgeVersion
from controlplane.evals.rows import Row
from dataplane.documents import Node
from tests.factories import NOW, SETUP
from tests.validator_tables import rule

QUESTION = "The blue curtains look quite different from the picture, how long may I think about a return"
SENTENCE = "You can return most items within 30 days of delivery for a full refund."


def row(name: str = "r1", **fields: Any) -> dict[str, Any]:
    """A row's document that asks a question of a managed prompt, unless it has messages."""
    asked = {} if "messages" in fields else {"variables": {"question": f"Question {name}"}}
    return {"id": name, **asked, **fields}


def read_row(name: str = "r1", **fields: Any) -> Row:
    """The row as a value."""
    return Row.parse(Node(row(name, **fields), "$"))


def lines(*rows: dict[str, Any]) -> bytes:
    """Rows as JSON lines."""
    return b"".join(json.dumps(one).encode() + b"\n" for one in rows)


def make_set(slug: str = "golden", **fields: Any) -> EvalSet:
    """A golden set without rows, unless told."""
    return operations.create_set(
        **{"slug": slug, "name": slug, "purpose": "golden", "actor": SETUP, "now": NOW, **fields}
    )


def import_into(eval_set: EvalSet, *rows: dict[str, Any], **fields: Any) -> EvalSetVersion:
    """The next version of a set, of these rows."""
    return operations.import_rows(
        **{"eval_set": eval_set, "rows": lines(*rows), "reason": "r", "actor": SETUP, "now": NOW, **fields}
    )


def make_set_version(slug: str = "golden", *rows: dict[str, Any], **fields: Any) -> EvalSetVersion:
    """A set of these rows, or of one."""
    return import_into(make_set(slug, **fields), *(rows or (row(),)))


def make_judge(slug: str = "grounded", score: str = "grounded") -> Judge:
    """A judge without a version."""
    return operations.create_judge(slug=slug, name=slug, score=score, actor=SETUP, now=NOW)


def make_judge_version(slug: str = "grounded", kind: str = "deterministic", params: Any = None) -> JudgeVersion:
    """A version of a judge of that name; one that refuses e-mail addresses, unless told."""
    judge = Judge.objects.filter(slug=slug).first() or make_judge(slug)
    return operations.submit_judge_version(
        judge=judge, kind=kind, params=params or {"rules": [rule()]}, reason="r", actor=SETUP, now=NOW
    )


def by_rules(*rules: dict[str, Any], **params: Any) -> DeterministicJudge:
    """A judge of these rules, or of these other parameters."""
    return DeterministicJudge.parse(Node({**({"rules": list(rules)} if rules else {}), **params}, "$"))


def run_calibrations() -> None:
    """Do what workers would do about every calibration that was begun."""
    for made in Calibration.objects.filter(state="running").order_by("id"):
        run_calibration(made.pk, now=lambda: NOW)


class FakeAsker:
    """A gateway that knows these embeddings and says always the same; what it does not know it has no answer to."""

    def __init__(self, *, vectors: Mapping[str, list[float]] | None = None, says: str | None = None) -> None:
        self.vectors, self.says = vectors or {}, says
        self.asked: list[str] = []
        self.messages: Sequence[Mapping[str, Any]] = ()
        self.response_format: Mapping[str, Any] = {}

    def embed(self, route: str, texts: Sequence[str]) -> list[list[float]]:
        self.asked.append(route)
        if not self.vectors:
            raise NoAnswer("503")
        return [self.vectors[text] for text in texts]

    def ask(self, route: str, messages: Sequence[Mapping[str, Any]], response_format: Mapping[str, Any]) -> str:
        self.asked.append(route)
        self.messages, self.response_format = messages, response_format
        if self.says is None:
            raise NoAnswer("503")
        return self.says
