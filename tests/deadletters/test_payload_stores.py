"""The stores that an operator can name, as letters use them: a directory, and a server of S3's kind."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from controlplane.deadletters import payloads, retention, tasks
from controlplane.deadletters.checks import Checker, NotNow
from controlplane.deadletters.models import DeadLetter
from controlplane.work import arguments, handlers
from controlplane.work.models import Task
from dataplane.stores.payloads import PayloadGone, PayloadUnavailable
from tests.contracts.payload_server import S3Server, serve_s3
from tests.deadletters.letters import make_letter
from tests.factories import NOW

pytestmark = pytest.mark.django_db

PAYLOAD = b'{"secret":1}'
DAY = timedelta(days=1)
Files = Callable[[], list[Path]]


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server of S3's kind, for as long as the tests of this file last."""
    with serve_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def on_s3(s3: S3Server, settings, monkeypatch: pytest.MonkeyPatch) -> Files:
    """Name that server as an operator does; returns what tells the files of a part of the bucket that is empty."""
    for name, value in s3.variables.items():
        monkeypatch.setenv(name, value)
    prefix = str(uuid.uuid4())
    settings.PAYLOAD_STORE, settings.PAYLOAD_OVER_HTTP = s3.url(prefix), True
    return lambda: s3.objects(prefix)


@pytest.fixture(params=["directory", "s3"])
def files(request: pytest.FixtureRequest, settings, tmp_path: Path) -> Files:
    """What tells which files an empty store has."""
    if request.param == "s3":
        told: Files = request.getfixturevalue("on_s3")
        return told
    settings.PAYLOAD_STORE = (tmp_path / "payloads").as_uri()
    return lambda: [path for path in (tmp_path / "payloads").rglob("*") if path.is_file()]


def do_all_work() -> None:
    """Do what was handed in as durable work, once."""
    for task in Task.objects.all():
        handler = handlers.find(task.kind)
        handler.run(arguments.read(bytes(task.arguments)), handlers.Attempt(task.pk, task.kind, 1, ""))


def test_payload_lives_in_the_store_until_its_time_is_over(files: Files) -> None:
    """Out of the table, encrypted, readable to us, and gone with the purge; what is not due stays."""
    letter, kept = make_letter(payload=PAYLOAD), make_letter(at=NOW + 5 * DAY, payload=PAYLOAD)

    assert tasks.store_payloads() == 2
    letter.refresh_from_db()
    name, key = letter.payload_name, letter.payload_key
    lying = [path.read_bytes() for path in files()]
    assert (letter.payload_state, letter.payload_body, len(lying)) == ("stored", None, 2)
    assert all(b"secret" not in noise for noise in lying)
    assert payloads.payload_of(letter, payloads.payload_store()) == PAYLOAD
    assert retention.purge_expired(now=NOW + 31 * DAY) == 1
    do_all_work()
    do_all_work()  # whoever was killed in between does it again

    assert len(files()) == 1
    with pytest.raises(PayloadGone):
        payloads.payload_store().get(name, key)
    assert payloads.payload_of(kept, payloads.payload_store()) == PAYLOAD


def test_while_s3_is_away_payloads_wait_in_the_table(s3: S3Server, on_s3: Files) -> None:
    """Nothing is lost on either side: what lies there is waited for, by a redrive too, and what is to go there goes
    when it is back.
    """
    there = make_letter(payload=PAYLOAD)
    assert tasks.store_payloads() == 1
    waiting = [make_letter(payload=PAYLOAD) for _ in range(4)]
    s3.stop()
    try:
        assert tasks.store_payloads() == 0
        with pytest.raises(PayloadUnavailable):
            payloads.payload_of(there, payloads.payload_store())
        there.refresh_from_db()
        with pytest.raises(NotNow):
            Checker(payloads.payload_store(), edit=None, now=NOW).check(there)
        rows = DeadLetter.objects.filter(pk__in=[letter.pk for letter in waiting])
        assert {(row.payload_state, bytes(row.payload_body or b"")) for row in rows} == {("pending", PAYLOAD)}
    finally:
        s3.start()

    assert tasks.store_payloads() == len(waiting)

    assert len(on_s3()) == 1 + len(waiting)
    for letter in [there, *waiting]:
        assert payloads.payload_of(letter, payloads.payload_store()) == PAYLOAD
