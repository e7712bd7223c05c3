"""Random requests and answers through the three wires and back: nothing changes its meaning on the way."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.messages import Finish, RefusalDelta, TextDelta, ToolCallDelta, Usage, UsageDelta
from dataplane.providers import ADAPTERS
from dataplane.simulator.answers import answer_ask
from dataplane.simulator.anthropic_wire import AnthropicWire
from dataplane.simulator.azure_wire import AzureWire
from dataplane.simulator.openai_wire import OpenAIWire
from dataplane.simulator.wire import Stamp

from .test_adapters import build, request, sse

VENDORS = {"openai": OpenAIWire(), "azure-openai": AzureWire(), "anthropic": AnthropicWire()}
HEADERS = {b"anthropic-version": b"2023-06-01"}
PIXEL = "data:image/png;base64,iVBORw0KGgo="
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}

# No square brackets, which may be a fault for the simulator; words that say something, as Anthropic wants them.
words = st.text(
    st.characters(codec="utf-8", exclude_characters="[]", exclude_categories=["Cc"]), min_size=1, max_size=9
)
words = words.filter(str.strip)
names = st.from_regex(r"[a-z]{1,6}", fullmatch=True)
objects = st.dictionaries(names, st.one_of(st.integers(-9, 9), words, st.none(), st.lists(st.booleans(), max_size=2)))
pictures = st.sampled_from([PIXEL, "https://pictures.example/a.png"]).map(
    lambda url: {"type": "image_url", "image_url": {"url": url}}
)
texts = words.map(lambda text: {"type": "text", "text": text})
said = st.one_of(words, st.lists(st.one_of(texts, pictures), min_size=1, max_size=3))
calls = st.lists(st.tuples(names, objects), min_size=1, max_size=3)


@st.composite
def conversations(draw):
    """Messages as an application sends them: system text, questions, answers, calls with their results."""
    messages = [
        {"role": draw(st.sampled_from(["system", "developer"])), "content": text}
        for text in draw(st.lists(words, max_size=2))
    ]
    messages.append({"role": "user", "content": draw(said)})
    for number in range(draw(st.integers(0, 2))):
        if draw(st.booleans()):
            made = [
                {
                    "id": f"call_{number}_{at}",
                    "type": "function",
                    "function": {"name": name, "arguments": json.dumps(value)},
                }
                for at, (name, value) in enumerate(draw(calls))
            ]
            content = draw(st.one_of(st.none(), words))
            messages.append({"role": "assistant", "content": content, "tool_calls": made})
            messages += [{"role": "tool", "tool_call_id": call["id"], "content": draw(words)} for call in made]
        else:
            messages.append({"role": "assistant", "content": draw(words)})
            messages.append({"role": "user", "content": draw(said)})
    return messages


@st.composite
def parameters(draw):
    """Parameters that every wire can carry: each is there or not."""
    given_ = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "temperature": st.floats(0, 1),
                "max_tokens": st.integers(1, 400),
                "stop": st.one_of(words, st.lists(words, min_size=1, max_size=4)),
                "seed": st.integers(),
                "user": words,
                "safety_identifier": words,
                "metadata": st.dictionaries(names, words, max_size=2),
                "response_format": st.sampled_from(
                    [
                        {"type": "text"},
                        {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}},
                    ]
                ),
                "stream": st.booleans(),
            },
        )
    )
    offered = draw(st.lists(st.tuples(names, words), max_size=3, unique_by=lambda pair: pair[0]))
    if offered:
        given_["tools"] = [
            {"type": "function", "function": {"name": name, "description": about, "parameters": SCHEMA}}
            for name, about in offered
        ]
        named = {"type": "function", "function": {"name": offered[0][0]}}
        choice = draw(st.sampled_from([None, "auto", "none", "required", named]))
        if choice is not None:
            given_["tool_choice"] = choice
    return given_


def turns_of_openai(messages):
    """Who says what: (speaker, [items]) with neighbours joined, system text apart."""
    system, turns = [], []
    for message in messages:
        if message["role"] in ("system", "developer"):
            system.append(message["content"])
            continue
        items = []
        if message["role"] == "tool":
            items.append(("result", message["tool_call_id"], message["content"]))
        elif isinstance(message["content"], str):
            items.append(("text", message["content"]))
        else:
            items += [
                ("text", part["text"]) if part["type"] == "text" else ("picture", part["image_url"]["url"])
                for part in message["content"] or ()
            ]
        items += [
            ("call", call["id"], call["function"]["name"], json.loads(call["function"]["arguments"]))
            for call in message.get("tool_calls") or ()
        ]
        speaker = "assistant" if message["role"] == "assistant" else "user"
        if turns and turns[-1][0] == speaker:
            turns[-1][1].extend(items)
        else:
            turns.append((speaker, items))
    return "\n\n".join(system), turns


def turns_of_anthropic(body):
    """The same, read from Anthropic's body."""

    def item(block):
        match block["type"]:
            case "text":
                return ("text", block["text"])
            case "image":
                source = block["source"]
                return ("picture", source.get("url") or f"data:{source['media_type']};base64,{source['data']}")
            case "tool_use":
                return ("call", block["id"], block["name"], block["input"])
            case "tool_result":
                return ("result", block["tool_use_id"], block["content"][0]["text"])

    def items(content):
        return [("text", content)] if isinstance(content, str) else [item(block) for block in content]

    return body.get("system", ""), [(turn["role"], items(turn["content"])) for turn in body["messages"]]


