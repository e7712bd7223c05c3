"""What is seen of an engine, its GPUs and its mirror. What is not known is None, never zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Reach(Enum):
    """How far a look at the engine came."""

    OK = "answered"
    REFUSED = "refused the connection"
    SLOW = "did not answer in time"
    BROKEN = "answered something else"


@dataclass(frozen=True, slots=True)
class EngineReading:
    """One look at an engine. `at` is monotonic seconds.

    `reach` is that of its counters; of an engine that shows none, that of its list of models. `healthy` is what its own
    health path says. `signs` are numbers of which any change proves that it took a step: tokens, iterations, and gauges
    that its scheduler sets. `tokens` is their part that counts tokens. `prompt_tokens` and `prompt_seconds` are totals,
    as are `finished` requests and `preemptions`; `kv_used` is in [0, 1]. `started` tells one process from the next.
    """

    at: float
    reach: Reach
    healthy: bool | None = None
    loaded: bool | None = None
    running: float | None = None
    waiting: float | None = None
    kv_used: float | None = None
    preemptions: float | None = None
    finished: float | None = None
    tokens: float | None = None
    prompt_tokens: float | None = None
    prompt_seconds: float | None = None
    started: float | None = None
    signs: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_busy(self) -> bool | None:
        """Whether it has work; None when it does not say."""
        if self.running is None and self.waiting is None:
            return None
        return (self.running or 0) > 0 or (self.waiting or 0) > 0


class Ask(Enum):
    """What can be asked of an engine beyond looking: each is one request with a deadline."""

    TOKENIZE = "tokenize"
    WARM_UP = "warm-up"
    CANARY = "canary"


class Said(Enum):
    """How an ask ended."""

    ANSWERED = "answered"
    FAILED = "failed"
    LATE = "gave no answer in time"
    REFUSED_LOAD = "was turned away for load"
    MISFIT = "does not suit the engine"


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of an ask; `prompt_tokens` where the engine counted them."""

    ask: Ask
    said: Said
    began_at: float
    at: float
    detail: str = ""
    prompt_tokens: int | None = None

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.at - self.began_at


class GpuState(Enum):
    """What came of asking NVML."""

    OK = "ok"
    NONE = "no GPU"
    ERROR = "error"
    HUNG = "hung"


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One device. ECC counts are those since the driver was loaded; `throttle` names reasons, see `nvml.THROTTLES`."""

    uuid: str
    name: str = ""
    is_lost: bool = False
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_celsius: int | None = None
    ecc_uncorrected: int | None = None
    ecc_corrected: int | None = None
    remap_pending: bool | None = None
    remap_failed: bool | None = None
    retired_pending: bool | None = None
    throttle: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class GpuReport:
    """All devices at one moment, and the XIDs since the last report as (uuid, xid)."""

    at: float
    state: GpuState
    devices: tuple[GpuReading, ...] = ()
    xids: tuple[tuple[str, int], ...] = ()
    detail: str = ""

    @property
    def memory_used_bytes(self) -> int | None:
        """Bytes resident on all devices, or None."""
        known = [one.memory_used_bytes for one in self.devices if one.memory_used_bytes is not None]
        return sum(known) if known else None
