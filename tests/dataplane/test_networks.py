"""Where lanes and gauges may be, and that what was judged is what is connected to."""

from __future__ import annotations

import asyncio
import socket

import pytest

from dataplane.environment import BadVariable, Environment, gateway_settings
from dataplane.errors.upstream import UpstreamUnreachable
from dataplane.ladder.gauges import Gauges
from dataplane.networks import LOOPBACK, AddressForbidden, Allowed, parse_networks
from dataplane.providers.base import UpstreamCall
from dataplane.transport import Http1Transport, Limits

OUTSIDE = Allowed((), "say so")
LIMITS = Limits(5, 5, 5)
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def judged(address, *, scheme="https", networks=""):
    try:
        return Allowed(parse_networks(networks), "say so").choose("lane.example", [address], scheme=scheme)
    except AddressForbidden as exc:
        return str(exc)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1"])
def test_lanes_are_outside_by_https(address):
    """A provider's key is never sent in the clear through other people's networks."""
    assert judged(address) == (address,)
    assert "only https goes" in judged(address, scheme="http")


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("10.1.2.3", "a private network"),
        ("192.168.0.1", "a private network"),
        ("100.64.0.1", "a private network"),
        ("fd12::1", "a private network"),
        ("127.0.0.1", "this very machine"),
        ("::1", "this very machine"),
        ("::ffff:10.0.0.1", "a private network"),
        ("64:ff9b::a00:1", "a private network"),
        ("2002:a00:1::1", "a private network"),
        ("0.0.0.0", "no single machine"),  # noqa: S104 - nothing is bound
        ("224.0.0.1", "no single machine"),
    ],
)
def test_ones_own_networks_are_closed_until_they_are_named(address, what):
    """Whoever may propose a lane may not thereby ask services that trust where they are asked from."""
    assert what in judged(address)


def test_named_network_is_open_by_http_too_and_no_other():
    """A self-hosted lane in it needs no certificate; its neighbours stay closed."""
    assert judged("10.20.3.4", scheme="http", networks="10.20.0.0/16, fd12::/48") == ("10.20.3.4",)
    assert judged("fd12::7", scheme="http", networks="10.20.0.0/16, fd12::/48") == ("fd12::7",)
    assert "a private network" in judged("10.21.0.1", networks="10.20.0.0/16, fd12::/48")


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "fe80::1%eth0", "168.63.129.16", "fd00:ec2::254", "::ffff:a9fe:a9fe"]
)
def test_metadata_of_a_cloud_is_never_asked(address):
    """Whatever networks are named: it hands out the machine's own credentials."""
    assert "nothing is ever sent there" in judged(address, networks="0.0.0.0/0, ::/0")


def test_name_that_leads_to_both_is_refused():
    """Who answers for the name could give the second address at any time."""
    with pytest.raises(AddressForbidden, match=r"'lane.example' is at 10.0.0.1"):
        OUTSIDE.choose("lane.example", ["93.184.216.34", "10.0.0.1"], scheme="https")


@pytest.mark.parametrize(("text", "wrong"), [("10.0.0.0/8,nowhere", "nowhere"), ("10.0.0.1/8", "10.0.0.1/8")])
def test_network_that_is_none_stops_the_start_by_name(text, wrong):
    """A typing mistake opens nothing and closes nothing."""
    with pytest.raises(BadVariable, match=f"BALLAST_PRIVATE_NETWORKS.*{wrong}"):
        gateway_settings(Environment({"BALLAST_PRIVATE_NETWORKS": text, "BALLAST_HOST_NAME": "h"}), slot=0)


@pytest.mark.parametrize(("demo", "is_open"), [("true", True), ("false", False), ("", False)])
def test_this_machine_is_open_in_the_demo_alone(demo, is_open):
    """Its simulator is there."""
    settings = gateway_settings(Environment({"BALLAST_DEMO": demo, "BALLAST_HOST_NAME": "h"}), slot=0)

    assert (settings.allowed.networks == LOOPBACK) is is_open


# --- what is connected to ---------------------------------------------------------------------------------------------
class Names:
    """A loop whose names lead somewhere else each time they are asked, as somebody can make them."""

    def __init__(self, monkeypatch, *answers):
        self.answers, self.asked = list(answers), 0
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self.getaddrinfo, raising=False)

    async def getaddrinfo(self, host, port, **_):
        self.asked += 1
        address = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]


async def served(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(ANSWER)
    await writer.drain()
    writer.close()


async def ask(transport, url):
    exchange = await transport.send(UpstreamCall(url, (), b"{}"), lane="openai/eu/main/gpt", limits=LIMITS)
    return exchange.status


async def test_lane_whose_name_leads_inside_is_unreachable_and_nothing_is_sent(monkeypatch):
    """The error names the lane, the address and what would allow it; another lane is tried as for any other reason."""
    names = Names(monkeypatch, "10.0.0.1")
    transport = Http1Transport(allowed=Allowed((), "BALLAST_PRIVATE_NETWORKS would allow it"))

    with pytest.raises(UpstreamUnreachable, match=r"is at 10.0.0.1, a private network; BALLAST_PRIVATE_NETWORKS"):
        await ask(transport, "https://lane.example/v1")

    assert names.asked == 1


async def test_name_is_asked_once_and_its_judged_address_connected_to(monkeypatch):
    """Asked again, it would lead to where nothing listens: that answer is never looked at."""
    server = await asyncio.start_server(served, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    names = Names(monkeypatch, "127.0.0.1", "10.0.0.1")
    transport = Http1Transport(allowed=Allowed(LOOPBACK, ""))
    async with server:
        status = await ask(transport, f"http://lane.example:{port}/v1")
        await transport.close()

    assert (status, names.asked) == (200, 1)


async def test_redirect_of_a_lane_is_an_answer_and_not_followed(monkeypatch):
    """Wherever it leads."""

    async def elsewhere(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 302 Found\r\nlocation: http://10.0.0.1/\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(elsewhere, "127.0.0.1", 0)
    transport = Http1Transport(allowed=Allowed(LOOPBACK, ""))
    async with server:
        status = await ask(transport, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
        await transport.close()

    assert status == 302


async def test_gauge_is_judged_like_a_lane(monkeypatch, caplog):
    """A policy's author may not read the neighbours' metrics pages."""
    gauges = Gauges(leads=lambda: True, allowed=OUTSIDE)
    Names(monkeypatch, "10.0.0.1")

    page = await gauges._page("https://gpu.example/metrics")

    await gauges.stop()
    assert page is None
    assert "'gpu.example' is at 10.0.0.1, a private network" in caplog.text