@settings(max_examples=40)
@given(messages=conversations(), asked=parameters())
def test_every_wire_is_asked_for_the_same_and_answers_the_same_whole_or_in_pieces(messages, asked):
    """The vendor's own validator accepts what an adapter writes, and reads in it what the caller meant."""
    wanted = request(messages, **asked)
    plain = VENDORS["openai"].read_chat({"model": "m-1", "messages": messages, **asked}, model=None, headers={})

    for wire, vendor in VENDORS.items():
        call, body = build(wire, wanted, api_version="2024-10-21" if wire == "azure-openai" else None)
        ask = vendor.read_chat(body, model=None, headers=HEADERS)

        assert (ask.model, ask.stream) == ("m-1", plain.stream)
        assert ask.system.replace("\n\n", "\n") == plain.system.replace("\n\n", "\n")
        assert [(tool.name, tool.description, tool.schema) for tool in ask.tools] == [
            (tool.name, tool.description, tool.schema) for tool in plain.tools
        ]
        assert ask.tool_choice == plain.tool_choice
        assert ask.max_tokens == (plain.max_tokens or (4096 if wire == "anthropic" else None))
        assert ask.stop_sequences == plain.stop_sequences
        assert (ask.schema is None) == (plain.schema is None)
        assert body.get("temperature") == asked.get("temperature")
        assert call.adjusted == ()
        if wire == "anthropic":
            assert turns_of_anthropic(body) == turns_of_openai(messages)
            assert body.get("metadata") == (
                {"user_id": asked["safety_identifier"]} if "safety_identifier" in asked else None
            )
            assert sorted(call.dropped) == sorted(
                name for name in ("metadata", "seed", "user") if asked.get(name) not in (None, {})
            )
        else:
            assert call.dropped == ()
            more = {"stream_options": {"include_usage": True}} if asked.get("stream") else {}
            sent = {name: value for name, value in asked.items() if name != "stream" or value}
            assert body == {"model": "m-1", "messages": messages, **sent, **more}
        whole, pieces = simulated(wire, ask, wanted)
        assert whole == pieces


def meaning(arguments):
    """What a call's arguments say; those that were cut short are compared as they are."""
    try:
        return json.loads(arguments or "{}")
    except ValueError:
        return {"INVALID_JSON": arguments}


def read_whole(wire, body, wanted):
    """An answer in one piece: text, refusal, calls, why it ended, usage."""
    response = ADAPTERS[wire].parse_chat(body, request=wanted, created=7)
    made = [(call.id, call.name, meaning(call.arguments)) for call in response.tool_calls]
    return (response.text or "", response.refusal or "", made, response.finish_reason, response.usage)


def read_pieces(wire, data, wanted, cuts=(1 << 20,)):
    """The same from a stream that arrives cut into pieces of these sizes, over and over."""
    parser = ADAPTERS[wire].stream_parser(wanted, created=7)
    text, refusal, reason, usage = "", "", None, None
    made: dict[int, list[str]] = {}
    position = turn = 0
    while position < len(data):
        size = cuts[turn % len(cuts)]
        for chunk in parser.feed(data[position : position + size]):
            for delta in chunk.deltas:
                match delta:
                    case TextDelta():
                        text += delta.text
                    case RefusalDelta():
                        refusal += delta.text
                    case ToolCallDelta():
                        call = made.setdefault(delta.index, [delta.id, delta.name, ""])
                        call[2] += delta.arguments
                    case UsageDelta():
                        usage = delta.usage
                    case Finish():
                        reason = delta.reason
        position, turn = position + size, turn + 1
    assert parser.finished
    return (text, refusal, [(id_, name, meaning(said)) for id_, name, said in made.values()], reason, usage)


