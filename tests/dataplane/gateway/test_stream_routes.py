"""The addresses under which a stream is read again, from a live gateway: by OpenAI's own client, and by bare HTTP as a
browser sends it.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import hashlib
import json
import re
import time
from pathlib import Path

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from dataplane.assembly import Stores
from dataplane.cursors import Cursor, CursorKeys, parse_cursor_keys
from dataplane.stores.streams import RedisStreamLog
from tests.dataplane.conftest import stream_policy

from .conftest import release_sections, run_gateway, wait_until
from .proxies import BreakingProxy

QUESTION = "How do I get a refund?"
DRIPPING = f"{QUESTION} [[fault slow_drip:ms=30]]"
UNENDING = f"{QUESTION} [[fault silence_mid_stream:after=2]]"
CUT = f"{QUESTION} [[fault reset_mid_stream:after=4]]"
EVENTS = {"accept": "text/event-stream"}
OLD, NEW = b"o" * 32, b"n" * 32


@pytest.fixture(scope="module")
def streaming_gateway(simulator_url, redis_url):
    """A gateway whose route `kept` keeps its streams in Redis; its key file was rotated: a new line above the old."""
    sections = copy.deepcopy(release_sections(simulator_url))
    routing = sections["routing"]
    routing["streams"] = {"kept": stream_policy(on_cut="end")}
    for route in ("kept", "chat"):
        routing["routes"][route] = routing["routes"]["chat"] | {"streams": "kept"}
    sections["access"]["keys"][hashlib.sha256(b"bk-demo-acme").hexdigest()] = {"tenant": "globex", "id": "k-guide"}
    keys = "\n".join(base64.b64encode(key).decode() for key in (NEW, OLD))
    log = RedisStreamLog(redis_url, timeout_seconds=60)
    with run_gateway(sections, stores=Stores(streams=log), cursors=parse_cursor_keys(keys)) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def client(streaming_gateway):
    """OpenAI's client with a tenant's key; it tries once."""
    url = f"{streaming_gateway.url}/v1"
    with openai.OpenAI(base_url=url, api_key="bk-globex", max_retries=0, timeout=90) as client:
        yield client


@pytest.fixture(scope="module")
def http(streaming_gateway):
    """A bare HTTP client with the same key."""
    with httpx.Client(
        base_url=streaming_gateway.url, headers={"authorization": "Bearer bk-globex"}, timeout=90
    ) as client:
        yield client


@pytest.fixture(scope="module")
def stranger(streaming_gateway):
    """Whoever has no key: a browser."""
    with httpx.Client(base_url=streaming_gateway.url, timeout=90) as client:
        yield client


def begin(client, words=QUESTION):
    """Ask for a stream with OpenAI's client."""
    return client.chat.completions.create(
        model="kept", messages=[{"role": "user", "content": words}], stream=True, extra_body={"seed": 7}
    )


def read_again(client, stream, **headers):
    """Read a stream with OpenAI's client."""
    return client.get(
        f"/streams/{stream}",
        cast_to=ChatCompletionChunk,
        stream=True,
        stream_cls=openai.Stream[ChatCompletionChunk],
        options={"headers": EVENTS | headers},
    )


def events_of(response):
    """The events of a response: (number or None, name, data)."""
    events = []
    for block in response.text.split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        number = fields.get("id")
        events.append((None if number is None else int(number), fields.get("event"), fields["data"]))
    return events


