"""A steady load: requests of every kind begin on schedule, whatever became of the others.

plain    once, without a key, as a client that never tries again: whatever breaks shows
stream   read on by Last-Event-ID after a broken connection, as docs/streaming.md has it
keyed    by OpenAI's SDK with its own retries, and after those as the queue of docs/idempotency.md: the same body under
         the same key, until there is an answer
job      handed in and looked up the same way, under a key
act      an operator turns a canary's knob over the API, which makes a release
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import httpx
import openai
import orjson

from benchmarks.chaos.asking import Kind, body, user
from benchmarks.chaos.log import Call, Ending
from benchmarks.chaos.reading import Reader, judge_answer, judge_error, judge_whole

# A second, of each kind.
RATES: Final[Mapping[Kind, float]] = {
    Kind.PLAIN: 10.0,
    Kind.STREAM: 4.0,
    Kind.KEYED: 4.0,
    Kind.JOB: 1.0,
    Kind.ACT: 0.25,
}
KEY: Final = "bk-demo-globex"
OPERATOR: Final = "op-demo-owner"
# How long a caller waits for one answer, and how long one that tries again goes on doing so.
ANSWER_SECONDS: Final = 30.0
PATIENCE_SECONDS: Final = 90.0
PAUSE_SECONDS: Final = 1.0
# Of an application that waits for a job.
LOOK_SECONDS: Final = 1.0
OVER: Final = frozenset({"completed", "failed", "cancelled", "expired"})
# What another try may mend, with the same body and key.
LATER: Final = frozenset({408, 409, 429, 500, 502, 503, 504})
NEVER: Final = frozenset({"idempotency_indeterminate", "idempotency_outcome_not_kept", "idempotency_mismatch"})
# Indexes of the demo's stages, the two that wait for no evidence.
STAGES: Final = (0, 1)


class Load:
    """Callers on one gateway and one console.

    Args:
        first: The number of the first request; each has its own for good.
    """

    def __init__(self, *, gateway_url: str, console_url: str, canary: str, first: int) -> None:
        self.calls: list[Call] = []
        self.next_number = first
        self._canary = canary
        self._stopping = False
        self._acting: asyncio.Lock = asyncio.Lock()
        timeout = httpx.Timeout(ANSWER_SECONDS)
        # A connection that idled could be closed at the very moment at which it is used again.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._http = httpx.AsyncClient(
            base_url=f"{gateway_url}/v1",
            headers={"authorization": f"Bearer {KEY}"},
            timeout=timeout,
            limits=limits,
        )
        self._console = httpx.AsyncClient(
            base_url=f"{console_url}/api/v1",
            headers={"authorization": f"Bearer {OPERATOR}"},
            timeout=timeout,
            limits=limits,
        )
        self._sdk = openai.AsyncOpenAI(
            base_url=f"{gateway_url}/v1",
            api_key=KEY,
            timeout=timeout,
            http_client=httpx.AsyncClient(timeout=timeout, limits=limits),
        )
        self._ways: dict[Kind, Callable[[Call], Awaitable[None]]] = {
            Kind.PLAIN: self._plain,
            Kind.STREAM: self._stream,
            Kind.KEYED: self._keyed,
            Kind.JOB: self._job,
            Kind.ACT: self._act,
        }

    async def run(self) -> None:
        """Begin requests until `stop`, then wait for those under way."""
        async with asyncio.TaskGroup() as group:
            for kind, rate in RATES.items():
                group.create_task(self._keep_up(kind, rate, group))

    def stop(self) -> None:
        """Begin no more."""
        self._stopping = True

    async def close(self) -> None:
        """Let go of connections."""
        await self._http.aclose()
        await self._console.aclose()
        await self._sdk.close()

    async def _keep_up(self, kind: Kind, rate: float, group: asyncio.TaskGroup) -> None:
        due = time.monotonic()
        while not self._stopping:
            call = Call(self.next_number, kind, time.monotonic())
            self.next_number += 1
            self.calls.append(call)
            group.create_task(self._make(call))
            due += 1 / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _make(self, call: Call) -> None:
        try:
            await self._ways[call.kind](call)
        except httpx.HTTPError as exc:
            call.ending, call.why = Ending.BROKEN, f"{type(exc).__name__}: {exc}"
        call.ended_at = time.monotonic()

    # --- one request of each kind ---
    async def _plain(self, call: Call) -> None:
        response = await self._http.post("/chat/completions", json=body(call.kind, call.number))
        judge_whole(call, response.status_code, response.headers, response.content)

    async def _stream(self, call: Call) -> None:
        reader = Reader(call)
        stream = ""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not reader.is_over:
            try:
                if stream:
                    headers = {"last-event-id": str(reader.have), "accept": "text/event-stream"}
                    asking = self._http.stream("GET", f"/streams/{stream}", headers=headers)
                else:
                    asking = self._http.stream("POST", "/chat/completions", json=body(call.kind, call.number))
                async with asking as response:
                    if response.status_code == httpx.codes.OK:
                        stream = response.headers.get("ballast-stream-id", stream)
                        call.accepted = True
                        reader.note_head(response.headers)
                        async for line in response.aiter_lines():
                            reader.take(line)
                    elif not stream or time.monotonic() > deadline:
                        judge_error(call, response.status_code, await response.aread())
                        return
                    else:
                        await response.aread()
            except httpx.TransportError:
                if not stream or time.monotonic() > deadline:
                    raise
            if not reader.is_over:
                if not stream or time.monotonic() > deadline:
                    call.why = "the stream ended without a last event"
                    return
                call.resumed += 1
                await asyncio.sleep(PAUSE_SECONDS)

    async def _keyed(self, call: Call) -> None:
        asked = body(call.kind, call.number)
        asked.pop("stream")

        async def ask(key: str) -> None:
            said = await self._sdk.chat.completions.with_raw_response.create(
                **asked, extra_headers={"Idempotency-Key": key}
            )
            judge_whole(call, said.status_code, said.headers, said.content)

        await self._insist(call, ask)

    async def _job(self, call: Call) -> None:
        asked = body(call.kind, call.number)
        asked.pop("stream")
        await self._insist(call, lambda key: self._hand_in(call, asked, key))
        if not call.accepted:
            return
        await self._wait_for_job(call, call.why)

    async def _hand_in(self, call: Call, asked: Mapping[str, Any], key: str) -> None:
        said = await self._sdk.post(
            "/jobs",
            body={"endpoint": "/v1/chat/completions", "body": asked},
            options={"headers": {"Idempotency-Key": key, "ballast-user": user(call.number)}},
            cast_to=httpx.Response,
        )
        call.accepted, call.why = True, str(said.json()["id"])

    async def _wait_for_job(self, call: Call, job: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        call.ending, call.why = Ending.BROKEN, f"job {job} is not over"
        while time.monotonic() < deadline:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                response = await self._http.get(f"/jobs/{job}")
            except httpx.HTTPError:
                continue
            if response.status_code in LATER:
                continue
            said = orjson.loads(response.content)
            if response.status_code != httpx.codes.OK:
                judge_error(call, response.status_code, response.content)
                return
            if said["status"] not in OVER:
                continue
            if said["status"] == "completed":
                judge_answer(call, said["response"]["body"])
            else:
                call.ending, call.code = Ending.TOLD, str((said.get("error") or {}).get("code", said["status"]))
            return

    async def _insist(self, call: Call, ask: Callable[[str], Awaitable[None]]) -> None:
        """Ask under one key until there is an answer, or one that no other try would change."""
        key = str(uuid.UUID(int=call.number))
        deadline = time.monotonic() + PATIENCE_SECONDS
        call.tries = 0
        while True:
            call.tries += 1
            pause = PAUSE_SECONDS
            try:
                await ask(key)
                return
            except openai.APIStatusError as exc:
                judge_error(call, exc.status_code, exc.response.content)
                pause = float(exc.response.headers.get("retry-after", PAUSE_SECONDS))
                if exc.status_code not in LATER or call.code in NEVER:
                    return
            except openai.APIConnectionError as exc:
                call.ending, call.code, call.why = Ending.BROKEN, "", repr(exc.__cause__ or exc)
            if time.monotonic() + pause > deadline:
                return
            await asyncio.sleep(pause)

    async def _act(self, call: Call) -> None:
        async with self._acting:  # whoever turns a knob waits for what came of the last turn
            await self._turn_knob(call)

    async def _turn_knob(self, call: Call) -> None:
        canary = f"/canaries/{self._canary}"
        response = await self._console.get(canary)
        if response.status_code == httpx.codes.OK:
            other = STAGES[0] if orjson.loads(response.content)["position"] != STAGES[0] else STAGES[1]
            response = await self._console.post(f"{canary}/knob", json={"position": other})
        if response.status_code == httpx.codes.OK:
            call.ending, call.accepted = Ending.RIGHT, True
        else:
            judge_error(call, response.status_code, response.content)
