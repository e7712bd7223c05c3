"""The audit record outside its database: how segments of it are written, and what proves that nobody touched one.

Verifying needs this module, a folder and public keys: no database, no settings, no network. Pure but for reading files.

A store of segments holds one folder per segment, `segment-0000000001/` and so on, each with two objects:
    events.jsonl   one event a line, oldest first, each line canonical JSON (RFC 8785)
    manifest.json  an envelope, signed with a key that signs releases, around what the segment holds
Shape of an event: {"seq": int, "at": ISO-8601, "actor", "action", "target": str, "data": {}, "previous_hash", "hash":
                   SHA-256 hex}; its hash covers all else, so each event seals all before it.
Shape of a manifest: {"segment": int, "first", "last", "events": int, "previous_hash", "head_hash", "events_sha256":
                      SHA-256 hex, "previous_manifest": digest of the manifest before, "" in the first, "exported_at"}.
Shape of an anchor: {"segment", "seq": int, "hash": SHA-256 hex, "at": ISO-8601}: the head, kept somewhere else.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dataplane import release
from dataplane.documents import MalformedRelease, Node, ReleaseRefused, parse_json
from dataplane.release import Envelope, canonical, sign_under, verified_digest

Keys = Mapping[str, Ed25519PublicKey]

GENESIS: Final = "0" * 64
EVENTS: Final = "events.jsonl"
MANIFEST: Final = "manifest.json"
MAX_LINE_BYTES: Final = 16 * 1024 * 1024
_MANIFEST_PREFIX: Final = b"ballast.audit.v1\n"
_ANCHOR_PREFIX: Final = b"ballast.audit-anchor.v1\n"
_FOLDER: Final = re.compile(r"segment-(\d{10})\Z")
_MEMBERS: Final = ("seq", "at", "actor", "action", "target", "data", "previous_hash", "hash")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a segment holds; see the module."""

    segment: int
    first: int
    last: int
    events: int
    previous_hash: str
    head_hash: str
    events_sha256: str
    previous_manifest: str
    exported_at: str

    @classmethod
    def parse(cls, content: object, *, path: str = "$manifest") -> Manifest:
        """Read the document of a manifest, or raise MalformedRelease."""
        members = Node(content, path).members(*cls.__slots__)
        return cls(
            segment=members["segment"].integer(minimum=1),
            first=members["first"].integer(minimum=1),
            last=members["last"].integer(minimum=1),
            events=members["events"].integer(minimum=1),
            previous_hash=members["previous_hash"].sha256(),
            head_hash=members["head_hash"].sha256(),
            events_sha256=members["events_sha256"].sha256(),
            previous_manifest=members["previous_manifest"].text(empty=True),
            exported_at=members["exported_at"].text(),
        )

    def to_mapping(self) -> dict[str, Any]:
        """What `parse` reads."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Anchor:
    """The head of the chain as somebody else keeps it."""

    seq: int
    hash: str
    source: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One place where the record is not what it was; `where` is a segment, an event or an anchor."""

    where: str
    problem: str


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found. Only no finding and at least one anchor is a clean bill: without one, a record that was cut off
    at the end of a segment looks whole.
    """

    segments: int
    events: int
    anchors: int
    head_seq: int
    head_hash: str
    findings: tuple[Finding, ...]


def folder_of(segment: int) -> str:
    """The folder of a segment."""
    return f"segment-{segment:010d}"


def event_hash(body: Mapping[str, Any]) -> str:
    """The chain hash of an event: SHA-256, in hex, over the canonical JSON of every member but `hash`.

    Raises:
        ValueError: it holds something that JSON cannot carry exactly.
    """
    return hashlib.sha256(canonical({name: value for name, value in body.items() if name != "hash"})).hexdigest()


def line_of(event: Mapping[str, Any]) -> bytes:
    """An event as a segment has it, with the end of its line."""
    return canonical(event) + b"\n"


def sign_manifest(manifest: Manifest, key: Ed25519PrivateKey) -> Envelope:
    """Sign what a segment holds."""
    return sign_under(manifest.to_mapping(), key, prefix=_MANIFEST_PREFIX)


def read_manifest(data: bytes, *, trusted: Keys) -> tuple[Manifest, str]:
    """A manifest and the digest of its document.

    Raises:
        ReleaseRefused: it is none, or not what the holder of a trusted key signed.
    """
    envelope = Envelope.from_json(data)
    digest = verified_digest(envelope, trusted, prefix=_MANIFEST_PREFIX)
    return Manifest.parse(parse_json(envelope.document, path="$manifest")), digest


def sign_anchor(*, segment: int, seq: int, head_hash: str, at: str, key: Ed25519PrivateKey) -> Envelope:
    """Sign the head, to be kept in another place than the segments."""
    return sign_under({"segment": segment, "seq": seq, "hash": head_hash, "at": at}, key, prefix=_ANCHOR_PREFIX)


def read_anchor(data: bytes, *, trusted: Keys, source: str) -> Anchor:
    """The head in an anchor, or in a release as a worker keeps it on disk.

    Raises:
        ReleaseRefused: it is neither, or not what the holder of a trusted key signed.
    """
    envelope = Envelope.from_json(data)
    try:
        verified_digest(envelope, trusted, prefix=_ANCHOR_PREFIX)
    except release.BadSignature:
        verified_digest(envelope, trusted, prefix=release.SIGNED_PREFIX)
        head = Node(parse_json(envelope.document), "$").value["audit_head"]
        return Anchor(Node(head["seq"], "$.audit_head.seq").integer(), str(head["hash"]), source)
    members = Node(parse_json(envelope.document), "$").members("segment", "seq", "hash", "at")
    return Anchor(members["seq"].integer(minimum=1), members["hash"].sha256(), source)


# --- verifying --------------------------------------------------------------------------------------------------------
def verify_folder(folder: Path, *, trusted: Keys, anchors: Iterable[Anchor] = ()) -> Verified:
    """Read every byte of a copied store, and name each place where it is not what was exported.

    Memory is one line's. After something that cannot be read it goes on with what follows, so that one flaw does not
    hide another.

    Raises:
        OSError: the folder cannot be read.
    """
    findings: list[Finding] = []
    numbers, strays = _segments_in(folder)
    findings += [Finding(name, "is nothing that an export wrote") for name in strays]
    known: dict[int, str] = {}
    wanted = list(anchors)
    seqs = {anchor.seq for anchor in wanted}
    seq, head, manifest_digest, events = 0, GENESIS, "", 0
    for expected, number in _with_gaps(numbers):
        name = folder_of(expected)
        if number is None:
            findings.append(Finding(name, "is missing: the segments after it do not follow from those before"))
            manifest_digest = ""
            continue
        walk = _Walk(name, seq, head)
        manifest = _manifest(folder / name, number, manifest_digest, trusted, findings)
        with_events = folder / name / EVENTS
        if not with_events.is_file():
            findings.append(Finding(f"{name}/{EVENTS}", "is missing"))
        else:
            for event_seq, found_hash in walk.events(with_events, findings):
                events += 1
                if event_seq in seqs:
                    known[event_seq] = found_hash
        findings += [
            Finding(f"{name}/{one.name}", "is nothing that an export wrote")
            for one in sorted((folder / name).iterdir())
            if one.name not in (EVENTS, MANIFEST)
        ]
        if manifest is not None:
            findings += _held_against(manifest[0], walk, name, begins=(seq, head))
            manifest_digest = manifest[1]
        seq, head = walk.seq, walk.head
    for anchor in wanted:
        if anchor.seq == 0:
            continue
        if anchor.seq > seq:
            findings.append(
                Finding(
                    anchor.source,
                    f"knows event {anchor.seq}, the segments end at {seq} (truncated, or not exported yet)",
                )
            )
        elif known.get(anchor.seq) != anchor.hash:
            findings.append(Finding(anchor.source, f"knows event {anchor.seq} with another hash (history rewritten)"))
    return Verified(len(numbers), events, len(wanted), seq, head, tuple(findings))


class _Walk:
    """Reads the events of one segment and follows the chain through them."""

    def __init__(self, name: str, seq: int, head: str) -> None:
        self._name = name
        self.seq = seq
        self.head = head
        self.first: int | None = None
        self.previous_hash = ""
        self.count = 0
        self.digest = hashlib.sha256()

    def events(self, file: Path, findings: list[Finding]) -> Iterator[tuple[int, str]]:
        """Each event's sequence number and its stated hash; what is wrong goes into `findings`."""
        with file.open("rb") as lines:
            number = 0
            while line := lines.readline(MAX_LINE_BYTES + 1):
                number += 1
                self.digest.update(line)
                where = f"{self._name}/{EVENTS} line {number}"
                event = _read_line(line)
                if isinstance(event, str):
                    findings.append(Finding(where, event))
                    continue
                self.count += 1
                where = f"event {event['seq']}"
                if self.first is None:
                    self.first, self.previous_hash = event["seq"], event["previous_hash"]
                if event["seq"] != self.seq + 1:
                    findings.append(
                        Finding(where, f"follows event {self.seq} (something is missing, repeated or out of order)")
                    )
                elif event["previous_hash"] != self.head:
                    findings.append(Finding(where, "does not follow from the event before it (altered or spliced)"))
                if event_hash(event) != event["hash"]:
                    findings.append(Finding(where, "its members do not give its hash (altered)"))
                self.seq, self.head = event["seq"], event["hash"]
                yield event["seq"], event["hash"]


