"""The sidecar's turns, and its face: what kubelet gets, from memory."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dataplane.health.face import Face
from dataplane.health.findings import KINDS
from dataplane.health.observations import Answer, Ask, GpuReading, GpuReport, GpuState, Reach, Said
from dataplane.health.policy import HealthPolicy
from dataplane.health.sidecar import Pace, Sidecar
from tests.dataplane.health.health_world import reading, unseen

POLICY = HealthPolicy()


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class ScriptedEngine:
    """An engine that is looked at and asked on a clock of its own."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.look_with = reading(0)
        self.said = Said.ANSWERED
        self.asked: list[tuple[Ask, int, float]] = []
        self.holding: asyncio.Event | None = None

    async def look(self):
        return replace(self.look_with, at=self.clock())

    async def ask(self, ask: Ask, *, prompt: str, deadline_seconds: float) -> Answer:
        began = self.clock()
        self.asked.append((ask, len(prompt.split()), deadline_seconds))
        if self.holding is not None:
            await self.holding.wait()
        if self.said is Said.MISFIT:
            raise RuntimeError("a slip of ours")
        return Answer(ask, self.said, began, self.clock())


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(clock: Clock, **more) -> tuple[Sidecar, ScriptedEngine]:
    engine = ScriptedEngine(clock)
    return Sidecar(engine, policy=POLICY, pace=Pace(), has_tokenizer=True, clock=clock, **more), engine


async def turn(sidecar: Sidecar, clock: Clock, seconds: float = 2.0) -> None:
    clock.seconds += seconds
    await sidecar.look()
    await sidecar.settle()


async def get(face: Face, path: str, method: str = "GET") -> tuple[int, str]:
    sent = []

    async def send(message):
        sent.append(message)

    await face({"type": "http", "method": method, "path": path}, None, send)
    return sent[0]["status"], sent[1]["body"].decode()


async def test_start_is_tokenizer_and_one_pass_of_the_expected_shape(clock):
    """A word to tokenize, then 512 words and one token; after that nothing is asked while nothing is due."""
    loads = []
    sidecar, engine = make(clock, loaded=loads.append)

    for _ in range(4):
        await turn(sidecar, clock)

    assert engine.asked == [(Ask.TOKENIZE, 512, 300.0), (Ask.WARM_UP, 512, 300.0)]
    assert sidecar.judge.verdicts.ready.ok
    assert [round(one.seconds) for one in loads] == [4]


async def test_probes_are_answered_while_the_engine_is_not(clock):
    """A look that hangs, and a canary that hangs, keep nobody who asks the sidecar waiting."""
    sidecar, engine = make(clock)
    for _ in range(3):
        await turn(sidecar, clock)
    face = Face(sidecar, policy=POLICY, engine="vllm", clock=clock)
    engine.holding = asyncio.Event()
    clock.seconds += 12
    await sidecar.look()  # sends a canary, which hangs
    await asyncio.sleep(0)

    answers = [await get(face, path) for path in ("/startupz", "/readyz", "/livez", "/selfz")]

    assert [status for status, _ in answers] == [200, 200, 200, 200]
    assert len(engine.asked) == 3
    assert all(text.count("\n") == 1 for _, text in answers)
    engine.holding.set()
    await sidecar.settle()


async def test_refusals_say_why_in_one_line(clock):
    """503 and a plain line, for each of the three."""
    sidecar, engine = make(clock)
    engine.look_with = unseen(0, Reach.REFUSED)
    await turn(sidecar, clock)
    face = Face(sidecar, policy=POLICY, engine="vllm", clock=clock)

    startup, ready, live = [await get(face, path) for path in ("/startupz", "/readyz", "/livez")]

    assert startup == (503, "no: loading: for 2 s, at weights; wait\n")
    assert ready == (503, "no: loading: for 2 s, at weights; wait\n")
    assert live == (200, "yes: nothing proves that a restart would help\n")


async def test_nvml_that_hangs_is_a_finding_and_is_not_asked_twice(clock):
    """The second look starts no second call."""
    calls, release = [], threading.Event()

    def hang() -> GpuReport:
        calls.append(1)
        release.wait()
        return GpuReport(clock(), GpuState.OK)

    engine = ScriptedEngine(clock)
    pace = Pace(gpu_deadline_seconds=0.01)
    sidecar = Sidecar(engine, policy=POLICY, pace=pace, has_tokenizer=True, read_gpus=hang, clock=clock)
    for _ in range(3):
        await turn(sidecar, clock)
    was_ready = sidecar.judge.verdicts.ready.ok

    await sidecar.look_at_gpus()
    await sidecar.look_at_gpus()

    assert (was_ready, sidecar.judge.verdicts.ready.ok, calls) == (True, False, [1])
    assert "nvml_hang" in sidecar.judge.verdicts.ready.why
    assert "drain node" in sidecar.judge.verdicts.ready.why
    release.set()
    await sidecar.stop()


