"""Which keys a host believes, as statements change them; and how an agent and a gateway live through a rotation."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from dataplane.agent import Reconciler, ReleaseKeeper
from dataplane.pulse import Pulse
from dataplane.release import BadSignature, UnknownKey, key_id_of, sign
from dataplane.trust import (
    Statement,
    encoded,
    follow,
    merged,
    read_kept,
    read_statement,
    read_trusted,
    sign_statement,
    trust_file,
    written,
)
from dataplane.watcher import ReleaseWatcher
from tests.dataplane.conftest import SECTIONS

OLD, NEW, THIRD, STRANGER = (Ed25519PrivateKey.generate() for _ in range(4))
ID = {key: key_id_of(key.public_key()) for key in (OLD, NEW, THIRD, STRANGER)}
ROOT = {ID[OLD]: OLD.public_key()}


def said(serial, by, *, adds=(), retires=(), compromised=False):
    """A statement that `by` signs."""
    statement = Statement(
        serial, {ID[key]: encoded(key.public_key()) for key in adds}, tuple(ID[key] for key in retires), compromised
    )
    return sign_statement(statement, by)


ANNOUNCED = said(1, OLD, adds=[NEW])
RETIRED = said(2, NEW, retires=[OLD])


def release(revision, by, *statements):
    """A release that `by` signs and that carries these."""
    trust = {"signing": ID[by], "statements": [one.to_mapping() for one in statements]}
    document = {
        "schema": 6,
        "revision": revision,
        "cut_at": "2026-01-02T03:04:05Z",
        "reason": "r",
        "audit_head": {"seq": 1, "hash": "ab" * 32},
        "sections": {**SECTIONS, "trust": trust},
    }
    return sign(document, by)


# --- what follows from statements -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("statements", "believed"),
    [
        ([], {OLD}),
        ([ANNOUNCED], {OLD, NEW}),
        ([ANNOUNCED, RETIRED], {NEW}),
        # What says nothing: a stranger, a key before it is believed, a key after it was retired, a statement altered.
        ([said(1, STRANGER, adds=[STRANGER])], {OLD}),
        ([RETIRED, ANNOUNCED], {OLD, NEW}),
        ([ANNOUNCED, RETIRED, said(3, OLD, adds=[STRANGER])], {NEW}),
        ([ANNOUNCED, RETIRED, said(3, NEW, adds=[OLD])], {NEW}),
        ([replace(ANNOUNCED, document=ANNOUNCED.document.replace("false", "true"))], {OLD}),
        # Nobody is left with no key at all.
        ([said(1, OLD, retires=[OLD])], {OLD}),
    ],
)
def test_statements_change_what_is_believed_if_who_signs_them_is(statements, believed):
    """One after the other, each by the keys that the ones before it left."""
    assert set(follow(ROOT, statements).keys) == {ID[key] for key in believed}


def test_key_that_was_retired_is_known_for_what_it_signed_before_unless_it_is_compromised():
    """A dump made last year can still be believed; one that anybody may have signed cannot."""
    in_order = follow(ROOT, [ANNOUNCED, RETIRED])
    in_haste = follow(ROOT, [ANNOUNCED, said(2, NEW, retires=[OLD], compromised=True)])

    assert set(in_order.past_and_present) == {ID[OLD], ID[NEW]}
    assert set(in_haste.past_and_present) == {ID[NEW]}


def test_statement_is_no_release_and_no_release_is_a_statement():
    """Each kind has a prefix of its own under the signature."""
    document = json.loads(ANNOUNCED.document)

    with pytest.raises(BadSignature):
        read_statement(sign(document, OLD), trusted=ROOT)
    with pytest.raises(UnknownKey):
        read_statement(said(1, STRANGER), trusted=ROOT)


@given(st.lists(st.sampled_from([ANNOUNCED, RETIRED, said(3, NEW, adds=[THIRD]), said(3, OLD, adds=[STRANGER])])))
def test_older_list_takes_no_retirement_back(heard):
    """Whatever is sent afterwards, in whatever order, once a host has heard that a key is retired it stays so."""
    kept = (ANNOUNCED, RETIRED)

    after = follow(ROOT, merged(kept, heard)).keys

    assert ID[OLD] not in after
    assert ID[STRANGER] not in after


# --- on a host --------------------------------------------------------------------------------------------------------
@pytest.fixture
def host(tmp_path):
    """A host that begins with the old key: its files, an agent, and a gateway's watcher."""
    (tmp_path / "trusted.json").write_text(json.dumps({ID[OLD]: encoded(OLD.public_key())}))
    return Host(tmp_path)


class Host:
    def __init__(self, home):
        self.release_file, self.trusted = home / "release.json", home / "trusted.json"
        self.refused = []
        files = {"release_file": self.release_file, "trusted_keys_file": self.trusted}
        self.agent = ReleaseKeeper(**files, acknowledge=self._note("agent"))
        self.gateway = ReleaseWatcher(**files, acknowledge=self._note("gateway"))

    def _note(self, who):
        def note(*, revision, digest, verdict, reason=""):
            if verdict == "nack":
                self.refused.append((who, revision, reason.partition(":")[0]))

        return note

    def push(self, envelope):
        self.agent.receive(envelope.to_mapping())
        self.gateway.poll()
        return self.gateway.current.revision if self.gateway.current else None

    def restarted(self):
        files = {"release_file": self.release_file, "trusted_keys_file": self.trusted}
        self.agent = ReleaseKeeper(**files, acknowledge=self._note("agent"))
        self.gateway = ReleaseWatcher(**files, acknowledge=self._note("gateway"))
        self.gateway.poll()
        return self.gateway.current.revision


