"""The only thing that crosses from the control plane to the data plane: signed, immutable, verified by every worker.

An envelope carries the document as text, so the bytes that were signed are the bytes that are parsed. `verify` accepts
a release or raises a subclass of ReleaseRefused, whose `code` and message go into the NACK; whoever calls it keeps
serving what it has.

Compatibility: sections that this build does not know are ignored (a newer control plane during an upgrade); an unknown
key inside a known section, and an unknown schema number, are refused. So a change inside a known section raises the
number. A worker reads every number in `READABLE`, so that data planes are upgraded before control planes and go on
serving the release on their disk.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import orjson
import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dataplane.access import AccessTable, ApiKey, Tenant
from dataplane.cohorts import CanaryPlan
from dataplane.documents import MalformedRelease, Node, ReleaseRefused, child_path, parse_json
from dataplane.errors.requests import UnknownPrompt
from dataplane.ladder.activations import Activation, parse_activations
from dataplane.ladder.policy import Ladder
from dataplane.overrides import LaneOverride, parse_overrides
from dataplane.prompts import Prompt, PromptSet
from dataplane.retrieval.policy import Corpora
from dataplane.routing import RoutingTable
from dataplane.shadow.holds import parse_holds, without_held
from dataplane.signed_copy import ANSWERS, ESCALATION, FRESHNESS, RUNG, CopyBook

__all__ = [
    "READABLE",
    "SANDBOX_REVISION",
    "SCHEMA",
    "AccessTable",
    "ApiKey",
    "BadSignature",
    "DigestMismatch",
    "Envelope",
    "MalformedRelease",
    "Release",
    "ReleaseRefused",
    "StaleRevision",
    "Tenant",
    "UnknownKey",
    "UnknownSchema",
    "canonical",
    "digest_of",
    "key_id_of",
    "parse_document",
    "parse_statements",
    "parse_trusted_keys",
    "sign",
    "sign_sandbox",
    "sign_under",
    "verified_digest",
    "verify",
    "verify_sandbox",
]

# What each number brought to the one before it.
# 2: routing tables may name breakers and fallback stacks; sections `copy` and `lane_overrides`.
# 3: routing tables may hold stream policies (`streams`), which routes name; tenants may have `idempotency_hours`, which
#    are left out where they are 24.
# 4: copy of the kind `rung`; sections `ladder` and `activations`.
# 5: copy of the kind `freshness`; section `corpora`.
# 6: API keys may have `expires_at` and `stands_for`, which are left out where they say nothing; section `trust`.
SCHEMA: Final = 6
READABLE: Final = frozenset({1, 2, 3, 4, 5, SCHEMA})
SIGNED_PREFIX: Final = b"ballast.release.v1\n"
# A release for evals alone. It is signed as such, and has the one revision that no live release has: whoever serves
# customers takes it for none of theirs.
_SANDBOX_PREFIX: Final = b"ballast.sandbox.v1\n"
SANDBOX_REVISION: Final = 0
# About signing keys; three for each rotation.
MAX_STATEMENTS: Final = 1000


class UnknownKey(ReleaseRefused):
    """The envelope is signed with a key that this host does not trust."""

    code = "unknown_key"

    def __init__(self, key_id: str) -> None:
        super().__init__(f"signing key {key_id!r} is not trusted here; add its public key to the trusted keys file")
        self.key_id = key_id


class BadSignature(ReleaseRefused):
    """The document is not what the holder of the key signed."""

    code = "bad_signature"

    def __init__(self, key_id: str) -> None:
        super().__init__(f"the signature does not fit the document and key {key_id!r}; it was altered after signing")
        self.key_id = key_id


class DigestMismatch(ReleaseRefused):
    """The envelope names another digest than the document has."""

    code = "digest_mismatch"

    def __init__(self, *, stated: str, actual: str) -> None:
        super().__init__(f"the envelope states digest {stated[:80]!r}, the document has {actual!r}")
        self.stated = stated
        self.actual = actual


class StaleRevision(ReleaseRefused):
    """Not newer than what is being served: an older revision, or another document under the same number."""

    code = "stale_revision"

    def __init__(self, *, offered: int, serving: int) -> None:
        fact = (
            "is served with another digest" if offered == serving else f"is older than {serving}, which is being served"
        )
        super().__init__(f"revision {offered} {fact}; cut a new release instead of sending an old one again")
        self.offered = offered
        self.serving = serving


class UnknownSchema(ReleaseRefused):
    """The document has a schema number that this build cannot read."""

    code = "unknown_schema"

    def __init__(self, schema: object) -> None:
        *older, newest = sorted(READABLE)
        listing = f"{', '.join(map(str, older))} and {newest}"
        super().__init__(
            f"release schema {schema!r} is unknown to this worker, which reads {listing}; upgrade the data plane"
        )
        self.schema = schema


@dataclass(frozen=True, slots=True)
class Envelope:
    """A release on its way.

    Document text, its digest (SHA-256 hex), the signing key's id (16 hex) and the signature (base64).
    """

    document: str
    digest: str
    key_id: str
    signature: str

    @classmethod
    def from_json(cls, text: str | bytes) -> Envelope:
        """Read what `to_json` wrote.

        Raises:
            MalformedRelease: not JSON, or not the four strings of an envelope.
        """
        try:
            return cls.from_mapping(parse_json(text, path="$envelope"))
        except UnicodeDecodeError as exc:
            raise MalformedRelease("$envelope", f"not UTF-8: {exc}") from exc

    @classmethod
    def from_mapping(cls, value: object) -> Envelope:
        """Read an envelope that is parsed already, as a Celery message carries it.

        Raises:
            MalformedRelease: not the four strings of an envelope.
        """
        members = Node(value, "$envelope").members("document", "digest", "key_id", "signature")
        return cls(**{name: node.text() for name, node in members.items()})

    def to_mapping(self) -> dict[str, str]:
        """Shape: {"document", "digest", "key_id", "signature"}, all strings."""
        return {"document": self.document, "digest": self.digest, "key_id": self.key_id, "signature": self.signature}

    def to_json(self) -> str:
        """The envelope as compact JSON text."""
        return json.dumps(self.to_mapping(), ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Release:
    """A verified release, parsed for the hot path. Treat everything it holds as read only: requests share it."""

    revision: int
    digest: str
    cut_at: datetime
    reason: str
    audit_seq: int
    audit_hash: str
    access: AccessTable
    prompts: PromptSet
    canaries: dict[str, CanaryPlan]
    routing: RoutingTable
    copy: CopyBook
    lane_overrides: dict[str, LaneOverride]
    ladder: Ladder
    activations: dict[str, tuple[Activation, ...]]
    corpora: Corpora
    # Statements about the keys that releases are signed with, as they came: see `dataplane.trust`.
    statements: tuple[Envelope, ...]
    _canary_by_prompt: dict[str, CanaryPlan]
    # What tells one content of a section from another, so that an unchanged one is not parsed again.
    _marks: Mapping[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    def api_key(self, key_sha256: str) -> ApiKey | None:
        """The admitted API key with this SHA-256 hex digest, or None when it is unknown or revoked."""
        return self.access.keys.get(key_sha256)

    def tenant_for_key(self, key_sha256: str) -> Tenant | None:
        """The tenant whose API key has this SHA-256 hex digest, or None when the key is unknown or revoked."""
        key = self.api_key(key_sha256)
        return None if key is None else key.tenant

    def prompt(self, slug: str) -> Prompt:
        """The prompt with this slug.

        Raises:
            UnknownPrompt: the release has none.
        """
        prompt = self.prompts.get(slug)
        if prompt is None:
            raise UnknownPrompt(slug)
        return prompt

    def canary_for(self, prompt: str) -> CanaryPlan | None:
        """The canary that runs on this prompt; there is at most one."""
        return self._canary_by_prompt.get(prompt)


def canonical(value: Any) -> bytes:
    """The one way to write a JSON value (RFC 8785): equal values give equal bytes.

    Raises:
        ValueError: the value holds something that JSON or a double cannot carry exactly.
    """
    return rfc8785.dumps(value)


def digest_of(document: bytes) -> str:
    """SHA-256 of the document bytes, in hex."""
    return hashlib.sha256(document).hexdigest()


def key_id_of(key: Ed25519PublicKey) -> str:
    """How envelopes name a key: the first 16 hex digits of the SHA-256 of its 32 raw bytes."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


