"""The judge that rules make: those of validator policies, and what a row itself expects. Pure, and the same every time.

No clock is looked at: a rule that is slow on a busy machine must not turn a pass into a shrug. Rules are linear in the
text, and a text is one answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from controlplane.evals.judges.refusals import is_refusal
from controlplane.evals.judges.values import Answered, Score
from controlplane.evals.rows import Expected, Row
from dataplane.documents import Node
from dataplane.prompts import compile_schema
from dataplane.validators.check import check
from dataplane.validators.folding import words
from dataplane.validators.policy import Rule, parse_rules
from dataplane.validators.values import Layer, Output, Verdict

MAX_WHY_CHARACTERS: Final = 500


@dataclass(frozen=True, slots=True)
class DeterministicJudge:
    """Passes an answer that no rule finds anything in, and that is as the row expects.

    Attributes:
        checks: Members of CHECKS: which of a row's own expectations count.
        prose_at: The member of a JSON answer that users read; rules look at that alone where it is there.
    """

    rules: tuple[Rule, ...]
    checks: tuple[str, ...]
    prose_at: str | None

    @classmethod
    def parse(cls, node: Node) -> DeterministicJudge:
        """Read it, or raise MalformedRelease.

        Shape: {"rules"?: as in a validator policy, "expected"?: [name of CHECKS], "prose_at"?: member or null}; a rule
        or an expectation at least.
        """
        members = node.members(optional=("rules", "expected", "prose_at"))
        rules = parse_rules(members["rules"]) if "rules" in members else ()
        for place, rule in enumerate(rules):
            if rule.is_judge:
                members["rules"].items()[place].refuse("a model decides it; make a judge of kind 'model' of it")
        checks = members["expected"].texts(minimum=1) if "expected" in members else ()
        for item in members["expected"].items() if checks else ():
            item.one_of(CHECKS)
        if not rules and not checks:
            node.refuse("looks at nothing; give 'rules' or 'expected'")
        return cls(rules, checks, members["prose_at"].optional_text() if "prose_at" in members else None)

    def judge(self, row: Row, answer: Answered) -> Score:
        """Its word on an answer to a row; None where neither a rule nor an expectation applies."""
        refused = answer.refused or is_refusal(answer.text)
        wrong: list[str] = []
        unsure: list[str] = []
        findings = check(self._rules_for(row, refused=refused), self._output(row, answer), cpu_clock=_no_time).findings
        for finding in findings:
            if finding.verdict is Verdict.ABSTAIN:
                unsure.append(f"{finding.rule}: {finding.why}")
            elif finding.verdict is not Verdict.PASS:
                wrong.append(f"{finding.rule}: {finding.why}")
        looked = len(findings)
        for name in self.checks:
            if CHECKS[name].applies(row):
                looked += 1
                wrong += [f"{name}: {fact}" for fact in CHECKS[name].problems(row, answer, refused)][:1]
        if not looked:
            return Score(None, 0.0, "nothing that this judge looks at applies to the row and its answer", applies=False)
        why = "; ".join([*wrong, *unsure])[:MAX_WHY_CHARACTERS]
        if unsure and not wrong:
            return Score(None, 0.0, why)
        return Score(not wrong, 1 - (len(wrong) + len(unsure)) / looked, why)

    def _rules_for(self, row: Row, *, refused: bool) -> tuple[Rule, ...]:
        """Without sources nothing can rest on them, and a refusal claims nothing that would have to."""
        if row.sources and not refused:
            return self.rules
        return tuple(rule for rule in self.rules if rule.layer is not Layer.GROUNDING)

    def _output(self, row: Row, answer: Answered) -> Output:
        text, is_json = answer.text, answer.is_json
        if self.prose_at is not None:
            document = _document(text)
            if isinstance(document, dict) and isinstance(document.get(self.prose_at), str):
                text, is_json = document[self.prose_at], False
        return Output(text, answer.tool_calls, row.sources, row.question, is_json)


# --- what a row itself expects ---------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Check:
    """One way in which an answer can be other than its row expects.

    Attributes:
        applies: Whether the row says anything about it.
        problems: What is wrong, in words that repeat neither the row's nor the answer's; the last argument is whether
            the answer is a refusal.
    """

    applies: Callable[[Row], bool]
    problems: Callable[[Row, Answered, bool], Iterator[str]]


def _contains(row: Row, answer: Answered, refused: bool) -> Iterator[str]:
    said = _spaced(answer.text)
    missing = sum(_spaced(text) not in said for text in row.expected.contains)
    if missing:
        yield f"{missing} of {len(row.expected.contains)} expected texts are missing"


def _json(row: Row, answer: Answered, refused: bool) -> Iterator[str]:
    found = _document(answer.text)
    if found is _NO_JSON:
        yield "the answer is no JSON"
        return
    yield from _lacks(row.expected.json, found, "$")


def _tool(row: Row, answer: Answered, refused: bool) -> Iterator[str]:
    expected: Expected = row.expected
    calls = [arguments for name, arguments in answer.tool_calls if name == expected.tool]
    if not calls:
        yield "the expected function was not called"
        return
    if expected.arguments is None:
        return
    for arguments in calls:
        found = _document(arguments)
        if found is not _NO_JSON and not any(_lacks(expected.arguments, found, "$")):
            return
    yield "the function was called with other arguments"


def _refuses(row: Row, answer: Answered, refused: bool) -> Iterator[str]:
    if refused and not row.expected.refuses:
        yield "refused what it should answer"
    elif row.expected.refuses and not refused:
        yield "answered what it should refuse"


def _schema(row: Row, answer: Answered, refused: bool) -> Iterator[str]:
    found = _document(answer.text)
    if found is _NO_JSON:
        yield "the answer is no JSON"
    elif row.schema is not None and not compile_schema(row.schema).is_valid(found):
        yield "the answer does not satisfy the JSON Schema that was asked for"


CHECKS: Final[Mapping[str, Check]] = {
    "contains": Check(lambda row: bool(row.expected.contains), _contains),
    "json": Check(lambda row: row.expected.has_json, _json),
    "tool": Check(lambda row: row.expected.tool is not None, _tool),
    "refuses": Check(lambda row: row.expected.refuses is not None, _refuses),
    "schema": Check(lambda row: row.is_json, _schema),
}
_NO_JSON: Final = object()


def _lacks(expected: Any, found: Any, path: str) -> Iterator[str]:
    """Where `found` is not all that is expected of it: objects may have more members, lists may not be longer."""
    if isinstance(expected, Mapping):
        if not isinstance(found, Mapping):
            yield f"{path} is no object"
            return
        for name, member in expected.items():
            if name not in found:
                yield f"{path}.{name} is missing"
            else:
                yield from _lacks(member, found[name], f"{path}.{name}")
    elif isinstance(expected, list | tuple):
        if not isinstance(found, list) or len(found) != len(expected):
            yield f"{path} is no list of {len(expected)}"
            return
        for place, (item, other) in enumerate(zip(expected, found, strict=True)):
            yield from _lacks(item, other, f"{path}[{place}]")
    elif isinstance(expected, bool) is not isinstance(found, bool) or expected != found:  # True is 1 to Python
        yield f"{path} is another value"


def _document(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return _NO_JSON


def _spaced(text: str) -> bytes:
    return b" ".join((b"", *words(text), b""))


def _no_time() -> float:
    return 0.0
