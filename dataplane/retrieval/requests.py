"""What a caller of `POST /v1/retrieve` asks. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from dataplane.errors.requests import InvalidRequest
from dataplane.retrieval.modes import MEMBERS as MODES
from dataplane.retrieval.modes import Mode, read_mode
from dataplane.retrieval.policy import MAX_CHUNKS

OPTIONS: Final = ("k", "filter", *MODES)
MEMBERS: Final = ("corpus", "query", *OPTIONS)
MAX_QUERY_CHARACTERS: Final = 8_000
MAX_FILTERS: Final = 10
MAX_FILTER_CHARACTERS: Final = 500

# Metadata members, and what each must be.
Filters = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class RetrievalRequest:
    """A question to a corpus. `k`: so many chunks at most; None: as many as the corpus' policy says."""

    corpus: str
    query: str
    k: int | None
    filters: Filters
    mode: Mode


@dataclass(frozen=True, slots=True)
class CorpusReference:
    """A corpus as a chat names it, from which its answer is to be composed. `k`: as of RetrievalRequest."""

    slug: str
    k: int | None
    filters: Filters
    mode: Mode


def parse_reference(value: object) -> CorpusReference:
    """Read the member `corpus` of a chat.

    Shape: slug | {"id": slug} and, beside that, what `parse_retrieval` takes beside corpus and query.
    Raises:
        InvalidRequest: naming the member.
    """
    fields = {"id": value} if isinstance(value, str) else value
    if not isinstance(fields, dict):
        raise InvalidRequest("'corpus' must name a corpus, or be an object with its 'id'", param="corpus")
    unknown = sorted(fields.keys() - {"id", *OPTIONS})
    if unknown:
        param = f"corpus.{unknown[0][:40]}"
        raise InvalidRequest(f"{param!r} is no member; there are 'id', {', '.join(map(repr, OPTIONS))}", param=param)
    return CorpusReference(
        slug=_text(fields, "id", most=200, path="corpus."),
        k=_read_k(fields.get("k"), param="corpus.k"),
        filters=read_filters(fields.get("filter"), param="corpus.filter"),
        mode=read_mode(fields, path="corpus."),
    )


def parse_retrieval(body: bytes) -> RetrievalRequest:
    """Read the body of a `POST /v1/retrieve`.

    Shape: {"corpus": slug, "query": str of 1..MAX_QUERY_CHARACTERS, "k"?: 1..MAX_CHUNKS, "filter"?: {metadata member:
            str, number or bool} and at most one of what `modes.read_mode` reads}.
    Raises:
        InvalidRequest: naming the member.
    """
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(f"the request body is not valid JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise InvalidRequest("the request body must be a JSON object")
    unknown = sorted(fields.keys() - set(MEMBERS))
    if unknown:
        raise InvalidRequest(
            f"a retrieval has no field {unknown[0][:40]!r}; it has {', '.join(map(repr, MEMBERS))}",
            param=unknown[0][:40],
        )
    return RetrievalRequest(
        corpus=_text(fields, "corpus", most=200),
        query=_text(fields, "query", most=MAX_QUERY_CHARACTERS),
        k=_read_k(fields.get("k")),
        filters=read_filters(fields.get("filter")),
        mode=read_mode(fields),
    )


def read_filters(given: object, *, param: str = "filter") -> Filters:
    """Read which members a chunk's metadata must have, and with which value; None and {}: any.

    Raises:
        InvalidRequest: naming the member.
    """
    if given is None:
        return {}
    if not isinstance(given, dict) or len(given) > MAX_FILTERS:
        raise InvalidRequest(
            f"{param!r} must be an object of at most {MAX_FILTERS} members of the documents' metadata", param=param
        )
    for name, value in given.items():
        is_scalar = isinstance(value, str | int | float)
        if not is_scalar or len(f"{name}{value}") > MAX_FILTER_CHARACTERS or "\x00" in f"{name}{value}":
            raise InvalidRequest(
                f"{param}.{name[:40]}: expected a string, a number or a boolean,"
                f" of at most {MAX_FILTER_CHARACTERS} characters with its name",
                param=f"{param}.{name[:40]}",
            )
    return given


def _text(fields: Mapping[str, Any], name: str, *, most: int, path: str = "") -> str:
    value, param = fields.get(name), f"{path}{name}"
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest(f"{param!r} must be a string that is not empty", param=param)
    if len(value) > most:
        raise InvalidRequest(f"{param!r} has {len(value)} characters; at most {most}", param=param)
    return value


def _read_k(value: object, *, param: str = "k") -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_CHUNKS:
        raise InvalidRequest(f"{param!r} must be a whole number from 1 to {MAX_CHUNKS}", param=param)
    return value