def sign(document: Mapping[str, Any], key: Ed25519PrivateKey) -> Envelope:
    """Write `document` canonically and sign it.

    Raises:
        ValueError: the document cannot be written as canonical JSON.
    """
    return sign_under(document, key, prefix=SIGNED_PREFIX)


def sign_sandbox(document: Mapping[str, Any], key: Ed25519PrivateKey) -> Envelope:
    """As `sign`, for a document that only evals are served from."""
    return sign_under(document, key, prefix=_SANDBOX_PREFIX)


def sign_under(document: Mapping[str, Any], key: Ed25519PrivateKey, *, prefix: bytes) -> Envelope:
    """As `sign`, for a document of the kind that has this prefix: whoever reads one kind takes no other for it."""
    payload = canonical(document)
    signature = key.sign(prefix + payload)
    return Envelope(
        document=payload.decode(),
        digest=digest_of(payload),
        key_id=key_id_of(key.public_key()),
        signature=base64.b64encode(signature).decode(),
    )


def parse_trusted_keys(text: str | bytes) -> dict[str, Ed25519PublicKey]:
    """Read trusted-keys.json. Shape: {key id (16 hex): raw public key (base64)}; several keys allow rotation.

    Raises:
        ValueError: not that shape, or a key id that does not belong to its key.
    """
    trusted: dict[str, Ed25519PublicKey] = {}
    try:
        for key_id, node in Node(parse_json(text), "$").entries():
            key = Ed25519PublicKey.from_public_bytes(base64.b64decode(node.text(), validate=True))
            if key_id_of(key) != key_id:
                node.refuse(f"this key's id is {key_id_of(key)!r}")
            trusted[key_id] = key
    except (ReleaseRefused, ValueError) as exc:
        raise ValueError(f"trusted keys: {exc}") from exc
    return trusted


