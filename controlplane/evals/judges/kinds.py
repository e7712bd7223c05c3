"""The kinds of judges, and the one way to ask any of them."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from controlplane.evals.errors import InvalidJudge, NobodyToAsk
from controlplane.evals.judges.deterministic import DeterministicJudge
from controlplane.evals.judges.embedding import EmbeddingJudge
from controlplane.evals.judges.model import ModelJudge
from controlplane.evals.judges.values import Answered, Asker, Score
from controlplane.evals.rows import Row
from dataplane.documents import MalformedRelease, Node

# What judges usually score; a name of one's own will do too.
SCORES: Final = ("grounded", "safe", "correct", "schema")

Judging = DeterministicJudge | EmbeddingJudge | ModelJudge


class JudgeKind(StrEnum):
    """How a judge comes to its word."""

    DETERMINISTIC = "deterministic"
    EMBEDDING = "embedding"
    MODEL = "model"


_KINDS: Final[dict[str, type[Judging]]] = {
    JudgeKind.DETERMINISTIC: DeterministicJudge,
    JudgeKind.EMBEDDING: EmbeddingJudge,
    JudgeKind.MODEL: ModelJudge,
}


def read_judge(kind: str, params: Node) -> Judging:
    """Read a judge from its parameters; their shape is that of the kind's `parse`.

    Raises:
        InvalidJudge: naming the path.
    """
    if kind not in _KINDS:
        raise InvalidJudge("kind", f"{kind!r} is not one of {', '.join(JudgeKind)}")
    try:
        return _KINDS[kind].parse(params)
    except MalformedRelease as exc:
        raise InvalidJudge(exc.path, exc.fact) from exc


def judge_answer(judging: Judging, row: Row, answer: Answered, *, asker: Asker | None = None) -> Score:
    """A judge's word on an answer to a row. Of a deterministic one a pure function; only the others need `asker`.

    Raises:
        NobodyToAsk: it needs one, and there is none.
    """
    if isinstance(judging, DeterministicJudge):
        return judging.judge(row, answer)
    if asker is None:
        raise NobodyToAsk(f"a judge that asks route {judging.route!r} needs a gateway to ask")
    return judging.judge(row, answer, asker)
