"""How a lane is asked for JSON: by its own mode, or in words."""

from __future__ import annotations

import pytest

from dataplane.json_formats import as_lane_takes_it, native_first
from dataplane.messages import ChatRequest
from dataplane.release import parse_document
from tests.dataplane.conftest import LANE, ROUTING

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}


@pytest.fixture
def lane(make_document):
    """Makes lanes of these capabilities."""

    def make(*capabilities):
        lanes = ROUTING["lanes"] | {"openai/eu-west/main/gpt-4o": LANE | {"capabilities": ["chat", *capabilities]}}
        release = parse_document(make_document(routing=ROUTING | {"lanes": lanes}), digest="d" * 64)
        return release.routing.lanes["openai/eu-west/main/gpt-4o"]

    return make


def request(**parameters):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    return ChatRequest("chat", messages, parameters)


def test_lane_with_a_mode_is_asked_as_the_caller_did(lane):
    """The very same request."""
    asked = request(response_format=FORMAT)

    assert as_lane_takes_it(asked, lane("json_schema")) is asked
    assert as_lane_takes_it(request(), lane()) == request()


@pytest.mark.parametrize(
    ("capabilities", "wanted", "left"),
    [
        ((), FORMAT, None),
        (("json_object",), FORMAT, {"type": "json_object"}),
        ((), {"type": "json_object"}, None),
    ],
)
def test_lane_without_the_mode_is_told_in_words_behind_the_other_instructions(lane, capabilities, wanted, left):
    """The schema stands where the model sees it; the next best mode helps where there is one."""
    told = as_lane_takes_it(request(response_format=wanted, temperature=0), lane(*capabilities))

    assert told.parameters.get("response_format") == left
    assert told.parameters["temperature"] == 0
    assert [message["role"] for message in told.messages] == ["system", "system", "user"]
    words = told.messages[1]["content"]
    assert ('"properties"' in words) == (wanted is FORMAT)
    assert "nothing else" in words


def test_lanes_that_have_the_mode_come_first_and_else_in_their_order(lane):
    """What is prevented need not be repaired."""
    needs = frozenset({"chat", "json_schema"})
    plain, other, native = lane(), lane("stream"), lane("json_schema")

    assert native_first((plain, other, native), needs) == (native, plain, other)
