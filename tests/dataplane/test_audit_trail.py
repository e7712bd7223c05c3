"""An exported record is proved by itself and public keys; whatever is done to it is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dataplane.audit_trail import (
    EVENTS,
    GENESIS,
    MANIFEST,
    Anchor,
    Manifest,
    event_hash,
    folder_of,
    line_of,
    read_anchor,
    sign_anchor,
    sign_manifest,
    verify_folder,
    write_json,
)
from dataplane.release import key_id_of, sign
from dataplane.trust import encoded

PROJECT = Path(__file__).resolve().parents[2]
KEY, STRANGER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
TRUSTED = {key_id_of(KEY.public_key()): KEY.public_key()}


def chain(count, *, start=1, previous=GENESIS, actor="ada"):
    """Events that follow from one another."""
    events = []
    for seq in range(start, start + count):
        body = {
            "seq": seq,
            "at": f"2026-03-04T12:00:{seq:02d}.000000+00:00",
            "actor": actor,
            "action": "canary.knob_turned",
            "target": "canary:x",
            "data": {"to": "5 %", "nested": [1, 2.5, None, True, "é"]},
            "previous_hash": previous,
        }
        previous = event_hash(body)
        events.append(body | {"hash": previous})
    return events


def write_segment(folder, number, events, *, before="", key=KEY):
    """Write a segment as an export would; returns the digest of its manifest."""
    data = b"".join(line_of(event) for event in events)
    manifest = Manifest(
        number,
        events[0]["seq"],
        events[-1]["seq"],
        len(events),
        events[0]["previous_hash"],
        events[-1]["hash"],
        sha256(data).hexdigest(),
        before,
        "2026-03-04T12:01:00+00:00",
    )
    envelope = sign_manifest(manifest, key)
    segment = folder / folder_of(number)
    segment.mkdir(parents=True)
    (segment / EVENTS).write_bytes(data)
    (segment / MANIFEST).write_bytes(write_json(envelope))
    return envelope.digest


@pytest.fixture
def store(tmp_path):
    """Three segments of three events; the anchor knows the ninth."""
    events, before = chain(9), ""
    for number in (1, 2, 3):
        before = write_segment(tmp_path / "store", number, events[3 * number - 3 : 3 * number], before=before)
    return tmp_path / "store"


ANCHOR = Anchor(9, chain(9)[-1]["hash"], "anchor.json")


def problems(store, *, anchors=(ANCHOR,)):
    return [f"{one.where}: {one.problem}" for one in verify_folder(store, trusted=TRUSTED, anchors=anchors).findings]


def events_of(store, number):
    return (store / folder_of(number) / EVENTS).read_bytes().splitlines(keepends=True)


def test_untouched_record_is_whole(store):
    """Every event, every segment, up to the head that the anchor knows."""
    found = verify_folder(store, trusted=TRUSTED, anchors=[ANCHOR])

    assert found.findings == ()
    assert (found.segments, found.events, found.head_seq, found.head_hash) == (3, 9, 9, ANCHOR.hash)


@pytest.mark.parametrize("segment", [1, 2, 3])
@pytest.mark.parametrize("file", [EVENTS, MANIFEST])
def test_any_byte_that_is_flipped_is_found(store, segment, file):
    """At every place of both files, of every segment."""
    path = store / folder_of(segment) / file
    whole = path.read_bytes()
    missed = []
    for at in range(0, len(whole), 7 if file == EVENTS else 3):
        for flip in (0x01, 0x20, 0x80):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
            if not problems(store):
                missed.append((at, flip))
    path.write_bytes(whole)

    assert missed == []
    assert problems(store) == []


CLASSES = {
    "the hash of an event": (b'"hash":"', 8, "do not give its hash|is not what its manifest"),
    "the hash before": (b'"previous_hash":"', 17, "do not give its hash|does not follow"),
    "a number": (b'"seq":', 6, "out of order|no event|is not what its manifest"),
    "a time": (b'"at":"', 6, "do not give its hash"),
    "a name": (b'"actor":"', 9, "do not give its hash"),
    "data": (b'"to":"', 6, "do not give its hash"),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_what_is_changed_is_named_by_its_event(store, kind):
    """Whoever reads the finding knows where to look."""
    mark, offset, expected = CLASSES[kind]
    path = store / folder_of(2) / EVENTS
    data = bytearray(path.read_bytes())
    at = data.index(mark) + offset
    data[at] = ord("7") if data[at] != ord("7") else ord("8")
    path.write_bytes(data)

    found = problems(store)

    assert any("segment-0000000002" in one or "event" in one for one in found)
    assert any(word in one for one in found for word in expected.split("|"))


def rewrite(store, number, lines):
    (store / folder_of(number) / EVENTS).write_bytes(b"".join(lines))


def test_line_that_is_dropped_is_missed(store):
    """The event after it says that it is not there."""
    first, _, third = events_of(store, 2)
    rewrite(store, 2, [first, third])

    assert any(one.startswith("event 6: follows event 4") for one in problems(store))


def test_lines_in_another_order_are_found(store):
    """Each event says which one is before it."""
    lines = events_of(store, 2)
    rewrite(store, 2, [lines[1], lines[0], lines[2]])

    assert any("out of order" in one for one in problems(store))


def test_line_that_is_there_twice_is_found(store):
    """Repeated is out of order, too."""
    lines = events_of(store, 1)
    rewrite(store, 1, [lines[0], lines[0], *lines[1:]])

    assert any("repeated or out of order" in one for one in problems(store))


def test_segment_in_the_middle_that_is_taken_away_is_missed(store):
    """By its number, by the chain, and by the manifest after it."""
    shutil.rmtree(store / folder_of(2))

    found = problems(store)

    assert "segment-0000000002: is missing: the segments after it do not follow from those before" in found
    assert any(one.startswith("event 7: follows event 3") for one in found)


def test_last_segment_that_is_taken_away_is_told_by_the_anchor_alone(store):
    """What is left is whole in itself: that is why an anchor is kept elsewhere."""
    shutil.rmtree(store / folder_of(3))

    assert problems(store, anchors=()) == []
    assert problems(store) == ["anchor.json: knows event 9, the segments end at 6 (truncated, or not exported yet)"]


def test_tail_of_the_last_segment_that_is_cut_off_is_found(store):
    """Its manifest says how many there were."""
    rewrite(store, 3, events_of(store, 3)[:-1])

    assert any("says last 9, the events 8" in one for one in problems(store))


def test_segments_that_change_places_are_found(store):
    """Each manifest says whose it is."""
    one, two, aside = (store / name for name in (folder_of(1), folder_of(2), "aside"))
    one.rename(aside)
    two.rename(one)
    aside.rename(two)

    assert any("is that of segment 2 (moved)" in one for one in problems(store))


def test_segment_of_another_history_is_found(store):
    """Well signed by us, whole in itself, and of another deployment: it does not follow."""
    shutil.rmtree(store / folder_of(2))
    write_segment(store, 2, chain(3, start=4, previous="ab" * 32, actor="eve"), before="cd" * 32)

    found = problems(store)

    assert any("spliced" in one for one in found)
    assert any("event 4: does not follow from the event before it" in one for one in found)


def test_history_that_is_rewritten_by_who_has_the_key_is_told_by_the_anchor(store):
    """A chain proves order, a signature origin; what was true before is known by who kept the head."""
    shutil.rmtree(store)
    before = ""
    events = chain(9, actor="eve")
    for number in (1, 2, 3):
        before = write_segment(store, number, events[3 * number - 3 : 3 * number], before=before)

    assert problems(store, anchors=()) == []
    assert problems(store) == ["anchor.json: knows event 9 with another hash (history rewritten)"]


def test_manifest_that_somebody_else_signed_is_not_believed(store):
    """Nor one that is not there, nor one that is something else."""
    shutil.rmtree(store / folder_of(3))
    write_segment(store, 3, chain(9)[6:], before="", key=STRANGER)
    (store / folder_of(1) / MANIFEST).unlink()
    (store / folder_of(2) / MANIFEST).write_text("[]")

    found = problems(store)

    assert any(one.startswith("segment-0000000003/manifest.json: cannot be believed") for one in found)
    assert "segment-0000000001/manifest.json: is missing: nobody says what the segment held" in found
    assert any(one.startswith("segment-0000000002/manifest.json: cannot be believed") for one in found)


def test_what_no_export_wrote_is_named(store):
    """A file beside the segments, or in one."""
    (store / "notes.txt").write_text("x")
    (store / folder_of(1) / "more.jsonl").write_text("x")

    assert problems(store) == [
        "notes.txt: is nothing that an export wrote",
        "segment-0000000001/more.jsonl: is nothing that an export wrote",
    ]


@pytest.mark.parametrize("line", [b"not json\n", b"{}\n", b"[" * 10_000 + b"\n", b'{"seq": 1}\n', b"\xff\n", b"\n"])
def test_line_that_is_no_event_hides_nothing(store, line):
    """It is named, and the events around it are read on."""
    lines = events_of(store, 2)
    rewrite(store, 2, [lines[0], line, *lines[1:]])

    found = verify_folder(store, trusted=TRUSTED, anchors=[ANCHOR])

    assert found.events == 9
    assert any("line 2" in one.where for one in found.findings)


# --- anchors and the command ------------------------------------------------------------------------------------------
def a_release(seq, head):
    document = {"schema": 6, "audit_head": {"seq": seq, "hash": head}}
    return sign(document, KEY)


def test_anchor_is_read_from_its_own_file_and_from_a_release(tmp_path):
    """A release on any worker's disk will do."""
    anchor = sign_anchor(segment=3, seq=9, head_hash=ANCHOR.hash, at="t", key=KEY)

    for envelope in (anchor, a_release(9, ANCHOR.hash)):
        assert read_anchor(write_json(envelope), trusted=TRUSTED, source="anchor.json") == ANCHOR