def verify(envelope: Envelope, *, trusted: Mapping[str, Ed25519PublicKey], current: Release | None) -> Release:
    """Check an envelope and parse it. The revision being served is accepted again (a restart, a repeated push).

    Args:
        trusted: Public keys by key id.
        current: What is being served, or None.
    Raises:
        UnknownKey, BadSignature, DigestMismatch, UnknownSchema, StaleRevision, MalformedRelease: in the order of the
            checks. Nothing of the document is parsed before its signature holds.
    """
    digest = verified_digest(envelope, trusted, prefix=SIGNED_PREFIX)
    if current is not None and digest == current.digest:
        return current
    content = parse_json(envelope.document)
    return parse_document(content, digest=digest, current=current)


def verify_sandbox(envelope: Envelope, *, trusted: Mapping[str, Ed25519PublicKey], current: Release) -> Release:
    """As `verify`, for what `sign_sandbox` signed; its revision is compared with nothing."""
    digest = verified_digest(envelope, trusted, prefix=_SANDBOX_PREFIX)
    return parse_document(parse_json(envelope.document), digest=digest, current=current, is_sandbox=True)


def verified_digest(envelope: Envelope, trusted: Mapping[str, Ed25519PublicKey], *, prefix: bytes) -> str:
    """The digest of a document whose signature holds.

    Raises:
        UnknownKey, BadSignature, DigestMismatch.
    """
    key = trusted.get(envelope.key_id)
    if key is None:
        raise UnknownKey(envelope.key_id)
    try:
        document = envelope.document.encode()
        key.verify(base64.b64decode(envelope.signature, validate=True), prefix + document)
    except (InvalidSignature, binascii.Error, UnicodeError) as exc:
        raise BadSignature(envelope.key_id) from exc
    digest = digest_of(document)
    if digest != envelope.digest:
        raise DigestMismatch(stated=envelope.digest, actual=digest)
    return digest


