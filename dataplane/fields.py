"""What becomes of every field of a chat request on every wire: one table, and the walk that reads a request by it.

Adapters build by it, the gateway picks lanes by it, the checks and docs/providers.md are made from it. Nothing vanishes
in silence: a field is sent, translated, dropped by a rule of this table (and the caller is told), or the wire cannot
carry it and another lane is taken. A field that is not in the table is unknown; only wires that speak OpenAI's JSON can
pass it on.

Sources: OpenAI, "Create chat completion" (API reference); Microsoft, "Azure OpenAI REST API reference" and "Azure
OpenAI On Your Data"; Anthropic, "Create a message" (API reference) and "OpenAI SDK compatibility", whose list of
ignored fields is DROPPED here where a field is a hint, and REFUSED where the answer would be another one without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Any, Final

OPENAI: Final = "openai"
AZURE: Final = "azure-openai"
ANTHROPIC: Final = "anthropic"
WIRES: Final = (OPENAI, AZURE, ANTHROPIC)


class Fate(StrEnum):
    """What a wire makes of a field."""

    SENT = "sent"
    TRANSLATED = "translated"
    DROPPED = "dropped"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Field:
    """One field, by its path; `messages.name` is the member `name` of any message.

    Attributes:
        neutral: Values that ask for nothing, so that leaving them out loses nothing; null always does.
        note: What it becomes on Anthropic's wire, or why not.
        hint: Without it the answer is still the one that was asked for; a lane may be told not to send it.
    """

    path: str
    anthropic: Fate
    note: str = ""
    neutral: tuple[Any, ...] = ()
    azure: Fate = Fate.SENT
    openai: Fate = Fate.SENT
    hint: bool = False

    def fate(self, wire: str) -> Fate:
        """What `wire` makes of it."""
        return {OPENAI: self.openai, AZURE: self.azure, ANTHROPIC: self.anthropic}[wire]


_SENT, _TRANSLATED, _DROPPED, _REFUSED = Fate.SENT, Fate.TRANSLATED, Fate.DROPPED, Fate.REFUSED

FIELDS: Final[tuple[Field, ...]] = (
    Field("audio", _REFUSED, "it writes no audio"),
    Field(
        "data_sources",
        _REFUSED,
        "a search of Azure's own; without it the answer would rest on nothing",
        openai=_REFUSED,
    ),
    Field("frequency_penalty", _DROPPED, "no counterpart", (0,), hint=True),
    Field("function_call", _REFUSED, "use tool_choice"),
    Field("functions", _REFUSED, "use tools", ([],)),
    Field("logit_bias", _DROPPED, "no counterpart", ({},), hint=True),
    Field("logprobs", _REFUSED, "it tells no probabilities", (False,)),
    Field("max_completion_tokens", _TRANSLATED, "`max_tokens`, which is mandatory: 4096 when nobody says"),
    Field("max_tokens", _TRANSLATED, "`max_tokens`; `max_completion_tokens` wins"),
    Field("messages", _TRANSLATED, "`system` and turns; see below"),
    Field("messages.annotations", _DROPPED, "marks on an earlier answer, which no model reads", ([],), hint=True),
    Field("messages.audio", _REFUSED, "it hears no audio"),
    Field("messages.content", _TRANSLATED, "blocks"),
    Field("messages.content.file", _REFUSED, "files are not translated"),
    Field("messages.content.image_url", _TRANSLATED, "an `image` block, by address or as base64"),
    Field("messages.content.image_url.detail", _DROPPED, "no counterpart", ("auto",), hint=True),
    Field("messages.content.image_url.url", _TRANSLATED, "`source`"),
    Field("messages.content.input_audio", _REFUSED, "it hears no audio"),
    Field("messages.content.prompt_cache_breakpoint", _DROPPED, "an order to OpenAI's cache", hint=True),
    Field("messages.content.refusal", _TRANSLATED, "text"),
    Field("messages.content.text", _SENT),
    Field("messages.content.type", _TRANSLATED, "the block's type"),
    Field("messages.function_call", _REFUSED, "use tool_calls"),
    Field("messages.name", _DROPPED, "no counterpart", ("",), hint=True),
    Field("messages.refusal", _TRANSLATED, "text of the assistant's turn"),
    Field("messages.role", _TRANSLATED, "`system` and `developer` go to the top, `tool` to the user; no `function`"),
    Field("messages.tool_call_id", _TRANSLATED, "`tool_use_id` of a `tool_result` block"),
    Field("messages.tool_calls", _TRANSLATED, "`tool_use` blocks"),
    Field("messages.tool_calls.custom", _REFUSED, "only functions can be called"),
    Field("messages.tool_calls.function", _TRANSLATED, "`name` and `input`"),
    Field("messages.tool_calls.function.arguments", _TRANSLATED, "`input`, as an object"),
    Field("messages.tool_calls.function.name", _SENT),
    Field("messages.tool_calls.id", _SENT),
    Field("messages.tool_calls.type", _TRANSLATED, "`tool_use`"),
    Field("metadata", _DROPPED, "labels for OpenAI's own store", ({},), hint=True),
    Field("modalities", _REFUSED, "it answers in text only", (["text"],)),
    Field("moderation", _REFUSED, "a safety check that nobody would make"),
    Field("n", _REFUSED, "there is always one choice", (1,)),
    Field("parallel_tool_calls", _TRANSLATED, "`tool_choice.disable_parallel_tool_use`, inverted"),
    Field("prediction", _DROPPED, "only makes answers faster", hint=True),
    Field("presence_penalty", _DROPPED, "no counterpart", (0,), hint=True),
    Field("prompt_cache_key", _DROPPED, "an order to OpenAI's cache", hint=True),
    Field("prompt_cache_options", _DROPPED, "an order to OpenAI's cache", ({},), hint=True),
    Field("prompt_cache_retention", _DROPPED, "an order to OpenAI's cache", hint=True),
    Field("reasoning_effort", _DROPPED, "not every model has `output_config.effort`", hint=True),
    Field("response_format", _TRANSLATED, "`output_config.format`; json_object is one forced tool, never beside tools"),
    Field("response_format.json_schema", _TRANSLATED, "`output_config.format`"),
    Field("response_format.json_schema.description", _TRANSLATED, "`description` of the schema, if it has none"),
    Field("response_format.json_schema.name", _TRANSLATED, "`title` of the schema, if it has none"),
    Field("response_format.json_schema.schema", _TRANSLATED, "`schema`; what cannot be enforced is told in words"),
    Field("response_format.json_schema.strict", _TRANSLATED, "always so"),
    Field("response_format.type", _TRANSLATED, "see above"),
    Field("safety_identifier", _TRANSLATED, "`metadata.user_id`"),
    Field("seed", _DROPPED, "no counterpart", hint=True),
    Field("service_tier", _DROPPED, "other tiers, other prices", ("auto",), hint=True),
    Field("stop", _TRANSLATED, "`stop_sequences`, but for those of nothing but white space", ([],)),
    Field("store", _DROPPED, "nothing is stored for later", (False,), hint=True),
    Field("stream", _SENT),
    Field("stream_options", _TRANSLATED, "usage comes with every stream"),
    Field("stream_options.include_obfuscation", _DROPPED, "nothing is obfuscated", (False,), hint=True),
    Field(
        "stream_options.include_usage",
        _TRANSLATED,
        "usage always comes; the gateway gives it to those who ask",
        azure=_TRANSLATED,
        openai=_TRANSLATED,
    ),
    Field("temperature", _TRANSLATED, "at most 1", hint=True),
    Field("tool_choice", _TRANSLATED, "`auto`, `any` (required), `none` or `tool`"),
    Field("tool_choice.allowed_tools", _REFUSED, "no counterpart"),
    Field("tool_choice.custom", _REFUSED, "only functions can be called"),
    Field("tool_choice.function", _TRANSLATED, "`tool`"),
    Field("tool_choice.function.name", _SENT),
    Field("tool_choice.type", _TRANSLATED, "`tool`"),
    Field("tools", _TRANSLATED, "`tools`", ([],)),
    Field("tools.custom", _REFUSED, "only functions can be called"),
    Field("tools.function", _TRANSLATED, "the tool itself"),
    Field("tools.function.description", _SENT),
    Field("tools.function.name", _SENT),
    Field("tools.function.parameters", _TRANSLATED, "`input_schema`; a strict one as response_format's"),
    Field("tools.function.strict", _SENT),
    Field("tools.type", _TRANSLATED, "`function` only"),
    Field("top_logprobs", _REFUSED, "it tells no probabilities", (0,)),
    Field("top_p", _SENT, "dropped beside `temperature`: current models take one of the two", (1,), hint=True),
    Field("user", _DROPPED, "may name people, `metadata.user_id` must not; use safety_identifier", ("",), hint=True),
    Field("verbosity", _DROPPED, "no counterpart", ("medium",), hint=True),
    Field("web_search_options", _REFUSED, "without the search the answer would be another one", azure=_REFUSED),
)  # fmt: skip
# What a lane may be told not to send, because its model refuses it; `max_tokens` then goes under its newer name.
OMITTABLE: Final = frozenset(one.path for one in FIELDS if one.hint and "." not in one.path) | {"max_tokens"}
_NEUTRAL: Final = {one.path: one.neutral for one in FIELDS}
EMBEDDING_FIELDS: Final = frozenset({"dimensions", "encoding_format", "input", "model", "user"})


@dataclass(slots=True)
class _Branch:
    """One field of one wire with the fields below it; None in `below` stands for one that needs no looking at."""

    fate: Fate | None = None
    neutral: tuple[Any, ...] = ()
    below: dict[str, _Branch | None] = field(default_factory=dict)


_UNKNOWN: Final = _Branch()
# Where a value was found: what it is in, its name there, and its place if that is a list. Written out only if needed.
_Trail = tuple["_Trail | None", str, int | None]


@dataclass(slots=True)
class Carriage:
    """What a wire makes of one request.

    Attributes:
        dropped: Fields that are not sent by a rule of the table, each once.
        refused: Fields that the wire cannot carry, such as `messages[0].content[1].file`.
        unknown: Fields that the table does not have, written likewise.
    """

    dropped: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def lost(self) -> str | None:
        """The first field that would be lost on a wire that cannot pass on what it does not know either."""
        lost = self.refused or self.unknown
        return lost[0] if lost else None

    def drop(self, path: str) -> None:
        """Note that a field is not sent."""
        if path not in self.dropped:
            self.dropped.append(path)


def carriage(parameters: Mapping[str, Any], *, wire: str) -> Carriage:
    """What `wire` makes of a request, given as the caller's fields by name, without those that the gateway keeps for
    itself (model, prompt, tool_effects). A field whose value asks for nothing is not looked at.
    """
    found = Carriage()
    _walk(parameters, _tree(wire).below, None, found)
    return found


@cache
def refused_fields(wire: str) -> tuple[str, ...]:
    """The top-level fields that `wire` cannot carry."""
    return tuple(one.path for one in FIELDS if one.fate(wire) is Fate.REFUSED and "." not in one.path)


@cache
def _tree(wire: str) -> _Branch:
    root = _Branch()
    for one in FIELDS:
        branch = root
        for name in one.path.split("."):
            branch = branch.below.setdefault(name, _Branch()) or _Branch()  # none is None before the tree is pruned
        branch.fate, branch.neutral = one.fate(wire), one.neutral
    _prune(root)
    return root


def _prune(branch: _Branch) -> None:
    for name, child in branch.below.items():
        if child is None:
            continue
        _prune(child)
        if not child.below and child.fate in (Fate.SENT, Fate.TRANSLATED):
            branch.below[name] = None


def _walk(value: Mapping[str, Any], below: Mapping[str, _Branch | None], trail: _Trail | None, found: Carriage) -> None:
    for name, inner in value.items():
        child = below.get(name, _UNKNOWN)
        if child is None or inner is None:
            continue
        if child is _UNKNOWN:
            found.unknown.append(_written((trail, name, None)))
        elif child.neutral and is_neutral(inner, child.neutral):
            continue
        elif child.fate is Fate.DROPPED:
            found.drop(_written((trail, name, None), places=False))
        elif child.fate is Fate.REFUSED:
            found.refused.append(_written((trail, name, None)))
        elif isinstance(inner, list):
            for index, item in enumerate(inner):
                if isinstance(item, dict):
                    _walk(item, child.below, (trail, name, index), found)
        elif isinstance(inner, dict):
            _walk(inner, child.below, (trail, name, None), found)


def _written(trail: _Trail, *, places: bool = True) -> str:
    before, name, index = trail
    place = "" if index is None or not places else f"[{index}]"
    return f"{'' if before is None else _written(before, places=places) + '.'}{name}{place}"


def is_neutral(value: Any, neutral: tuple[Any, ...]) -> bool:
    """True when `value` is one of `neutral`, or nothing; Python holds 0 equal to false, JSON does not."""
    return value is None or any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in neutral)


def asks_for(name: str, value: Any) -> bool:
    """True when giving the top-level field `name` this value asks for anything."""
    return not is_neutral(value, _NEUTRAL.get(name, ()))