def words_of(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def ended(client, words=QUESTION):
    """A stream that is over: its id, its cursor, and the words."""
    stream = begin(client, words)
    chunks = []
    with contextlib.suppress(openai.APIError):
        chunks += list(stream)
    headers = stream.response.headers
    return headers["ballast-stream-id"], headers["ballast-resume-cursor"], words_of(chunks)


def test_openais_client_reads_on_where_it_was(client):
    """It hangs up in the middle and comes back with the number of chunks it has: nothing is missing, nothing twice."""
    stream = begin(client, DRIPPING)
    first = [next(stream) for _ in range(3)]
    name = stream.response.headers["ballast-stream-id"]
    stream.close()

    resumed, *rest = read_again(client, name, **{"Last-Event-ID": "3"})

    assert resumed.choices[0].delta.content is None
    note = resumed.model_extra["ballast"]["resumes"]
    before = words_of(first)
    assert (note["stream"], note["after"], note["prefix_characters"]) == (name, 3, len(before))
    assert note["prefix_sha256"] == hashlib.sha256(before.encode()).hexdigest()
    assert (note["lane"], note["model"]) == ("openai/eu/main/gpt-4o", "gpt-4o-instant")
    whole = list(read_again(client, name))
    assert first + rest == whole[1:]
    assert rest[-1].choices[0].finish_reason == "stop"


def test_every_event_has_its_number_and_the_end_is_one(http, client):
    """From 1 on, the `resumed` event aside; asked again behind the last there is nothing, said with 204."""
    name, _, words = ended(client)

    response = http.get(f"/v1/streams/{name}", headers=EVENTS)

    (unnumbered, *numbered) = events_of(response)
    assert unnumbered[:2] == (None, "resumed")
    assert [number for number, _, _ in numbered] == list(range(1, len(numbered) + 1))
    assert [data for _, _, data in numbered].count("[DONE]") == 1
    assert numbered[-1][2] == "[DONE]"
    assert words == "".join(
        json.loads(data)["choices"][0]["delta"].get("content") or "" for _, _, data in numbered[:-1]
    )
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    last = {"Last-Event-ID": str(len(numbered))}
    nothing = http.get(f"/v1/streams/{name}", headers=EVENTS | last)
    assert (nothing.status_code, nothing.content) == (204, b"")
    beyond = http.get(f"/v1/streams/{name}", headers=EVENTS | {"Last-Event-ID": str(len(numbered) + 1)})
    assert (beyond.status_code, beyond.json()["error"]["param"]) == (400, "starting_after")


def test_who_has_more_than_was_kept_of_a_broken_stream_is_told_that_it_is_over(http, client):
    """Its process died while the log was away, with frames that only this caller was shown: one end more, for it."""
    name, _, _ = ended(client, CUT)
    last = events_of(http.get(f"/v1/streams/{name}", headers=EVENTS))[-1][0]

    beyond = http.get(f"/v1/streams/{name}", headers=EVENTS | {"Last-Event-ID": str(last + 3)})

    [(number, _, data)] = events_of(beyond)
    error = json.loads(data)["error"]
    assert (number, error["code"], error["reason"]) == (last + 4, "upstream_interrupted", "owner_lost")


def test_a_browser_reads_by_its_cursor_alone(stranger, client):
    """From any page; what it says of its own place wins over the address it was made with."""
    name, cursor, _ = ended(client)

    whole = stranger.get(f"/v1/streams/{name}", params={"cursor": cursor}, headers=EVENTS)
    after = stranger.get(f"/v1/streams/{name}", params={"cursor": cursor, "starting_after": 2}, headers=EVENTS)
    both = stranger.get(
        f"/v1/streams/{name}",
        params={"cursor": cursor, "starting_after": 2},
        headers=EVENTS | {"Last-Event-ID": "4"},
    )

    assert [events_of(one)[1][0] for one in (whole, after, both)] == [1, 3, 5]
    assert whole.headers["access-control-allow-origin"] == "*"
    assert "ballast-resume-cursor" in whole.headers["access-control-expose-headers"]
    place = Cursor(name, "globex", 3, int(time.time()) + 60)
    placed = stranger.get(f"/v1/streams/{name}", params={"cursor": CursorKeys([NEW]).sign(place)}, headers=EVENTS)
    assert events_of(placed)[1][0] == 4


def test_a_key_reads_without_headers_for_other_pages(http, client):
    """Only an address that carries its own right may be used from anywhere."""
    name, _, _ = ended(client)

    response = http.get(f"/v1/streams/{name}", headers=EVENTS)

    assert "access-control-allow-origin" not in response.headers
    assert response.headers["ballast-stream-id"] == name


def test_cursors_are_good_for_what_they_say_and_no_longer(stranger, client):
    """Each refusal has its own code, which a page may read; a cursor of before the keys were changed is good."""
    name, cursor, _ = ended(client)
    other, _, _ = ended(client)
    now = int(time.time())

    def signed(key, seconds=60, stream=name):
        return CursorKeys([key]).sign(Cursor(stream, "globex", 0, now + seconds))

    cases = {
        signed(OLD): (200, None),
        signed(NEW): (200, None),
        signed(b"x" * 32): (400, "invalid_cursor"),
        cursor[:10] + ("A" if cursor[10] != "A" else "B") + cursor[11:]: (400, "invalid_cursor"),
        "": (400, "invalid_cursor"),
        signed(NEW, seconds=-5): (410, "cursor_expired"),
        signed(NEW, stream=other): (404, "stream_not_found"),
    }
    for text, (status, code) in cases.items():
        response = stranger.get(f"/v1/streams/{name}", params={"cursor": text}, headers=EVENTS)
        assert response.status_code == status, text
        assert response.headers["access-control-allow-origin"] == "*"
        if code is not None:
            assert response.json()["error"]["code"] == code
    assert CursorKeys([NEW]).read(cursor, now=now).stream == name


def test_a_cursor_can_neither_end_a_stream_nor_ask_for_more(stranger, client):
    """Those take a key, and the key of the tenant whose the stream is."""
    name, cursor, _ = ended(client, CUT)
    foreign = {"authorization": "Bearer bk-acme"}

    for action in ("cancel", "continue"):
        bare = stranger.post(f"/v1/streams/{name}/{action}", params={"cursor": cursor})
        with_anothers_key = stranger.post(f"/v1/streams/{name}/{action}", params={"cursor": cursor}, headers=foreign)
        assert (bare.status_code, with_anothers_key.status_code) == (401, 404)

    acknowledged = stranger.post(f"/v1/streams/{name}/ack", params={"cursor": cursor}, json={"sequence_number": 2})
    assert (acknowledged.status_code, acknowledged.json()["acked"]) == (200, 2)


def test_another_tenants_stream_is_not_there(stranger, client):
    """Nor is one that never was, or whose name is none; the answers cannot be told apart."""
    name, _, _ = ended(client)
    theirs = {"authorization": "Bearer bk-acme"}

    answers = [
        stranger.get(f"/v1/streams/{one}", headers=EVENTS | theirs)
        for one in (name, "0" * 32, f"{name}:frames", "latest")
    ]

    assert [one.status_code for one in answers] == [404] * 4
    assert {one.json()["error"]["code"] for one in answers} == {"stream_not_found"}
    assert stranger.get(f"/v1/streams/{name}", headers=EVENTS).status_code == 401


def test_a_stream_is_looked_at_acknowledged_and_cancelled(http, client):
    """As JSON: what it is doing, how far it got, and which lane gave what."""
    stream = begin(client, UNENDING)
    name = stream.response.headers["ballast-stream-id"]
    next(stream)
    running = http.get(f"/v1/streams/{name}", headers={"accept": "application/json"}).json()
    assert (running["object"], running["state"]) == ("stream", "running")
    assert running["segments"] == [{"first_seq": 1, "lane": "openai/eu/main/gpt-4o", "model": "gpt-4o-instant"}]

    acked = http.post(f"/v1/streams/{name}/ack", json={"sequence_number": 1}).json()
    again = http.post(f"/v1/streams/{name}/ack", json={"sequence_number": 0}).json()
    cancelling = http.post(f"/v1/streams/{name}/cancel")
    with pytest.raises(openai.APIError, match="its caller asked for it"):
        list(stream)
    cancelled = http.post(f"/v1/streams/{name}/cancel")
    state = http.get(f"/v1/streams/{name}", headers={"accept": "application/json"}).json()

    assert (acked["acked"], again["acked"]) == (1, 1)
    assert acked["delivered"] >= 1
    assert (cancelling.status_code, cancelling.json()["cancelling"]) == (202, True)
    assert (cancelled.status_code, cancelled.json()["cancelling"]) == (200, False)
    assert (state["state"], state["acked"]) == ("cancelled", 1)
    assert http.get(f"/v1/streams/{name}", headers=EVENTS).text.count('"stream_cancelled"') == 1


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"sequence_number": -1}', b'{"sequence_number": true}', b"\xff"])
def test_an_acknowledgement_names_a_frame(http, client, body):
    """Whatever else it holds is refused by name."""
    name, _, _ = ended(client)

    refused = http.post(f"/v1/streams/{name}/ack", content=body)

    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "sequence_number")


