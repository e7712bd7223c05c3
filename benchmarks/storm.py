"""What becomes of an account's limits when more is asked of it than it admits: 429s, errors, waits, and who is served.

    python -m benchmarks.storm [--seconds 30] [--kinds token_bucket,fixed_window,sliding_window,tokens]
                               [--subjects sdk,gateway] [--quick]

Everything is real and runs on this one machine: the provider simulator limits one account, by requests in each of its
three ways of counting, or by tokens in a bucket. 256 callers, 32 for each of 8 members of a fleet, ask for half as much
again as the account admits: each asks with OpenAI's own SDK, reads the answer, thinks, and asks the next. Half of them
belong to one greedy tenant and the other half to four modest ones; of every tenant half are interactive, half batch.

Subjects, each with the account to itself, one after the other:
    sdk        every member has a client of its own, straight at the provider; max_retries=2 (the default), and 8
    gateway    every member is a gateway process, under one quota policy; callers try once, so that failures are seen

For the first 5 s everybody thinks a quarter as long. Where nobody coordinates, what is then left in a bucket is used
up, or its burst would hide the limit for a while. After 5 s more at the usual pace it is counted, whole windows of the
provider's clock: the provider's own books tell attempts, 429s and what was used.

A tenant's fair share is what max-min fairness gives it: of what was served of a class of work, as much as any other, or
all that it asks for where that is less. A wait is from a caller's question to its answer, all its retries included.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import httpx
import openai
import orjson
import psutil
import uvloop

from benchmarks.load import describe_machine, table
from dataplane.providers.base import UpstreamCall
from dataplane.timers import TimerWheel
from dataplane.transport import Http1Transport, Limits
from tests.end_to_end.gateways import Gateways, secret_of, under_quota

MEMBERS = 8
CALLERS_EACH = 32
GREEDY, MODEST = "greedy", ("modest-1", "modest-2", "modest-3", "modest-4")
CLASSES = ("interactive", "batch")
ACCOUNT = "chat-only"
MODEL = "gpt-4o-mini"
QUESTION = {"messages": [{"role": "user", "content": "How do I get a refund?"}], "max_tokens": 40}
# Different questions, so that answers differ; few, so that the simulator need not write each anew.
SEEDS = 16
# Of these answers, with their prompt; and how long the model takes for one.
TOKENS_EACH = 53
ANSWER_SECONDS = 0.24
WINDOW_SECONDS = 10.0
REQUESTS = 600
OPENING_SECONDS = 5.0
SETTLING_SECONDS = 5.0
OPENING_THINKS = 0.25
ASKED_TOO_MUCH = 1.5
PATIENCE_SECONDS = 60.0
LOAD_PROCESSES = 2


# --- what is limited, and who asks ------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Quota:
    """What the provider admits in `WINDOW_SECONDS`: the kind of its limiter, and units of one dimension."""

    kind: str
    dimension: str
    units: int

    def to_limit(self) -> dict[str, Any]:
        """As the simulator's admin call takes it."""
        named = {"account": secret_of(ACCOUNT), "kind": self.kind, "window_seconds": WINDOW_SECONDS}
        return named | {self.dimension: self.units}


QUOTAS = {
    "token_bucket": Quota("token_bucket", "requests", REQUESTS),
    "fixed_window": Quota("fixed_window", "requests", REQUESTS),
    "sliding_window": Quota("sliding_window", "requests", REQUESTS),
    "tokens": Quota("token_bucket", "tokens", REQUESTS * TOKENS_EACH),
}


@dataclass(frozen=True, slots=True)
class Caller:
    """One task that asks again and again, in one member of the fleet."""

    number: int
    member: int
    tenant: str
    workload: str


