"""Callers who come back and back, and what every answer said about who made it."""

import asyncio
import json
import logging
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx
import psutil

from tests.end_to_end.stack import ANSWER_SECONDS, Stack

TENANT_KEYS = {"acme": "bk-demo-acme", "globex": "bk-demo-globex", "staff": "bk-demo-staff"}
PROMPT = "support-answer"
QUESTION = "Where is my parcel?"
SURFACE = "web-chat"
# Connections are left after so many requests, so that every gateway process comes to accept some.
REQUESTS_PER_CONNECTION = 5
# Between two connections of a caller, since one that idled might be closed just when it is used again. Without a pause
# they would take all processors for as long as a test waits for what has a pace of its own: reports, pushes, verdicts.
PAUSE_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its answer. `pid`: the gateway process that held the connection, None when it is not known.

    Times are monotonic seconds; `error` is empty when the answer came whole. `release` 0: no such header.
    """

    tenant: str
    user: str
    sent_at: float
    done_at: float
    pid: int | None = None
    status: int = 0
    error: str = ""
    release: int = 0
    prompt: str = ""
    cohort: str = ""
    lane: str = ""
    answer: str = ""

    @property
    def is_good(self) -> bool:
        """True for a whole answer with status 200."""
        return self.status == httpx.codes.OK and not self.error


def hold_ladder(stack: Stack) -> None:
    """Keep triggers from engaging a rung of the demo's surface: what a test's callers ask together is a rush to it, and
    a rung changes what they are answered.
    """
    until = datetime.now(UTC) + timedelta(hours=12)
    body = {"surface": SURFACE, "mode": "hold", "rung": 0, "until": until.isoformat(), "reason": "A test's callers"}
    with stack.api("oncall") as api:
        api.post("/ladder/activations", json=body).raise_for_status()


class Traffic:
    """Keeps requests coming, a third of them streams, on a thread of its own, from `start` to `stop`."""

    def __init__(self, stack: Stack, *, seed: int = 7, users: int = 60) -> None:
        self._users = users
        self.exchanges: list[Exchange] = []
        self._stack = stack
        self._rng = random.Random(seed)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._gateways: list[int] = []

    def start(self, *, callers: int) -> None:
        """Begin; each caller has one request under way, or pauses."""
        logging.getLogger("httpx").setLevel(logging.WARNING)  # a line per request would drown what a failure says
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(callers)), name="traffic", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let the requests under way finish, and end; nothing happens the second time."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(2 * ANSWER_SECONDS)
            assert not self._thread.is_alive(), "a request did not end in time"

    def served_by(self, pid: int) -> set[int]:
        """The revisions that a process has answered with so far."""
        return {one.release for one in list(self.exchanges) if one.pid == pid and one.is_good}

    async def _run(self, callers: int) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(self._call_on_and_on(random.Random(self._rng.random())))

    async def _call_on_and_on(self, rng: random.Random) -> None:
        timeout = httpx.Timeout(ANSWER_SECONDS)
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(base_url=self._stack.gateway_url, timeout=timeout, limits=limits) as client:
            requests, pid = 0, None
            while not self._stopping.is_set():
                requests += 1
                is_last = requests % REQUESTS_PER_CONNECTION == 0
                exchange = await self._call(client, rng, pid=pid, is_last=is_last)
                self.exchanges.append(exchange)
                pid = None if is_last or not exchange.is_good else exchange.pid
                if is_last:
                    await asyncio.sleep(PAUSE_SECONDS)

    async def _call(self, client: httpx.AsyncClient, rng: random.Random, *, pid: int | None, is_last: bool) -> Exchange:
        tenant = rng.choice(list(TENANT_KEYS))
        user = f"user-{rng.randrange(self._users):02d}"
        headers = {"authorization": f"Bearer {TENANT_KEYS[tenant]}"}
        if is_last:
            headers["connection"] = "close"
        prompt = {"id": PROMPT, "variables": {"question": QUESTION}}
        body = {"model": "chat", "messages": [], "user": user, "prompt": prompt, "stream": rng.random() < 1 / 3}
        sent_at = time.monotonic()
        status, said, answer, error = 0, httpx.Headers(), "", ""
        try:
            async with client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
                status, said = response.status_code, response.headers
                if pid is None:
                    port = response.extensions["network_stream"].get_extra_info("client_addr")[1]
                    pid = self._owner_of(port)
                text = (await response.aread()).decode()
            answer, error = _read_stream(text) if body["stream"] else _read_whole(text)
        except (httpx.HTTPError, OSError) as exc:
            error = repr(exc)
        return Exchange(
            tenant=tenant,
            user=user,
            sent_at=sent_at,
            done_at=time.monotonic(),
            pid=pid,
            status=status,
            error=error,
            release=int(said.get("ballast-release", 0)),
            prompt=said.get("ballast-prompt", ""),
            cohort=said.get("ballast-cohort", ""),
            lane=said.get("ballast-lane", ""),
            answer=answer,
        )

    def _owner_of(self, port: int) -> int | None:
        """The gateway process at the other end of our connection from `port`."""
        owner = _holder_of(port, among=self._gateways)
        if owner is None:  # a new one, perhaps: to look for them takes longer than to ask those that are known
            self._gateways = self._stack.gateway_pids()
            owner = _holder_of(port, among=self._gateways)
        return owner


def _holder_of(port: int, *, among: Sequence[int]) -> int | None:
    """The process, of these pids, with a TCP connection to our `port`."""
    for pid in among:
        try:
            connections = psutil.Process(pid).net_connections("tcp")
        except psutil.Error:
            continue
        if any(one.raddr and one.raddr.port == port for one in connections):
            return pid
    return None


def _read_whole(text: str) -> tuple[str, str]:
    try:
        body: Mapping[str, list[Mapping[str, Mapping[str, str]]]] = json.loads(text)
        return body["choices"][0]["message"]["content"], ""
    except (ValueError, LookupError, TypeError) as exc:
        return "", f"{exc!r}: {text[:300]}"


def _read_stream(text: str) -> tuple[str, str]:
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    if not events or events[-1] != "[DONE]":
        return "", f"the stream does not end in [DONE]: {text[-300:]}"
    try:
        chunks = [json.loads(event) for event in events[:-1]]
        return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"]), ""
    except (ValueError, LookupError, TypeError) as exc:
        return "", f"{exc!r}: {text[-300:]}"