def parse_document(content: Any, *, digest: str, current: Release | None = None, is_sandbox: bool = False) -> Release:
    """Parse a document whose origin is settled already. The control plane uses it to check a release before signing it.

    Args:
        current: What is being served, or None. Most releases change one section, so the others are taken over from it
            as they are: a knob costs every worker a third of what parsing the whole document would.
        is_sandbox: Whether it is one for evals alone, whose revision is SANDBOX_REVISION, as that of no other is.
    Raises:
        UnknownSchema, StaleRevision, MalformedRelease: as `verify`.
    """
    root = Node(content, "$")
    if isinstance(content, Mapping) and "schema" in content:
        schema = content["schema"]
        if isinstance(schema, bool) or not isinstance(schema, int) or schema not in READABLE:
            raise UnknownSchema(schema)
    members = root.members("schema", "revision", "cut_at", "reason", "audit_head", "sections")
    if is_sandbox:
        revision = members["revision"].integer(minimum=SANDBOX_REVISION, maximum=SANDBOX_REVISION)
    else:
        revision = members["revision"].integer(minimum=SANDBOX_REVISION + 1)
    if current is not None and not is_sandbox and revision <= current.revision:
        raise StaleRevision(offered=revision, serving=current.revision)
    audit_head = members["audit_head"].members("seq", "hash")
    sections = dict(members["sections"].entries())
    for name in ("access", "prompts", "canaries", "routing"):
        if name not in sections:
            members["sections"].refuse(f"missing section {name!r}")
    for name in ("copy", "lane_overrides", "shadow_holds", "ladder", "activations", "corpora", "trust"):
        sections.setdefault(name, Node({}, child_path(members["sections"].path, name)))
    marks = {name: _mark(sections[name].value) for name in ("access", "copy", "prompts")}
    # What is held is no part of the parsed table.
    marks["routing"] = _mark([sections["routing"].value, sections["shadow_holds"].value])

    def unchanged(name: str) -> Release | None:
        return current if current is not None and marks[name] and current._marks.get(name) == marks[name] else None

    if before := unchanged("access"):
        access = before.access
    else:
        access = AccessTable.parse(sections["access"].value, path=sections["access"].path)
    if before := unchanged("routing"):
        routing = before.routing
    else:
        routing = RoutingTable.parse(sections["routing"].value, path=sections["routing"].path)
        holds = parse_holds(sections["shadow_holds"].value, path=sections["shadow_holds"].path)
        routing = without_held(routing, holds)
    if before := unchanged("prompts"):
        prompts = before.prompts
    else:
        prompts = PromptSet.parse(sections["prompts"].value, path=sections["prompts"].path)
    if before := unchanged("copy"):
        copy = before.copy
    else:
        copy = CopyBook.parse(sections["copy"].value, path=sections["copy"].path)
    _check_copy_used(sections["routing"], routing, copy)
    for _, node in sections["prompts"].entries():
        node.members("live", "route", "pinnable", "versions")["route"].reference(routing.routes, to="route")
    canaries = _parse_canaries(sections["canaries"], prompts)
    ladder = Ladder.parse(sections["ladder"].value, path=sections["ladder"].path)
    _check_ladder(sections["ladder"], ladder, routing, copy)
    ladder = ladder.with_words(copy)
    corpora = Corpora.parse(sections["corpora"].value, path=sections["corpora"].path)
    _check_corpora(sections["corpora"], corpora, routing, copy)
    return Release(
        revision=revision,
        digest=digest,
        cut_at=members["cut_at"].moment(),
        reason=members["reason"].text(empty=True),
        audit_seq=audit_head["seq"].integer(),
        audit_hash=audit_head["hash"].text(empty=True),
        access=access,
        prompts=prompts,
        canaries=canaries,
        routing=routing,
        copy=copy,
        lane_overrides=parse_overrides(sections["lane_overrides"].value, path=sections["lane_overrides"].path),
        ladder=ladder,
        activations=parse_activations(sections["activations"].value, ladder, path=sections["activations"].path),
        corpora=corpora.with_words(copy),
        statements=parse_statements(sections["trust"]),
        _canary_by_prompt={plan.prompt: plan for plan in canaries.values()},
        _marks=marks,
    )


def parse_statements(section: Node) -> tuple[Envelope, ...]:
    """The envelopes of the section `trust`, none verified: that is for whoever keeps them.

    Raises:
        MalformedRelease: it is no such section.
    """
    members = section.members(optional=("signing", "statements"))
    if "signing" in members:
        members["signing"].text()
    if "statements" not in members:
        return ()
    statements = members["statements"].items()
    if len(statements) > MAX_STATEMENTS:
        members["statements"].refuse(f"{len(statements)} statements; at most {MAX_STATEMENTS}")
    return tuple(Envelope.from_mapping(one.value) for one in statements)


def _mark(section: Any) -> bytes:
    """A hash of one section's content; empty where there is none (an integer beyond 64 bits, half a surrogate pair).

    Of its text, not by comparing values: Python holds `true` equal to 1, a parser does not.
    """
    try:
        return hashlib.sha256(orjson.dumps(section)).digest()
    except TypeError:
        return b""


