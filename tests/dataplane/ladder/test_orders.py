"""What a gateway process obeys of what was ordered on its host, and how it survives whatever stands in the file."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dataplane.ladder.emergency import Given, sign_order
from dataplane.ladder.orders import MAX_FILE_BYTES, HostOrders
from dataplane.stores.files import write_atomically
from tests.dataplane.ladder.test_emergency import orders_in
from tests.ladders import rung_copy


class Host:
    """A file of orders, and one process that watches it."""

    def __init__(self, tmp_path: Any, clock: Any, key: Any, trusted: Any) -> None:
        self.file = tmp_path / "emergency.json"
        self.clock = clock
        self.key = key
        self.trusted = trusted
        self.is_broken = False
        self.told = asyncio.Event()
        self.obeyed: list[dict[str, tuple[str, ...]]] = []
        self.events: list[Any] = []
        self.orders = HostOrders(
            file=self.file,
            trusted=self._keys,
            obey=self._obey,
            report=self.events.append,
            wall=clock.now,
            poll_seconds=0.001,
        )

    def _keys(self) -> Any:
        if self.is_broken:
            self.is_broken = False
            raise RuntimeError("once")
        return self.trusted

    def _obey(self, by_surface: Any) -> None:
        self.obeyed.append({surface: tuple(one.id for one in ones) for surface, ones in by_surface.items()})
        self.told.set()

    def given(
        self, order: Any, *, name: str = "emergency-1", after: int = 0, minutes: int = 10, key: Any = None
    ) -> Any:
        """As the command writes it."""
        since = datetime.fromtimestamp(self.clock.now() + after, UTC)
        until = since + timedelta(minutes=minutes)
        return Given(name, sign_order(order, key or self.key), since, until, "fire", "oncall").to_mapping()

    def write(self, *orders: Any) -> None:
        write_atomically(self.file, orjson.dumps({"orders": orders}))

    @property
    def stands(self) -> dict[str, tuple[str, ...]]:
        """What the desk was told last."""
        return self.obeyed[-1] if self.obeyed else {}


@pytest.fixture
def host(tmp_path, clock, signing_key, trusted):
    return Host(tmp_path, clock, signing_key, trusted)


def test_without_a_file_nothing_is_ordered(host, ladder_release):
    """And the desk need not be told."""
    host.orders.adopt(ladder_release())
    host.orders.poll()

    assert host.obeyed == []


def test_order_is_obeyed_reported_once_and_ends_by_itself(host, ladder_release):
    """The event says who, why and until when."""
    release = ladder_release()
    host.orders.adopt(release)
    host.write(host.given(orders_in(release)[6]))

    for _ in range(3):
        host.orders.poll()

    assert host.obeyed == [{"web-chat": ("emergency-1",)}]
    [event] = host.events
    assert event.to_json() == {
        "at": host.clock.now(),
        "kind": "ladder.ordered",
        "data": {
            "id": "emergency-1",
            "surface": "web-chat",
            "rung": 6,
            "until": host.clock.now() + 600,
            "reason": "fire",
            "by": "oncall",
        },
    }
    host.clock.advance(600)
    host.orders.poll()
    assert host.stands == {}


def test_standing_down_is_obeyed(host, ladder_release):
    """Whether the order was taken out of the file, or the file away."""
    release = ladder_release()
    host.orders.adopt(release)
    for take_back in (host.write, host.file.unlink):
        host.write(host.given(orders_in(release)[6]))
        host.orders.poll()
        assert host.stands

        take_back()
        host.orders.poll()

        assert host.stands == {}


def test_order_waits_for_a_release_and_for_its_time(host, ladder_release):
    """An order for later does not last longer than one for now."""
    release = ladder_release()
    host.write(host.given(orders_in(release)[6], after=30))
    host.orders.poll()
    host.orders.adopt(release)
    assert host.obeyed == []

    host.clock.advance(30)
    host.orders.poll()

    assert host.stands == {"web-chat": ("emergency-1",)}


def test_release_with_other_words_ends_an_order_and_the_old_words_bring_it_back(host, ladder_release):
    """Each release is held against what is ordered, without anybody touching the file."""
    release = ladder_release()
    host.write(host.given(orders_in(release)[6]))
    host.orders.poll()
    host.orders.adopt(release)
    assert host.stands

    host.orders.adopt(ladder_release(copy=rung_copy(1, 2, 3)))
    assert host.stands == {}
    host.orders.adopt(release)

    assert host.stands == {"web-chat": ("emergency-1",)}
    assert len(host.events) == 1


def test_bad_order_does_not_keep_good_ones_from_being_obeyed(host, ladder_release, caplog):
    """Of a forged one, a log line is all that is left, however often it is met."""
    release = ladder_release()
    orders = orders_in(release)
    stranger = Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)
    host.orders.adopt(release)
    altered = host.given(orders[4], name="emergency-2")
    altered["envelope"]["document"] = altered["envelope"]["document"].replace('"rung":4', '"rung":6')
    host.write(
        host.given(orders[1]),
        altered,
        host.given(orders[6], name="emergency-3", key=stranger),
        host.given(orders[6], name="emergency-4", minutes=61),
    )

    for _ in range(3):
        host.orders.poll()
        host.orders.adopt(release)

    assert host.stands == {"web-chat": ("emergency-1",)}
    for name, code in (("2", "bad_signature"), ("3", "unknown_key"), ("4", "order_refused")):
        assert caplog.text.count(f"emergency-{name} is not obeyed: {code}") == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b'{"orders": [1]}', b"[" * 100_000, b" " * (MAX_FILE_BYTES + 1)],
    ids=["empty", "cut", "binary", "array", "number", "deep", "long"],
)
def test_damaged_file_is_said_once_and_nothing_of_it_obeyed(host, ladder_release, caplog, content):
    """Requests are served as if nothing were ordered, and what is written next is read."""
    release = ladder_release()
    host.orders.adopt(release)
    host.write(host.given(orders_in(release)[6]))
    host.orders.poll()
    write_atomically(host.file, content)

    for _ in range(3):
        host.orders.poll()

    assert host.stands == {}
    assert caplog.text.count("nothing of it is obeyed") == 1
    host.write(host.given(orders_in(release)[4], name="emergency-2"))
    host.orders.poll()
    assert host.stands == {"web-chat": ("emergency-2",)}


def test_key_that_is_trusted_no_longer_ends_an_order(host, ladder_release):
    """And one that is trusted from now on begins it."""
    release = ladder_release()
    host.orders.adopt(release)
    known, host.trusted = host.trusted, {}
    host.write(host.given(orders_in(release)[6]))
    host.orders.poll()
    assert host.obeyed == []

    host.trusted = known
    host.orders.poll()
    assert host.stands
    host.trusted = {}
    host.orders.poll()

    assert host.stands == {}


def test_file_that_could_not_be_read_is_read_once_it_can_be(host, ladder_release, tmp_path):
    """Who may read it is no part of what tells one state of it from another."""
    release = ladder_release()
    host.orders.adopt(release)
    host.file.mkdir()
    host.orders.poll()
    host.file.rmdir()
    host.write(host.given(orders_in(release)[6]))

    host.orders.poll()

    assert host.stands == {"web-chat": ("emergency-1",)}


async def test_process_obeys_from_its_start_and_goes_on_looking(host, ladder_release):
    """A restart in the middle of an emergency changes nothing; trouble with the keys does not stop it."""
    release = ladder_release()
    host.orders.adopt(release)
    host.write(host.given(orders_in(release)[6]))
    await host.orders.start()
    assert host.stands == {"web-chat": ("emergency-1",)}

    host.told.clear()
    host.is_broken, host.trusted = True, {}
    await asyncio.wait_for(host.told.wait(), 60)

    assert host.stands == {}
    assert not host.is_broken
    await host.orders.stop()
