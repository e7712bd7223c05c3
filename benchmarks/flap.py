"""What callers notice when a provider goes down and comes back, with breakers and failover, and without.

    python -m benchmarks.flap [--faults 503,silence] [--processes 4] [--rate 40] [--quick]

Everything is real and runs on this one machine: gateway processes that share a Redis, the provider simulator, and a
route with two lanes, a primary and an alternate, under the breaker policy of the demo. Callers, half of them streaming,
begin on schedule whatever became of the others. They try once, so that every failure is seen. Beside them, in the same
seconds, a quarter as many (an SDK call takes more processor time than all else here together) ask the primary directly
with OpenAI's own SDK and rely on its retries (max_retries=2), with the route's first-token limit as their read
time-out. Then the primary's account fails, for them and for the gateway alike: with 503 at once, or with silence.

A request met the failing primary if it was sent while it failed and took a second attempt. It counts as a probe if
its process had opened its breaker before; every process is asked for that twenty times a second.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path

import httpx
import openai
import orjson
import uvloop
import yaml

from benchmarks.load import describe_machine, table
from dataplane.errors import GatewayError
from dataplane.providers.base import UpstreamCall
from dataplane.timers import TimerWheel
from dataplane.transport import Http1Transport, Limits, Transport
from tests.end_to_end.gateways import KEY, Gateways, breakers_in, secret_of, two_lanes

FAULTS = {"503": "status:code=503", "silence": "silence"}
PRIMARY, ALTERNATE = "chat/primary", "chat/alternate"
GATEWAY_ACCOUNT, PEER_ACCOUNT = "chat-primary", "peer-primary"
MODEL = "gpt-4o-mini"
FIRST_TOKEN_SECONDS = 1.0
WHOLE_ANSWER_SECONDS = 3.0
QUESTION = {"messages": [{"role": "user", "content": "Where is my parcel?"}], "max_tokens": 8}
PATIENT = Limits(connect_seconds=5, first_byte_seconds=30, idle_seconds=30)
ASK_EVERY_SECONDS = 0.05
PEER_SHARE = 0.25
AIM_SECONDS = 30.0
DEMO = Path(__file__).resolve().parents[1] / "fixtures" / "demo.yaml"


@dataclass(frozen=True, slots=True)
class Phases:
    """How long the primary is well, then down, then well again, in seconds."""

    before: float
    down: float
    after: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """When requests begin: `rate` a second for so many seconds, from `start_at` (monotonic seconds) on."""

    start_at: float
    rate: float
    seconds: float


@dataclass(slots=True)
class Answer:
    """One request. Times are monotonic seconds; `error` is empty when the answer came whole; `lane` and `attempts` are
    what the gateway says.
    """

    process: int
    stream: bool
    sent: float
    ended: float = 0.0
    error: str = ""
    lane: str = ""
    attempts: int = 0


# --- load -------------------------------------------------------------------------------------------------------------
async def ask_gateway(transport: Transport, url: str, answer: Answer) -> None:
    """Make one request at a gateway, by the cheapest client at hand, and note what became of it."""
    body = QUESTION | {"model": "chat", "stream": answer.stream}
    headers = (("authorization", f"Bearer {KEY}"), ("content-type", "application/json"))
    call = UpstreamCall(f"{url}/v1/chat/completions", headers, orjson.dumps(body))
    try:
        exchange = await transport.send(call, lane="gateway", limits=PATIENT)
        try:
            content = await exchange.read()
            said = exchange.headers()
        finally:
            exchange.close()
        answer.lane = said.get("ballast-lane", "")
        answer.attempts = int(said.get("ballast-attempts", 0))
        if exchange.status != 200:
            answer.error = f"{exchange.status}: {orjson.loads(content)['error']['message']}"
        elif answer.stream and not content.endswith(b"data: [DONE]\n\n"):
            answer.error = f"the stream ended too early: {content[-200:].decode()}"
    except GatewayError as exc:
        answer.error = str(exc)
    answer.ended = time.monotonic()


async def ask_peer(client: openai.AsyncOpenAI, answer: Answer) -> None:
    """Make one request at the provider as an application without a gateway would, and note what became of it."""
    try:
        said = await client.chat.completions.create(**QUESTION, model=MODEL, stream=answer.stream)
        if answer.stream:
            finish = None
            async for chunk in said:
                finish = chunk.choices[0].finish_reason
            answer.error = "" if finish else "the stream ended too early"
    except openai.APIError as exc:
        answer.error = f"{type(exc).__name__}: {exc}"
    answer.ended = time.monotonic()


@dataclass
class Load:
    """The requests of one side, in the order they were sent; and by how many seconds the side was late at worst."""

    answers: list[Answer] = field(default_factory=list)
    late_seconds: float = 0.0

    async def keep_up(self, ask: Callable[[Answer], Awaitable[None]], schedule: Schedule, *, processes: int) -> None:
        """Make all requests of the schedule, every other one a stream, both kinds to every process in turn; return when
        all have been answered.
        """
        under_way: set[asyncio.Task[None]] = set()
        for number in range(int(schedule.rate * schedule.seconds)):
            due = schedule.start_at + number / schedule.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            answer = Answer(number // 2 % processes, number % 2 == 1, time.monotonic())
            self.late_seconds = max(self.late_seconds, answer.sent - due)
            self.answers.append(answer)
            task = asyncio.create_task(ask(answer))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)


async def load_peer(url: str, schedule: Schedule) -> Load:
    """The load of those who do without a gateway."""
    load = Load()
    async with openai.AsyncOpenAI(
        base_url=f"{url}/openai/v1",
        api_key=secret_of(PEER_ACCOUNT),
        max_retries=2,
        timeout=httpx.Timeout(30.0, read=FIRST_TOKEN_SECONDS),
    ) as client:
        await load.keep_up(lambda answer: ask_peer(client, answer), schedule, processes=1)
    return load


def run_peer(url: str, schedule: Schedule) -> Load:
    """`load_peer` in a process of its own, so that the SDK does not hold up the callers of the gateway."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    return uvloop.run(load_peer(url, schedule))