def run(*arguments):
    """The command in a process of its own, with nothing in its environment, in no directory of ours."""
    done = subprocess.run(
        [sys.executable, "-m", "dataplane", "verify-audit", *map(str, arguments)],
        cwd=PROJECT,
        env={},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_command_needs_a_folder_and_keys_and_nothing_else(store, tmp_path):
    """No database, no settings: 0 and a summary for a whole record, 1 and every finding for another."""
    keys, anchor = tmp_path / "trusted-keys.json", tmp_path / "anchor.json"
    keys.write_text(json.dumps({key_id_of(KEY.public_key()): encoded(KEY.public_key())}))
    anchor.write_bytes(write_json(sign_anchor(segment=3, seq=9, head_hash=ANCHOR.hash, at="t", key=KEY)))

    whole = run(store, "--trusted-keys", keys, "--anchor", anchor)
    without = run(store, "--trusted-keys", keys)
    shutil.rmtree(store / folder_of(3))
    cut = run(store, "--trusted-keys", keys, "--anchor", anchor)
    anchor.write_bytes(write_json(sign_anchor(segment=3, seq=9, head_hash=ANCHOR.hash, at="t", key=STRANGER)))
    forged = run(store, "--trusted-keys", keys, "--anchor", anchor)

    assert whole[0] == 0
    assert f"3 segments, 9 events, head 9 {ANCHOR.hash}, 1 anchors held against it, 0 findings" in whole[1]
    assert (without[0], "no anchor was given" in without[1]) == (0, True)
    assert (cut[0], "truncated" in cut[1]) == (1, True)
    assert (forged[0], "is not trusted here" in forged[1]) == (1, True)
