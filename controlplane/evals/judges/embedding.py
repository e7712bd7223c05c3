"""The judge by likeness: how near an answer's embedding is to that of the answer that the row expects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot

from controlplane.evals.errors import NoAnswer
from controlplane.evals.judges.values import Answered, Asker, Score
from controlplane.evals.rows import Row
from dataplane.documents import Node


@dataclass(frozen=True, slots=True)
class EmbeddingJudge:
    """Passes an answer whose cosine to the expected text is `threshold` at least. `route` gives embeddings."""

    route: str
    threshold: float

    @classmethod
    def parse(cls, node: Node) -> EmbeddingJudge:
        """Read it, or raise MalformedRelease. Shape: {"route": slug, "threshold": number in (0, 1]}."""
        members = node.members("route", "threshold")
        return cls(members["route"].text(), members["threshold"].number(above=0, maximum=1))

    def judge(self, row: Row, answer: Answered, asker: Asker) -> Score:
        """Its word; None for a row that expects no text, or where the route gave no embeddings."""
        if row.expected.text is None:
            return Score(None, 0.0, "the row expects no text", applies=False)
        try:
            found = asker.embed(self.route, [answer.text, row.expected.text])
            likeness = cosine(*found)
        except (NoAnswer, TypeError, ValueError) as exc:
            return Score(None, 0.0, f"no embeddings: {exc}")
        passed = likeness >= self.threshold
        why = "" if passed else f"likeness {likeness:.3f}, less than {self.threshold:g}"
        return Score(passed, min(1.0, max(0.0, likeness)), why)


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """The cosine of the angle between two vectors, -1..1; 0 if one of them is all zeros.

    Raises:
        ValueError: they are not of one length.
    """
    lengths = hypot(*one) * hypot(*other)
    product = sum(left * right for left, right in zip(one, other, strict=True))
    return product / lengths if lengths else 0.0