def test_an_interrupted_stream_is_continued_in_another(http, client, streaming_gateway, simulator):
    """OpenAI's client is told of the cut, with a cursor; the rest comes under a name of its own, however often."""
    simulator.post("/admin/faults", json={"fault": "reset_mid_stream:after=4", "count": 1}).raise_for_status()
    stream = begin(client)
    with pytest.raises(openai.APIError) as cut:
        list(stream)
    name = stream.response.headers["ballast-stream-id"]
    assert (cut.value.code, bool(cut.value.body["resume_cursor"])) == ("upstream_interrupted", True)

    with http.stream("POST", f"/v1/streams/{name}/continue") as response:
        response.read()
    again = http.post(f"/v1/streams/{name}/continue")

    assert response.headers["ballast-stream-id"] == again.headers["ballast-stream-id"] != name
    assert response.text == again.text
    note = json.loads(events_of(response)[0][2])["ballast"]["continues"]
    assert (note["stream"], note["how"]) == (name, "regenerated")
    rows = streaming_gateway.reports.streams
    wait_until(lambda: name in {row["continues"] for row in rows})
    [row] = [row for row in rows if row["continues"] == name]
    assert (row["stream_id"], row["outcome"]) == (response.headers["ballast-stream-id"], "completed")


def test_what_cannot_be_continued_says_why_every_time(http, client):
    """Complete, under way, calling a tool: the same answer also the second time."""
    complete, _, _ = ended(client)
    running = begin(client, UNENDING)
    under_way = running.response.headers["ballast-stream-id"]
    tool = {"type": "function", "function": {"name": "refund", "parameters": {"type": "object", "properties": {}}}}
    calling = client.chat.completions.create(
        model="kept",
        messages=[{"role": "user", "content": CUT}],
        stream=True,
        tools=[tool],
        tool_choice="required",
    )
    with pytest.raises(openai.APIError):
        list(calling)
    called = calling.response.headers["ballast-stream-id"]

    for name, why in ((complete, "it is complete"), (under_way, "under way"), (called, "calling a tool")):
        for _ in range(2):
            refused = http.post(f"/v1/streams/{name}/continue")
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "stream_not_continuable")
            assert why in refused.json()["error"]["message"]
    http.post(f"/v1/streams/{under_way}/cancel")
    running.close()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/streams/0", 405),
        ("GET", "/v1/streams/0/ack", 405),
        ("GET", "/v1/streams/", 404),
        ("POST", "/v1/streams/0/rewind", 404),
    ],
)
def test_addresses_and_methods_that_do_not_exist_say_so(http, method, path, status):
    """As everywhere."""
    assert http.request(method, path).status_code == status


