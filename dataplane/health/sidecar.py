"""The sidecar's loops: look at engine, GPUs, mirror and log; ask what the judge wants; let the judge decide.

Nothing that Kubernetes asks waits for any of it: the answers are the verdicts of the last decision.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol

from dataplane.health.judge import Judge
from dataplane.health.observations import Answer, Ask, EngineReading, GpuReport, GpuState, Said
from dataplane.health.policy import HealthPolicy
from dataplane.health.startup import Load
from dataplane.health.watchdog import Hung, Watchdog

CANARY_PROMPT: Final = "a"
# About one token each, in every tokenizer that there is.
WORD: Final = "the "

log = logging.getLogger("ballast.health")


class Engine(Protocol):
    """Who looks at an engine and asks it, such as `EngineClient`."""

    async def look(self) -> EngineReading:
        """Return what can be seen; never raises for what the engine does."""

    async def ask(self, ask: Ask, *, prompt: str, deadline_seconds: float) -> Answer:
        """Return how it ended; never raises for what the engine does."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often what is looked at, and for how long, in seconds; `warm_up_tokens` is the length of the first prompt."""

    look_seconds: float = 2.0
    gpu_seconds: float = 5.0
    gpu_deadline_seconds: float = 10.0
    mirror_seconds: float = 15.0
    mirror_deadline_seconds: float = 10.0
    log_seconds: float = 5.0
    warm_up_deadline_seconds: float = 300.0
    warm_up_tokens: int = 512


class Sidecar:
    """See the module. Belongs to one event loop."""

    def __init__(
        self,
        engine: Engine,
        *,
        policy: HealthPolicy,
        pace: Pace,
        has_tokenizer: bool,
        read_gpus: Callable[[], GpuReport] | None = None,
        mirror: Callable[[], Awaitable[str]] | None = None,
        log_size: Callable[[], int] | None = None,
        loaded: Callable[[Load], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            read_gpus: Runs in the watchdog's thread, and may hang.
            mirror: Returns why the mirror is away, or an empty text.
            log_size: Bytes of the engine's log; raises OSError while there is none.
            loaded: Is told of every load that ended.
        """
        self.judge = Judge(policy, now=clock(), has_tokenizer=has_tokenizer)
        self.looked_at: float | None = None
        self._engine = engine
        self._policy = policy
        self._pace = pace
        self._read_gpus = read_gpus
        self._mirror = mirror
        self._log_size = log_size
        self._loaded = loaded
        self._clock = clock
        self._told = 0
        self._nvml = Watchdog("nvml", clock=clock)
        self._files = Watchdog("log", clock=clock)
        self._tasks: list[asyncio.Task[None]] = []
        self._asking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look."""
        self._every("engine", self._pace.look_seconds, self.look)
        if self._read_gpus is not None:
            self._every("gpus", self._pace.gpu_seconds, self.look_at_gpus)
        if self._mirror is not None:
            self._every("mirror", self._pace.mirror_seconds, self.look_at_mirror)
        if self._log_size is not None:
            self._every("log", self._pace.log_seconds, self.look_at_log)

    async def stop(self) -> None:
        """Look no more; an ask that is under way is dropped."""
        tasks = [*self._tasks, *([] if self._asking is None else [self._asking])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._nvml.close()
        self._files.close()

    async def look(self) -> None:
        """One turn: look at the engine, decide, and ask if the judge wants to. The answer is not waited for."""
        self.judge.observe(await self._engine.look())
        self.looked_at = self._clock()
        self._decide()
        ask = self.judge.wants(now=self._clock())
        if ask is not None:
            self.judge.asking(ask)
            self._asking = asyncio.create_task(self._ask(ask), name=f"health-{ask.value}")

    async def look_at_gpus(self) -> None:
        """One turn at NVML; a call that does not return is what is seen."""
        if self._read_gpus is None:
            return
        try:
            report = await self._nvml.call(self._read_gpus, deadline_seconds=self._pace.gpu_deadline_seconds)
        except Hung as exc:
            report = GpuReport(self._clock(), GpuState.HUNG, detail=str(exc))
        self.judge.observe_gpu(report)
        self._decide()

    async def look_at_mirror(self) -> None:
        """One turn at the mirror."""
        if self._mirror is None:
            return
        try:
            async with asyncio.timeout(self._pace.mirror_deadline_seconds):
                problem = await self._mirror()
        except TimeoutError:
            problem = f"no answer within {self._pace.mirror_deadline_seconds:g} s"
        self.judge.observe_mirror(is_there=not problem, detail=problem, now=self._clock())
        self._decide()

    async def look_at_log(self) -> None:
        """One turn at the engine's log, which may lie on a disk that hangs."""
        if self._log_size is None:
            return
        with contextlib.suppress(OSError, Hung):
            size = await self._files.call(self._log_size, deadline_seconds=self._pace.log_seconds)
            self.judge.observe_log(size, now=self._clock())

    async def settle(self) -> None:
        """Wait for the ask that is under way."""
        if self._asking is not None:
            await self._asking

    async def _ask(self, ask: Ask) -> None:
        if ask is Ask.CANARY:
            prompt, seconds = CANARY_PROMPT, self._policy.canary_deadline_seconds
        else:
            prompt, seconds = WORD * self._pace.warm_up_tokens, self._pace.warm_up_deadline_seconds
        began = self._clock()
        try:
            answer = await self._engine.ask(ask, prompt=prompt, deadline_seconds=seconds)
        except Exception as exc:  # a fault of ours must neither end asking nor count against the engine
            log.exception("the engine could not be asked")
            answer = Answer(ask, Said.MISFIT, began, self._clock(), exc.__class__.__name__)
        self.judge.answered(answer)
        self._decide()

    def _decide(self) -> None:
        before = self.judge.verdicts
        after = self.judge.decide(now=self._clock())
        for name, old, new in (
            ("startup", before.startup, after.startup),
            ("ready", before.ready, after.ready),
            ("live", before.live, after.live),
        ):
            if old.ok != new.ok:
                log.log(
                    logging.INFO if new.ok else logging.WARNING,
                    "%s is %s: %s",
                    name,
                    "yes" if new.ok else "no",
                    new.why,
                )
        for load in self.judge.loads[self._told :]:
            self._told += 1
            log.info("loaded in %.1f s", load.seconds)
            if self._loaded is not None:
                self._loaded(load)

    def _every(self, name: str, seconds: float, turn: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def run() -> None:
            while True:
                began = self._clock()
                try:
                    await turn()
                except Exception:  # looking must never end
                    log.exception("%s could not be looked at", name)
                await asyncio.sleep(max(0.0, seconds - (self._clock() - began)))

        self._tasks.append(asyncio.create_task(run(), name=f"health-{name}"))
