"""Releases: what is tampered with, unknown, older or malformed is refused, and by its own name."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from dataplane.access import key_digest
from dataplane.errors.requests import UnknownPrompt
from dataplane.release import (
    SCHEMA,
    BadSignature,
    DigestMismatch,
    Envelope,
    MalformedRelease,
    ReleaseRefused,
    StaleRevision,
    UnknownKey,
    UnknownSchema,
    canonical,
    digest_of,
    key_id_of,
    parse_document,
    parse_trusted_keys,
    sign,
    verify,
)
from tests.dataplane.conftest import copy_document, stream_policy


def test_verified_release_answers_the_hot_path(make_envelope, trusted):
    """Keys, prompts, canaries and lanes can be looked up as soon as a release is verified."""
    envelope = make_envelope(3, reason="knob")

    release = verify(envelope, trusted=trusted, current=None)

    assert (release.revision, release.digest, release.reason) == (3, envelope.digest, "knob")
    assert release.cut_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    tenant = release.tenant_for_key(key_digest("bk-acme"))
    assert tenant is not None
    assert (tenant.slug, tenant.residency) == ("acme", frozenset({"eu"}))
    assert release.tenant_for_key(key_digest("bk-revoked")) is None
    assert release.prompt("support-answer").live == 1
    plan = release.canary_for("support-answer")
    assert plan is not None
    assert plan.candidate == 2
    assert release.canary_for("other") is None
    assert [lane.model for lane in release.routing.routes["chat"].lanes] == ["gpt-4o", "claude"]
    with pytest.raises(UnknownPrompt, match="'other'"):
        release.prompt("other")


def test_envelope_survives_json(make_envelope):
    """What an agent writes to disk is what a gateway reads."""
    envelope = make_envelope()

    assert Envelope.from_json(envelope.to_json()) == envelope
    assert Envelope.from_mapping(json.loads(envelope.to_json())) == envelope


@given(data=st.data())
def test_document_altered_anywhere_is_refused(make_envelope, trusted, data):
    """One changed character at any place of the document, and no worker takes it."""
    envelope = make_envelope(2)
    position = data.draw(st.integers(0, len(envelope.document) - 1))
    replacement = data.draw(st.characters(codec="utf-8").filter(lambda char: char != envelope.document[position]))
    document = envelope.document[:position] + replacement + envelope.document[position + 1 :]

    for digest in (envelope.digest, digest_of(document.encode())):
        with pytest.raises(BadSignature):
            verify(dataclasses.replace(envelope, document=document, digest=digest), trusted=trusted, current=None)


@given(data=st.data())
def test_file_altered_at_any_byte_never_yields_another_release(make_envelope, trusted, data):
    """A damaged release file is refused, or (where the damage means nothing) is still the very same release."""
    envelope = make_envelope(2)
    raw = bytearray(envelope.to_json().encode())
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= data.draw(st.integers(1, 255))

    try:
        release = verify(Envelope.from_json(bytes(raw)), trusted=trusted, current=None)
    except ReleaseRefused:
        return
    assert (release.digest, release.revision) == (envelope.digest, 2)


def test_file_cut_anywhere_is_refused(make_envelope):
    """No prefix of an envelope is an envelope."""
    raw = make_envelope().to_json().encode()

    for length in range(0, len(raw), 97):
        with pytest.raises(MalformedRelease):
            Envelope.from_json(raw[:length])


def test_key_that_is_not_trusted_is_refused(make_envelope, trusted):
    """A valid signature by somebody else counts for nothing."""
    stranger = Ed25519PrivateKey.generate()

    with pytest.raises(UnknownKey, match=key_id_of(stranger.public_key())):
        verify(make_envelope(key=stranger), trusted=trusted, current=None)


def test_stolen_key_id_is_refused(make_envelope, trusted):
    """Naming a trusted key while signing with another is a bad signature."""
    forged = make_envelope(key=Ed25519PrivateKey.generate())

    with pytest.raises(BadSignature):
        verify(dataclasses.replace(forged, key_id=next(iter(trusted))), trusted=trusted, current=None)


def test_digest_that_is_not_the_documents_is_refused(make_envelope, trusted):
    """The digest is what the fleet page compares, so an envelope may not lie about it."""
    with pytest.raises(DigestMismatch):
        verify(dataclasses.replace(make_envelope(), digest="0" * 64), trusted=trusted, current=None)


def test_older_revision_is_refused(make_envelope, trusted):
    """A captured release cannot be replayed over a newer one."""
    current = verify(make_envelope(5), trusted=trusted, current=None)

    with pytest.raises(StaleRevision, match="4 is older than 5"):
        verify(make_envelope(4), trusted=trusted, current=current)


def test_same_revision_with_another_digest_is_refused(make_envelope, trusted):
    """A number is used once."""
    current = verify(make_envelope(5), trusted=trusted, current=None)

    with pytest.raises(StaleRevision, match="another digest"):
        verify(make_envelope(5, reason="other"), trusted=trusted, current=current)


def test_release_being_served_is_accepted_again(make_envelope, trusted):
    """A restart and a repeated push meet the same release, which is no offence."""
    current = verify(make_envelope(5), trusted=trusted, current=None)

    assert verify(make_envelope(5), trusted=trusted, current=current) is current
    assert verify(make_envelope(5), trusted=trusted, current=None).digest == current.digest


@pytest.mark.parametrize("schema", [SCHEMA + 1, 0, "1", None, True, [2], {"number": 2}])
def test_unknown_schema_is_refused_before_anything_else_is_read(make_document, signing_key, trusted, schema):
    """A document of a later schema may have any shape, so the number speaks first."""
    document = {"schema": schema, "whatever": make_document()}

    with pytest.raises(UnknownSchema):
        verify(sign(document, signing_key), trusted=trusted, current=None)


def test_section_of_a_newer_control_plane_is_ignored(make_envelope, trusted):
    """During an upgrade the control plane may speak of things that this worker does not know yet."""
    release = verify(make_envelope(breakers={"anything": [1, 2]}), trusted=trusted, current=None)

    assert release.revision == 1


@pytest.fixture
def helped(make_document):
    """A document of schema 2: a stack with all three rungs, their copy, and a lane that is held."""
    document = make_document()
    document["schema"] = 2
    sections = document["sections"]
    sections["copy"] = {
        slug: {"version": 3, "digest": digit * 64, "document": copy_document(kind)}
        for slug, digit, kind in (("faq", "a", "answers"), ("sorry", "b", "template"), ("down", "c", "outage"))
    }
    sections["routing"]["fallbacks"] = {
        "help": {
            "answers": {"copy": "faq", "embedding_route": None, "minimum_score": None},
            "template": {"copy": "sorry"},
            "outage": {"copy": "down"},
        }
    }
    sections["routing"]["routes"]["chat"]["fallback"] = "help"
    sections["lane_overrides"] = {
        "openai/eu-west/main/gpt-4o": {
            "mode": "open",
            "until": "2026-01-02T04:00:00Z",
            "reason": "vendor said so",
            "by": "oncall",
        }
    }
    return document


def test_release_of_schema_2_carries_copy_and_held_lanes(helped, signing_key, trusted):
    """The words of every rung are at hand as soon as the release is verified."""
    release = verify(sign(helped, signing_key), trusted=trusted, current=None)

    stack = release.routing.routes["chat"].fallback
    assert stack is not None
    assert {rung: release.copy[slug].reference for rung, slug in stack.copy_used().items()} == {
        "answers": "faq@3",
        "template": "sorry@3",
        "outage": "down@3",
    }
    assert release.lane_overrides["openai/eu-west/main/gpt-4o"].mode == "open"


def test_release_of_schema_3_carries_stream_policies(helped, signing_key, trusted):
    """A number that a worker does not know yet is refused with those that it does."""
    routing = helped["sections"]["routing"]
    routing["streams"] = {"resumable": stream_policy(on_cut="end")}
    routing["routes"]["chat"]["streams"] = "resumable"

    release = verify(sign(helped | {"schema": 3}, signing_key), trusted=trusted, current=None)

    assert release.routing.routes["chat"].streams is release.routing.streams["resumable"]
    with pytest.raises(UnknownSchema, match="schema 7 is unknown to this worker, which reads 1, 2, 3, 4, 5 and 6"):
        verify(sign(helped | {"schema": SCHEMA + 1}, signing_key), trusted=trusted, current=None)


def test_release_of_an_older_schema_is_read_as_one_without_what_came_later(make_document):
    """A worker that was upgraded first goes on serving what is on its disk; so may a document of any be bare."""
    for schema in (1, 2, 3, 4, 5):
        release = parse_document(make_document() | {"schema": schema}, digest="0" * 64)

        assert (release.copy, release.lane_overrides) == ({}, {})
        assert release.routing.routes["chat"].fallback is None
        assert (release.routing.streams, release.routing.routes["chat"].streams) == ({}, None)


@pytest.mark.parametrize(
    ("rung", "copy", "refused_at", "words"),
    [
        ("answers", None, "answers.copy", "'faq' is no signed copy; a rung is engaged only once its words are signed"),
        ("template", None, "template.copy", "'sorry' is no signed copy"),
        ("outage", None, "outage.copy", "'down' is no signed copy"),
        ("answers", "sorry", "answers.copy", "'sorry' is copy of the kind 'template', not 'answers'"),
        ("template", "down", "template.copy", "'down' is copy of the kind 'outage', not 'template'"),
        ("outage", "faq", "outage.copy", "'faq' is copy of the kind 'answers', not 'outage'"),
    ],
)
def test_stack_whose_words_nobody_signed_is_refused_by_path(helped, rung, copy, refused_at, words):
    """Copy that the release does not carry, or that was signed as something else, is never shown."""
    named = helped["sections"]["routing"]["fallbacks"]["help"][rung]
    if copy is None:
        del helped["sections"]["copy"][named["copy"]]
    else:
        named["copy"] = copy

    with pytest.raises(MalformedRelease, match=words) as refusal:
        parse_document(helped, digest="0" * 64)

    assert refusal.value.path == f"$.sections.routing.fallbacks.help.{refused_at}"


def spoil(document, path, value):
    """Set the member at `path`; `...` removes it."""
    target = document
    for key in path[:-1]:
        target = target[key]
    if value is ...:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "refused_at"),
    [
        (("revision",), 0, "$.revision"),
        (("revision",), True, "$.revision"),
        (("cut_at",), "yesterday", "$.cut_at"),
        (("extra",), 1, "$.extra"),
        (("sections", "prompts"), ..., "$.sections"),
        (("sections", "access", "tenants", "acme", "tier"), "gold", "$.sections.access.tenants.acme.tier"),
        (
            ("sections", "access", "keys", "0" * 64),
            {"tenant": "acme", "id": "k", "expires_at": "soon"},
            f'$.sections.access.keys["{"0" * 64}"].expires_at',
        ),
        (
            ("sections", "access", "keys", "0" * 64),
            {"tenant": "acme", "id": "k", "stands_for": "k0"},
            f'$.sections.access.keys["{"0" * 64}"].stands_for',
        ),
        (("sections", "access", "keys", "abc"), {"tenant": "acme", "id": "k"}, "$.sections.access.keys.abc"),
        (
            ("sections", "access", "keys", "0" * 64),
            {"tenant": "x", "id": "k"},
            f'$.sections.access.keys["{"0" * 64}"].tenant',
        ),
        (("sections", "prompts", "support-answer", "route"), "no", '$.sections.prompts["support-answer"].route'),
        (("sections", "prompts", "support-answer", "live"), 9, '$.sections.prompts["support-answer"].live'),
        (
            ("sections", "canaries", "support-answer-2", "candidate"),
            9,
            '$.sections.canaries["support-answer-2"].candidate',
        ),
        (
            ("sections", "canaries", "support-answer-2", "prompt"),
            "no",
            '$.sections.canaries["support-answer-2"].prompt',
        ),
        (("sections", "routing", "lanes"), [], "$.sections.routing.lanes"),
        (("sections", "routing", "breakers"), {"a": {}}, "$.sections.routing.breakers.a"),
        (("sections", "routing", "routes", "chat", "fallback"), "a", "$.sections.routing.routes.chat.fallback"),
        pytest.param(
            # JSON has no longest integer.
            ("sections", "routing", "lanes", "openai/eu-west/main/gpt-4o", "idle_timeout_seconds"),
            10**400,
            '$.sections.routing.lanes["openai/eu-west/main/gpt-4o"].idle_timeout_seconds',
            id="1e400",
        ),
        (("sections", "copy"), {"a": {"version": 1, "digest": "x", "document": {}}}, "$.sections.copy.a.digest"),
        (("sections", "copy"), {"Not a slug": {}}, '$.sections.copy["Not a slug"]'),
        (("sections", "lane_overrides"), {"a": {"mode": "ajar"}}, "$.sections.lane_overrides.a"),
        (("cut_at",), "9999-12-31T23:00:00-05:00", "$.cut_at"),
    ],
)
def test_malformed_document_is_refused_by_path(make_document, path, value, refused_at):
    """Whoever wrote the compiler of a section is told where it went wrong."""
    document = spoil(make_document(), path, value)

    with pytest.raises(MalformedRelease) as refusal:
        parse_document(document, digest="0" * 64)

    assert refusal.value.path == refused_at


def test_two_canaries_on_one_prompt_are_refused(make_document):
    """Two canaries would split each other's arms."""
    document = make_document()
    canaries = document["sections"]["canaries"]
    canaries["second"] = canaries["support-answer-2"]

    with pytest.raises(MalformedRelease, match="one at a time"):
        parse_document(document, digest="0" * 64)


