"""What the rungs do to a request before a lane sees it. Pure: a request goes in, another comes out.

What is said to the model here is part of the policy that people signed, and is no word of users'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from dataplane.ladder.policy import Rung
from dataplane.messages import ChatRequest, Json
from dataplane.routing import Route

LIMITS: Final = ("max_completion_tokens", "max_tokens")
# All that is about calling tools. `functions` and `function_call` are what OpenAI called them first.
TOOLS: Final = frozenset(
    {"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "web_search_options"}
)
LEADING: Final = frozenset({"system", "developer"})


def shortened(request: ChatRequest, rung: Rung) -> ChatRequest:
    """The same, asked for in fewer words: the model is told so, and no answer is let to be longer than the rung says.

    JSON is not cut: half of it would be none. What the caller allowed less, stays less.
    """
    told = instructed(request, rung.instruction)
    cap = None if rung.max_output_tokens is None else int(rung.max_output_tokens.value)
    if cap is None or request.wants_json:
        return told
    limits = {name: min(cap, value) for name in LIMITS if (value := request.parameters.get(name)) is not None}
    return told.changed(parameters=request.parameters | (limits or {LIMITS[0]: cap}))


def without_tools(request: ChatRequest, rung: Rung) -> ChatRequest:
    """The same without tools, and with what tools did so far told in words: not every vendor takes calls of tools that
    it is not offered. For a request that `must_call` one, there is no such thing.
    """
    parameters = request.parameters
    if not TOOLS & parameters.keys():
        return request
    kept = {name: value for name, value in parameters.items() if name not in TOOLS}
    messages = [_told(message) for message in request.messages]
    return instructed(request.changed(parameters=kept, messages=messages), rung.instruction)


def cheaper(route: Route, lanes_of: Route) -> Route:
    """`route` served by the lanes of another, in the order in which that one tries them. What looks at answers, repairs
    them and stands below the lanes stays the route's own.
    """
    return replace(
        route,
        lanes=lanes_of.lanes,
        steering=lanes_of.steering,
        accounts_per_tenant=lanes_of.accounts_per_tenant,
        shadow=None,
    )


def must_call(parameters: Mapping[str, Any]) -> bool:
    """Whether only a call of a tool is an answer."""
    choice = parameters.get("tool_choice", parameters.get("function_call"))
    if isinstance(choice, Mapping):
        # A choice of allowed tools is as strict as its mode; any other object names the one tool to call.
        return choice.get("type") != "allowed_tools" or choice.get("allowed_tools", choice).get("mode") == "required"
    return bool(choice == "required")


def instructed(request: ChatRequest, instruction: str) -> ChatRequest:
    """The same with one more instruction, behind those that the conversation begins with."""
    if not instruction:
        return request
    messages = request.messages
    leading = next((index for index, one in enumerate(messages) if one["role"] not in LEADING), len(messages))
    role = messages[leading - 1]["role"] if leading else "system"
    more: Json = {"role": role, "content": instruction}
    return request.changed(messages=[*messages[:leading], more, *messages[leading:]])


def _told(message: Json) -> Json:
    """A message without calls of tools; one that has none is itself."""
    if message["role"] in ("tool", "function"):
        return {
            "role": "user",
            "content": f"Result of {message.get('name') or 'a tool'}: {_text(message.get('content'))}",
        }
    calls = [call.get("function") or {} for call in message.get("tool_calls") or ()]
    if (call := message.get("function_call")) is not None:
        calls.append(call)
    if not calls:
        return message
    said = [text] if (text := _text(message.get("content"))) else []
    said += [f"(called {call.get('name', 'a tool')} with {call.get('arguments', '')})" for call in calls]
    return {"role": "assistant", "content": "\n".join(said)}


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return orjson.dumps(content).decode()
