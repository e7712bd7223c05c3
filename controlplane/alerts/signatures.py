"""What a receiver checks to know that a webhook is ours, and fresh. Pure.

Source: Standard Webhooks, https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md.
"""

import base64
import hashlib
import hmac
from collections.abc import Iterable
from datetime import datetime
from typing import Final

PREFIX: Final = "whsec_"  # of a secret, before its base64
VERSION: Final = "v1"


def headers_of(body: bytes, *, message_id: str, secrets: Iterable[str], at: datetime) -> dict[str, str]:
    """The three headers of one attempt.

    Args:
        message_id: The same for every attempt at one message; without a dot.
        secrets: As `sealing.new_secret` makes them; one signature each, in their order.
        at: Of this attempt: receivers refuse what is minutes old, so a late attempt is signed anew.
    """
    seconds = str(int(at.timestamp()))
    signed = f"{message_id}.{seconds}.".encode() + body
    return {
        "webhook-id": message_id,
        "webhook-timestamp": seconds,
        "webhook-signature": " ".join(f"{VERSION},{_signature(signed, secret)}" for secret in secrets),
    }


def _signature(signed: bytes, secret: str) -> str:
    key = base64.b64decode(secret.removeprefix(PREFIX))
    return base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
