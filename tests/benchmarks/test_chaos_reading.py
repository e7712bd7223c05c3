"""The callers of `make chaos` see what is wrong with an answer, and the provider's book what it was handed."""

import orjson
import pytest

from benchmarks.chaos.asking import Kind, answer, body, number_in
from benchmarks.chaos.log import Call, Ending
from benchmarks.chaos.reading import Reader, judge_error, judge_words, signed_words
from benchmarks.chaos.upstream import Bookkeeper
from dataplane.simulator.answers import answer_ask
from dataplane.simulator.anthropic_wire import AnthropicWire
from dataplane.simulator.openai_wire import OpenAIWire

WORDS = ("Par", "cel", "!")


def event(number: int, content: str) -> list[str]:
    """The lines of one event of a stream."""
    chunk = {"choices": [{"index": 0, "delta": {"content": content}}]}
    return [f"id: {number}", f"data: {orjson.dumps(chunk).decode()}", ""]


def read(lines: list[str], *, call: Call) -> Reader:
    """Read lines as they come over one connection."""
    reader = Reader(call)
    for line in lines:
        reader.take(line)
    return reader


def whole_stream(number: int) -> list[str]:
    """The lines of the right answer to request `number`, word by word."""
    words = answer(Kind.STREAM, number).split(" ")
    pieces = [words[0], *(f" {word}" for word in words[1:])]
    lines = [line for at, piece in enumerate(pieces, start=1) for line in event(at, piece)]
    return [*lines, f"id: {len(pieces) + 1}", "data: [DONE]"]


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.ACT])
def test_the_simulator_gives_the_answer_that_is_expected(kind):
    """Whichever vendor's lane it is that is asked, whatever its seed."""
    asked = body(kind, 12345)
    system, *others = asked["messages"]
    anthropic = {"model": "claude", "max_tokens": 500, "system": system["content"], "messages": others}

    openais = answer_ask(OpenAIWire().read_chat(asked, model="gpt-4o", headers={}), seed=1)
    headers = {b"anthropic-version": b"2023-06-01"}
    anthropics = answer_ask(AnthropicWire().read_chat(anthropic, model=None, headers=headers), seed=2)

    assert openais.text == anthropics.text == answer(kind, 12345)


def test_answers_to_two_requests_differ():
    """Or one request could be given another's answer unseen."""
    assert len({answer(Kind.PLAIN, number) for number in range(500)}) == 500


def test_a_whole_stream_is_right():
    """With every number once, the right words and the last event."""
    call = Call(5, Kind.STREAM, 0.0)

    reader = read(whole_stream(5), call=call)

    assert reader.is_over
    assert call.ending is Ending.RIGHT


def test_a_stream_that_is_read_on_is_right():
    """What comes before the first numbered event is no event of the stream."""
    call, lines = Call(5, Kind.STREAM, 0.0), whole_stream(5)

    reader = read([*lines[:12], "event: resumed", 'data: {"ballast": {}, "choices": []}', "", *lines[12:]], call=call)

    assert (reader.is_over, call.ending) == (True, Ending.RIGHT)


@pytest.mark.parametrize(
    ("lines", "ending"),
    [
        (whole_stream(5)[:-5] + whole_stream(5)[-2:], Ending.WRONG),  # the last word is missing, and its number
        (whole_stream(6), Ending.WRONG),
        ([*event(1, "a"), *event(3, "b")], Ending.WRONG),
        ([*event(1, "a"), *event(1, "a")], Ending.WRONG),
        ([*event(1, "Par"), "id: 2", "data: [DONE]"], Ending.WRONG),
        ([*event(1, "a"), "id: 2", 'data: {"error": {"code": "upstream_interrupted"}}'], Ending.TOLD),
        (whole_stream(5)[:-2], Ending.BROKEN),
    ],
)
def test_a_stream_with_something_wrong_is_not_right(lines, ending):
    """Missing words, another's, a gap, a repetition, a beginning that calls itself complete, an error, no end."""
    call = Call(5, Kind.STREAM, 0.0)

    read(lines, call=call)

    assert call.ending is ending


@pytest.mark.parametrize(
    ("words", "headers", "ending"),
    [
        (answer(Kind.PLAIN, 5), {}, Ending.RIGHT),
        (answer(Kind.PLAIN, 5), {"ballast-fallback": "alternate"}, Ending.RIGHT),
        (answer(Kind.PLAIN, 6), {}, Ending.WRONG),
        (answer(Kind.PLAIN, 5)[:-1], {}, Ending.WRONG),
        ("We are sorry.", {"ballast-fallback": "template"}, Ending.TOLD),
        ("We are sorry.", {"ballast-fallback": "alternate"}, Ending.WRONG),
        ("We are sorry.", {"ballast-validation": "no-secrets@1=abstain"}, Ending.TOLD),
        ("We are sorry.", {"ballast-validation": "no-secrets@1=block"}, Ending.WRONG),
    ],
)
def test_words_are_right_or_signed_or_wrong(words, headers, ending):
    """Signed words stand in for an answer only where the header says so."""
    call = Call(5, Kind.PLAIN, 0.0)

    judge_words(call, words, signed_words(headers))

    assert call.ending is ending


@pytest.mark.parametrize(
    ("content", "ending", "code"),
    [
        (b'{"error": {"code": "circuit_open", "message": "later"}}', Ending.TOLD, "circuit_open"),
        (b'{"error": {"message": "later"}}', Ending.BROKEN, ""),
        (b"<html>Bad Gateway</html>", Ending.BROKEN, ""),
        (b"", Ending.BROKEN, ""),
    ],
)
def test_an_error_is_clear_if_it_has_a_code(content, ending, code):
    """A proxy's page is no answer of ours."""
    call = Call(5, Kind.PLAIN, 0.0)

    judge_error(call, 502, content)

    assert (call.ending, call.code) == (ending, code)


async def test_the_provider_notes_what_it_was_handed_and_what_it_answered(tmp_path):
    """Which request, by whose account; one that breaks off is begun and not done. Others' requests are not ours."""
    book = tmp_path / "book.jsonl"
    asked = orjson.dumps(body(Kind.PLAIN, 77))

    async def application(scope, receive, send):
        message = await receive()
        assert message["type"] == "http.request"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})
        if scope["whole"]:
            await send({"type": "http.response.body", "body": b"}"})

    async def hand_in(content: bytes, *, whole: bool) -> None:
        headers = [(b"authorization", b"Bearer demo-openai")]
        scope = {"type": "http", "path": "/openai/v1/chat/completions", "headers": headers, "whole": whole}

        async def receive():
            return {"type": "http.request", "body": content}

        async def send(message):
            del message

        await Bookkeeper(application, book)(scope, receive, send)

    await hand_in(asked, whole=True)
    await hand_in(asked, whole=False)
    await hand_in(b'{"messages": []}', whole=True)

    assert number_in(asked) == 77
    lines = [orjson.loads(line) for line in book.read_bytes().splitlines()]
    assert [(line["number"], line["account"], line["phase"]) for line in lines] == [
        (77, "o-openai", "begun"),
        (77, "o-openai", "done"),
        (77, "o-openai", "begun"),
    ]