def all_callers() -> list[Caller]:
    """Of each member half are the greedy tenant's, and the others' are even."""
    half = CALLERS_EACH // 2
    return [
        Caller(
            member * CALLERS_EACH + place,
            member,
            GREEDY if place < half else MODEST[(place - half) * len(MODEST) // half],
            CLASSES[place % 2],
        )
        for member in range(MEMBERS)
        for place in range(CALLERS_EACH)
    ]


class Subject(Protocol):
    """What stands between callers and the account, if anything. Callers of member n ask `base_urls[n]`."""

    name: str
    model: str
    max_retries: int
    coordinates: bool

    def start(self, directory: Path, quota: Quota) -> None:
        """Return when it serves; `directory` is empty."""

    def stop(self) -> None:
        """End everything that was started."""

    @property
    def base_urls(self) -> Sequence[str]:
        """OpenAI's API, for each member."""

    @property
    def simulator_url(self) -> str:
        """Where the provider is."""

    def headers(self, caller: Caller) -> dict[str, str]:
        """What a caller sends along: whose it is, and what else the subject is told."""


class Alone:
    """OpenAI's SDK and its own retries, straight at the provider."""

    model = MODEL
    coordinates = False

    def __init__(self, max_retries: int) -> None:
        self.name = f"SDK alone, max_retries={max_retries}"
        self.max_retries = max_retries
        self._fleet: Gateways

    def start(self, directory: Path, quota: Quota) -> None:
        """Only the provider."""
        # A fleet of nobody: its simulator is all that is used.
        self._fleet = Gateways(directory, under_quota({}), processes=0)
        self._fleet.__enter__()

    def stop(self) -> None:
        """End it."""
        self._fleet.close()

    @property
    def base_urls(self) -> Sequence[str]:
        """The provider's, for all."""
        return [f"{self.simulator_url}/openai/v1"] * MEMBERS

    @property
    def simulator_url(self) -> str:
        """Where the provider is."""
        return self._fleet.simulator_url

    def headers(self, caller: Caller) -> dict[str, str]:
        """The account's key: the provider knows nothing of tenants."""
        return {"Authorization": f"Bearer {secret_of(ACCOUNT)}"}


class Fleet:
    """Gateway processes that share the account's quota."""

    name = "gateway, callers try once"
    model = "chat"
    max_retries = 0
    coordinates = True

    def __init__(self, policy: Mapping[str, float | None]) -> None:
        self._policy = policy
        self._fleet: Gateways

    def start(self, directory: Path, quota: Quota) -> None:
        """A process for each member, under a policy that knows the quota."""
        routing = under_quota({**self._policy, quota.dimension: quota.units}, model=MODEL)
        tenants = {_key_of(tenant): tenant for tenant in (GREEDY, *MODEST)}
        self._fleet = Gateways(directory, routing, processes=MEMBERS, tenants=tenants)
        self._fleet.__enter__()

    def stop(self) -> None:
        """End them."""
        self._fleet.close()

    @property
    def base_urls(self) -> Sequence[str]:
        """Each member's own process."""
        return [f"{url}/v1" for url in self._fleet.urls]

    @property
    def simulator_url(self) -> str:
        """Where the provider is."""
        return self._fleet.simulator_url

    def headers(self, caller: Caller) -> dict[str, str]:
        """The tenant's key and the class of its work."""
        return {"Authorization": f"Bearer {_key_of(caller.tenant)}", "ballast-class": caller.workload}


def _key_of(tenant: str) -> str:
    return f"bk-{tenant}"


# The demo's, but for what the provider admits.
POLICY: dict[str, float | None] = {
    "window_seconds": WINDOW_SECONDS,
    "requests": None,
    "tokens": None,
    "input_tokens": None,
    "output_tokens": None,
    "concurrency": None,
    "headroom": 0.05,
    "batch_share": 0.2,
    "vip_concurrency": None,
    "vip_weight": 4,
    "standard_weight": 2,
    "free_weight": 1,
    "spill_seconds": 1,
    "max_wait_seconds": 10,
    "ramp_seconds": 10,
    "fleet_workers": MEMBERS,
}
SUBJECTS: dict[str, Callable[[float], list[Subject]]] = {
    "sdk": lambda headroom: [Alone(2), Alone(8)],
    "gateway": lambda headroom: [Fleet(POLICY | {"headroom": headroom})],
}


@contextmanager
def running(subject: Subject, quota: Quota) -> Iterator[Subject]:
    """The subject, ready, with the provider's limit in force."""
    with tempfile.TemporaryDirectory() as directory:
        subject.start(Path(directory), quota)
        try:
            limits = f"{subject.simulator_url}/admin/limits"
            httpx.post(limits, json=quota.to_limit(), timeout=30).raise_for_status()
            yield subject
        finally:
            subject.stop()


# --- load -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Schedule:
    """When callers begin, when they take their usual pace, when it begins to count, and when they ask no more, in
    monotonic seconds; and how long they think on the average.
    """

    start_at: float
    calm_from: float
    count_from: float
    stop_at: float
    think_seconds: float


@dataclass(frozen=True, slots=True)
class Errand:
    """A caller and how it asks."""

    caller: Caller
    base_url: str
    headers: dict[str, str]


@dataclass(slots=True)
class Answer:
    """One request of a caller. Times are monotonic seconds; `error` is empty for an answer."""

    caller: Caller
    sent: float
    ended: float = math.inf
    error: str = "never answered"


async def call_on_and_on(
    client: openai.AsyncOpenAI, errand: Errand, schedule: Schedule, model: str, answers: list[Answer]
) -> None:
    """Ask, think, and ask again until it is time to stop."""
    rng = random.Random(errand.caller.number)  # noqa: S311 - an order, no secret
    wake_at = schedule.start_at + rng.uniform(0, schedule.think_seconds * OPENING_THINKS)
    while wake_at < schedule.stop_at:
        await asyncio.sleep(max(0.0, wake_at - time.monotonic()))
        answer = Answer(errand.caller, time.monotonic())
        answers.append(answer)
        try:
            await client.chat.completions.create(
                **QUESTION, model=model, seed=rng.randrange(SEEDS), extra_headers=errand.headers
            )
            answer.error = ""
        except openai.APIStatusError as exc:
            answer.error = f"{exc.status_code} {exc.code}"
        except openai.APIError as exc:
            answer.error = type(exc).__name__
        answer.ended = time.monotonic()
        pace = OPENING_THINKS if answer.ended < schedule.calm_from else 1.0
        wake_at = answer.ended + pace * schedule.think_seconds * rng.uniform(0.5, 1.5)


async def _load(errands: Sequence[Errand], schedule: Schedule, model: str, max_retries: int) -> list[Answer]:
    answers: list[Answer] = []
    clients = {
        errand.caller.member: openai.AsyncOpenAI(
            base_url=errand.base_url, api_key="in the headers", max_retries=max_retries, timeout=PATIENCE_SECONDS
        )
        for errand in errands
    }
    tasks = [
        asyncio.create_task(call_on_and_on(clients[errand.caller.member], errand, schedule, model, answers))
        for errand in errands
    ]
    _, late = await asyncio.wait(tasks, timeout=schedule.stop_at - time.monotonic() + PATIENCE_SECONDS)
    for task in late:
        task.cancel()
    for client in clients.values():
        await client.close()
    return answers


def run_load(errands: Sequence[Errand], schedule: Schedule, model: str, max_retries: int) -> list[Answer]:
    """The requests of some callers, from a process of its own."""
    for name in ("httpx", "httpx2", "openai"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return uvloop.run(_load(errands, schedule, model, max_retries))


# --- figures ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Books:
    """What the provider has counted of the account so far."""

    admitted: int
    refused: int
    used: int
    left: int


@dataclass
class Run:
    """One subject under one quota: its requests, and the provider's books of what is counted. `drawn` are the units by
    which a bucket was emptier at the end.
    """

    subject: str
    quota: Quota
    schedule: Schedule
    answers: list[Answer]
    admitted: int
    refused: int
    used: int
    drawn: int
    busy_percent: float

    @property
    def seconds(self) -> float:
        """For how long was counted."""
        return self.schedule.stop_at - self.schedule.count_from

    @property
    def begun(self) -> list[Answer]:
        """The requests that callers began in that time."""
        return [one for one in self.answers if self.schedule.count_from <= one.sent < self.schedule.stop_at]

    @property
    def served(self) -> list[Answer]:
        """The requests that were answered in that time, whenever they were begun."""
        return [
            one
            for one in self.answers
            if not one.error and self.schedule.count_from <= one.ended < self.schedule.stop_at
        ]

    @property
    def quota_share(self) -> float:
        """What was used, of what the provider admits in such a time, and of what a bucket still held from before."""
        return self.used / (self.quota.units * self.seconds / WINDOW_SECONDS + self.drawn)


def fair_shares(demands: Mapping[str, float], total: float) -> dict[str, float]:
    """Divide `total` by max-min fairness: nobody gets more than its demand, and nobody could get more but from one who
    has less.
    """
    shares: dict[str, float] = {}
    left = total
    for place, (name, demand) in enumerate(sorted(demands.items(), key=lambda item: item[1])):
        shares[name] = min(demand, left / (len(demands) - place))
        left -= shares[name]
    return shares


def least_served(run: Run) -> tuple[str, float]:
    """The tenant that got the smallest part of its fair share of a class, which class, and that part."""
    cycle = run.schedule.think_seconds + ANSWER_SECONDS
    parts: dict[str, float] = {}
    for workload in CLASSES:
        callers = Counter(caller.tenant for caller in all_callers() if caller.workload == workload)
        demands = {tenant: count * run.seconds / cycle for tenant, count in callers.items()}
        served = Counter(one.caller.tenant for one in run.served if one.caller.workload == workload)
        shares = fair_shares(demands, sum(served.values()))
        parts |= {f"{tenant}, {workload}": served[tenant] / share for tenant, share in shares.items() if share}
    return min(parts.items(), key=lambda item: item[1], default=("nobody was served", math.nan))


def _part(count: float, total: float) -> str:
    return f"{count / total:.1%}" if total else "none"


def _waits(answers: Sequence[Answer]) -> str:
    """Quantiles of the time to an answer, of those that got one."""
    waits = sorted(one.ended - one.sent for one in answers if not one.error)
    if not waits:
        return "none answered"
    return " / ".join(f"{waits[min(len(waits) - 1, int(q * len(waits)))]:.2f}" for q in (0.5, 0.95, 0.99))


def _errors(answers: Sequence[Answer]) -> str:
    failed = sum(1 for one in answers if one.error)
    bound = "" if failed or not answers else f", 95 % bound {3 / len(answers):.2%}"
    return f"{failed} of {len(answers)} ({_part(failed, len(answers))}{bound})"


def report(runs: Sequence[Run]) -> str:
    """The table of one quota, a column for each subject."""

    def row(name: str, pick: Callable[[Run], str]) -> tuple[str, ...]:
        return name, *(pick(run) for run in runs)

    def of_class(run: Run, workload: str) -> list[Answer]:
        return [one for one in run.begun if one.caller.workload == workload]

    def least(run: Run) -> str:
        tenant, part = least_served(run)
        return f"{part:.2f} ({tenant})"

    def served_by(run: Run, attribute: str, value: str) -> str:
        return _part(sum(getattr(one.caller, attribute) == value for one in run.served), len(run.served))

    rows = [
        row("", lambda run: run.subject),
        row("attempts at the provider, a second", lambda run: f"{(run.admitted + run.refused) / run.seconds:.0f}"),
        row("attempts that met a 429", lambda run: _part(run.refused, run.admitted + run.refused)),
        row("share of the quota used", lambda run: f"{run.quota_share:.1%}"),
        row("requests answered, a second", lambda run: f"{len(run.served) / run.seconds:.1f}"),
        row("errors that callers saw", lambda run: _errors(run.begun)),
        row("least served tenant, of its fair share", least),
        row("greedy tenant's part of the answers", lambda run: served_by(run, "tenant", GREEDY)),
        row("interactive part of the answers", lambda run: served_by(run, "workload", "interactive")),
        row("wait p50 / p95 / p99, s", lambda run: _waits(run.begun)),
        *(row(f"  {name}", lambda run, name=name: _waits(of_class(run, name))) for name in CLASSES),
        *(row(f"errors, {name}", lambda run, name=name: _errors(of_class(run, name))) for name in CLASSES),
        row("processors busy", lambda run: f"{run.busy_percent:.0f} %"),
    ]
    lines = [table(rows)]
    for run in runs:
        seen = Counter(one.error for one in run.begun if one.error)
        lines += [f"{run.subject}: {count} callers saw {error}" for error, count in sorted(seen.items())]
    return "\n".join(lines)


# --- runs -------------------------------------------------------------------------------------------------------------
async def read_books(http: httpx.AsyncClient, subject: Subject, quota: Quota) -> Books:
    """What the provider has counted by now."""
    state = (await http.get(f"{subject.simulator_url}/admin/state")).raise_for_status().json()
    book = state["limits"][0]
    return Books(book["admitted"], book["refused"], book["used"][quota.dimension], book["left"][quota.dimension])


async def use_up(subject: Subject) -> None:
    """Ask for quick answers, as the account, until the provider refuses one."""
    headers = (("authorization", f"Bearer {secret_of(ACCOUNT)}"), ("content-type", "application/json"))
    body = orjson.dumps(QUESTION | {"model": "gpt-4o-instant"})
    call = UpstreamCall(f"{subject.simulator_url}/openai/v1/chat/completions", headers, body)
    transport = Http1Transport(timers=TimerWheel())
    limits = Limits(connect_seconds=5, first_byte_seconds=30, idle_seconds=30)

    async def ask_on() -> None:
        status = 200
        while status == 200:
            exchange = await transport.send(call, lane="provider", limits=limits)
            await exchange.read()
            status = exchange.status
            exchange.close()

    await asyncio.gather(*(ask_on() for _ in range(MEMBERS)))
    await transport.close()


async def drive(subject: Subject, quota: Quota, pool: Executor, *, seconds: float, think_seconds: float) -> Run:
    """All callers for so long, and the provider's books at both ends of what is counted."""
    # Counted are whole windows of the provider's clock; each process needs a moment to begin.
    now, wall = time.monotonic(), time.time()
    before = OPENING_SECONDS + SETTLING_SECONDS
    counts_in = (math.floor((wall + before + 1) / WINDOW_SECONDS) + 1) * WINDOW_SECONDS - wall
    count_from = now + counts_in
    schedule = Schedule(
        count_from - before, count_from - SETTLING_SECONDS, count_from, count_from + seconds, think_seconds
    )
    errands = [Errand(caller, subject.base_urls[caller.member], subject.headers(caller)) for caller in all_callers()]
    by_process = [
        [errand for errand in errands if errand.caller.member % LOAD_PROCESSES == number]
        for number in range(LOAD_PROCESSES)
    ]
    loop = asyncio.get_running_loop()
    loads = [
        loop.run_in_executor(pool, run_load, some, schedule, subject.model, subject.max_retries) for some in by_process
    ]
    async with httpx.AsyncClient(timeout=30) as http:
        if quota.kind == "token_bucket" and not subject.coordinates:
            await asyncio.sleep(schedule.calm_from - time.monotonic())
            await use_up(subject)
        await asyncio.sleep(schedule.count_from - time.monotonic())
        at_first = await read_books(http, subject, quota)
        psutil.cpu_percent()
        await asyncio.sleep(schedule.stop_at - time.monotonic())
        at_last = await read_books(http, subject, quota)
        busy_percent = psutil.cpu_percent()
    answers = [answer for load in await asyncio.gather(*loads) for answer in load]
    return Run(
        subject=subject.name,
        quota=quota,
        schedule=schedule,
        answers=answers,
        admitted=at_last.admitted - at_first.admitted,
        refused=at_last.refused - at_first.refused,
        used=at_last.used - at_first.used,
        drawn=max(0, at_first.left - at_last.left) if quota.kind == "token_bucket" else 0,
        busy_percent=busy_percent,
    )


def think_seconds_for(asked: float) -> float:
    """How long callers think for all of them to ask for so many times what is admitted, if nobody has to wait."""
    per_second = asked * REQUESTS / WINDOW_SECONDS
    return MEMBERS * CALLERS_EACH / per_second - ANSWER_SECONDS


def main() -> None:
    """Run every subject under every quota and print a table for each quota."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="counted, after the first 10; whole windows of 10")
    parser.add_argument("--kinds", default=",".join(QUOTAS), help=f"with commas between: {', '.join(QUOTAS)}")
    parser.add_argument("--subjects", default=",".join(SUBJECTS), help=f"with commas between: {', '.join(SUBJECTS)}")
    parser.add_argument("--asked", type=float, default=ASKED_TOO_MUCH, help="what is asked for, of what is admitted")
    parser.add_argument("--headroom", type=float, default=0.05, help="of the gateway's policy")
    parser.add_argument("--quick", action="store_true", help="10 s of the first kind: does it work at all")
    arguments = parser.parse_args()
    kinds, seconds = arguments.kinds.split(","), arguments.seconds
    if arguments.quick:
        kinds, seconds = kinds[:1], WINDOW_SECONDS
    logging.getLogger("httpx").setLevel(logging.WARNING)
    think_seconds = think_seconds_for(arguments.asked)
    print(f"machine: {describe_machine()}")
    print(
        f"{MEMBERS} members of {CALLERS_EACH} callers, in {LOAD_PROCESSES} processes, that think {think_seconds:.1f} s;"
        f" {arguments.asked:g} times what is admitted; half are one tenant's; model {MODEL}; {seconds:g} s counted",
        flush=True,
    )
    for kind in kinds:
        quota = QUOTAS[kind]
        runs = []
        for subject in (one for name in arguments.subjects.split(",") for one in SUBJECTS[name](arguments.headroom)):
            with (
                running(subject, quota),
                ProcessPoolExecutor(LOAD_PROCESSES, mp_context=get_context("spawn")) as pool,
            ):
                # They have started, and imported all that this module does.
                list(pool.map(think_seconds_for, [1.0] * LOAD_PROCESSES))
                runs.append(uvloop.run(drive(subject, quota, pool, seconds=seconds, think_seconds=think_seconds)))
        named = f"{quota.units:,} {quota.dimension} in {WINDOW_SECONDS:g} s, {quota.kind.replace('_', ' ')}"
        print(f"\n{kind}: {named}\n{report(runs)}", flush=True)


if __name__ == "__main__":
    main()