def _read_line(line: bytes) -> dict[str, Any] | str:
    """An event, or what is wrong with its line."""
    if not line.endswith(b"\n"):
        return "has no end" if len(line) <= MAX_LINE_BYTES else f"is longer than {MAX_LINE_BYTES} bytes"
    try:
        event = Node(parse_json(line[:-1]), "$event").members(*_MEMBERS)
        body = {name: node.value for name, node in event.items()}
        event["seq"].integer(minimum=1)
        event["hash"].sha256()
        event["previous_hash"].sha256()
        if canonical(body) + b"\n" != line:
            return "is written in another way than an export writes (altered)"
    except (MalformedRelease, ValueError, RecursionError) as exc:
        return f"is no event: {exc}"
    return body


def _manifest(
    folder: Path, number: int, previous: str, trusted: Keys, findings: list[Finding]
) -> tuple[Manifest, str] | None:
    where = f"{folder.name}/{MANIFEST}"
    try:
        manifest, digest = read_manifest((folder / MANIFEST).read_bytes(), trusted=trusted)
    except FileNotFoundError:
        findings.append(Finding(where, "is missing: nobody says what the segment held"))
        return None
    except (ReleaseRefused, ValueError, RecursionError) as exc:
        findings.append(Finding(where, f"cannot be believed: {exc}"))
        return None
    if manifest.segment != number:
        findings.append(Finding(where, f"is that of segment {manifest.segment} (moved)"))
    if manifest.previous_manifest != previous:
        findings.append(Finding(where, "does not follow from the manifest before it (spliced, or another is missing)"))
    return manifest, digest


