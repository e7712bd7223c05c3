"""What a route has below its lanes: signed answers to known questions, a signed template, an honest outage notice.

Pure. Nothing here is made up at the moment: every word was written, reviewed and signed before it was needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from dataplane.errors import GatewayError
from dataplane.messages import ChatRequest, Json
from dataplane.quota import INTERACTIVE, Workload
from dataplane.routing import Lane
from dataplane.schema_check import SchemaChecker
from dataplane.signed_copy import SignedCopy, Words, choose_locale

# What a caller is told to wait when no breaker knows better.
DEFAULT_ETA_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class CopyAnswer:
    """Signed words that answer a request. `rung` is cached or template; `score` how near the question was, 1 when it
    was written the same, None for a template.
    """

    rung: str
    copy: SignedCopy
    locale: str
    text: str
    score: float | None = None

    def to_json(self) -> Json:
        """What the answer's member `ballast` says. Shape: {"fallback", "copy": "slug@version", "locale", "score"}."""
        return {"fallback": self.rung, "copy": self.copy.reference, "locale": self.locale, "score": self.score}


@dataclass(frozen=True, slots=True)
class OutageNotice:
    """Signed words for a request that nothing can answer, and when to expect that something can."""

    copy: SignedCopy
    locale: str
    text: str
    eta_seconds: int

    def to_json(self) -> Json:
        """What an error with this notice says. Shape: {"message", "eta_seconds": int, "copy": "slug@version",
        "locale"}.
        """
        return {
            "message": self.text,
            "eta_seconds": self.eta_seconds,
            "copy": self.copy.reference,
            "locale": self.locale,
        }


def answers_from_copy(error: GatewayError, workload: Workload = INTERACTIVE) -> bool:
    """True when `error` says that no lane could answer, rather than that the request itself is wrong. Batch work that
    found no place in a queue comes again; nobody waits for it who would be helped by other words.
    """
    if error.code == "quota_exhausted":
        return workload == INTERACTIVE
    return error.code in _NO_ANSWER


_NO_ANSWER: Final = frozenset(
    {
        "circuit_open",
        "deadline_exceeded",
        "secret_unavailable",
        "upstream_auth_failed",
        "upstream_error",
        "upstream_interrupted",
        "upstream_malformed",
        "upstream_rate_limited",
        "upstream_timeout",
        "upstream_unavailable",
        "upstream_unreachable",
    }
)


def questions_of(request: ChatRequest) -> tuple[str, ...]:
    """The texts under which a known question may be found: the prompt's variables, and the user's one message.

    Empty for a conversation that has gone on: what is known answers a first question, not a reply to something. Empty
    also where only a tool call is an answer. Words beside a picture or a file are no question by themselves.
    """
    tool_choice = request.parameters.get("tool_choice")
    if tool_choice == "required" or isinstance(tool_choice, Mapping):
        return ()
    said = [message for message in request.messages if message.get("role") not in ("system", "developer")]
    if len(said) != 1 or said[0].get("role") != "user":
        return ()
    found: list[str] = []
    if request.prompt is not None:
        found += [value for value in request.prompt.variables.values() if isinstance(value, str) and value.strip()]
    text = _text_of(said[0].get("content"))
    if text.strip():
        found.append(text)
    return tuple(dict.fromkeys(found))


def suitable_text(request: ChatRequest, words: Words, schemas: SchemaChecker) -> str | None:
    """How `words` are written for this request: as JSON that meets its schema, or plainly; None when neither fits.

    An application that asked for JSON of some schema must never be handed prose.
    """
    tool_choice = request.parameters.get("tool_choice")
    if tool_choice == "required" or isinstance(tool_choice, Mapping):
        return None
    response_format = request.parameters.get("response_format")
    if response_format is None or response_format["type"] == "text":
        return words.text
    if words.json is None:
        return None
    text = orjson.dumps(words.json).decode()
    schema = request.response_schema
    return text if schema is None or schemas.check(schema, text) else None


def exact_answer(
    copy: SignedCopy, questions: Iterable[str], *, request: ChatRequest, accepted: str | None, schemas: SchemaChecker
) -> CopyAnswer | None:
    """The signed answer to a question that is written like one of `questions`, if it suits the request."""
    locale = choose_locale(accepted, copy)
    for question in questions:
        answer = copy.exact_answer(question, locale=locale)
        if answer is not None and (text := suitable_text(request, answer.words, schemas)) is not None:
            return CopyAnswer("cached", copy, locale, text, 1.0)
    return None


def template_answer(
    copy: SignedCopy,
    values: Mapping[str, str],
    *,
    request: ChatRequest,
    accepted: str | None,
    schemas: SchemaChecker,
) -> CopyAnswer | None:
    """The template's words, if they suit the request."""
    locale = choose_locale(accepted, copy)
    text = suitable_text(request, copy.words[locale].filled(values), schemas)
    return None if text is None else CopyAnswer("template", copy, locale, text)


def outage_notice(
    copy: SignedCopy, values: Mapping[str, str], *, eta_seconds: float, accepted: str | None
) -> OutageNotice:
    """The words for a request that nothing can answer."""
    locale = choose_locale(accepted, copy)
    return OutageNotice(copy, locale, copy.words[locale].filled(values).text, math.ceil(eta_seconds))


@dataclass(frozen=True, slots=True)
class Escalation:
    """Signed words in the place of an answer that must not be given: as an answer, None where they do not suit the
    request; and as what an error says beside. Shape of that: {"message", "copy": "slug@version", "locale"}.
    """

    answer: CopyAnswer | None
    notice: Json


def escalation(
    copy: SignedCopy,
    values: Mapping[str, str],
    *,
    request: ChatRequest,
    accepted: str | None,
    schemas: SchemaChecker,
) -> Escalation:
    """The words for an answer that is withheld."""
    locale = choose_locale(accepted, copy)
    words = copy.words[locale].filled(values)
    text = suitable_text(request, words, schemas)
    answer = None if text is None else CopyAnswer("escalation", copy, locale, text)
    return Escalation(answer, {"message": words.text, "copy": copy.reference, "locale": locale})


def eta_of(lanes: Iterable[Lane], *, open_seconds: Mapping[str, float | None], error: GatewayError) -> float:
    """When an answer may be expected again, in seconds: the earliest moment at which one of `lanes` is tried again.

    Args:
        open_seconds: What the breakers that are not closed say, by lane; None when an operator holds it open.
        error: What the request failed with; a provider's own Retry-After counts for lanes that are not open.
    """
    asked = getattr(error, "retry_after_seconds", None)
    waits: list[float] = []
    for lane in lanes:
        if lane.id in open_seconds:
            wait = open_seconds[lane.id]
            if wait is not None:
                waits.append(wait)
        elif asked is not None:
            waits.append(asked)
        elif lane.breaker is not None:
            waits.append(lane.breaker.open_seconds.value)
    return max(1.0, min(waits, default=DEFAULT_ETA_SECONDS))


def placeholder_values(*, eta_seconds: float, request_id: str, route: str) -> dict[str, str]:
    """What the placeholders of signed copy stand for: see `signed_copy.PLACEHOLDERS`."""
    seconds = math.ceil(eta_seconds)
    return {
        "eta_seconds": str(seconds),
        "eta_minutes": str(max(1, math.ceil(seconds / 60))),
        "request_id": request_id,
        "route": route,
    }


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = [part["text"] for part in content if isinstance(part, Mapping) and isinstance(part.get("text"), str)]
    return "\n".join(texts) if len(texts) == len(content) else ""
