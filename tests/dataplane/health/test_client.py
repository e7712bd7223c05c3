"""Looking at an engine over HTTP."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from dataplane.health.client import EngineClient
from dataplane.health.engines import ENGINES
from dataplane.health.observations import Ask, Reach, Said
from tests.dataplane.health.health_world import FakeEngine

METRICS = Path(__file__).parent / "metrics"
LLAMA = {
    "/health": (200, {"status": "ok"}),
    "/v1/models": (200, {"data": [{"id": "gemma"}]}),
    "/metrics": (200, (METRICS / "llama.cpp.txt").read_bytes()),
    "/slots": (200, [{"id": 0, "n_prompt_tokens_processed": 4096, "next_token": [{"n_decoded": 1}]}]),
    "/tokenize": (200, {"tokens": [1]}),
    "/v1/completions": (200, {"choices": [{"text": "x"}], "usage": {"prompt_tokens": 513}}),
}


def client(engine: str, pages, **more) -> tuple[EngineClient, FakeEngine]:
    fake = FakeEngine(pages)
    made = EngineClient(
        ENGINES[engine], url="http://engine:8000", scrape_seconds=0.05, transport=fake.transport(), **more
    )
    return made, fake


async def test_one_look_reads_health_model_counters_and_slots():
    """And learns the model's name, which asks need."""
    engine, _ = client("llama.cpp", LLAMA)

    reading = await engine.look()

    assert (reading.reach, reading.healthy, reading.loaded, reading.running) == (Reach.OK, True, True, 1)
    assert reading.signs["llamacpp:n_decode_total"] == 3
    assert reading.signs["slot 0 prompt"] == 4096
    assert engine.model == "gemma"


async def test_metrics_that_never_come_are_slow_and_health_is_told_all_the_same():
    """The look has one deadline, and each page its own fate."""
    engine, fake = client("llama.cpp", LLAMA)
    fake.holds.add("/metrics")

    reading = await engine.look()

    assert (reading.reach, reading.healthy, reading.running) == (Reach.SLOW, True, None)


async def test_server_without_metrics_is_there_and_unknown():
    """llama.cpp answers 501 without its flag: nothing is known of its work, and that is no fault."""
    engine, _ = client("llama.cpp", LLAMA | {"/metrics": (501, b"")})

    reading = await engine.look()

    assert (reading.reach, reading.loaded, reading.is_busy, dict(reading.signs)) == (Reach.OK, True, None, {})


async def test_loading_engine_is_not_loaded():
    """llama.cpp says 503 at every path meanwhile."""
    loading = (503, {"error": {"message": "Loading model"}})
    engine, _ = client("llama.cpp", dict.fromkeys(LLAMA, loading))

    reading = await engine.look()

    assert (reading.reach, reading.healthy, reading.loaded) == (Reach.BROKEN, False, None)


@pytest.mark.parametrize(
    ("raised", "reach"),
    [(httpx.ConnectError("x"), Reach.REFUSED), (httpx.ReadError("x"), Reach.BROKEN)],
    ids=["refused", "cut off"],
)
async def test_network_that_fails_is_a_reading(raised, reach):
    """Nobody listens, or the connection ends in the middle."""

    def handle(_request: httpx.Request) -> httpx.Response:
        raise raised

    engine = EngineClient(ENGINES["vllm"], url="http://e", scrape_seconds=1, transport=httpx.MockTransport(handle))

    reading = await engine.look()
    ended = await engine.ask(Ask.CANARY, prompt="a", deadline_seconds=1)

    assert (reading.reach, reading.healthy, reading.loaded) == (reach, None, None)
    assert (ended.said, ended.detail) == (Said.FAILED, raised.__class__.__name__)


async def test_engine_without_counters_is_known_by_its_models():
    """Of an OpenAI-compatible server nothing else is known."""
    engine, fake = client("openai", {"/v1/models": (200, {"data": [{"id": "m"}]})})

    reading = await engine.look()

    assert (reading.reach, reading.healthy, reading.loaded, reading.is_busy) == (Reach.OK, None, True, None)
    assert [path for _, path, _ in fake.asked] == ["/v1/models"]


async def test_tritons_metrics_are_on_their_own_port():
    """8002, unless told otherwise."""
    urls: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        urls.append(str(request.url))
        return httpx.Response(200)

    engine = EngineClient(
        ENGINES["triton"], url="http://e:8000", model="m", scrape_seconds=1, transport=httpx.MockTransport(handle)
    )

    await engine.look()

    assert sorted(urls) == ["http://e:8000/v2/health/ready", "http://e:8000/v2/models/m/ready", "http://e:8002/metrics"]


async def test_ask_is_one_request_for_one_token_with_the_key():
    """And tells how many tokens the engine counted in the prompt."""
    engine, fake = client("llama.cpp", LLAMA, api_key="k")
    await engine.look()

    ended = await engine.ask(Ask.WARM_UP, prompt="the the", deadline_seconds=1)

    method, path, body = fake.asked[-1]
    assert (method, path) == ("POST", "/v1/completions")
    assert body == {"model": "gemma", "prompt": "the the", "max_tokens": 1, "temperature": 0}
    assert (ended.said, ended.prompt_tokens) == (Said.ANSWERED, 513)


@pytest.mark.parametrize(
    ("status", "said"),
    [(500, Said.FAILED), (429, Said.REFUSED_LOAD), (503, Said.REFUSED_LOAD), (404, Said.MISFIT), (400, Said.MISFIT)],
)
async def test_answers_of_an_ask_are_told_apart(status, said):
    """What broke, what is full, and what we asked wrongly are three things."""
    engine, _ = client("llama.cpp", LLAMA | {"/v1/completions": (status, b"")})

    ended = await engine.ask(Ask.CANARY, prompt="a", deadline_seconds=1)

    assert (ended.said, ended.detail) == (said, f"/v1/completions answered {status}")


async def test_ask_that_hangs_ends_at_its_deadline():
    """Late is not failed."""
    engine, fake = client("llama.cpp", LLAMA)
    fake.holds.add("/v1/completions")

    ended = await engine.ask(Ask.CANARY, prompt="a", deadline_seconds=0.01)

    assert ended.said is Said.LATE
