"""Where the answer to a job is sent once there is one: a mailbox, or a webhook of its tenant's. Pure.

Every refusal names the header or the field. What only the network knows (whether a host is one that may be reached) is
asked when it is sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlsplit

from dataplane.errors.requests import InvalidRequest
from dataplane.messages import Json
from dataplane.rung_words import Mail

HEADER: Final = "ballast-deliver"
# The member of a body that is for the gateway alone.
MEMBER: Final = "ballast"
MAX_MAILBOX_CHARACTERS: Final = 254
MAX_URL_CHARACTERS: Final = 500
# So long after its job is over an answer is sent again and again; then nobody tries any more.
TRY_SECONDS: Final = 24 * 3600
_MAILTO: Final = "mailto:"
# As much of RFC 5322 as providers of mail give to people; no comments, no quotes, one mailbox.
_MAILBOX: Final = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]([A-Za-z0-9-]*[A-Za-z0-9])?"
)
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class Channel(StrEnum):
    """How an answer is sent."""

    EMAIL = "email"
    WEBHOOK = "webhook"


class DeliveryState(StrEnum):
    """Of the delivery of a job's answer."""

    WAITING = "waiting"  # for the job, or for the next attempt
    DELIVERING = "delivering"  # somebody is at it
    DELIVERED = "delivered"
    FAILED = "failed"  # the receiver will never take it
    GIVEN_UP = "given_up"  # it was tried for TRY_SECONDS
    CANCELLED = "cancelled"  # there is nothing to send: the job was cancelled, or its words are gone


@dataclass(frozen=True, slots=True)
class Destination:
    """Where an answer goes.

    Attributes:
        address: A mailbox, or a URL. It may hold a token, or name a person: it is shown to nobody, and erased.
        mail: The signed words that an e-mail goes out with, filled in; a webhook has none.
        ballast: What was said of the rung on which the answer was put off; empty where nobody put it off.
    """

    channel: Channel
    address: str
    mail: Mail | None = None
    ballast: Json = field(default_factory=dict)


def read_destination(header: str | None, member: object, *, at: str = MEMBER) -> Destination | None:
    """Return where the caller wants its answer, if it comes later; None: it comes back for it.

    Args:
        header: `ballast-deliver`: mailto:name@host, or the URL of a webhook.
        member: `ballast` of the body. Shape: {"deliver"?: {"email": mailbox} or {"webhook": URL}}.
        at: What the member is called in errors.
    Raises:
        InvalidRequest: it is neither, or both are there.
    """
    told = _of_member(member, at)
    if header is None:
        return told
    if told is not None:
        raise InvalidRequest(f"{HEADER} and '{at}.deliver' both say where the answer goes; leave one out", param=HEADER)
    if header.lower().startswith(_MAILTO):
        return Destination(Channel.EMAIL, _mailbox(header[len(_MAILTO) :], HEADER))
    return Destination(Channel.WEBHOOK, _url(header, HEADER))


def _of_member(member: object, at: str) -> Destination | None:
    if member is None:
        return None
    if not isinstance(member, dict) or member.keys() - {"deliver"}:
        raise InvalidRequest(f"'{at}' is an object with 'deliver', and nothing else", param=at)
    deliver = member.get("deliver")
    if deliver is None:
        return None
    if not isinstance(deliver, dict) or len(deliver) != 1 or not deliver.keys() <= set(Channel):
        raise InvalidRequest(
            f"'{at}.deliver' is an object with either 'email' or 'webhook', and nothing else", param=f"{at}.deliver"
        )
    [(name, address)] = deliver.items()
    where = f"{at}.deliver.{name}"
    if not isinstance(address, str):
        raise InvalidRequest(f"'{where}' must be a string", param=where)
    channel = Channel(name)
    return Destination(channel, _mailbox(address, where) if channel is Channel.EMAIL else _url(address, where))


def _mailbox(text: str, where: str) -> str:
    if len(text) > MAX_MAILBOX_CHARACTERS or not _MAILBOX.fullmatch(text):
        raise InvalidRequest(f"{text[:80]!r} is no mailbox; it must look like name@example.com", param=where)
    return text


def _url(text: str, where: str) -> str:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as exc:
        raise InvalidRequest(_no_url(text), param=where) from exc
    is_plain = len(text) <= MAX_URL_CHARACTERS and text.isascii() and text.isprintable() and " " not in text
    if parts.scheme not in ("http", "https") or not parts.hostname or not is_plain:
        raise InvalidRequest(_no_url(text), param=where)
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise InvalidRequest(f"{parts.hostname!r} is elsewhere, where answers only go over https", param=where)
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise InvalidRequest(
            "the address of a webhook holds neither a name, nor a password, nor what stands behind '#'", param=where
        )
    return text


def _no_url(text: str) -> str:
    return (
        f"{text[:80]!r} is no address of a webhook; it must look like https://host/path, with at most"
        f" {MAX_URL_CHARACTERS} characters of ASCII"
    )


def told_of(ballast: Mapping[str, Any]) -> str:
    """The copy that an answer was put off with, and its language; "" where nobody put it off."""
    return f"{ballast['copy']} ({ballast['locale']})" if ballast else ""
