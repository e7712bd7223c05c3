"""What the work of a letter takes, as anybody may see it who may see the letter: redacted."""

from dataclasses import dataclass
from typing import Any

import orjson

from controlplane.deadletters.edits import shown_json
from controlplane.deadletters.errors import PayloadPurged
from controlplane.deadletters.models import DeadLetter
from controlplane.deadletters.payloads import ConfiguredStore, payload_of
from dataplane.stores.payloads import PayloadGone, PayloadTampered, PayloadUnavailable


@dataclass(frozen=True, slots=True)
class Shown:
    """A payload for people to read; `problem` says why there is none."""

    text: str = ""
    problem: str = ""


def shown_payload(letter: DeadLetter) -> Shown:
    """What the work of a letter takes, with words in the place of personal data and secrets."""
    try:
        data = payload_of(letter, ConfiguredStore())
    except PayloadPurged:
        return Shown(problem="It is purged; what it said is not kept anywhere.")
    except PayloadGone:
        return Shown(problem="It is gone from the payload store, and nobody purged it here. Look at the store.")
    except PayloadTampered:
        return Shown(problem="What lies in the payload store is not what was put there. Look at the store.")
    except PayloadUnavailable as exc:
        return Shown(problem=f"The payload store is away: {exc}")
    return Shown(text=shown_json(_value_of(data)))


def _value_of(data: bytes) -> Any:
    """A payload as a JSON value; text where it is none."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return data.decode("utf-8", "replace")
