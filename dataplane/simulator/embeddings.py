"""Embeddings as a signed hash of each word: near texts get near vectors, and the same text always the same one."""

from __future__ import annotations

import base64
import math
import re
from array import array
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import orjson

from dataplane.simulator.conversation import BadRequest
from dataplane.simulator.reading import MISSING_MODEL_PREFIX, body_directive, read_integer, read_object
from dataplane.simulator.tokens import count_tokens

_WORD = re.compile(r"\w+")
_PLACES_PER_WORD = 8
_LARGEST_DIMENSIONS = 3072
_MOST_INPUTS = 2048
_DIMENSIONS = {"text-embedding-3-large": 3072}
_DEFAULT_DIMENSIONS = 1536


@lru_cache(maxsize=1024)
def embed(text: str, dimensions: int) -> array[float]:
    """Return the unit vector of `text`, as 32-bit floats: each word's hash adds or subtracts one in eight places."""
    vector = array("f", bytes(4 * dimensions))
    for word in _WORD.findall(text.lower()) or [text]:
        digest = blake2b(word.encode(), digest_size=4 * _PLACES_PER_WORD).digest()
        for at in range(0, len(digest), 4):
            number = int.from_bytes(digest[at : at + 4], "big")
            vector[number // 2 % dimensions] += 1.0 if number % 2 else -1.0
    length = math.sqrt(sum(value * value for value in vector)) or 1.0
    return array("f", (value / length for value in vector))


def read_embeddings(body: Any, *, model: str | None) -> tuple[str, list[str], int, bool, str | None]:
    """Return model, inputs, dimensions, whether base64 is wanted, and a fault directive; raise BadRequest in
    OpenAI's words.
    """
    body = read_object(body)
    model = model or body.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequest("you must provide a model parameter")
    if model.startswith(MISSING_MODEL_PREFIX):
        raise BadRequest(
            f"The model `{model}` does not exist or you do not have access to it.", code="model_not_found", status=404
        )
    given = body.get("input")
    inputs = [given] if isinstance(given, str) else given
    if (
        not isinstance(inputs, list)
        or not 0 < len(inputs) <= _MOST_INPUTS
        or not all(isinstance(each, str) and each for each in inputs)
    ):
        raise BadRequest(
            "'$.input' is invalid. Please check the API reference: https://platform.openai.com/docs/api-reference."
        )
    dimensions = read_integer(body, "dimensions", minimum=1) or _DIMENSIONS.get(model, _DEFAULT_DIMENSIONS)
    if dimensions > _LARGEST_DIMENSIONS:
        raise BadRequest(
            f"Invalid value for 'dimensions' = {dimensions}. Must be less than or equal to {_LARGEST_DIMENSIONS}.",
            param="dimensions",
        )
    return model, inputs, dimensions, body.get("encoding_format") == "base64", body_directive(body)


def count_input_tokens(inputs: list[str]) -> int:
    """Return what an embeddings answer says was used."""
    return sum(count_tokens(text) for text in inputs)


def embeddings_body(model: str, inputs: list[str], dimensions: int, *, in_base64: bool) -> bytes:
    """Return the body of an embeddings answer; base64 is of little-endian 32-bit floats."""
    data: list[Mapping[str, Any]] = []
    for at, text in enumerate(inputs):
        vector = embed(text, dimensions)
        data.append(
            {
                "object": "embedding",
                "index": at,
                "embedding": base64.b64encode(vector.tobytes()).decode() if in_base64 else vector.tolist(),
            }
        )
    tokens = count_input_tokens(inputs)
    return orjson.dumps(
        {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    )
