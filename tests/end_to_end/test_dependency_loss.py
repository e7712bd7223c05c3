"""What still works, what refuses, and what is said, while one dependency is gone: the rows of docs/failure-modes.md."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.stack import ANSWER_SECONDS, Browser, Stack

pytestmark = pytest.mark.end_to_end
KEY = "bk-demo-globex"
FIVE, HALF = 2, 4


@pytest.fixture(scope="module")
def stack(data_dir: Path) -> Iterator[Stack]:
    """Everything, with a broker apart from the Redis that carries reports."""
    with Stack(data_dir, own_broker=True) as stack:
        stack.wait_ready()
        yield stack


@pytest.fixture(scope="module")
def owner(stack: Stack) -> Iterator[Browser]:
    """The prompt owner, signed in before anything goes wrong."""
    browser = stack.sign_in("owner")
    yield browser
    browser.close()


def test_without_the_broker_clicks_count_and_arrive(stack: Stack, owner: Browser) -> None:
    """A knob turned while nothing can be pushed is a release at once, and on the gateways once the agent has asked."""
    with without(stack, "broker"):
        revision = turn_knob(stack, owner)

        stack.wait_for(lambda: ask(stack).headers["ballast-release"] == str(revision), f"r{revision} is served")
        assert checks(stack)[0] == httpx.codes.OK


def test_without_redis_the_console_works_and_nobody_new_signs_in(stack: Stack, owner: Browser) -> None:
    """Requests are served, pages and clicks work, readyz names Redis; sign-in is refused, since attempts would not be
    counted. What was measured meanwhile arrives afterwards, once.
    """
    with without(stack, "redis"):
        request = ask(stack).headers["ballast-request-id"]
        turn_knob(stack, owner)
        stranger = Browser(stack)
        refused = stranger.try_to_sign_in("oncall")
        stranger.close()
        status, said = checks(stack)

    assert refused.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert (status, said["database"]) == (httpx.codes.SERVICE_UNAVAILABLE, "ok")
    assert "REDIS_URL" in said["redis"]
    wait_counted(stack, request)


def test_without_postgresql_the_console_refuses_and_the_gateway_serves(stack: Stack, owner: Browser) -> None:
    """Nothing can be decided and the API says so with a code; what was measured meanwhile arrives afterwards, once."""
    with without(stack, "postgres"):
        request = ask(stack).headers["ballast-request-id"]
        page = owner.client.get("/canaries/")
        with stack.api("owner") as api:
            answer = api.get("/fleet")
        status, said = checks(stack)

    assert page.status_code >= httpx.codes.INTERNAL_SERVER_ERROR
    assert (answer.status_code, answer.json()["error"]["code"]) == (httpx.codes.SERVICE_UNAVAILABLE, "unavailable")
    assert status == httpx.codes.SERVICE_UNAVAILABLE
    assert "DATABASE_URL" in said["database"]
    wait_counted(stack, request)


def test_without_the_console_requests_are_served(stack: Stack) -> None:
    """The console is not on the way of a request."""
    with without(stack, "console"):
        assert ask(stack).status_code == httpx.codes.OK


def test_without_the_providers_signed_words_answer_or_the_error_names_the_cause(stack: Stack) -> None:
    """A known question gets its signed answer; a route with no words below gets a 502; the gateway stays ready."""
    with without(stack, "simulator"):
        answer, bare = ask(stack), ask(stack, model="summaries")
        ready = httpx.get(f"{stack.gateway_url}/readyz", timeout=ANSWER_SECONDS).status_code

    assert (answer.status_code, answer.headers["ballast-fallback"]) == (httpx.codes.OK, "cached")
    assert "My orders" in answer.json()["choices"][0]["message"]["content"]
    assert (bare.status_code, bare.json()["error"]["code"]) == (httpx.codes.BAD_GATEWAY, "upstream_unreachable")
    assert ready == httpx.codes.OK
    stack.wait_for(lambda: "ballast-lane" in ask(stack).headers, "requests are served by a lane again")


def test_without_the_signing_key_nothing_is_decided(stack: Stack, owner: Browser) -> None:
    """A click that could not become a release changes nothing at all."""
    key = stack.places.keys / "release-signing.pem"
    before = state(stack)
    key.rename(key.with_suffix(".away"))
    try:
        owner.post(f"{canary_path(stack)}knob/", {"stage": str(other_stage(stack))})
        status, said = checks(stack)
        answer = ask(stack)
    finally:
        key.with_suffix(".away").rename(key)

    assert state(stack) == before
    assert status == httpx.codes.SERVICE_UNAVAILABLE
    assert "BALLAST_SIGNING_KEY_FILE" in said["signing_key"]
    assert answer.status_code == httpx.codes.OK


# --- steps ------------------------------------------------------------------------------------------------------------
@contextmanager
def without(stack: Stack, name: str) -> Iterator[None]:
    """Do something while one process is gone, and go on when it is back."""
    stack.stop(name)
    try:
        yield
    finally:
        stack.start(name)
        if name != "simulator":
            stack.wait_answering(name)
        stack.wait_ready()


def ask(stack: Stack, model: str = "") -> httpx.Response:
    """One request of an application, by the demo's prompt or straight on a route."""
    question = "Where is my parcel?"
    body: dict[str, Any] = {"user": "ada"}
    if model:
        body |= {"model": model, "messages": [{"role": "user", "content": question}]}
    else:
        body |= {"messages": [], "prompt": {"id": "support-answer", "variables": {"question": question}}}
    headers = {"authorization": f"Bearer {KEY}"}
    return httpx.post(f"{stack.gateway_url}/v1/chat/completions", json=body, headers=headers, timeout=ANSWER_SECONDS)


def checks(stack: Stack) -> tuple[int, dict[str, str]]:
    """The console's readiness: status and what it says of each dependency."""
    answer = httpx.get(f"{stack.console_url}/readyz", timeout=ANSWER_SECONDS)
    return answer.status_code, answer.json()["checks"]


def state(stack: Stack) -> tuple[object, ...]:
    """What a click could have changed: newest release, newest audit event, position of the canary."""
    (row,) = stack.query(
        "SELECT (SELECT max(revision) FROM releases_release), (SELECT max(seq) FROM audit_auditevent),"
        " (SELECT position FROM rollouts_canary WHERE state = 'running')"
    )
    return row


def canary_path(stack: Stack) -> str:
    """The page of the running canary."""
    ((slug,),) = stack.query("SELECT slug FROM rollouts_canary WHERE state = 'running'")
    return f"/canaries/{slug}/"


def other_stage(stack: Stack) -> int:
    """A stage that the canary is not at."""
    return FIVE if state(stack)[2] != FIVE else HALF


def turn_knob(stack: Stack, owner: Browser) -> int:
    """Turn the knob to another stage; return the revision that came of it."""
    revision = state(stack)[0]
    assert isinstance(revision, int)
    answer = owner.post(f"{canary_path(stack)}knob/", {"stage": str(other_stage(stack))})
    assert answer.status_code == httpx.codes.FOUND
    assert state(stack)[0] == revision + 1
    return revision + 1


def wait_counted(stack: Stack, request_id: str) -> None:
    """Wait until the usage row of a request's one attempt is stored; there must never be two."""

    def count() -> object:
        return stack.query("SELECT count(*) FROM ledger_usagerow WHERE request_id = %s", [request_id])[0][0]

    stack.wait_for(lambda: count() != 0, f"{request_id} is counted", needs="ingest")
    assert count() == 1
