"""What an answer goes through between a lane and the caller: it is mended where it is to be JSON and is not, then held
against the validators. Whole answers and streams take the same way.
"""

from __future__ import annotations

from collections.abc import Callable

from dataplane.answer_gate import AnswerGate, Checks
from dataplane.chat import Chat
from dataplane.errors.answers import ValidationFailed
from dataplane.journey import Journey
from dataplane.messages import ChatResponse
from dataplane.repair.policy import WHOLE
from dataplane.repairing import Repairing
from dataplane.samples import Samples
from dataplane.timers import Deadline
from dataplane.validating import Validating, refuse_blocked
from dataplane.validators.values import Output, Report


class Integrity:
    """See the module. For all requests of a process."""

    def __init__(self, *, repairing: Repairing, validating: Validating, samples: Samples | None) -> None:
        self._repairing = repairing
        self._validating = validating
        self._samples = samples

    async def settle(self, journey: Journey, chat: Chat, response: ChatResponse, deadline: Deadline) -> ChatResponse:
        """Return a whole answer as it may be handed over; the very same, if nothing is wrong with it.

        Raises:
            RepairFailed: it is not what it was to be.
            ValidationFailed: it may not be handed over.
        """
        mended = response
        if chat.route.repair is not None:
            mended = await self._repairing.mend(journey, chat, response, deadline)
        if not mended.refused and self.wants_words(journey):
            self._sample(journey, lambda: chat.output_of(mended))
        return await self._validating.check(journey, chat, mended, deadline)

    def gate(self, chat: Chat) -> AnswerGate | None:
        """What one attempt at a stream passes through; None where the route asks for nothing."""
        readers, validators = self._repairing.readers(chat), chat.route.validators
        if readers is None and validators is None:
            return None
        streams = WHOLE if chat.route.repair is None else chat.route.repair.streams
        return AnswerGate(Checks(readers, streams, validators, chat.request.sources, chat.question))

    async def end(self, journey: Journey, chat: Chat, gate: AnswerGate, deadline: Deadline) -> str:
        """See that the end of a streamed answer, which is held back, may go out; returns how the answer ends then.

        Raises:
            RepairFailed, ValidationFailed: as `settle`.
        """
        self._repairing.note(journey, gate.mended)
        mended, finish_reason = await self._repairing.mend_stream(journey, chat, gate, deadline)
        try:
            gate.settle(mended)
        except ValidationFailed:
            self.note_withheld(journey, gate)
            raise
        self._sample_streamed(journey, gate)
        report = await self._validating.judge(journey, chat, Report.of(gate.findings), gate.output(), deadline)
        self._validating.note(journey, report)
        refuse_blocked(report)
        return finish_reason

    def note(self, journey: Journey, gate: AnswerGate) -> None:
        """Take note of a streamed answer at whose end nothing was held back."""
        self._sample_streamed(journey, gate)
        self._repairing.note(journey, gate.mended)
        self._validating.note(journey, Report.of(gate.findings))

    def note_withheld(self, journey: Journey, gate: AnswerGate) -> None:
        """Take note of a streamed answer that the validators stopped on its way."""
        self._validating.note(journey, Report.of(gate.findings))

    def wants_words(self, journey: Journey) -> bool:
        """Whether the words of an answer are wanted as a sample."""
        return self._samples is not None and self._samples.wants(journey)

    def note_plain(self, journey: Journey, chat: Chat, text: str) -> None:
        """Take note of the words of a streamed answer that passed through no gate."""
        self._sample(journey, lambda: chat.output(text))

    def _sample_streamed(self, journey: Journey, gate: AnswerGate) -> None:
        if not gate.is_refused:
            self._sample(journey, gate.output)

    def _sample(self, journey: Journey, answer: Callable[[], Output]) -> None:
        if self._samples is not None:
            self._samples.offer(journey, answer)
