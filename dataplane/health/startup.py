"""From a process to an engine that serves: weights, tokenizer, a forward pass of the expected shape, in this order."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from dataplane.health.observations import Answer, Ask, EngineReading, GpuReport, Reach, Said
from dataplane.health.policy import HealthPolicy

# Growth of less than this is no sign that weights come in: drivers and other processes move by some megabytes.
GROWTH_BYTES = 32 * 1024 * 1024


class Step(Enum):
    """What is to be shown next."""

    WEIGHTS = "weights"
    TOKENIZER = "tokenizer"
    WARM_UP = "warm-up"
    DONE = "done"


NEXT = {
    Step.WEIGHTS: Step.TOKENIZER,
    Step.TOKENIZER: Step.WARM_UP,
    Step.WARM_UP: Step.DONE,
}
ASKS = {Step.TOKENIZER: Ask.TOKENIZE, Step.WARM_UP: Ask.WARM_UP}


@dataclass(frozen=True, slots=True)
class Load:
    """A load that ended: how long it took, in seconds, until what."""

    seconds: float
    began_at: float
    ended_at: float


class Startup:
    """One start of one process. `began_at` is when it began, or was first looked at."""

    def __init__(self, policy: HealthPolicy, *, now: float, has_tokenizer: bool) -> None:
        """`has_tokenizer`: the engine can be asked to tokenize; else that step is left out."""
        self.began_at = now
        self.grew_at: float | None = None
        self.step = Step.WEIGHTS
        self.failures = 0
        self.failure = ""
        self._policy = policy
        self._has_tokenizer = has_tokenizer
        self._asked_at: float | None = None
        self._bytes: float | None = None
        self._face: tuple[object, ...] | None = None

    @property
    def is_done(self) -> bool:
        """Whether it serves."""
        return self.step is Step.DONE

    def observe(self, reading: EngineReading) -> None:
        """Weights are resident once the engine lists its model and does not call itself unready."""
        face = (reading.reach, reading.healthy, reading.loaded)
        if self._face is not None and face != self._face and reading.reach is not Reach.SLOW:
            self.grew_at = reading.at
        self._face = face
        if self.step is Step.WEIGHTS and reading.loaded and reading.healthy is not False:
            self._move(now=reading.at)

    def observe_gpu(self, report: GpuReport) -> None:
        """Bytes that came to the GPUs are a load that gets on."""
        self.observe_size(report.memory_used_bytes, least=GROWTH_BYTES, now=report.at)

    def observe_size(self, size: float | None, *, least: float, now: float) -> None:
        """Something that grows while loading, a log say, has `size`; growth of `least` counts."""
        if size is None:
            return
        if self._bytes is None or size < self._bytes:
            self._bytes = size
        elif size - self._bytes >= least:
            self._bytes, self.grew_at = size, now

    def wants(self, *, now: float) -> Ask | None:
        """What to ask next, or None: not yet."""
        ask = ASKS.get(self.step)
        if ask is None or (self._asked_at is not None and now - self._asked_at < self._policy.ask_pause_seconds):
            return None
        return ask

    def answered(self, answer: Answer) -> None:
        """Take in how an ask of this start ended; one that does not suit the engine shows nothing against it."""
        self._asked_at = answer.at
        if ASKS.get(self.step) is not answer.ask:
            return
        if answer.said is Said.ANSWERED or (answer.said is Said.MISFIT and answer.ask is Ask.TOKENIZE):
            self._move(now=answer.at)
        elif answer.said is not Said.REFUSED_LOAD:
            self.failures += 1
            self.failure = f"{answer.ask.value} {answer.said.value}" + (f": {answer.detail}" if answer.detail else "")

    def is_late(self, *, now: float) -> bool:
        """Whether the budget is spent."""
        return not self.is_done and now - self.began_at > self._policy.load_budget_seconds

    def is_stuck(self, *, now: float) -> bool:
        """Whether something was seen to grow, and does no more; or nothing could be seen and the budget is spent."""
        if self.is_done:
            return False
        if self.grew_at is None:
            return self.is_late(now=now)
        return now - self.grew_at > self._policy.load_silence_seconds

    def _move(self, *, now: float) -> None:
        self.step, self.failures, self.failure, self._asked_at = NEXT[self.step], 0, "", None
        self.grew_at = now
        if self.step is Step.TOKENIZER and not self._has_tokenizer:
            self.step = NEXT[self.step]