@dataclass
class Run:
    """What one run saw.

    `opened_at` has for each process the moment its breaker was first seen open; `calls` how many calls from the
    gateway, and from the peer, met the failure; `times_alone` how often a process had no answer from Redis in time.
    """

    phases: Phases
    fault: str
    failed_at: float = 0.0
    recovered_at: float = 0.0
    gateway: Load = field(default_factory=Load)
    peer: Load = field(default_factory=Load)
    opened_at: dict[int, float] = field(default_factory=dict)
    calls: list[int] = field(default_factory=list)
    times_alone: int = 0

    def during(self, load: Load) -> list[Answer]:
        """The requests that were sent while the primary was down."""
        return [one for one in load.answers if self.failed_at <= one.sent < self.recovered_at]

    def before(self, load: Load) -> list[Answer]:
        """The requests that were sent before that."""
        return [one for one in load.answers if one.sent < self.failed_at]

    @property
    def met(self) -> list[Answer]:
        """Requests through the gateway that met the failing primary."""
        return [one for one in self.during(self.gateway) if one.attempts > 1]

    @property
    def probes(self) -> list[Answer]:
        """Those of them that were probes."""
        return [one for one in self.met if one.sent > self.opened_at.get(one.process, float("inf"))]


async def watch(gateways: Gateways, run: Run, http: httpx.AsyncClient) -> None:
    """Note when each process is first seen to hold the primary back."""
    while True:
        for process, url in enumerate(gateways.urls):
            if process in run.opened_at:
                continue
            page = await http.get(f"{url}/metrics")
            if breakers_in(page.text)[PRIMARY] != "closed":
                run.opened_at[process] = time.monotonic()
        await asyncio.sleep(ASK_EVERY_SECONDS)


