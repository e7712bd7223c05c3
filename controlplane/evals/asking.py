"""Ask a gateway in the name of an eval: a row of a subject, and whatever judges want to know of a route.

Nothing here knows of runs: whoever wants answers opens an `Asker` under a name of its own and asks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from threading import Lock
from typing import Any, Final

import httpx
from django.conf import settings
from django.utils import timezone

from controlplane.evals.errors import NoAnswer
from controlplane.evals.judges import values
from controlplane.evals.placing import EVAL_DEADLINE_MS, Placed
from controlplane.evals.rows import Row
from controlplane.releases.signing import mint_eval_token, signing_key_id
from dataplane.prompts import compile_schema
from dataplane.retry import backoff

CHAT: Final = "/v1/chat/completions"
EMBEDDINGS: Final = "/v1/embeddings"
# So many requests are under way at a time, whoever shares the asker.
CONCURRENCY: Final = 4
MAX_ATTEMPTS: Final = 3
BASE_SECONDS: Final = 1.0
CAP_SECONDS: Final = 15.0
# Who was not answered for so long is not asked again: see `handlers.LIMIT_SECONDS`.
ASKED_AGAIN_SECONDS: Final = 45.0
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
MAX_MESSAGE_CHARACTERS: Final = 300
# A little more than the gateway has for it, so that what went wrong is told by who knows.
TIMEOUT: Final = httpx.Timeout(connect=5.0, read=EVAL_DEADLINE_MS / 1000 + 5, write=30.0, pool=None)
TOKEN_LIFE: Final = timedelta(minutes=50)
TOKEN_RENEWED: Final = timedelta(minutes=10)
# The gateway would not hand the model's answer over: there was one, and it was no good.
BAD_ANSWER: Final = frozenset({"validation_failed", "repair_failed"})
# The provider's own filter stopped the question or the answer: that is how some providers refuse.
FILTERED: Final = "content_filter"
UNREACHABLE: Final = "gateway_unreachable"
TIMED_OUT: Final = "gateway_timeout"
TOO_LARGE: Final = "answer_too_large"
MALFORMED: Final = "malformed_answer"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered(values.Answered):
    """An answer, with what judges are given of it and what it took.

    Attributes:
        schema: Whether it satisfies the JSON Schema that row or prompt ask for; None: they ask for none.
        cost_micros: Of every attempt, with repairs and judges of the gateway.
        latency_ms: As the gateway measured it.
        lane: Empty where no lane answered, as when a provider's filter refused.
    """

    schema: bool | None = None
    cost_micros: int = 0
    latency_ms: float = 0.0
    lane: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class NotAnswered:
    """Why there is no answer.

    Attributes:
        code: The gateway's, or one of this module where it said nothing.
        is_answers_fault: There was an answer, and the gateway withheld it because it was bad: as bad as a wrong one.
            Otherwise nobody knows what the answer would have been.
    """

    code: str
    message: str
    is_answers_fault: bool
    cost_micros: int = 0
    latency_ms: float = 0.0
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The embedding of each text, in their order, and what it took.

    Attributes:
        tokens: Of all texts, as the provider counted them; 0 where it did not.
        cost_micros: Of every attempt, in microdollars.
        lane: That answered.
    """

    vectors: list[list[float]]
    tokens: int
    cost_micros: int
    lane: str


@dataclass(frozen=True, slots=True)
class _Said:
    """What came back of one request: the body of an answer, or an error's code and message."""

    body: Json | None
    code: str
    message: str
    is_transient: bool
    headers: Mapping[str, str]
    wait_seconds: float = 0.0

    @property
    def cost_micros(self) -> int:
        return int(_number(self.headers.get("ballast-cost-micros")))


@dataclass(frozen=True, slots=True)
class _Token:
    """A token that is shown: until when it is good, and the id of the key that signed it."""

    token: str
    until: datetime
    signer: str


