"""Reading what the vendors' request bodies share: texts out of content parts, numbers within limits, faults
written into a request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import orjson

from dataplane.simulator.conversation import BadRequest
from dataplane.simulator.tokens import IMAGE_TOKENS, MESSAGE_OVERHEAD_TOKENS, REPLY_PRIMING_TOKENS, count_tokens

# A fault may ride in the words themselves, because they pass any gateway: "Where is my parcel? [[fault
# status:code=503]]".
_DIRECTIVE = re.compile(r"\s*\[\[fault (.+?)\]\]", re.DOTALL)

MISSING_MODEL_PREFIX = "missing-"


def split_directive(text: str) -> tuple[str, str | None]:
    """Return `text` without its `[[fault …]]` markers, and what they ask for."""
    if "[[fault " not in text:
        return text, None
    return _DIRECTIVE.sub("", text), ";".join(_DIRECTIVE.findall(text))


def body_directive(body: Mapping[str, Any]) -> str | None:
    """Return the fault in `metadata.simulator_fault`: text as it is, JSON as JSON text."""
    metadata = body.get("metadata")
    value = metadata.get("simulator_fault") if isinstance(metadata, Mapping) else None
    if value is None or isinstance(value, str):
        return value
    return orjson.dumps(value).decode()


def join_directives(*directives: str | None) -> str | None:
    """Return the first fault text there is: what the caller wrote last in the chain of ways has the least say."""
    return next((directive for directive in directives if directive), None)


def flatten_content(content: Any) -> tuple[str, int]:
    """Return the text of a message's content, text or list of parts, and how many images it holds."""
    if content is None:
        return "", 0
    if isinstance(content, str):
        return content, 0
    if not isinstance(content, list):
        raise BadRequest(
            f"Invalid type for 'messages[].content': expected one of a string or array of objects, got "
            f"{type(content).__name__} instead.",
            param="messages",
        )
    texts: list[str] = []
    images = 0
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in ("image_url", "image"):
            images += 1
        elif kind == "tool_result":
            texts.append(flatten_content(part.get("content"))[0])
    return "\n".join(texts), images


def count_prompt_tokens(texts: Iterable[str], *, images: int, extra: Any) -> int:
    """Return the prompt's tokens: every message's words and overhead, images at a flat rate, and tools or schema
    as JSON text.
    """
    total = REPLY_PRIMING_TOKENS + images * IMAGE_TOKENS
    for text in texts:
        total += count_tokens(text) + MESSAGE_OVERHEAD_TOKENS
    if extra:
        total += count_tokens(orjson.dumps(extra).decode())
    return total


def take_fingerprint(*parts: Any) -> int:
    """Return 64 bits of whatever may change the answer."""
    return int.from_bytes(blake2b(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS), digest_size=8).digest(), "big")


def read_object(body: Any) -> Mapping[str, Any]:
    """Return the body as an object, or raise BadRequest."""
    if not isinstance(body, Mapping):
        raise BadRequest(
            "We could not parse the JSON body of your request. The API expects a JSON payload, but what was sent "
            "was not a JSON object."
        )
    return body


def read_integer(body: Mapping[str, Any], field: str, *, minimum: int) -> int | None:
    """Return an optional whole number, or raise BadRequest in OpenAI's words."""
    value = body.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRequest(
            f"Invalid type for '{field}': expected an integer, but got {type(value).__name__} instead.",
            param=field,
            code="invalid_type",
        )
    if value < minimum:
        raise BadRequest(
            f"Invalid '{field}': integer below minimum value. Expected a value >= {minimum}, but got {value} instead.",
            param=field,
            code="integer_below_min_value",
        )
    return value


def read_stops(value: Any, field: str) -> tuple[str, ...]:
    """Return stop sequences given as one text, a list of at most four non-empty ones, or not at all."""
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > 4 or not all(isinstance(stop, str) and stop for stop in stops):
        raise BadRequest(
            f"Invalid '{field}': expected a string or an array of at most 4 non-empty strings.",
            param=field,
            code="invalid_value",
        )
    return tuple(stops)