async def drive(gateways: Gateways, run: Run, pool: Executor, *, rate: float) -> None:
    """Load for all phases, and the fault in the middle one."""
    phases = run.phases
    start_at = time.monotonic() + 1.0
    schedule = Schedule(start_at, rate, phases.before + phases.down + phases.after)
    transport = Http1Transport(timers=TimerWheel())
    urls = gateways.urls

    async def ask(answer: Answer) -> None:
        await ask_gateway(transport, urls[answer.process], answer)

    async with httpx.AsyncClient(timeout=10) as http, asyncio.TaskGroup() as group:
        group.create_task(run.gateway.keep_up(ask, schedule, processes=len(urls)))
        beside = replace(schedule, rate=rate * PEER_SHARE)
        peer = asyncio.get_running_loop().run_in_executor(pool, run_peer, gateways.simulator_url, beside)
        await asyncio.sleep(start_at + phases.before - time.monotonic())
        rules = [{"fault": run.fault, "account": secret_of(name)} for name in (GATEWAY_ACCOUNT, PEER_ACCOUNT)]
        await http.post(f"{gateways.simulator_url}/admin/faults", json=rules)
        run.failed_at = time.monotonic()
        watching = group.create_task(watch(gateways, run, http))
        await asyncio.sleep(run.failed_at + phases.down - time.monotonic())
        listed = (await http.get(f"{gateways.simulator_url}/admin/faults")).json()["rules"]
        run.calls = [rule["hits"] for rule in listed]
        await http.delete(f"{gateways.simulator_url}/admin/faults")
        run.recovered_at = time.monotonic()
        watching.cancel()
        run.peer = await peer
    await transport.close()


# --- figures ----------------------------------------------------------------------------------------------------------
def errors_in(answers: Sequence[Answer]) -> str:
    """How many failed, of how many; for none, how many there may be all the same."""
    failed = sum(1 for one in answers if one.error)
    share = f"{failed / len(answers):.2%}" if failed else f"95 % bound {3 / len(answers):.2%}"
    return f"{failed} of {len(answers)} ({share})"


def median_ms(answers: Sequence[Answer]) -> str:
    """Median time to the end of those that were answered."""
    times = [(one.ended - one.sent) * 1000 for one in answers if not one.error]
    return f"{statistics.median(times):.0f}" if times else "none answered"


def seconds_back(run: Run) -> tuple[float | None, float | None]:
    """Seconds from the recovery until a request was served by the primary again, and until 95 % of those sent within
    one second were; None: not in this run.
    """
    after = sorted((one for one in run.gateway.answers if one.sent >= run.recovered_at), key=lambda one: one.sent)
    served = [one.ended - run.recovered_at for one in after if one.lane == PRIMARY and not one.error]
    mostly = None
    for one in after:
        second = [other for other in after if one.sent <= other.sent < one.sent + 1]
        if sum(1 for other in second if other.lane == PRIMARY) >= 0.95 * len(second):
            mostly = one.sent - run.recovered_at
            break
    return min(served, default=None), mostly


