"""The probe beside a real model server: llama.cpp on processors, with the probe's own numbers and real time.

`make engine` runs this; it takes some five minutes, most of which is waiting for proofs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.ports import pick_port

pytestmark = pytest.mark.engine
ROOT = Path(__file__).resolve().parents[2]
PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
LONG_PROMPT_TOKENS = 6_000
SLOW_ANSWER = {"prompt": "Tell a long story.", "max_tokens": 400, "ignore_eos": True}


class Beside:
    """An engine, and the probe beside it."""

    def __init__(self, weights: Path, loads: Path) -> None:
        self.engine_url, self.probe_url = (f"http://127.0.0.1:{pick_port()}" for _ in range(2))
        self._weights = weights
        self._loads = loads
        self.engine: subprocess.Popen[bytes] | None = None
        self._probe: subprocess.Popen[bytes] | None = None
        self.http = httpx.Client(trust_env=False, timeout=2.0)

    def start_engine(self) -> None:
        port = self.engine_url.rpartition(":")[2]
        command = [sys.executable, "-m", "launcher.engine", "--port", port, "--weights", str(self._weights)]
        # A step shows nothing until it is over. Of 2,048 tokens, as llama.cpp is shipped, it takes longer on a busy
        # machine than readiness waits for; that the probe cannot tell from a wedge (docs/probes.md, limits).
        self.engine = subprocess.Popen(
            [*command, "--context", "16384", "--batch", "512"], cwd=ROOT, stderr=subprocess.DEVNULL
        )

    def start_probe(self) -> None:
        port = self.probe_url.rpartition(":")[2]
        command = [sys.executable, "-m", "dataplane", "probe", "--engine", "llama.cpp", "--url", self.engine_url]
        command += ["--port", port, "--longest-prompt", "16384", "--measure-to", str(self._loads)]
        self._probe = subprocess.Popen(command, cwd=ROOT)

    def stop(self) -> None:
        for process in (self._probe, self.engine):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()

    def says(self, path: str) -> tuple[int, str]:
        """What the probe answers; 0 while it does not."""
        try:
            response = self.http.get(self.probe_url + path)
        except httpx.TransportError:
            return 0, ""
        return response.status_code, response.text.strip()

    def plain_health(self) -> int:
        """What the engine's own health path says to kubelet, which waits a second."""
        try:
            return self.http.get(self.engine_url + "/health", timeout=1.0).status_code
        except httpx.TransportError:
            return 0

    def until(self, path: str, status: int, *, within: float) -> float:
        """Seconds until the probe says so."""
        began = time.monotonic()
        while (said := self.says(path))[0] != status:
            assert time.monotonic() - began < within, f"{path} says {said} after {within} s"
            time.sleep(0.1)
        took = time.monotonic() - began
        print(f"    {path} is {status} after {took:.1f} s: {said[1][:160]}", flush=True)
        return took

    @contextmanager
    def asking(self, body: dict[str, object]) -> Iterator[threading.Thread]:
        """A request in the background, of which nobody needs the answer."""

        def ask() -> None:
            try:
                self.http.post(self.engine_url + "/v1/completions", json={"model": "m"} | body, timeout=300)
            except httpx.TransportError:
                pass

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        yield thread
        thread.join(300)


@pytest.fixture(scope="module")
def beside(tmp_path_factory) -> Iterator[Beside]:
    home = tmp_path_factory.mktemp("engine")
    made = Beside(home / "weights", home / "loads.jsonl")
    made.start_probe()
    made.start_engine()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(autouse=True)
def ready(beside) -> float:
    """Each part begins with an engine that serves, and that was seen to have nothing to do."""
    took = beside.until("/readyz", 200, within=180)
    while beside.http.get(beside.probe_url + "/statusz").json()["engine_seen"]["running"] != 0:
        time.sleep(0.2)
    return took


