"""Takes an answer up the repair ladder: reads what is to be JSON, and asks models about what cannot be read, rung by
rung, within what the route's policy allows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from dataplane.aggregation import Aggregation
from dataplane.answer_gate import CUT, AnswerGate
from dataplane.asides import Asides
from dataplane.chat import Chat
from dataplane.errors import GatewayError
from dataplane.errors.answers import RepairFailed
from dataplane.journey import REPAIR, Journey
from dataplane.json_answers import TEXT, Mended, Part, Readers, note_of, summary_of, with_parts
from dataplane.messages import ChatResponse, Usage
from dataplane.open_answers import OpenAnswers
from dataplane.repair.candidates import changes
from dataplane.repair.labels import Edit, Label, Rung
from dataplane.repair.ladder import Budget, Climb, Flaw, Means
from dataplane.repair.policy import RepairPolicy
from dataplane.repair.reader import Repaired, Unrepaired
from dataplane.repair.requests import joined, to_ask_again, to_go_on, to_surgeon
from dataplane.routing import Lane, eligible_lanes
from dataplane.schema_check import SchemaChecker
from dataplane.timers import Deadline

log = logging.getLogger("ballast.repair")

_CHAT: Final = frozenset({"chat"})


def _anything(_: str) -> bool:
    return True


class Repairing:
    """See the module. For all requests of a process."""

    def __init__(
        self, *, asides: Asides, answers: OpenAnswers, schemas: SchemaChecker, aggregation: Aggregation
    ) -> None:
        self.asides = asides
        self._answers = answers
        self._schemas = schemas
        self._aggregation = aggregation

    def readers(self, chat: Chat) -> Readers | None:
        """How answers to a request are read; None where its route repairs nothing, or nothing is to be JSON."""
        policy = chat.route.repair
        if policy is None:
            return None
        readers = Readers(chat.request, self._schemas, labels=policy.labels, coercions=policy.coercions)
        return readers if readers.are_needed else None

    async def mend(self, journey: Journey, chat: Chat, response: ChatResponse, deadline: Deadline) -> ChatResponse:
        """Return the answer with all that is to be JSON being so; the very same, if it was.

        Raises:
            RepairFailed: a part of it is not, and no rung is left.
        """
        readers, policy = self.readers(chat), chat.route.repair
        if readers is None or policy is None or response.refused:
            return response
        climber = Climber(self, journey, chat, policy, readers, deadline)
        parts = list(readers.parts_of(response))
        # What was cut off is its last part; those before it had ended.
        cut = len(parts) - 1 if response.finish_reason == CUT else -1
        mended: list[Mended] = []
        try:
            for number, part in enumerate(parts):
                mended.append(await climber.mend(part, is_cut=number == cut))
        except RepairFailed as failure:
            await self._keep(journey, chat, policy, response, mended, failure)
            raise
        if all(one.is_untouched for one in mended):
            return response
        journey.repair = summary_of(mended)
        reason = climber.ending(response.finish_reason, calls_tools=bool(response.tool_calls))
        return with_parts(response, mended, spent=climber.usage, finish_reason=reason, ballast=note_of(mended))

    async def mend_stream(
        self, journey: Journey, chat: Chat, gate: AnswerGate, deadline: Deadline
    ) -> tuple[list[Mended], str]:
        """Return the broken parts of a streamed answer as JSON, and how the answer ends with them; as `mend`."""
        readers, policy = self.readers(chat), chat.route.repair
        if readers is None or policy is None or not gate.broken:
            return [], gate.finish_reason
        climber = Climber(self, journey, chat, policy, readers, deadline)
        mended: list[Mended] = []
        try:
            for broken in gate.broken:
                channel, is_cut = broken.channel, broken.is_cut
                mended.append(
                    await climber.mend_read(channel.part, broken.reading, is_cut=is_cut, accepts=channel.accepts)
                )
        except RepairFailed as failure:
            await self._keep(journey, chat, policy, gate.response(), [*gate.mended, *mended], failure)
            raise
        journey.repair = summary_of([*gate.mended, *mended])
        return mended, climber.ending(gate.finish_reason, calls_tools=gate.calls_tools)

    async def _keep(
        self,
        journey: Journey,
        chat: Chat,
        policy: RepairPolicy,
        response: ChatResponse,
        mended: Sequence[Mended],
        failure: RepairFailed,
    ) -> None:
        """Keep an answer that nothing could repair for somebody to complete."""
        reason = response.finish_reason
        best = with_parts(response, mended, spent=Usage(), finish_reason=reason, ballast=note_of(mended))
        await self._answers.keep(journey, chat.request, best, failure, seconds=policy.open_seconds.value)

    def note(self, journey: Journey, mended: Sequence[Mended]) -> None:
        """Count the parts of an answer that were read without asking anybody."""
        for one in mended:
            mode = "none" if one.mode is None else one.mode
            self.count(journey, mode=mode, rung=one.rung, label=one.label)
        journey.repair = journey.repair or summary_of(mended)

    def count(self, journey: Journey, *, mode: str, rung: Rung, label: str) -> None:
        """Count what became of one part of an answer."""
        answering = journey.answering
        series = journey.series("" if answering is None else answering.lane.id)
        if series is not None:
            self._aggregation.record_output(series, system="repair", name=mode, outcome=rung, label=label)


class Climber:
    """Takes the parts of one answer up the ladder, one after the other; they share what that may cost.

    `usage` is what that was billed; `finish_reason` how the last answer ended that a model completed, None without one.
    """

    __slots__ = (
        "_budget",
        "_chat",
        "_deadline",
        "_journey",
        "_policy",
        "_readers",
        "_repairing",
        "finish_reason",
        "usage",
    )

    def __init__(
        self,
        repairing: Repairing,
        journey: Journey,
        chat: Chat,
        policy: RepairPolicy,
        readers: Readers,
        deadline: Deadline,
    ) -> None:
        self._repairing = repairing
        self._journey = journey
        self._chat = chat
        self._policy = policy
        self._readers = readers
        self._deadline = deadline
        self._budget = Budget(policy)
        self.usage = Usage()
        self.finish_reason: str | None = None

    async def mend(self, part: Part, *, is_cut: bool) -> Mended:
        """Return the part as JSON.

        Raises:
            RepairFailed: no rung is left.
        """
        return await self.mend_read(part, self._readers.reader_of(part).read(part.text, is_cut=is_cut), is_cut=is_cut)

    async def mend_read(
        self, part: Part, reading: Repaired | Unrepaired, *, is_cut: bool, accepts: Callable[[str], bool] = _anything
    ) -> Mended:
        """As `mend`, for a part that was read already.

        Args:
            is_cut: Its length limit cut it off; a model that ended too early by itself has nothing to go on with.
            accepts: Whether a text goes on with what the caller has of it.
        """
        if isinstance(reading, Repaired):
            return self._done(Mended(part, reading.text, reading.rung, reading.mode, reading.edits))
        flaw, text, first, is_new = reading, part.text, reading.mode, True
        climb = Climb(self._policy, self._means(part), self._budget)
        while (rung := climb.next(Flaw(flaw.mode, flaw.why, is_cut), is_new=is_new)) is not Rung.FAILED:
            answer = await self._ask(rung, part, text, flaw)
            is_new = answer is not None
            if answer is None:
                continue
            text, is_cut = answer
            reading = self._readers.reader_of(part).read(text, is_cut=is_cut)
            if isinstance(reading, Unrepaired):
                flaw = reading
            elif not accepts(reading.text):
                flaw = Unrepaired(first, "it goes on otherwise than what was handed over already", (), None, is_cut)
            else:
                edits = reading.edits
                if rung is Rung.SURGEON:
                    surgery = Edit.of("surgeon", 0, part.text, reading.text, Label.INVENTED)
                    edits = (surgery, *changes(part.text, reading.text), *edits)
                return self._done(Mended(part, reading.text, rung, first, edits))
        self._repairing.count(self._journey, mode=first, rung=Rung.FAILED, label="")
        raise RepairFailed(
            at=part.name,
            mode=flaw.mode,
            why=flaw.why,
            missing=flaw.missing,
            rungs=tuple(climb.rungs),
            stopped_by=climb.stopped_by,
            best=None if flaw.best is None else flaw.best.text,
        )

    def _done(self, mended: Mended) -> Mended:
        mode = "none" if mended.mode is None else mended.mode
        self._repairing.count(self._journey, mode=mode, rung=mended.rung, label=mended.label)
        return mended

    def ending(self, reason: str, *, calls_tools: bool) -> str:
        """How an answer ends that ended for `reason`: one that was cut off and completed by a model is so no more."""
        if reason != CUT or self.finish_reason is None:
            return reason
        return "tool_calls" if calls_tools else self.finish_reason

    def _means(self, part: Part) -> Means:
        return Means(
            can_continue=part.place == TEXT,
            has_surgeon=bool(self._surgeons()),
            may_ask_again=self._chat.is_repeatable,
        )

    def _surgeons(self) -> tuple[Lane, ...]:
        """The lanes of the surgeon's route that the tenant's bytes may reach."""
        route, tenant = self._policy.surgeon_route, self._journey.tenant
        if route is None or tenant is None:
            return ()
        try:
            return eligible_lanes(self._chat.release.routing, route=route, residency=tenant.residency, needs=_CHAT)
        except GatewayError:
            return ()

    async def _ask(self, rung: Rung, part: Part, text: str, flaw: Unrepaired) -> tuple[str, bool] | None:
        """Have a model mend a part; returns its text and whether that is cut off, None where it gave none."""
        answering = self._journey.answering
        if answering is None:
            return None
        lane, request, schema = answering.lane, self._chat.request, self._readers.schema_of(part)
        tokens = self._budget.tokens_left
        lanes: tuple[Lane, ...] = (lane,)
        if rung is Rung.CONTINUE:
            asked = to_go_on(request, text, lane=lane, tokens=tokens)
        elif rung is Rung.SURGEON:
            lanes = self._surgeons()
            asked = to_surgeon(text, flaw.why, schema=schema, route=self._policy.surgeon_route or "", tokens=tokens)
        else:
            asked = to_ask_again(request, text, flaw.why, tool=part.tool, schema=schema, tokens=tokens)
        try:
            response, attempt = await self._repairing.asides.ask(
                self._journey, self._chat, asked, lanes, self._deadline, kind=REPAIR
            )
        except GatewayError as exc:
            log.info("rung %s of request %s brought nothing: %s", rung, self._journey.inbound.request_id, exc)
            self._budget.spend(output_tokens=0, cost_micros=0)
            return None
        billed = attempt.billed()
        cost_micros = attempt.lane.cost_micros(input_tokens=billed.input_tokens, output_tokens=billed.output_tokens)
        self._budget.spend(output_tokens=billed.output_tokens, cost_micros=cost_micros)
        self.usage += billed
        is_cut = response.finish_reason == CUT
        if rung is Rung.CONTINUE:
            self.finish_reason = response.finish_reason
            whole = joined(text, response.text or "", is_prefilled="prefill" in lane.capabilities)
            return whole, is_cut
        if rung is Rung.ASK_AGAIN:
            self.finish_reason = response.finish_reason
        if part.tool:
            arguments = next((call.arguments for call in response.tool_calls if call.name == part.tool), None)
            return (response.text or "" if arguments is None else arguments), is_cut
        return response.text or "", is_cut