def simulated(wire, ask, wanted):
    """One answer of the simulated vendor, read whole and read from its stream."""
    vendor = VENDORS[wire]
    stamp = Stamp("0" * 28, 7.0)
    found = []
    for stream in (False, True):
        once = replace(ask, stream=stream, include_usage=True)
        frames = vendor.give_answer(once, answer_ask(once, seed=1), stamp, processing_ms=1).frames
        data = b"".join(frame.data for frame in frames)
        found.append((read_pieces if stream else read_whole)(wire, data, wanted))
    return found


@st.composite
def answers(draw):
    """What a model may say: words, calls, or why it declines; how it ended; what it cost."""
    reason = draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter"]))
    usage = Usage(*draw(st.tuples(st.integers(20, 99), st.integers(1, 99), st.integers(0, 9))))
    spoken = draw(st.lists(words, max_size=3))
    if reason == "content_filter":
        return spoken, draw(words), [], reason, usage
    made = [(f"t{at}", name, value) for at, (name, value) in enumerate(draw(calls))] if reason == "tool_calls" else []
    return spoken, "", made, reason, usage


def as_openai(answer):
    """The answer as OpenAI writes it: whole, and as a stream."""
    spoken, refusal, made, reason, usage = answer
    message = {"role": "assistant", "content": "".join(spoken) or None, "refusal": refusal or None}
    if made:
        message["tool_calls"] = [
            {"id": id_, "type": "function", "function": {"name": name, "arguments": json.dumps(value)}}
            for id_, name, value in made
        ]
    head = {"id": "c", "created": 7, "model": "m"}
    deltas = [{"role": "assistant", "content": ""}]
    deltas += [{"content": piece} for piece in spoken] + ([{"refusal": refusal}] if refusal else [])
    for index, (id_, name, value) in enumerate(made):
        deltas.append({"tool_calls": [{"index": index, "id": id_, "function": {"name": name, "arguments": ""}}]})
        deltas += [{"tool_calls": [{"index": index, "function": {"arguments": one}}]} for one in json.dumps(value)]
    events = [head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    events.append(head | {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    events.append(head | {"choices": [], "usage": usage.to_openai()})
    whole = head | {"choices": [{"message": message, "finish_reason": reason}], "usage": usage.to_openai()}
    return json.dumps(whole).encode(), sse(*events, "[DONE]")


def as_anthropic(answer):
    """The answer as Anthropic writes it: whole, and as a stream."""
    spoken, refusal, made, reason, usage = answer
    stop = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}[reason]
    ending = {"stop_reason": stop, "stop_details": {"type": "refusal", "explanation": refusal} if refusal else None}
    asked = {
        "input_tokens": usage.input_tokens - usage.cached_input_tokens,
        "cache_read_input_tokens": usage.cached_input_tokens,
    }
    content = [{"type": "text", "text": piece} for piece in spoken]
    content += [{"type": "tool_use", "id": id_, "name": name, "input": value} for id_, name, value in made]
    message = {"id": "msg", "model": "m", "content": content, **ending}
    events = [{"type": "message_start", "message": message | {"content": [], "usage": asked | {"output_tokens": 1}}}]
    for index, block in enumerate(content):
        start = block | ({"text": ""} if block["type"] == "text" else {"input": {}})
        events.append({"type": "content_block_start", "index": index, "content_block": start})
        if block["type"] == "text":
            deltas = [{"type": "text_delta", "text": one} for one in block["text"]]
        else:
            deltas = [{"type": "input_json_delta", "partial_json": one} for one in json.dumps(block["input"])]
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    events.append({"type": "message_delta", "delta": ending, "usage": {"output_tokens": usage.output_tokens}})
    whole = message | {"usage": asked | {"output_tokens": usage.output_tokens}}
    return json.dumps(whole).encode(), sse(*events, {"type": "message_stop"}, name=True)


@settings(max_examples=50)
@given(answer=answers(), cuts=st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_every_wire_gives_the_same_answer_whole_or_in_pieces_however_they_are_cut(answer, cuts):
    """Text, refusal, calls, why it ended and what it cost do not depend on the vendor, nor on the network."""
    spoken, refusal, made, reason, usage = answer
    expected = ("".join(spoken), refusal, made, reason, usage)
    wanted = request(stream=True)

    for wire in VENDORS:
        whole, stream = (as_anthropic if wire == "anthropic" else as_openai)(answer)

        assert read_whole(wire, whole, wanted) == expected
        assert read_pieces(wire, stream, wanted, cuts) == expected
