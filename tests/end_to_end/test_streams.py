"""Streams of several gateway processes: read again anywhere, whatever breaks, with one end each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import httpx
import pytest

from tests.end_to_end.gateways import KEY, Gateways, resumable
from tests.end_to_end.raw_streams import (
    FOUND,
    Connection,
    Received,
    body_of,
    digest_of,
    go_on,
    post,
    read_with_resets,
    resume,
)

pytestmark = pytest.mark.end_to_end

# Too slow to end before what a test does meanwhile, however long that takes: there are fifty chunks and more.
DRIP, SLOWER_DRIP = "slow_drip:ms=250", "slow_drip:ms=1000"
WITH_USAGE = {"include_usage": True}
BEARER = {"authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    """Three processes that share a Redis."""
    with Gateways(tmp_path_factory.mktemp("streams"), resumable(on_cut="continue"), processes=3) as gateways:
        yield gateways


def test_connections_reset_at_any_byte_lose_and_repeat_nothing(gateways: Gateways) -> None:
    """Inside a frame, a character or the terminal event: what a caller pieces together is what was generated."""
    rng = Random(104)

    def one(number: int) -> Received:
        own = Random(rng.random())
        first = post(KEY, body_of("slow", number))
        return read_with_resets(gateways.urls, first, key=KEY, rng=own, resets=5, span_bytes=2500)

    with ThreadPoolExecutor(8) as threads:
        everything = list(threads.map(one, range(12)))

    assert sum(one.resets for one in everything) > 12
    for received in everything:
        again = Received(stream=received.stream)
        Connection(gateways.urls[0], resume(KEY, again), again).read_all()
        assert again.payloads == received.payloads
        assert (received.duplicates, received.after) == (0, max(received.payloads))
        assert FOUND.split()[1] in received.text


def test_streams_of_a_killed_process_all_end_once(gateways: Gateways) -> None:
    """Every stream it was generating ends as interrupted, with what it had sent before, a cursor, and its rows."""
    gateways.strike("drip", SLOWER_DRIP)
    begun: list[Received] = []

    def begin(number: int) -> Received:
        received = Received()
        connection = Connection(gateways.urls[2], post(KEY, body_of("drip", number)), received)
        while received.after < 3:
            assert connection.read_bytes(1)
        begun.append(received)
        connection.read_all()
        return received

    with ThreadPoolExecutor(8) as threads:
        running = [threads.submit(begin, number) for number in range(8)]
        gateways.wait_for(lambda: len(begun) == 8)
        gateways.kill(2)
        everything = [one.result() for one in running]
        ended = list(threads.map(lambda one: finish(gateways.urls[0], one), everything))

    assert [one.duplicates for one in ended] == [0] * 8
    assert all(one.after == max(one.payloads) for one in ended)
    errors = [json.loads(one.payloads[one.after])["error"] for one in ended]
    assert {(error["code"], error["reason"]) for error in errors} == {("upstream_interrupted", "owner_lost")}
    assert all(error["resume_cursor"] for error in errors)
    streams = {one.stream: one for one in ended}
    gateways.wait_for(lambda: streams.keys() <= {row["stream_id"] for row in gateways.reported("streams")})
    for row in gateways.reported("streams"):
        if (one := streams.get(row["stream_id"])) is not None:
            assert (row["outcome"], row["frames"]) == ("interrupted", one.after)
            assert row["digest"] == digest_of(one)
            assert row["billed_tokens"] >= row["generated_tokens"] >= row["buffered_tokens"] > 0
            assert row["buffered_tokens"] >= row["delivered_tokens"] >= row["acked_tokens"]
            assert row["request_id"] in {usage["request_id"] for usage in gateways.reported("usage")}
    gateways.restart(2)
    gateways.relieve()
    go_on_with(gateways, ended[0], 0)


def go_on_with(gateways: Gateways, ended: Received, asked: int) -> None:
    """Whoever asks for the rest of an interrupted stream gets it, once: callers that ask together share one stream."""
    asking = [Received(), Received()]
    with ThreadPoolExecutor(2) as threads:
        for one, url in zip(asking, gateways.urls, strict=False):
            threads.submit(Connection(url, go_on(KEY, ended.stream), one).read_all)
    first = asking[0] if asking[0].payloads else asking[1]
    if not asking[1].payloads or not asking[0].payloads:  # it came before the other had begun
        [late] = [one for one in asking if not one.payloads]
        Connection(gateways.urls[1], go_on(KEY, ended.stream), late).read_all()

    assert asking[0].stream == asking[1].stream != ended.stream
    assert asking[0].payloads == asking[1].payloads
    note = json.loads(first.payloads[1])["ballast"]["continues"]
    assert (note["stream"], note["after"]) == (ended.stream, ended.after - 1)
    assert note["prefix_characters"] == len(ended.text)
    assert first.payloads[first.after] == b"[DONE]"
    whole = ask(gateways.urls[0], body_of("drip", asked)).text
    assert ended.text + first.text == whole
    assert row_of(gateways, first)["continues"] == ended.stream


def finish(url: str, received: Received) -> Received:
    """Read what is missing, as often as it takes."""
    while not received.is_over:
        Connection(url, resume(KEY, received), received).read_all()
    return received


def test_a_stream_that_its_provider_breaks_off_goes_on_elsewhere(gateways: Gateways) -> None:
    """A lane that can be given the words so far takes them up: one answer, one end, and both providers are billed."""
    gateways.strike("spare", "reset_mid_stream:after=4")

    received = finish(gateways.urls[1], ask(gateways.urls[0], body_of("spare") | {"stream_options": WITH_USAGE}))

    assert received.payloads[received.after] == b"[DONE]"
    chunks = [json.loads(received.payloads[number]) for number in range(1, received.after)]
    [resumed] = [chunk["ballast"]["resumed"] for chunk in chunks if "ballast" in chunk]
    before = received.text[: resumed["prefix_characters"]]
    assert before
    assert resumed["prefix_sha256"] == hashlib.sha256(before.encode()).hexdigest()
    assert (resumed["how"], resumed["lane"], resumed["stream"]) == ("prefill", "spare-able", received.stream)
    assert len({chunk["id"] for chunk in chunks}) == 1
    row = row_of(gateways, received)
    assert [(one["lane"], one["how"], one["cause"], one["partial"]) for one in row["segments"]] == [
        ("spare", "first", "", True),
        ("spare-able", "prefill", "upstream_interrupted", False),
    ]
    assert (row["outcome"], row["text_digest"]) == ("completed", hashlib.sha256(received.text.encode()).hexdigest())
    assert row["billed_tokens"] == sum(one["billed_tokens"] for one in row["segments"])
    assert chunks[-1]["usage"]["completion_tokens"] == row["billed_tokens"]
    usage = [one for one in gateways.reported("usage") if one["request_id"] == row["request_id"]]
    assert [(one["kind"], one["cause"], one["lane"]) for one in usage] == [
        ("primary", "", "spare"),
        ("continue", "upstream_interrupted", "spare-able"),
    ]


def ask(url: str, body: dict[str, Any]) -> Received:
    """Ask once, and read to the end."""
    received = Received()
    Connection(url, post(KEY, body), received).read_all()
    return received


def row_of(gateways: Gateways, received: Received) -> dict[str, Any]:
    """The ledger row of a stream, once it is reported."""

    def rows() -> list[dict[str, Any]]:
        return [row for row in gateways.reported("streams") if row["stream_id"] == received.stream]

    gateways.wait_for(rows)
    return rows()[0]


def test_without_redis_a_stream_goes_on_and_is_whole_in_the_log_after(gateways: Gateways) -> None:
    """The caller who is there misses nothing; once the log is back, emptied even, it has every frame."""
    gateways.strike("drip", DRIP)
    received = Received()
    connection = Connection(gateways.urls[0], post(KEY, body_of("drip", 77)), received)
    while received.after < 2:
        assert connection.read_bytes(1)

    gateways.redis.stop()
    seen = received.after
    while received.after < seen + 5:
        assert connection.read_bytes(1)
    refused = httpx.get(f"{gateways.urls[1]}/v1/streams/{received.stream}", headers=BEARER, timeout=60)
    gateways.redis.start()
    connection.read_all()

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "stream_log_unavailable")
    assert received.payloads[received.after] == b"[DONE]"
    again = Received(stream=received.stream)

    def is_back() -> bool:
        Connection(gateways.urls[1], resume(KEY, again), again).read_all()
        return bool(again.payloads)

    gateways.wait_for(is_back)
    assert finish(gateways.urls[1], again).payloads == received.payloads
