"""Choosing an answer: the same one for the same seed and request, longer or shorter as the system prompt asks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from random import Random
from typing import Any

import orjson

from dataplane.simulator import corpus
from dataplane.simulator.conversation import Answer, Ask, BadRequest, Kind, Stop, Tool, Usage
from dataplane.simulator.instances import UnsatisfiableSchema, build_instance
from dataplane.simulator.passages import quote, read_passages
from dataplane.simulator.tokens import tokenize
from dataplane.simulator.words import STOP_WORDS, words

_TOLD_SCHEMA = re.compile(r"\bJSON Schema\b[^\n]*\n(\{.*\})[ \t]*$", re.MULTILINE)

# How many help-centre sentences an answer draws when the system prompt says nothing about length.
_USUAL_SENTENCES = (2, 3)
_QUOTED_RESULT_CHARACTERS = 200


def answer_ask(ask: Ask, *, seed: int) -> Answer:
    """Return the answer to `ask`; a pure function of both arguments.

    Raises:
        BadRequest: the caller's JSON Schema has no instance that the simulator can build.
    """
    rng = Random(seed ^ ask.fingerprint)  # noqa: S311 - repeatable answers are the point
    tool = _chosen_tool(ask)
    if tool is not None:
        arguments = _build(tool.schema, rng, ask, param="tools")
        return _finish(ask, _dump(arguments), kind=Kind.TOOL, stop=Stop.TOOL, tool_name=tool.name)
    schema = _schema_in_words(ask.system) if ask.schema is None else ask.schema
    if schema is not None:
        return _finish(ask, _dump(_build(schema, rng, ask, param="response_format")))
    prose = _compose(ask, rng)
    if ask.wants_json:
        return _finish(ask, _dump({"answer": prose, "topic": find_topic(ask.question).name, "resolved": True}))
    return _finish(ask, _rest(prose, ask.prefix))


def refuse_ask(ask: Ask, *, seed: int) -> Answer:
    """Return a refusal instead of an answer; a pure function of both arguments."""
    rng = Random(seed ^ ask.fingerprint)  # noqa: S311 - repeatable answers are the point
    return _finish(ask, rng.choice(corpus.REFUSALS), kind=Kind.REFUSAL, stop=Stop.REFUSAL)


def _schema_in_words(system: str) -> Mapping[str, Any] | None:
    """The JSON Schema that the system prompt asks to keep to, as a model without a mode for it would be told."""
    told = _TOLD_SCHEMA.search(system)
    if told is None:
        return None
    try:
        schema = orjson.loads(told[1])
    except orjson.JSONDecodeError:
        return None
    return schema if isinstance(schema, Mapping) else None


def _rest(prose: str, prefix: str) -> str:
    """Return how `prefix` goes on: with what follows it in the answer, or at about that place if it is another's."""
    if prose.startswith(prefix):
        return prose[len(prefix) :]
    space = prose.find(" ", len(prefix))
    return f" {prose}" if space < 0 else prose[space:]


def find_topic(question: str) -> corpus.Topic:
    """Return the topic sharing most words with `question`, the earlier one on a tie, or the general one for none."""
    asked = words(question)
    best = max(corpus.TOPICS, key=lambda topic: len(topic.words & asked))
    return best if best.words & asked else corpus.GENERAL


def _compose(ask: Ask, rng: Random) -> str:
    """Return prose on the question's topic: one sentence when brief, all of them when detailed, two or three
    otherwise, and something made up on top when inventive. With passages in the system prompt it is theirs, and cited.
    """
    told, passages = read_passages(ask.system)
    style = words(told)
    sentences = find_topic(ask.question).sentences
    opening = rng.choice(corpus.WARM_OPENINGS if style & corpus.WARM_WORDS else corpus.OPENINGS)
    closing = rng.choice(corpus.CLOSINGS)
    usual = rng.randint(*_USUAL_SENTENCES)
    if ask.tool_result is not None:
        quoted = " ".join(ask.tool_result.split())[:_QUOTED_RESULT_CHARACTERS]
        sentences = (f"Here is what I found: {quoted}.", *sentences)
    said: tuple[str, ...]
    if passages and ask.tool_result is None:
        most = 1 if style & corpus.BRIEF_WORDS else None if style & corpus.DETAILED_WORDS else usual
        said = quote(ask.question, passages, most=most)
    elif style & corpus.BRIEF_WORDS:
        said = (sentences[-1 if style & corpus.REASON_WORDS else 0],)
    elif style & corpus.DETAILED_WORDS:
        said = (opening, *sentences, closing)
    else:
        said = (opening, *sentences[:usual])
    if style & corpus.INVENTIVE_WORDS:
        said += (rng.choice(corpus.INVENTIONS),)
    return " ".join(said)


def _chosen_tool(ask: Ask) -> Tool | None:
    """Return the tool to call: the named one, any when one is required, or the one the question's words point at."""
    if not ask.tools or ask.tool_choice == "none":
        return None
    if ask.tool_choice.startswith("="):
        return next((tool for tool in ask.tools if tool.name == ask.tool_choice[1:]), None)
    asked = words(ask.question)
    overlaps = [
        len(asked & words(f"{tool.name} {tool.name.replace('_', ' ')} {tool.description}") - STOP_WORDS)
        for tool in ask.tools
    ]
    best = max(range(len(overlaps)), key=overlaps.__getitem__)
    if ask.tool_choice == "required" or (overlaps[best] and ask.tool_result is None):
        return ask.tools[best]
    return None


def _build(schema: Any, rng: Random, ask: Ask, *, param: str) -> Any:
    def prose() -> str:
        return _compose(ask, rng)

    try:
        return build_instance(schema, rng=rng, prose=prose, topic=find_topic(ask.question).name)
    except UnsatisfiableSchema as exc:
        raise BadRequest(f"Invalid schema: {exc}", param=param, code="invalid_json_schema") from exc


def _dump(value: Any) -> str:
    return orjson.dumps(value).decode()


def _finish(
    ask: Ask, text: str, *, kind: Kind = Kind.TEXT, stop: Stop = Stop.END, tool_name: str | None = None
) -> Answer:
    """Return `text` as an answer, cut at the first stop sequence and at the caller's token limit; words only are
    cut by the former.
    """
    stop_sequence = None
    if kind is Kind.TEXT:
        found = [(at, sequence) for sequence in ask.stop_sequences if (at := text.find(sequence)) >= 0]
        if found:
            at, stop_sequence = min(found)
            text, stop = text[:at], Stop.SEQUENCE
    pieces = tokenize(text)
    if ask.max_tokens is not None and len(pieces) > ask.max_tokens:
        pieces, stop, stop_sequence = pieces[: ask.max_tokens], Stop.LENGTH, None
    usage = Usage(prompt_tokens=ask.prompt_tokens, completion_tokens=len(pieces))
    return Answer(kind, tuple(pieces), stop, stop_sequence, tool_name, usage)
