"""The status addresses of a gateway that runs, and an order on its host that it obeys."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
import pytest

from dataplane.ladder.emergency_command import stand_down
from tests.dataplane.gateway.conftest import make_release, make_settings, release_sections, run_gateway, wait_until
from tests.dataplane.ladder.test_emergency_command import OneHost
from tests.ladders import activation

# Of everybody's clock: a gateway that runs has no other.
ALWAYS = {"since": "2020-01-01T00:00:00Z", "until": "9000-01-01T00:00:00Z"}


@pytest.fixture
def host(tmp_path, trusted_keys_file, make_document, ladder_sections, signing_key):
    return OneHost(tmp_path, trusted_keys_file, make_document, ladder_sections, signing_key)


@pytest.fixture
def live(host, ladder_sections, trusted):
    """A gateway on that host, none of whose lanes is ever asked."""
    settings = make_settings(release_file=host.host.release_file)
    sections = release_sections("http://127.0.0.1:1") | ladder_sections()
    with run_gateway(sections, settings=settings, trusted_keys=lambda: trusted) as gateway:
        yield gateway


@pytest.fixture
def http(live):
    with httpx.Client(base_url=live.url, timeout=90) as client:
        yield client


def test_status_needs_no_key_and_heeds_one(live, http, ladder_sections):
    """Whoever shows one that is unknown is told so; errors may be read from any page too."""
    sections = release_sections("http://127.0.0.1:1") | ladder_sections()
    for_free = activation(rung=2, tiers=["free"], **ALWAYS)
    live.watcher.current = make_release(sections | {"activations": {"r": for_free}}, 2)

    told = http.get("/v1/status").json()["surfaces"][0]
    own = http.get("/v1/status", headers={"authorization": "Bearer bk-acme"}).json()["surfaces"][0]
    unknown = http.get("/v1/status", headers={"authorization": "Bearer nobody"})

    assert (told["rung"], own["rung"], own["tiers"]) == (2, 0, {"vip": 0})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (401, "unauthorized")
    assert unknown.headers["access-control-allow-origin"] == "*"


def test_what_is_known_already_is_not_sent_again(http):
    """As browsers and proxies ask."""
    first = http.get("/v1/status?surface=web-chat")

    again = http.get("/v1/status?surface=web-chat", headers={"if-none-match": first.headers["etag"]})

    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
    assert "content-length" not in again.headers
    head = http.head("/status/web-chat")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/status?surface=x", 404),
        ("GET", "/v1/status?tier=gold", 400),
        ("GET", "/v1/status/x", 404),
        ("POST", "/v1/status", 405),
        ("GET", "/status/x", 404),
        ("GET", "/status", 200),
        ("GET", "/status/", 200),
        ("GET", "/v1/status/banner.js", 200),
    ],
)
def test_address_answers_as_http_has_it(http, method, path, status):
    """Errors are those of the whole gateway, but for pages."""
    assert http.request(method, path).status_code == status


def test_order_on_the_host_is_obeyed_told_and_taken_back(host, live, http, ladder_sections):
    """Nothing but the gateway, its release and the command takes part: requests, status and page follow."""
    host.write()
    body = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}
    host.engage(6, now=datetime.now(UTC))

    wait_until(lambda: http.get("/v1/status").json()["surfaces"][0]["status"] == "maintenance")

    told = http.get("/v1/status").json()["surfaces"][0]
    assert (told["rung"], told["copy"]) == (6, "rung-6@1")
    refused = http.post("/v1/chat/completions", json=body, headers={"authorization": "Bearer bk-acme"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "maintenance")
    page = http.get("/status/web-chat", headers={"accept-language": "de"})
    assert (page.status_code, "Wartung" in page.text) == (200, True)
    [event] = [one for one in live.reports.events if one.kind == "ladder.ordered"]
    [state] = live.reports.ladders()
    assert state["ids"] == [event.id]
    assert event.id.startswith("emergency-")
    stand_down(host.host, "web-chat", now=datetime.now(UTC))
    wait_until(lambda: http.get("/v1/status").json()["surfaces"][0]["status"] == "ok")