def _check_copy_used(section: Node, routing: RoutingTable, copy: CopyBook) -> None:
    """Refuse a policy whose words nobody signed: a release carries signed copy only, so they are not in it."""
    for slug, stack in routing.fallbacks.items():
        for rung, name in stack.copy_used().items():
            path = child_path(child_path(section.path, "fallbacks"), slug) + f".{rung}.copy"
            if name not in copy:
                raise MalformedRelease(
                    path, f"{name!r} is no signed copy; a rung is engaged only once its words are signed"
                )
            if copy[name].kind != rung:
                raise MalformedRelease(path, f"{name!r} is copy of the kind {copy[name].kind!r}, not {rung!r}")
    for slug, policy in routing.validators.items():
        words = policy.escalation
        if words is None:
            continue
        path = child_path(child_path(section.path, "validators"), slug) + ".escalation"
        if words not in copy:
            raise MalformedRelease(path, f"{words!r} is no signed copy; answers are withheld with signed words only")
        if copy[words].kind != ESCALATION:
            raise MalformedRelease(path, f"{words!r} is copy of the kind {copy[words].kind!r}, not {ESCALATION!r}")


def _check_ladder(section: Node, ladder: Ladder, routing: RoutingTable, copy: CopyBook) -> None:
    """Refuse a ladder of routes that do not exist. Words that nobody signed yet are no mistake: their rung cannot be
    engaged, that is all.
    """
    for slug, surface in ladder.items():
        path = child_path(section.path, slug)
        for route in surface.routes:
            if route not in routing.routes:
                raise MalformedRelease(f"{path}.routes", f"{route!r} is not a route of this release")
        for number, rung in surface.rungs.items():
            if rung.route and rung.route not in routing.routes:
                raise MalformedRelease(f"{path}.rungs.{number}.route", f"{rung.route!r} is not a route of this release")
            for name, kind, words in (("copy", RUNG, rung.copy), ("answers", ANSWERS, rung.answers)):
                if words in copy and copy[words].kind != kind:
                    raise MalformedRelease(
                        f"{path}.rungs.{number}.{name}",
                        f"{words!r} is copy of the kind {copy[words].kind!r}, not {kind!r}",
                    )


def _check_corpora(section: Node, corpora: Corpora, routing: RoutingTable, copy: CopyBook) -> None:
    """Refuse a corpus that no lane can embed. Of a banner that nobody signed yet, see `Corpora.with_words`."""
    for slug, corpus in corpora.items():
        path = child_path(section.path, slug)
        name, model = corpus.embedding.route, corpus.embedding.model
        route = routing.routes.get(name)
        if route is None:
            raise MalformedRelease(f"{path}.embedding.route", f"{name!r} is not a route of this release")
        if not any(lane.model == model and "embeddings" in lane.capabilities for lane in route.lanes):
            raise MalformedRelease(f"{path}.embedding.model", f"no lane of route {name!r} embeds by {model!r}")
        banner = corpus.freshness.banner
        if banner in copy and copy[banner].kind != FRESHNESS:
            raise MalformedRelease(
                f"{path}.freshness.banner", f"{banner!r} is copy of the kind {copy[banner].kind!r}, not {FRESHNESS!r}"
            )


def _parse_canaries(section: Node, prompts: PromptSet) -> dict[str, CanaryPlan]:
    canaries: dict[str, CanaryPlan] = {}
    by_prompt: dict[str, str] = {}
    for slug, node in section.slugged_entries():
        plan = CanaryPlan.parse(slug, node.value, path=node.path)
        prompt = prompts.get(plan.prompt)
        if prompt is None:
            raise MalformedRelease(child_path(node.path, "prompt"), f"{plan.prompt!r} is not a prompt of this release")
        for arm, number in (("control", plan.control), ("candidate", plan.candidate)):
            if number not in prompt.versions:
                raise MalformedRelease(
                    child_path(node.path, arm), f"prompt {plan.prompt!r} carries no version {number}"
                )
        if plan.prompt in by_prompt:
            node.refuse(f"prompt {plan.prompt!r} already has canary {by_prompt[plan.prompt]!r}; one at a time")
        by_prompt[plan.prompt] = slug
        canaries[slug] = plan
    return canaries
