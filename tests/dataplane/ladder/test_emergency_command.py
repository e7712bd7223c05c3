"""Commands on a host that nothing else reaches: engaging a rung, standing down, and what can be engaged."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dataplane.ladder.emergency import obeyed, orders_of, parse_given, sign_order
from dataplane.ladder.emergency_command import Host, engage, list_orders, stand_down
from dataplane.ladder.errors import CommandRefused
from dataplane.release import parse_document, sign
from tests.ladders import rung_copy

ROOT = Path(__file__).resolve().parents[3]
NOW = datetime(2026, 3, 4, 5, 30, tzinfo=UTC)


class OneHost:
    """A host with a release on its disk and nothing that runs."""

    def __init__(self, directory: Path, trusted_keys_file: Path, make_document: Any, sections: Any, key: Any) -> None:
        self.file = directory / "emergency.json"
        self.key = key
        self.host = Host(directory / "release.json", trusted_keys_file, "http://127.0.0.1:8080")
        self._make_document = make_document
        self._sections = sections

    def write(self, revision: int = 1, *, order_key: Any = None, moved: Any = None, **changes: Any) -> Any:
        """As the agent does, a release with its orders; `moved` puts the order of a rung where that of another is."""
        document = self._make_document(revision, **self._sections(**changes))
        release = parse_document(document, digest="d" * 64)
        signed = {slug: (piece.reference, piece.digest) for slug, piece in release.copy.items()}
        orders = {
            str(order.rung): sign_order(order, order_key or self.key).to_mapping()
            for order in orders_of(release.ladder, signed)
        }
        for there, here in (moved or {}).items():
            orders[there] = orders[here]
        document["sections"]["emergency"] = {"web-chat": orders}
        self.host.release_file.write_text(sign(document, self.key).to_json())
        return release

    def engage(self, rung: int = 6, **changes: Any) -> str:
        values: dict[str, Any] = {"minutes": 30, "reason": "fire", "by": "oncall", "now": NOW}
        return engage(self.host, "web-chat", rung, **values | changes)

    @property
    def given(self) -> Any:
        """What is ordered on it."""
        return parse_given(json.loads(self.file.read_bytes()))


@pytest.fixture
def host(tmp_path, trusted_keys_file, make_document, ladder_sections, signing_key):
    return OneHost(tmp_path, trusted_keys_file, make_document, ladder_sections, signing_key)


def test_engaging_writes_an_order_that_gateways_obey(host, trusted):
    """For as long as was said, readable for its owner alone; the words say how to undo it."""
    release = host.write()

    said = host.engage(6)

    [given] = host.given
    activation = obeyed(given, trusted=trusted, release=release)
    assert (activation.surface, activation.rung) == ("web-chat", 6)
    assert (given.since, given.until, given.reason, given.by) == (NOW, NOW + timedelta(minutes=30), "fire", "oncall")
    assert stat.S_IMODE(host.file.stat().st_mode) == 0o600
    assert "rung 6 (Maintenance) of web-chat on this host until 2026-03-04 06:00:00 UTC (30 min)" in said
    assert "rung-6@1" in said
    assert "python -m dataplane stand-down web-chat" in said


def test_engaging_again_takes_the_place_of_what_was_ordered(host):
    """One order for each surface, and none that is over."""
    host.write()
    host.engage(6)

    host.engage(4, now=NOW + timedelta(minutes=1))

    assert [given.id.rsplit("-", 1)[0] for given in host.given] == ["emergency-web-chat-4"]


def test_standing_down_takes_the_order_back_and_twice_is_once(host):
    """It needs no release, since there may be none to read."""
    host.write()
    host.engage(6)
    host.host.release_file.unlink()

    assert "Stood down web-chat on this host: emergency-web-chat-6-" in stand_down(host.host, "web-chat", now=NOW)
    assert host.given == ()
    assert "Nothing is ordered for web-chat" in stand_down(host.host, "web-chat", now=NOW)


def test_standing_another_surface_down_leaves_this_one(host):
    """Each is by itself."""
    host.write()
    host.engage(6)

    stand_down(host.host, "voice", now=NOW)

    assert len(host.given) == 1


def test_list_says_what_can_be_engaged_and_what_is(host):
    """A rung whose words are unsigned has no order."""
    host.write(copy=rung_copy(1, 6))
    host.engage(6)

    said = list_orders(host.host, now=NOW)

    assert "1 Shorter answers: up to 60 min, words rung-1@1\n" in said
    assert "4 Answers later: no order" in said
    assert "6 Maintenance: up to 60 min, words rung-6@1; ENGAGED until 2026-03-04 06:00:00 UTC by oncall: fire" in said
    host.write(2, copy=rung_copy(1))
    assert "is not obeyed: rung 6 of surface 'web-chat' has no signed words" in list_orders(host.host, now=NOW)


@pytest.mark.parametrize("minutes", [0, -5, 61, 10**9])
def test_longer_than_was_signed_is_refused(host, minutes):
    """And nothing is written."""
    host.write()

    with pytest.raises(CommandRefused, match="1 to 60 min"):
        host.engage(6, minutes=minutes)

    assert not host.file.exists()


@pytest.mark.parametrize("changes", [{"reason": " "}, {"reason": "x" * 301}, {"by": "x" * 151}, {"by": ""}])
def test_what_gateways_would_not_read_back_is_refused(host, changes):
    """Before it is written."""
    host.write()

    with pytest.raises(CommandRefused):
        host.engage(6, **changes)

    assert not host.file.exists()


def test_what_is_not_there_is_refused_with_what_is(host):
    """A surface, a rung that does not exist, and one whose words nobody signed."""
    host.write(copy=rung_copy(1, 6))

    with pytest.raises(CommandRefused, match="no surface 'voice'; there are: web-chat"):
        engage(host.host, "voice", 6, minutes=1, reason="r", by="b", now=NOW)
    with pytest.raises(CommandRefused, match="7 is no rung"):
        host.engage(7)
    with pytest.raises(CommandRefused, match=r"no order for rung 4 of 'web-chat'.*there are: 1, 6"):
        host.engage(4)


def test_order_of_another_key_is_not_to_be_had(host):
    """Although the release around it is good."""
    host.write(order_key=Ed25519PrivateKey.from_private_bytes(b"\x02" * 32))

    with pytest.raises(CommandRefused, match="that this host may obey; there are: none"):
        host.engage(6)


def test_order_under_the_name_of_another_rung_is_not_to_be_had(host):
    """Nobody engages maintenance who asks for shorter answers."""
    host.write(moved={"1": "6"})

    with pytest.raises(CommandRefused, match="there are: 2, 3, 4, 5, 6"):
        host.engage(1)


@pytest.mark.parametrize("content", [None, "", "{}", "altered"])
def test_without_a_good_release_nothing_can_be_engaged(host, content):
    """The message says what is wrong with it."""
    host.write()
    if content is None:
        host.host.release_file.unlink()
    else:
        text = host.host.release_file.read_text()
        host.host.release_file.write_text(text.replace("Web chat", "Web cat") if content == "altered" else content)

    with pytest.raises(CommandRefused, match="no usable release"):
        host.engage(6)
    with pytest.raises(CommandRefused, match="no usable release"):
        list_orders(host.host, now=NOW)


def test_damaged_file_is_no_obstacle(host):
    """It counts for nothing, and whoever acts is told so."""
    host.write()
    host.file.write_text("{")

    assert "was damaged and counted for nothing" in host.engage(6)
    assert len(host.given) == 1
    host.file.write_text("[]")
    assert "was damaged" in stand_down(host.host, "web-chat", now=NOW)
    assert host.given == ()


def run(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """The real command, in an environment that names no service and has none."""
    variables = {"PATH": os.environ["PATH"], "BALLAST_DATA_DIR": str(directory), "USER": "ops"}
    command = [sys.executable, "-m", "dataplane", *arguments]
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=120)


def test_commands_work_where_nothing_else_does(host, trusted, tmp_path, trusted_keys_file):
    """No database, no broker, no control plane: a release on disk is enough. What is wrong is one line and status 1."""
    release = host.write()
    (tmp_path / "keys").mkdir()
    trusted_keys_file.rename(tmp_path / "keys" / "trusted-keys.json")

    done = run("engage", "web-chat", "5", "--minutes", "20", "--reason", "all is down", directory=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Engaged rung 5 (Known answers only) of web-chat" in done.stdout
    [given] = host.given
    assert given.by == "ops"
    assert obeyed(given, trusted=trusted, release=release).rung == 5
    assert "ENGAGED until" in run("orders", directory=tmp_path).stdout

    done = run("stand-down", "web-chat", directory=tmp_path)
    assert (done.returncode, host.given) == (0, ())
    done = run("engage", "web-chat", "5", "--minutes", "99", "--reason", "r", directory=tmp_path)
    assert done.returncode == 1
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("ballast engage: rung 5 of 'web-chat' can be engaged for 1 to 60 min")