def test_host_follows_a_rotation_without_refusing_anything(host):
    """Announced by the old key, signed by the new one, the old one retired: five releases, five served, no NACK."""
    served = [
        host.push(one)
        for one in (
            release(1, OLD),
            release(2, OLD, ANNOUNCED),
            release(3, NEW, ANNOUNCED),
            release(4, NEW, ANNOUNCED, RETIRED),
            release(5, NEW, ANNOUNCED, RETIRED),
        )
    ]

    assert served == [1, 2, 3, 4, 5]
    assert host.refused == []
    assert host.restarted() == 5
    assert set(host.gateway.trusted_keys()) == {ID[NEW]}


def test_release_of_a_retired_key_is_refused_by_agent_and_gateway(host):
    """Although it stands in the trusted keys file: who stole it gets nowhere."""
    for one in (release(1, OLD, ANNOUNCED), release(2, NEW, ANNOUNCED, RETIRED)):
        host.push(one)
    forged = release(3, OLD, ANNOUNCED)

    by_push = host.push(forged)
    host.release_file.write_text(forged.to_json())  # by somebody who got as far as the disk
    host.gateway.poll()

    assert (by_push, host.gateway.current.revision) == (2, 2)
    assert host.refused == [("agent", 3, "unknown_key"), ("gateway", 3, "unknown_key")]


def test_release_signed_by_a_key_that_nobody_announced_is_refused(host):
    """Nor does it help to bring a statement along: its signer is not believed."""
    host.push(release(1, OLD))

    assert host.push(release(2, STRANGER, said(1, STRANGER, adds=[STRANGER]))) == 1
    assert host.refused == [("agent", 2, "unknown_key")]


def test_agent_that_died_between_release_and_statements_keeps_them_at_its_next_start(host):
    """The release on disk has them."""
    host.push(release(1, OLD, ANNOUNCED))
    trust_file(host.release_file).unlink()

    host.restarted()

    assert read_kept(host.release_file) == (ANNOUNCED,)
    assert host.push(release(2, NEW, ANNOUNCED)) == 2


@pytest.mark.parametrize("damage", [b"", b"{", b'{"statements": [{"document": 1}]}', b"\xff" * 40])
def test_damaged_statements_believe_nobody_until_they_are_written_anew(host, damage):
    """Left out, they would let a retired key sign again. What is served goes on."""
    host.push(release(1, OLD, ANNOUNCED))
    trust_file(host.release_file).write_bytes(damage)

    with pytest.raises(ValueError, match="statements about signing keys"):
        read_trusted(host.trusted, host.release_file)
    assert host.gateway.current.revision == 1
    assert dict(host.gateway.trusted_keys()) == {}


def test_host_that_was_away_for_a_whole_rotation_asks_how_keys_changed(host):
    """It is offered a release that none of its keys signed; the statements prove themselves, from the key it knows."""
    host.push(release(1, OLD))
    current = release(9, NEW, ANNOUNCED, RETIRED)
    asked = []

    def console(request):
        asked.append(request.url.path.rpartition("/")[2])
        trust = {"signing": ID[NEW], "statements": [one.to_mapping() for one in (ANNOUNCED, RETIRED)]}
        return httpx.Response(200, json=trust if asked[-1] == "trust" else current.to_mapping())

    assert reconciler(host, console).reconcile() is True
    host.gateway.poll()
    assert asked == ["current", "trust"]
    assert host.gateway.current.revision == 9


@pytest.mark.parametrize("answer", ["404", "[]", '{"statements": 7}', "no JSON", "lies"])
def test_answer_about_keys_that_says_nothing_changes_nothing(host, answer):
    """Nor does a lie: what a stranger signs is kept by nobody's leave."""
    host.push(release(1, OLD))
    lie = {"signing": ID[STRANGER], "statements": [said(1, STRANGER, adds=[STRANGER]).to_mapping()]}

    def console(request):
        if not request.url.path.endswith("trust"):
            return httpx.Response(200, json=release(2, STRANGER).to_mapping())
        if answer == "404":
            return httpx.Response(404)
        return httpx.Response(200, text=json.dumps(lie) if answer == "lies" else answer)

    assert reconciler(host, console).reconcile() is False
    assert set(read_trusted(host.trusted, host.release_file)) == {ID[OLD]}
    assert host.agent.current.revision == 1


def reconciler(host, console):
    return Reconciler(
        receive=host.agent.receive,
        current_digest=lambda: host.agent.current.digest,
        learn=host.agent.learn,
        lacks_key=lambda: host.agent.lacks_key,
        client=httpx.Client(transport=httpx.MockTransport(console)),
        url="http://console/api/v1/releases/current",
        interval_seconds=3600,
        rng=random.Random(1),
        pulse=Pulse(within_seconds=60),
    )


def test_what_is_written_is_read(host):
    """The file of a host holds exactly what it was given."""
    trust_file(host.release_file).write_bytes(written([ANNOUNCED, RETIRED]))

    assert read_kept(host.release_file) == (ANNOUNCED, RETIRED)
