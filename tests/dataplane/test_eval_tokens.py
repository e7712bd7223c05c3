"""Tokens of evals: who reads them as what, and what each refusal says."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dataplane.errors.requests import Unauthorized
from dataplane.eval_tokens import CLOCK_SECONDS, LIFE_SECONDS, EvalClaims, is_eval_token, mint, read
from dataplane.release import key_id_of

NOW = 1_760_000_000
CLAIMS = EvalClaims("run-7", frozenset({"eu", "ch"}), NOW + 600, "5" * 64)


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def seal(payload, key, *, signed):
    """A token as `mint` writes it, of any payload, in which anything is signed."""
    signer = bytes.fromhex(key_id_of(key.public_key()))
    return f"be-{encode(payload)}.{encode(signer + key.sign(signed))}"


def claims(**changes):
    return json.dumps(CLAIMS.to_mapping() | changes).encode()


@pytest.mark.parametrize("sandbox", ["5" * 64, None])
@pytest.mark.parametrize("residency", [frozenset(), frozenset({"eu", "ch"})])
def test_token_says_what_was_minted(signing_key, trusted, sandbox, residency):
    """Whatever a run may ask for comes out as it went in."""
    minted = EvalClaims("run-7", residency, NOW + 600, sandbox)

    token = mint(signing_key, minted)

    assert is_eval_token(token)
    assert read(token, trusted, now=NOW) == minted


def test_payload_is_canonical_json_behind_a_prefix_of_its_own(signing_key):
    """Whoever writes tokens elsewhere can: the payload is RFC 8785's, and the signature is over it and the prefix."""
    written, _, sealed = mint(signing_key, CLAIMS).removeprefix("be-").partition(".")

    payload = base64.urlsafe_b64decode(written + "=" * (-len(written) % 4))

    assert payload == (
        b'{"residency":["ch","eu"],"run":"run-7","sandbox":"' + b"5" * 64 + b'","until":%d}' % (NOW + 600)
    )
    signature = base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))[8:]
    signing_key.public_key().verify(signature, b"ballast.eval.v1\n" + payload)


@pytest.mark.parametrize(
    ("until", "told"),
    [
        (NOW, "expired 0 s ago"),
        (NOW - 90, "expired 90 s ago"),
        (NOW + LIFE_SECONDS + CLOCK_SECONDS + 1, "good for 3661 s more, 3600 are the most"),
    ],
)
def test_token_is_refused_outside_its_time(signing_key, trusted, until, told):
    """One that has expired, and one that would be good for longer than an hour, each with the figure."""
    token = mint(signing_key, EvalClaims("run-7", frozenset(), until))

    with pytest.raises(Unauthorized, match=told):
        read(token, trusted, now=NOW)


def test_token_of_a_key_that_is_not_trusted_names_the_key(trusted):
    """Somebody else's signature, or that of a key that was taken away."""
    token = mint(Ed25519PrivateKey.from_private_bytes(b"\x02" * 32), CLAIMS)

    with pytest.raises(Unauthorized, match=r"signed with key '[0-9a-f]{16}', which is not trusted here"):
        read(token, trusted, now=NOW)


@pytest.mark.parametrize(
    "signed",
    [
        pytest.param(b"ballast.eval.v1\n" + claims(residency=[]), id="another residency"),
        pytest.param(b"ballast.release.v1\n" + claims(), id="signed as a release"),
        pytest.param(claims(), id="signed without a prefix"),
    ],
)
def test_altered_token_is_refused(signing_key, trusted, signed):
    """A signature of something else, of a trusted key though it is, is good for nothing."""
    token = seal(claims(), signing_key, signed=signed)

    with pytest.raises(Unauthorized, match="altered after signing"):
        read(token, trusted, now=NOW)


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (b"{", "not valid JSON"),
        (b"\xff", "not"),
        (b"[]", "expected an object"),
        (claims(run=""), "run: must not be empty"),
        (claims(run="a b"), "run: 'a b' is no id of a run"),
        (claims(run="a" * 37), "is no id of a run"),
        (claims(residency="eu"), "residency: expected an array"),
        (claims(until="soon"), "until: expected a whole number"),
        (claims(sandbox="5"), "sandbox: expected 64 lower-case hex digits"),
        (claims(tenant="acme"), "tenant: unknown key"),
    ],
)
def test_signed_claims_of_another_shape_are_refused(signing_key, trusted, payload, told):
    """What a trusted key signed is read as strictly as a release."""
    token = seal(payload, signing_key, signed=b"ballast.eval.v1\n" + payload)

    with pytest.raises(Unauthorized, match=told):
        read(token, trusted, now=NOW)


@pytest.mark.parametrize("token", ["be-", "be-a", "be-a.b", "be-!!!!.????", "be-e30", "be-é.é"])
def test_what_is_no_token_is_refused(trusted, token):
    """Whatever stands behind the prefix: the caller is told, and nothing fails."""
    with pytest.raises(Unauthorized, match="eval token"):
        read(token, trusted, now=NOW)


def test_claims_that_no_gateway_reads_are_not_minted(signing_key):
    """The mistake shows where it is made."""
    with pytest.raises(ValueError, match="is no id of a run"):
        mint(signing_key, EvalClaims("a run", frozenset(), NOW + 600))