@contextmanager
def stopped_thread(process: int) -> Iterator[None]:
    """The engine's busiest thread, which computes, stands still; those that answer HTTP do not."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)

    def ptrace(request: int, thread: int) -> None:
        if libc.ptrace(request, thread, None, None) != 0:
            raise OSError(ctypes.get_errno(), f"ptrace {request:#x} of {thread}")

    def used(thread: str) -> int:
        fields = Path(f"/proc/{process}/task/{thread}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    busiest = int(max(os.listdir(f"/proc/{process}/task"), key=used))
    ptrace(PTRACE_SEIZE, busiest)
    ptrace(PTRACE_INTERRUPT, busiest)
    os.waitpid(busiest, 0x40000000)  # __WALL: threads too
    try:
        yield
    finally:
        ptrace(PTRACE_DETACH, busiest)


def test_engine_is_warmed_up_and_its_load_measured(beside):
    """Tokenizer and one pass of 512 tokens before the first request, and no canary yet."""
    told = beside.http.get(beside.probe_url + "/statusz").json()

    print(f"    loaded in {told['loads_seconds']} s, {told['prefill_tokens_per_second']:.0f} prompt tokens per second")
    assert told["asked"]["tokenize answered"] == told["asked"]["warm-up answered"] == 1
    assert told["prefill_tokens_per_second"] > 0
    assert told["verdicts"]["live"]["ok"]


def test_long_prompt_stays_ready(beside):
    """While it reads 6,000 tokens, in steps in which nothing is seen, it is neither dead nor out of service."""
    prompt = " ".join(f"word{number % 97}" for number in range(LONG_PROMPT_TOKENS // 3))
    began, said = time.monotonic(), []
    with beside.asking({"prompt": prompt, "max_tokens": 4}) as thread:
        while thread.is_alive():
            said.append((beside.says("/readyz")[0], beside.says("/livez")[0]))
            time.sleep(0.2)

    told = beside.http.get(beside.probe_url + "/statusz").json()
    rate = told["prefill_tokens_per_second"]
    print(f"    {time.monotonic() - began:.1f} s, asked {len(said)} times; {rate:.0f} tokens/s at the slowest")
    assert set(said) == {(200, 200)}
    assert len(said) > 20


def test_stopped_engine_is_not_ready_then_dead_and_ready_again_when_it_goes_on(beside):
    """SIGSTOP: out of service within 30 s, not live only once three canaries failed; SIGCONT: back by itself."""
    os.kill(beside.engine.pid, signal.SIGSTOP)
    not_ready = beside.until("/readyz", 503, within=30)
    live_then = beside.says("/livez")[0]
    not_live = beside.until("/livez", 503, within=120)
    os.kill(beside.engine.pid, signal.SIGCONT)
    beside.until("/livez", 200, within=30)

    assert beside.until("/readyz", 200, within=60) > 0
    assert live_then == 200
    assert not_ready <= 30 < not_ready + not_live


def test_engine_stopped_at_work_is_not_ready_and_given_time(beside):
    """With a request running nobody holds it for dead after half a minute: it may be a long prompt."""
    with beside.asking(SLOW_ANSWER):
        time.sleep(3)
        os.kill(beside.engine.pid, signal.SIGSTOP)
        not_ready = beside.until("/readyz", 503, within=30)
        time.sleep(15)
        live = beside.says("/livez")
        os.kill(beside.engine.pid, signal.SIGCONT)
        beside.until("/readyz", 200, within=120)

    assert not_ready <= 30
    assert live[0] == 200


def test_health_that_lies_is_seen_through(beside):
    """The thread that computes stands still and /health says 200 all the while: the probe says no within 30 s."""
    plain: list[int] = []

    def on_the_way(check: Callable[[], float]) -> float:
        took = check()
        plain.append(beside.plain_health())
        return took

    with stopped_thread(beside.engine.pid):
        not_ready = on_the_way(lambda: beside.until("/readyz", 503, within=30))
        on_the_way(lambda: beside.until("/livez", 503, within=120))
    print(f"    /health said {plain} meanwhile")
    beside.until("/livez", 200, within=60)

    assert not_ready <= 30
    assert plain == [200, 200]


def test_killed_engine_is_not_ready_and_its_successor_a_new_start(beside):
    """kill -9: out of service within seconds, never held for wedged; another process is warmed up again."""
    beside.engine.kill()
    beside.engine.wait()
    not_ready = beside.until("/readyz", 503, within=30)
    live = beside.says("/livez")[0]
    beside.start_engine()
    beside.until("/startupz", 200, within=120)
    beside.until("/readyz", 200, within=30)
    told = beside.http.get(beside.probe_url + "/statusz").json()

    assert not_ready <= 30
    assert live == 200
    assert told["restarts"] == 1
    assert told["asked"]["warm-up answered"] == 2
    assert len(told["loads_seconds"]) == 2