def report(run: Run, *, processes: int) -> str:
    """The tables of one run."""
    down = run.during(run.gateway)
    per_process = [sum(1 for one in run.probes if one.process == number) for number in range(processes)]
    met_before = [one for one in run.met if one not in run.probes]
    never = [number for number in range(processes) if number not in run.opened_at]
    opened = max(run.opened_at.values(), default=0.0) - run.failed_at
    share = sum(1 for one in down if one.lane == ALTERNATE and not one.error) / len(down)
    first, mostly = (f"{value:.1f} s" if value is not None else "not in this run" for value in seconds_back(run))
    settled = [one for one in down if one.sent > run.failed_at + opened and one.attempts == 1]
    both = (run.gateway, run.peer)
    rows = [
        ("", "gateway, callers try once", "SDK alone, max_retries=2"),
        ("requests", *(str(len(load.answers)) for load in both)),
        ("errors that callers saw", *(errors_in(load.answers) for load in both)),
        (f"errors in the {run.phases.down:.0f} s down", *(errors_in(run.during(load)) for load in both)),
        ("calls that reached the primary while down", *map(str, run.calls)),
        ("median ms to a whole answer, before", *(median_ms(run.before(load)) for load in both)),
        ("median ms to a whole answer, down", *(median_ms(run.during(load)) for load in both)),
        ("behind schedule at worst, ms", *(f"{load.late_seconds * 1000:.0f}" for load in both)),
    ]
    facts = [
        ("", ""),
        ("served by the alternate while down", f"{share:.2%}"),
        ("from failure until the last process had opened", "never" if never else f"{opened:.2f} s"),
        ("requests that met the failing primary before", str(len(met_before))),
        ("median ms once all had opened", median_ms(settled)),
        ("probes that reached it while down", f"{len(run.probes)} ({', '.join(map(str, per_process))} per process)"),
        ("times a process had no answer from Redis", str(run.times_alone)),
        ("back: first request served by the primary", first),
        (f"back: 95 % served by it; the aim is {AIM_SECONDS:.0f} s", mostly),
    ]
    seen = Counter(f"{one.sent - run.failed_at:3.0f} s: {one.error}" for one in run.gateway.answers if one.error)
    said = "".join(f"\nseen by {count} callers at {error}" for error, count in sorted(seen.items()))
    return f"{table(rows)}\n\n{table(facts)}{said}"


def demo_policy() -> dict[str, float]:
    """The numbers of the demo's breaker policy for chat lanes."""
    policy = yaml.safe_load(DEMO.read_text())["routing"]["breakers"]["hosted-chat"]
    return {name: threshold["value"] for name, threshold in policy.items()}


def main() -> None:
    """Run once for each fault and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", default="503,silence", help=f"with commas between: {', '.join(FAULTS)}")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--rate", type=float, default=40.0, help="requests per second")
    parser.add_argument("--before", type=float, default=10.0, help="seconds of health before the failure")
    parser.add_argument("--down", type=float, default=60.0, help="seconds of failure")
    parser.add_argument("--after", type=float, default=60.0, help="seconds of health after it")
    parser.add_argument("--quick", action="store_true", help="5 s down, 25 s after: does it work at all")
    arguments = parser.parse_args()
    phases = Phases(arguments.before, arguments.down, arguments.after)
    if arguments.quick:
        phases = Phases(2.0, 5.0, 25.0)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    policy = demo_policy()
    print(f"machine: {describe_machine()}")
    print(
        f"{arguments.processes} gateway processes, one Redis; {arguments.rate:g} requests/s, half of them streamed;"
        f" {phases.before:g} s well, {phases.down:g} s down, {phases.after:g} s well;"
        f" limits {FIRST_TOKEN_SECONDS:g} s to the first token, {WHOLE_ANSWER_SECONDS:g} s for a whole answer"
    )
    print("breaker: " + ", ".join(f"{name} {value:g}" for name, value in policy.items()), flush=True)
    routing = two_lanes(
        ["chat"],
        policy=policy,
        model=MODEL,
        first_token_seconds=FIRST_TOKEN_SECONDS,
        whole_answer_seconds=WHOLE_ANSWER_SECONDS,
    )
    for name in arguments.faults.split(","):
        run = Run(phases, FAULTS[name])
        with (
            tempfile.TemporaryDirectory() as directory,
            Gateways(Path(directory), routing, processes=arguments.processes) as gateways,
            ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        ):
            pool.submit(demo_policy).result()  # it has started and imported all that this module does
            uvloop.run(drive(gateways, run, pool, rate=arguments.rate))
            run.times_alone = gateways.logged("judged by this worker alone")
        print(f"\n{name}:\n{report(run, processes=arguments.processes)}", flush=True)


if __name__ == "__main__":
    main()
