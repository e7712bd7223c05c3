"""A flood of bad keys at a live gateway: limited, cheap to refuse, and no concern of others behind the same address."""

import json
import socket
from urllib.parse import urlsplit

import httpx
import pytest

from dataplane.bad_keys import LIMIT

from .conftest import release_sections, run_gateway

GOOD = {"authorization": "Bearer bk-acme"}
CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}
WAYS = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/embeddings"),
    ("GET", "/v1/models"),
    ("GET", f"/v1/streams/{'0' * 32}"),
    ("POST", "/v1/retrieve"),
]


@pytest.fixture
def gateway(simulator_url):
    """One of its own: what is counted here is nobody else's."""
    with run_gateway(release_sections(simulator_url)) as gateway, httpx.Client(base_url=gateway.url) as client:
        yield client


@pytest.mark.parametrize(("method", "path"), WAYS)
def test_address_that_shows_too_many_bad_keys_is_told_to_wait_and_its_good_keys_are_served(gateway, method, path):
    """By every way in; the connection ends with the answer, and a good key from the same address never waits."""
    answers = [
        gateway.request(method, path, json=CHAT, headers={"authorization": f"Bearer guess-{number}"})
        for number in range(LIMIT + 1)
    ]
    good = gateway.post("/v1/chat/completions", json=CHAT, headers=GOOD)

    assert {answer.status_code for answer in answers[:LIMIT]} == {401}
    last = answers[LIMIT]
    assert (last.status_code, last.json()["error"]["code"]) == (429, "too_many_bad_keys")
    assert 0 < int(last.headers["retry-after"]) <= 60
    assert (last.headers["connection"], last.headers["x-should-retry"]) == ("close", "false")
    assert good.status_code == 200


@pytest.mark.parametrize("key", ["bk-nobody", "", None])
def test_body_of_a_stranger_is_not_waited_for(gateway, key):
    """The answer is there although none of its 70 kB came: guessing costs us a look-up, not memory."""
    parts = urlsplit(str(gateway.base_url))
    shown = b"" if key is None else f"authorization: Bearer {key}\r\n".encode()
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\n"
            + shown
            + b"content-length: 70000\r\n\r\n"
        )
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 401")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "unauthorized"
