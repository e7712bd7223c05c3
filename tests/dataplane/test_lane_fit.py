"""Which lanes can carry one request: its fields on their wires, its length in their context."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dataplane.errors.requests import ContextLengthExceeded, InvalidRequest
from dataplane.lane_fit import LaneFit, asked_output, estimate_tokens, is_roomier
from dataplane.routing import Provider

from .providers.test_adapters import HELLO, TOOL, lane, request

PROVIDERS = {slug: Provider(slug, wire) for slug, wire in (("a", "openai"), ("b", "azure-openai"), ("c", "anthropic"))}
A, B, C = (replace(lane(), id=provider, provider=provider) for provider in PROVIDERS)
LONG = [{"role": "user", "content": "word " * 800}]  # 4000 characters, about 1000 tokens
AUDIO = {"type": "input_audio", "input_audio": {"data": "x" * 9000, "format": "wav"}}


def fitting(asked, *lanes):
    fit = LaneFit(asked, providers=PROVIDERS)
    return [one.id for one in fit.from_first(lanes or (C, A, B)) if fit.fits(one)]


@pytest.mark.parametrize(
    ("fields", "ids"),
    [
        ({}, ["c", "a", "b"]),
        ({"seed": 1, "logprobs": False, "modalities": ["text"], "n": 1}, ["c", "a", "b"]),
        ({"logprobs": True}, ["a", "b"]),
        ({"brand_new": 1}, ["a", "b"]),
        ({"messages": [HELLO[0] | {"mood": "good"}]}, ["a", "b"]),
        ({"messages": [{"role": "user", "content": [AUDIO]}]}, ["a", "b"]),
        ({"messages": [*HELLO, {"role": "assistant", "content": "Hi"}]}, ["a", "b"]),
        ({"web_search_options": {}}, ["a"]),
        ({"data_sources": [{"type": "azure_search"}]}, ["b"]),
        ({"tools": [TOOL], "response_format": {"type": "json_object"}}, ["a", "b"]),
    ],
)
def test_lane_whose_wire_cannot_carry_a_field_is_passed_over(fields, ids):
    """The order of the others stays; a field that asks for nothing excludes nobody."""
    assert fitting(request(fields.pop("messages", HELLO), **fields)) == ids


def test_lanes_behind_the_first_that_fits_are_looked_at_when_they_are_asked_about():
    """What it takes to find out is not paid by requests that the first lane answers."""
    asked = request(logprobs=True)
    fit = LaneFit(asked, providers=PROVIDERS)

    left = fit.from_first((C, A, C, B))
    asked.parameters["web_search_options"] = {}

    assert left == (A, C, B)
    assert [fit.fits(one) for one in left] == [True, False, False]


def test_request_that_no_lane_can_carry_is_refused_naming_field_and_first_lane():
    """The caller can do something about it, so it is a 400."""
    with pytest.raises(InvalidRequest, match="lane 'c' cannot carry 'logprobs'") as caught:
        fitting(request(logprobs=True, brand_new=1), C)

    assert caught.value.param == "logprobs"


def test_conversation_that_ends_with_the_assistant_goes_to_lanes_that_continue_it():
    """On Anthropic's wire, where newer models refuse it."""
    asked = request([*HELLO, {"role": "assistant", "content": "{"}])

    assert fitting(asked, C, replace(C, id="d", capabilities=C.capabilities | {"prefill"})) == ["d"]


def test_lane_is_passed_over_when_a_conversation_is_clearly_too_long_for_it():
    """About 1000 tokens and 500 of an answer: 1200 tokens of context are a quarter too few, 1199 are clearly so."""
    asked = request(LONG, max_tokens=500)

    assert fitting(asked, replace(A, context_tokens=1199), replace(B, context_tokens=1200)) == ["b"]
    assert fitting(asked, replace(A, context_tokens=1000, max_output_tokens=100), A) == ["a", "a"]
    with pytest.raises(ContextLengthExceeded, match=r"1500 tokens.*1199 of lane 'a'") as caught:
        fitting(asked, replace(A, context_tokens=1199))
    assert caught.value.param == "messages"


def test_estimate_counts_words_and_tools_but_no_pictures():
    """A picture's bytes are no words; what tools and calls say is read by the model too."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9000}}
    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": "x" * 400}}
    messages = [
        {"role": "user", "content": [picture, AUDIO, {"type": "text", "text": "y" * 400}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t", "content": "z" * 400},
    ]

    plain = estimate_tokens(request(messages))

    assert plain == 300
    assert estimate_tokens(request(messages, tools=[TOOL])) > plain


def test_answer_is_limited_by_the_caller_and_by_the_lane():
    """The newer name wins; nobody is promised more than the lane can give."""
    limited = replace(A, max_output_tokens=50)

    assert asked_output(request(max_tokens=60), A) == 60
    assert asked_output(request(max_tokens=60), limited) == 50
    assert asked_output(request(max_tokens=60, max_completion_tokens=40), limited) == 40
    assert asked_output(request(), limited) is None


def test_lane_is_roomier_unless_it_is_known_not_to_be():
    """Where nobody said how much a lane holds, it is worth a try."""
    small, large = replace(A, context_tokens=10), replace(A, context_tokens=11)

    assert is_roomier(large, than=small)
    assert not is_roomier(small, than=small)
    assert not is_roomier(small, than=large)
    assert is_roomier(A, than=large)
    assert is_roomier(small, than=A)