class Asker:
    """Asks a gateway within a residency. May be shared by threads; `open_asker` makes one.

    Args:
        run: In whose name: 1 to 36 letters, digits, `_`, `.` and `-`; usage rows have it.
        residency: Where the bytes may go; empty: anywhere.
        sleep, clock: Seconds, monotonic.
    """

    def __init__(
        self,
        http: httpx.Client,
        *,
        run: str,
        residency: Iterable[str],
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = timezone.now,
        rng: Random | None = None,
    ) -> None:
        self._http = http
        self._run = run
        self._residency = tuple(residency)
        self._sleep = sleep
        self._clock = clock
        self._now = now
        self._rng = rng or Random()  # noqa: S311 - jitter, not a secret
        self._lock = Lock()
        # By the digest of the sandbox that each is for.
        self._tokens: dict[str | None, _Token] = {}

    def ask(self, subject: Placed, row: Row) -> Answered | NotAnswered:
        """Ask one row, up to MAX_ATTEMPTS times where the world is at fault. Never raises for what a gateway does.

        Raises:
            SigningKeyMissing: no token can be minted.
        """
        body = subject.subject.body(row)
        if row.sources:
            body["sources"] = [{"id": source.id, "text": source.text} for source in row.sources]
        if row.response_format is not None:
            body["response_format"] = dict(row.response_format)
        if row.tools:
            body["tools"] = [dict(tool) for tool in row.tools]
        digest = None
        if subject.sandbox is not None:
            digest, body["ballast_sandbox"] = subject.sandbox.digest, subject.sandbox.to_mapping()
        said = self._insist(CHAT, body, sandbox=digest)
        latency_ms, request_id = _number(said.headers.get("ballast-latency-ms")), said.headers.get(_REQUEST_ID, "")
        if said.body is not None:
            try:
                return _read_answer(said, row, subject)
            except (KeyError, IndexError, TypeError, AttributeError):
                said = _Said(None, MALFORMED, "the answer has no message", False, said.headers)
        if said.code == FILTERED:
            return Answered(
                text="",
                refused=True,
                cost_micros=said.cost_micros,
                latency_ms=latency_ms,
                lane=said.headers.get("ballast-lane", ""),
                request_id=request_id,
            )
        fault = said.code in BAD_ANSWER
        return NotAnswered(said.code, said.message, fault, said.cost_micros, latency_ms, request_id)

    def embed(self, route: str, texts: Sequence[str], parameters: Mapping[str, Any] | None = None) -> Embeddings:
        """The embedding of each text by a route of the live release.

        Args:
            parameters: What else the route is told, such as `input_type`.
        Raises:
            NoAnswer: there is none.
        """
        body = {**(parameters or {}), "model": route, "input": list(texts), "encoding_format": "float"}
        said = self._insist(EMBEDDINGS, body)
        answer = _body_of(said)
        try:
            rows = sorted(answer["data"], key=lambda one: one["index"])
            found = [[float(number) for number in one["embedding"]] for one in rows]
        except (KeyError, TypeError, ValueError) as exc:
            raise NoAnswer(f"{MALFORMED}: route {route!r} gave no embeddings", why=MALFORMED) from exc
        if len(found) != len(texts):
            fact = f"{MALFORMED}: route {route!r} gave {len(found)} embeddings of {len(texts)}"
            raise NoAnswer(fact, why=MALFORMED)
        return Embeddings(found, _tokens(answer), said.cost_micros, said.headers.get("ballast-lane", ""))

    def ask_route(
        self, route: str, messages: Sequence[Mapping[str, Any]], response_format: Mapping[str, Any]
    ) -> tuple[str, int]:
        """The text that a route of the live release answers, and what it cost in microdollars.

        Raises:
            NoAnswer: there is none.
        """
        body = {"model": route, "messages": [dict(one) for one in messages], "response_format": dict(response_format)}
        said = self._insist(CHAT, body)
        try:
            text = _body_of(said)["choices"][0]["message"].get("content")
        except (KeyError, IndexError, TypeError, AttributeError) as exc:
            raise NoAnswer(f"{MALFORMED}: route {route!r} gave no message", why=MALFORMED) from exc
        return text or "", said.cost_micros

    def _insist(self, path: str, body: Json, *, sandbox: str | None = None) -> _Said:
        began, attempt = self._clock(), 1
        while True:
            said = self._send(path, body, sandbox)
            is_late = self._clock() - began > ASKED_AGAIN_SECONDS
            if said.body is not None or not said.is_transient or attempt >= MAX_ATTEMPTS or is_late:
                return said
            wait = backoff(attempt, base=BASE_SECONDS, cap=CAP_SECONDS, rng=self._rng)
            self._sleep(max(wait, min(said.wait_seconds, CAP_SECONDS)))
            attempt += 1

    def _send(self, path: str, body: Json, sandbox: str | None) -> _Said:
        headers = {"authorization": f"Bearer {self._token(sandbox)}", "ballast-deadline-ms": str(EVAL_DEADLINE_MS)}
        try:
            with self._http.stream("POST", path, json=body, headers=headers) as response:
                data = _read_bounded(response)
        except httpx.TimeoutException as exc:
            return _Said(None, TIMED_OUT, f"the gateway did not answer in time: {type(exc).__name__}", True, {})
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            return _Said(None, UNREACHABLE, f"the gateway cannot be asked: {type(exc).__name__}: {exc}"[:300], True, {})
        if data is None:
            return _Said(None, TOO_LARGE, f"the answer has over {MAX_ANSWER_BYTES} bytes", False, response.headers)
        return _read(response, data)

    def _token(self, sandbox: str | None) -> str:
        with self._lock:
            now = self._now()
            known = self._tokens.get(sandbox)
            # Another key may sign since: the old one is not needed for an hour after it was replaced.
            signer = signing_key_id()
            if known is None or known.until - now < TOKEN_RENEWED or known.signer != signer:
                until = now + TOKEN_LIFE
                token = mint_eval_token(run=self._run, residency=self._residency, until=until, sandbox=sandbox)
                known = self._tokens[sandbox] = _Token(token, until, signer)
            return known.token