@pytest.mark.parametrize("place", ["x", "-1", "1" * 16, "²"])
def test_a_place_that_is_no_number_is_refused(http, client, place):
    """By the name under which it came."""
    name, _, _ = ended(client)

    refused = http.get(f"/v1/streams/{name}", params={"starting_after": place}, headers=EVENTS)

    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "starting_after")


def programs():
    """The Python of the guide, by heading."""
    text = (Path(__file__).resolve().parents[3] / "docs" / "streaming.md").read_text()
    return dict(re.findall(r"^### (.+?)\n+```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("heading", ["With OpenAI's SDK", "Without it"])
def test_the_guides_programs_read_everything_whatever_breaks(streaming_gateway, simulator, heading):
    """Run as they stand, but for the address: with three connections reset under them, they have every word once."""
    code = programs()[heading]
    assert set(programs()) == {"With OpenAI's SDK", "Without it"}
    assert "http://127.0.0.1:8080" in code
    # Longer than the head of a response, which a caller without an idempotency key cannot lose.
    with BreakingProxy(streaming_gateway.url, limits=[2500, 1700, 3000]) as proxy:
        # Only a connection that breaks is given up, however long a busy machine stands still.
        code = code.replace("httpx.stream(*where, ", "httpx.stream(*where, timeout=90, ")
        whole, broken = {}, {}
        exec(code.replace("http://127.0.0.1:8080", streaming_gateway.url), whole)  # noqa: S102 - our own guide
        exec(code.replace("http://127.0.0.1:8080", proxy.url), broken)  # noqa: S102 - as above
        question = [{"role": "user", "content": QUESTION}]

        words = broken["read"](question)

        assert proxy.resets == 3
    assert words == whole["read"](question)
    assert len(words) > 40


def test_what_streams_do_is_counted(http, client):
    """Each request once, under its own operation, with how it ended."""
    name, _, _ = ended(client)

    def counts():
        lines = [line.rsplit(" ", 1) for line in http.get("/metrics").text.splitlines() if line.startswith("ballast")]
        found = {series: float(value) for series, value in lines if "seconds" not in series and "endings" not in series}
        return {series: value for series, value in found.items() if "stream_" in series}

    before = counts()
    http.get(f"/v1/streams/{name}", headers=EVENTS)
    http.post(f"/v1/streams/{name}/continue")
    wait_until(lambda: sum(counts().values()) >= sum(before.values()) + 3)

    more = {series: value - before.get(series, 0) for series, value in counts().items()}
    assert {series: value for series, value in more.items() if value} == {
        'ballast_gateway_requests_total{operation="stream_resume",outcome="ok"}': 1,
        'ballast_gateway_requests_total{operation="stream_continue",outcome="stream_not_continuable"}': 1,
        "ballast_gateway_stream_resumes_total": 1,
    }
    assert counts()["ballast_gateway_stream_log_up"] == 1