async def test_mirror_that_hangs_is_away(clock):
    """Its deadline is its own, and three of them make it away."""

    async def hang() -> str:
        await asyncio.Event().wait()
        return ""

    engine = ScriptedEngine(clock)
    pace = Pace(mirror_deadline_seconds=0.01)
    sidecar = Sidecar(engine, policy=POLICY, pace=pace, has_tokenizer=True, mirror=hang, clock=clock)

    for _ in range(3):
        await sidecar.look_at_mirror()

    assert sidecar.judge.findings.get("mirror_away").detail == "no answer within 0.01 s"


async def test_log_that_is_not_there_yet_is_no_trouble(clock):
    """And one that grows is a load that gets on."""
    sizes = [FileNotFoundError(), 10, 20]

    def size() -> int:
        told = sizes.pop(0)
        if isinstance(told, Exception):
            raise told
        return told

    sidecar, _ = make(clock, log_size=size)

    for _ in range(3):
        await sidecar.look_at_log()

    assert sidecar.judge.startup.grew_at == clock()
    await sidecar.stop()


async def test_slip_of_ours_counts_against_nobody(clock):
    """An ask that raises is told as one that does not suit, and asking goes on."""
    sidecar, engine = make(clock)
    for _ in range(3):
        await turn(sidecar, clock)
    engine.said = Said.MISFIT
    await turn(sidecar, clock, 12)

    asked = len(engine.asked)
    await turn(sidecar, clock, 12)

    assert sidecar.judge.verdicts.ready.ok
    assert len(engine.asked) == asked + 1
    assert "canary_misfit" in sidecar.judge.findings


async def test_sidecar_that_stopped_looking_says_so_of_itself(clock):
    """`/selfz` is about the sidecar: a minute without a look is its own trouble."""
    sidecar, _ = make(clock)
    face = Face(sidecar, policy=POLICY, engine="vllm", clock=clock)
    await turn(sidecar, clock)

    well = await get(face, "/selfz")
    clock.seconds += 61

    assert well == (200, "yes: looked at the engine 0 s ago\n")
    assert await get(face, "/selfz") == (503, "no: looked at the engine 61 s ago\n")


async def test_status_tells_everything_as_json(clock):
    """Verdicts, findings with their since, what was last seen, and what was asked."""
    report = GpuReport(
        1000, GpuState.OK, (GpuReading("GPU-1", memory_used_bytes=5, throttle=frozenset({"x"})),), (("GPU-1", 31),)
    )
    sidecar, engine = make(clock, read_gpus=lambda: report)
    for _ in range(3):
        await turn(sidecar, clock)
    await sidecar.look_at_gpus()
    engine.look_with = reading(0, running=2, waiting=1)
    await turn(sidecar, clock)

    status, body = await get(Face(sidecar, policy=POLICY, engine="vllm", clock=clock), "/statusz")
    told = orjson.loads(body)

    assert status == 200
    assert told["verdicts"]["ready"] == {"ok": True, "why": "it serves", "since_seconds": 4.0}
    assert [one["code"] for one in told["findings"]] == ["xid_application"]
    assert told["engine_seen"]["running"] == 2
    assert told["gpus"]["devices"][0]["throttle"] == ["x"]
    assert told["gpus"]["xids"][0]["xid"] == 31
    assert told["asked"] == {"tokenize answered": 1, "warm-up answered": 1}
    assert told["loads_seconds"] == [4.0]
    await sidecar.stop()


async def test_metrics_are_prometheus_and_leave_the_unknown_out(clock):
    """Verdicts, every finding, asks; numbers of the engine only where it has them."""
    sidecar, engine = make(clock)
    engine.look_with = reading(0, running=2)
    for _ in range(3):
        await turn(sidecar, clock)

    _, body = await get(Face(sidecar, policy=POLICY, engine="vllm", clock=clock), "/metrics")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }

    assert samples["ballast_probe_verdict", "ready"] == 1
    assert samples["ballast_probe_asks_total", "answered", "warm-up"] == 1
    assert {key[1] for key in samples if key[0] == "ballast_probe_finding"} == set(KINDS)
    assert samples["ballast_probe_engine_running",] == 2
    assert ("ballast_probe_engine_kv_used",) not in samples


@pytest.mark.parametrize(("path", "method", "status"), [("/other", "GET", 404), ("/livez", "POST", 405)])
async def test_other_paths_and_methods_are_refused(clock, path, method, status):
    """The sidecar has six pages, to be read."""
    sidecar, _ = make(clock)

    assert (await get(Face(sidecar, policy=POLICY, engine="vllm", clock=clock), path, method))[0] == status