class JudgesAsker:
    """As judges see an asker: see `judges.values.Asker`. It adds up what they cost."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self.cost_micros = 0

    def embed(self, route: str, texts: Sequence[str]) -> list[list[float]]:
        """As `Asker.embed`."""
        found = self._asker.embed(route, texts)
        self.cost_micros += found.cost_micros
        return found.vectors

    def ask(self, route: str, messages: Sequence[Mapping[str, Any]], response_format: Mapping[str, Any]) -> str:
        """As `Asker.ask_route`."""
        text, cost = self._asker.ask_route(route, messages, response_format)
        self.cost_micros += cost
        return text


@contextmanager
def open_asker(*, run: str, residency: Iterable[str]) -> Iterator[Asker]:
    """An asker over this installation's gateway, for as long as the context lasts."""
    limits = httpx.Limits(max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY)
    with httpx.Client(base_url=settings.GATEWAY_URL, timeout=TIMEOUT, limits=limits, trust_env=False) as http:
        yield Asker(http, run=run, residency=residency)


@contextmanager
def open_for_judges(residency: Sequence[str], purpose: str) -> Iterator[values.Asker]:
    """As `judges.asking.Open`."""
    with open_asker(run=purpose, residency=residency) as asker:
        yield JudgesAsker(asker)


# --- reading what came back ------------------------------------------------------------------------------------------
_REQUEST_ID: Final = "ballast-request-id"


def _read_bounded(response: httpx.Response) -> bytes | None:
    """The body; None where it is too large to be read."""
    data = bytearray()
    for part in response.iter_bytes():
        data += part
        if len(data) > MAX_ANSWER_BYTES:
            return None
    return bytes(data)


def _read(response: httpx.Response, data: bytes) -> _Said:
    try:
        body = json.loads(data)
    except ValueError:
        body = None
    if response.is_success and isinstance(body, dict):
        return _Said(body, "", "", False, response.headers)
    is_transient = response.status_code in (408, 429) or response.status_code >= 500
    if response.headers.get("x-should-retry") == "false":
        is_transient = False
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        fact = f"HTTP {response.status_code} without the gateway's words"
        return _Said(None, MALFORMED, fact, is_transient, response.headers)
    code, message = str(error.get("code") or MALFORMED), str(error.get("message") or "")[:MAX_MESSAGE_CHARACTERS]
    wait = _number(response.headers.get("retry-after"))
    return _Said(None, code, message, is_transient, response.headers, wait)


def _read_answer(said: _Said, row: Row, subject: Placed) -> Answered:
    message = _body_of(said)["choices"][0]["message"]
    refusal = message.get("refusal")
    text = message.get("content") or refusal or ""
    calls = tuple(
        (call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls") or ()
        if call.get("type", "function") == "function"
    )
    asked = row.response_format or subject.response_format or {}
    is_json = asked.get("type") in ("json_object", "json_schema") and not refusal and not calls
    return Answered(
        text=text,
        tool_calls=calls,
        is_json=is_json,
        refused=bool(refusal),
        schema=_satisfies(text, asked) if is_json else None,
        cost_micros=said.cost_micros,
        latency_ms=_number(said.headers.get("ballast-latency-ms")),
        lane=said.headers.get("ballast-lane", ""),
        request_id=said.headers.get(_REQUEST_ID, ""),
    )


def _satisfies(text: str, asked: Mapping[str, Any]) -> bool | None:
    """Whether a text is JSON of the schema that was asked for; None where no schema was."""
    if asked["type"] != "json_schema":
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return False
    return bool(compile_schema(asked["json_schema"].get("schema", {})).is_valid(found))


def _body_of(said: _Said) -> Json:
    if said.body is None:
        raise NoAnswer(f"{said.code}: {said.message}", why=said.code)
    return said.body


def _tokens(answer: Json) -> int:
    usage = answer.get("usage")
    found = usage.get("prompt_tokens", usage.get("total_tokens")) if isinstance(usage, dict) else None
    return found if isinstance(found, int) and found > 0 else 0


def _number(text: str | None) -> float:
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        return 0.0