def _held_against(manifest: Manifest, walk: _Walk, name: str, *, begins: tuple[int, str]) -> Iterator[Finding]:
    """What the events of a segment are not that its manifest says."""
    if walk.digest.hexdigest() != manifest.events_sha256:
        yield Finding(f"{name}/{EVENTS}", "is not what its manifest was signed over (altered)")
    facts = {"first": walk.first, "last": walk.seq, "events": walk.count, "head_hash": walk.head}
    facts["previous_hash"] = walk.previous_hash
    for member, found in facts.items():
        if walk.count and getattr(manifest, member) != found:
            yield Finding(f"{name}/{MANIFEST}", f"says {member} {getattr(manifest, member)!r}, the events {found!r}")
    if (manifest.first, manifest.previous_hash) != (begins[0] + 1, begins[1]):
        yield Finding(
            f"{name}/{MANIFEST}", f"begins after event {manifest.first - 1}, what is before it ends at {begins[0]}"
        )


def _segments_in(folder: Path) -> tuple[list[int], list[str]]:
    numbers, strays = [], []
    for one in sorted(folder.iterdir()):
        matched = _FOLDER.match(one.name)
        if matched and one.is_dir() and int(matched[1]) > 0:
            numbers.append(int(matched[1]))
        else:
            strays.append(one.name)
    return numbers, strays


def _with_gaps(numbers: list[int]) -> Iterator[tuple[int, int | None]]:
    """Every number from 1 to the last one, with None for what is not there; of a long gap its first only."""
    expected = 1
    for number in numbers:
        if number > expected:
            yield expected, None
        yield number, number
        expected = number + 1


def main(folder: Path, *, trusted_keys: Path, anchors: list[Path]) -> tuple[list[str], bool]:
    """What `python -m dataplane verify-audit` says, a line each, and whether the record is whole.

    Raises:
        OSError: the folder or a file cannot be read.
        ValueError: the trusted keys are none, or an anchor cannot be believed; it would prove nothing.
    """
    trusted = release.parse_trusted_keys(trusted_keys.read_bytes())
    kept = []
    for file in anchors:
        try:
            kept.append(read_anchor(file.read_bytes(), trusted=trusted, source=str(file)))
        except (ReleaseRefused, ValueError, KeyError, TypeError) as exc:
            raise ValueError(f"anchor {file}: {exc}") from exc
    found = verify_folder(folder, trusted=trusted, anchors=kept)
    lines = [f"{one.where}: {one.problem}" for one in found.findings]
    lines.append(
        f"{found.segments} segments, {found.events} events, head {found.head_seq} {found.head_hash}, "
        f"{found.anchors} anchors held against it, {len(found.findings)} findings"
    )
    if not found.anchors:
        lines.append("no anchor was given: whether the newest segments were taken away cannot be told")
    return lines, not found.findings


def write_json(envelope: Envelope) -> bytes:
    """An envelope as a file has it."""
    return json.dumps(envelope.to_mapping(), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