def test_key_given_twice_in_json_is_refused():
    """Two readers of such JSON could see two different releases."""
    with pytest.raises(MalformedRelease, match="twice"):
        Envelope.from_json('{"document": "a", "document": "b", "digest": "", "key_id": "", "signature": ""}')


def test_canonical_json_does_not_depend_on_the_order_of_keys():
    """Equal values have one digest."""
    assert canonical({"b": 1, "a": [1.0, "é"]}) == canonical({"a": [1, "é"], "b": 1}) == '{"a":[1,"é"],"b":1}'.encode()


def test_trusted_keys_of_two_signers_are_read_for_rotation(trusted_keys_file, trusted):
    """Each key is filed under the id that its bytes have; one filed under another's id is refused."""
    assert parse_trusted_keys(trusted_keys_file.read_bytes()).keys() == trusted.keys()

    misfiled = {"0" * 16: next(iter(json.loads(trusted_keys_file.read_text()).values()))}
    with pytest.raises(ValueError, match="this key's id is"):
        parse_trusted_keys(json.dumps(misfiled))


def test_every_refusal_has_a_code_of_its_own():
    """The code is what a NACK is grouped by."""
    refusals = (UnknownKey, BadSignature, DigestMismatch, StaleRevision, UnknownSchema, MalformedRelease)

    assert len({refusal.code for refusal in refusals}) == len(refusals)
