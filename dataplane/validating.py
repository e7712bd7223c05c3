"""Holds answers against the validators of their route: those that need no model first, then judges, through lanes."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from functools import lru_cache
from typing import Final

from dataplane.aggregation import Aggregation, output_key
from dataplane.asides import Asides
from dataplane.chat import Chat
from dataplane.errors import GatewayError
from dataplane.errors.answers import ValidationFailed
from dataplane.journey import JUDGE, Journey
from dataplane.json_answers import rewritten
from dataplane.messages import ChatRequest, ChatResponse
from dataplane.records import record
from dataplane.routing import eligible_lanes
from dataplane.timers import Deadline, TimerWheel
from dataplane.validators.check import check
from dataplane.validators.counting import Count, ValidatorCounts
from dataplane.validators.judge import judge_prompt, judged
from dataplane.validators.pace import bound_of
from dataplane.validators.policy import JudgeParams, Rule, ValidatorPolicy
from dataplane.validators.values import ABSTAINED, ANSWER, Finding, Layer, Output, Report, Verdict

log = logging.getLogger("ballast.validators")

# Of the rules that a header names.
MAX_TOLD: Final = 10
# Of reports that come again and again: one for each policy of the last releases.
MAX_KNOWN: Final = 256
JUDGEMENT_TOKENS: Final = 300
_CHAT: Final = frozenset({"chat"})
_FORM: Final = {
    "type": "json_schema",
    "json_schema": {
        "name": "judgement",
        "schema": {
            "type": "object",
            "properties": {"supported": {"type": "boolean"}, "why": {"type": "string"}},
            "required": ["supported", "why"],
            "additionalProperties": False,
        },
    },
}


class Validating:
    """See the module. For all requests of a process."""

    def __init__(
        self, *, asides: Asides, aggregation: Aggregation, timers: TimerWheel, counts: ValidatorCounts | None = None
    ) -> None:
        self._asides = asides
        self._aggregation = aggregation
        self._timers = timers
        self._counts = counts or ValidatorCounts()
        # What is noted of a report that a policy gives of every answer without findings, by the report's identity.
        self._known: dict[int, _Note] = {}

    async def check(self, journey: Journey, chat: Chat, response: ChatResponse, deadline: Deadline) -> ChatResponse:
        """Return the answer as it may be handed over; the very same, if nothing was to be taken out of it.

        Raises:
            ValidationFailed: it may not be.
        """
        policy = chat.route.validators
        if policy is None or response.refused:
            return response
        output = chat.output_of(response)
        report = check(policy, output)
        if report.blocked_by is None and policy.judges:
            report = await self.judge(journey, chat, report, report.repairs or output, deadline)
        self.note(journey, report, policy)
        refuse_blocked(report)
        return response if report.repairs is None else _with_output(response, report.repairs, report)

    async def judge(self, journey: Journey, chat: Chat, report: Report, output: Output, deadline: Deadline) -> Report:
        """Ask the judges about an answer that nothing else blocks; returns the report with what they say."""
        policy = chat.route.validators
        if policy is None:
            return report
        findings = list(report.findings)
        for rule in policy.judges:
            findings.append(await self._ask(journey, chat, rule, output, deadline))
            if findings[-1].effect is Verdict.BLOCK:
                break  # what the others say changes nothing, and costs
        return Report.of(findings, repairs=report.repairs)

    async def _ask(self, journey: Journey, chat: Chat, rule: Rule, output: Output, deadline: Deadline) -> Finding:
        """What one judge says. A judge that cannot be asked, or takes too long, abstains."""
        params: JudgeParams = rule.params
        request = ChatRequest(
            route=params.route,
            messages=judge_prompt(output, rule),
            parameters={"temperature": 0, "max_tokens": JUDGEMENT_TOKENS, "response_format": _FORM},
        )
        began = time.monotonic()
        tenant = journey.tenant
        text, failure = None, ""
        try:
            residency = frozenset() if tenant is None else tenant.residency
            lanes = eligible_lanes(chat.release.routing, route=params.route, residency=residency, needs=_CHAT)
            with self._timers.deadline(min(rule.budget_ms.value / 1000, deadline.remaining_seconds)):
                response, _ = await self._asides.ask(journey, chat, request, lanes, deadline, kind=JUDGE)
                text = response.text or ""
        except TimeoutError:
            failure = f"the judge took longer than {rule.budget_ms.value:g} ms"
        except GatewayError as exc:
            log.info("the judge %r of request %s cannot be asked: %s", rule.id, journey.inbound.request_id, exc)
            failure = f"the judge cannot be asked: {exc.code}"
        return judged(rule, text, micros=round((time.monotonic() - began) * 1e6), failure=failure)

    def note(self, journey: Journey, report: Report, policy: ValidatorPolicy | None = None) -> None:
        """Count what each rule said of an answer and how long it took, and what came of it in all, and let the caller
        see in a header which rules did not let it pass. `policy` is what gave the report, as it is.
        """
        note = self._known.get(id(report))
        if note is None or note.report is not report:
            note = _Note.of(report, self._counts)
            gate = None if policy is None else policy.gate
            if gate is not None and gate.report is report:
                if len(self._known) >= MAX_KNOWN:
                    self._known.clear()
                self._known[id(report)] = note
        answering = journey.answering
        series = journey.series("" if answering is None else answering.lane.id)
        if series is not None and report.findings:
            self._aggregation.record_outputs(series, note.keys)
            for count in note.counts:
                count.answers += 1
        if report.findings:
            journey.blocked = note.is_blocked
            journey.grounded = note.is_grounded
        journey.validation = note.told


@record
class _Note:
    """What is noted of one report: what it is counted under in reports and in metrics, and what a header says of it."""

    report: Report
    keys: list[str]
    counts: list[Count]
    is_blocked: bool
    is_grounded: bool | None
    told: str

    @classmethod
    def of(cls, report: Report, counts: ValidatorCounts) -> _Note:
        """Read the report."""
        failed = report.failed[:MAX_TOLD]
        told = "; ".join(f"{_name(one.rule, one.version)}={one.verdict.value}" for one in failed)
        counted = counts.of((one.rule, one.layer.value, one.verdict.value) for one in report.findings)
        return cls(report, _keys(report), counted, report.verdict is Verdict.BLOCK, _is_grounded(report), told)


@lru_cache(maxsize=1024)
def _name(rule: str, version: int) -> str:
    return f"{rule}@{version}"


def _keys(report: Report) -> list[str]:
    """Under what a report is counted: what each rule said and how long it took, and what came of it in all."""
    keys = []
    is_unsure = False
    for finding in report.findings:
        name, verdict, label = _name(finding.rule, finding.version), finding.verdict, ""
        if verdict is Verdict.ABSTAIN:
            is_unsure, label = True, finding.effect.value
        keys.append(output_key("validator", name, verdict.value, label))
        if finding.micros:  # a window on a stream looks again and again, and is not timed
            keys.append(output_key("validator_time", name, str(bound_of(finding.micros))))
    keys.append(output_key("validator", ANSWER, report.verdict.value, ABSTAINED if is_unsure else ""))
    return keys


def _is_grounded(report: Report) -> bool | None:
    """Whether all rules of the grounding layer let an answer pass; None where there was none, or one could not say."""
    grounded: bool | None = None
    for finding in report.findings:
        if finding.layer is Layer.GROUNDING:
            if finding.verdict is Verdict.ABSTAIN:
                return None
            grounded = grounded is not False and finding.verdict is Verdict.PASS
    return grounded


def refuse_blocked(report: Report) -> None:
    """Return if nothing blocks the answer.

    Raises:
        ValidationFailed: something does.
    """
    blocking = [finding for finding in report.findings if finding.effect is Verdict.BLOCK]
    if blocking:
        raise ValidationFailed(rules=tuple(finding.told() for finding in blocking))


def _with_output(response: ChatResponse, output: Output, report: Report) -> ChatResponse:
    """The answer with what was to be taken out of it taken out."""
    calls = tuple(
        replace(call, arguments=arguments)
        for call, (_, arguments) in zip(response.tool_calls, output.tool_calls, strict=True)
    )
    text = None if response.text is None else output.text
    changed = replace(response, text=text, tool_calls=calls)
    ballast = {"validation": [finding.told() for finding in report.failed]}
    return rewritten(response, changed, ballast=ballast)
