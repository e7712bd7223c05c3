"""What the lower rungs make of a request before a lane sees it."""

from __future__ import annotations

from typing import Any

import pytest

from dataplane.ladder.effects import cheaper, instructed, must_call, shortened, without_tools
from dataplane.ladder.policy import Ladder
from dataplane.messages import ChatRequest
from dataplane.routing import RoutingTable
from tests.dataplane.conftest import ROUTING
from tests.ladders import surface

SURFACE = Ladder.parse({"web-chat": surface()})["web-chat"]
SHORT, TOOLLESS = SURFACE.rungs[1], SURFACE.rungs[2]
USER = {"role": "user", "content": "How do I reset my password?"}
SYSTEM = {"role": "system", "content": "You are a help centre."}
TOOL = {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}


def ask(*messages: dict[str, Any], **parameters: Any) -> ChatRequest:
    return ChatRequest("chat", list(messages or [SYSTEM, USER]), parameters)


def test_shorter_answers_are_asked_for_and_capped() -> None:
    """The model is told behind what the conversation begins with, so that what the prompt says still comes first."""
    request = ask()

    short = shortened(request, SHORT)

    assert short.messages == [SYSTEM, {"role": "system", "content": "Answer in three sentences."}, USER]
    assert short.parameters == {"max_completion_tokens": 200}
    assert request.messages == [SYSTEM, USER]
    assert request.parameters == {}


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({"max_tokens": 50}, {"max_tokens": 50}),
        ({"max_tokens": 500}, {"max_tokens": 200}),
        ({"max_completion_tokens": 500, "temperature": 0}, {"max_completion_tokens": 200, "temperature": 0}),
        ({"max_tokens": None}, {"max_tokens": None, "max_completion_tokens": 200}),
    ],
)
def test_what_the_caller_allowed_less_stays_less(asked: dict[str, Any], sent: dict[str, Any]) -> None:
    """And is said in the field in which he said it, which is the one that his lane takes."""
    assert shortened(ask(**asked), SHORT).parameters == sent


def test_json_is_asked_for_in_fewer_words_and_never_cut() -> None:
    """Half of it would be none."""
    short = shortened(ask(response_format={"type": "json_object"}), SHORT)

    assert short.parameters == {"response_format": {"type": "json_object"}}
    assert short.messages[1]["content"] == "Answer in three sentences."


def test_instruction_takes_the_role_in_which_the_conversation_is_led() -> None:
    """A model that knows `developer` may not know `system`; without either, it is a system message."""
    developer = SYSTEM | {"role": "developer"}

    assert [one["role"] for one in instructed(ask(developer, USER), "x").messages] == ["developer", "developer", "user"]
    assert [one["role"] for one in instructed(ask(USER), "x").messages] == ["system", "user"]
    assert instructed(ask(USER), "").messages == [USER]


def test_tools_are_removed_the_model_is_told_so_and_what_they_did_is_told_in_words() -> None:
    """Not every vendor takes calls of tools that it is not offered."""
    call = {"id": "c1", "type": "function", "function": {"name": "search", "arguments": '{"q":"password"}'}}
    history = (
        SYSTEM,
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "Choose 'Forgot password'."},
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "Nothing more."}]},
    )

    told = without_tools(
        ask(*history, tools=[TOOL], tool_choice="auto", parallel_tool_calls=True, temperature=0.2), TOOLLESS
    )

    assert told.parameters == {"temperature": 0.2}
    assert told.messages == [
        SYSTEM,
        {"role": "system", "content": TOOLLESS.instruction},
        USER,
        {"role": "assistant", "content": '(called search with {"q":"password"})'},
        {"role": "user", "content": "Result of a tool: Choose 'Forgot password'."},
        {"role": "assistant", "content": 'Let me see.\n(called search with {"q":"password"})'},
        {"role": "user", "content": 'Result of a tool: [{"type":"text","text":"Nothing more."}]'},
    ]


def test_what_functions_did_in_the_older_dialect_is_told_as_well() -> None:
    """As OpenAI called tools first."""
    history = (
        USER,
        {"role": "assistant", "content": None, "function_call": {"name": "search", "arguments": "{}"}},
        {"role": "function", "name": "search", "content": "Found."},
    )

    told = without_tools(ask(*history, functions=[{"name": "search"}]), TOOLLESS)

    assert told.parameters == {}
    assert told.messages[2:] == [
        {"role": "assistant", "content": "(called search with {})"},
        {"role": "user", "content": "Result of search: Found."},
    ]


def test_request_without_tools_stays_itself() -> None:
    """There is nothing to tell the model of."""
    request = ask()

    assert without_tools(request, TOOLLESS) is request


@pytest.mark.parametrize(
    ("parameters", "must"),
    [
        ({}, False),
        ({"tool_choice": "auto"}, False),
        ({"tool_choice": "none"}, False),
        ({"tool_choice": "required"}, True),
        ({"tool_choice": {"type": "function", "function": {"name": "search"}}}, True),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}}, False),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": []}}}, True),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, False),
        ({"function_call": "auto"}, False),
        ({"function_call": {"name": "search"}}, True),
    ],
)
def test_only_a_must_cannot_do_without_tools(parameters: dict[str, Any], must: bool) -> None:
    """A caller who lets the model choose gets words instead."""
    assert must_call(parameters) is must


def test_cheaper_lanes_serve_a_route_whose_own_policies_stay() -> None:
    """What looks at answers, and stands below the lanes, is about the product and not about who writes them."""
    lanes = list(ROUTING["lanes"])
    routes = {
        "chat": {"lanes": [lanes[0]], "deadline_ms": 30_000},
        "cheap": {"lanes": [lanes[1]], "deadline_ms": 5_000, "steering": {"by": "cost", "weights": None}},
    }
    table = RoutingTable.parse(ROUTING | {"routes": routes})

    switched = cheaper(table.routes["chat"], table.routes["cheap"])

    assert [lane.id for lane in switched.lanes] == [lanes[1]]
    assert switched.steering.by == "cost"
    assert (switched.slug, switched.deadline_ms) == ("chat", 30_000)
