"""Every fault as a client sees it: the vendors' own packages where they show it, bare HTTP where they hide it."""

from __future__ import annotations

import json
from email.utils import parsedate_to_datetime

import anthropic
import httpx
import httpx2
import openai
import pytest

from dataplane.simulator.faults import FAULTS

QUESTION = "How do I get a refund?"
MESSAGES = [{"role": "user", "content": QUESTION}]
WIRES = ("openai", "azure-openai", "anthropic")
ERRORS = {"openai": openai, "azure-openai": openai, "anthropic": anthropic}
PATHS = {
    "openai": "/openai/v1/chat/completions",
    "azure-openai": "/azure/openai/deployments/gpt-4o-instant/chat/completions?api-version=2024-10-21",
    "anthropic": "/anthropic/v1/messages",
}
HEADERS = {"authorization": "Bearer k-main", "anthropic-version": "2023-06-01"}


@pytest.fixture
def ask(openai_client, azure_client, anthropic_client):
    """Return a function that asks one vendor's client under a fault, for a plain answer or a stream's chunks."""

    def _ask(wire, fault, *, stream=False, **options):
        headers = {"x-simulator-fault": fault}
        if wire == "anthropic":
            options = {"model": "claude-instant", "max_tokens": 400} | options
            answer = anthropic_client.messages.create(
                messages=MESSAGES, stream=stream, extra_headers=headers, **options
            )
        else:
            client = openai_client if wire == "openai" else azure_client
            options = {"model": "gpt-4o-instant"} | options
            answer = client.chat.completions.create(messages=MESSAGES, stream=stream, extra_headers=headers, **options)
        return list(answer) if stream else answer

    return _ask


@pytest.fixture
def post(http):
    """Return a function that posts one question as bare HTTP under a fault."""

    def _post(wire, fault, **body):
        model = {"model": "claude-instant", "max_tokens": 400} if wire == "anthropic" else {"model": "gpt-4o-instant"}
        headers = HEADERS | {"x-simulator-fault": fault}
        return http.post(PATHS[wire], json={**model, "messages": MESSAGES} | body, headers=headers)

    return _post


def text_of(wire, answer):
    return answer.content[0].text if wire == "anthropic" else answer.choices[0].message.content


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("code", "name"),
    [
        (400, "BadRequestError"),
        (401, "AuthenticationError"),
        (403, "PermissionDeniedError"),
        (404, "NotFoundError"),
        (500, "InternalServerError"),
        (502, "InternalServerError"),
        (503, "InternalServerError"),
        (529, "InternalServerError"),
    ],
)
def test_status_becomes_the_clients_own_error(ask, wire, code, name):
    """Each status comes with a body that the vendor's client maps to its own class."""
    with pytest.raises(getattr(ERRORS[wire], name)) as caught:
        ask(wire, f"status:code={code}")

    assert caught.value.status_code == code


@pytest.mark.parametrize("wire", WIRES)
def test_rate_limit_becomes_the_clients_own_error(ask, wire):
    """429 is each vendor's RateLimitError, with a way to know how long to wait."""
    with pytest.raises(ERRORS[wire].RateLimitError) as caught:
        ask(wire, "rate_limit:retry_after_seconds=3")

    headers = caught.value.response.headers
    assert headers.get("retry-after-ms") == "3000" or headers.get("retry-after") == "3"


def test_quota_error_is_told_apart_from_a_rate_limit(ask):
    """scope=quota is the 429 that no waiting cures."""
    with pytest.raises(openai.RateLimitError) as caught:
        ask("openai", "rate_limit:scope=quota")

    assert caught.value.code == "insufficient_quota"


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("dialect", "present", "absent"),
    [
        ("seconds", {"retry-after": "360"}, ["retry-after-ms"]),
        ("milliseconds", {"retry-after-ms": "360000"}, ["retry-after"]),
        ("openai", {"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "0"}, ["retry-after"]),
        ("azure", {"retry-after": "360", "retry-after-ms": "360000"}, []),
        ("anthropic", {"anthropic-ratelimit-requests-remaining": "0"}, ["retry-after"]),
        ("none", {}, ["retry-after", "retry-after-ms", "x-ratelimit-reset-requests"]),
    ],
)
def test_rate_limit_speaks_every_dialect_on_every_wire(post, wire, dialect, present, absent):
    """The wait is told in the dialect asked for, and in no other."""
    response = post(wire, f"rate_limit:retry_after_seconds=360,dialect={dialect}")

    assert response.status_code == 429
    assert {key: response.headers.get(key) for key in present} == present
    assert not [key for key in absent if key in response.headers]


def test_rate_limit_dates_lie_in_the_future(post):
    """HTTP dates and RFC 3339 resets are absolute, and later than the response's own date."""
    response = post("openai", "rate_limit:retry_after_seconds=3600,dialect=http_date")

    sent = parsedate_to_datetime(response.headers["date"])
    assert 3590 < (parsedate_to_datetime(response.headers["retry-after"]) - sent).total_seconds() < 3610


@pytest.mark.parametrize("wire", WIRES)
def test_reset_breaks_the_connection_before_any_byte(ask, wire):
    """The client reads ECONNRESET, which is no orderly close."""
    with pytest.raises(ERRORS[wire].APIConnectionError) as caught:
        ask(wire, "reset")

    assert "reset by peer" in str(caught.value.__cause__)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("stream", [False, True])
def test_reset_mid_stream_comes_after_the_chunks_it_names(http, wire, stream):
    """Two content chunks arrive, then ECONNRESET."""
    received = []
    model = {"model": "claude-instant", "max_tokens": 400} if wire == "anthropic" else {"model": "gpt-4o-instant"}
    headers = HEADERS | {"x-simulator-fault": "reset_mid_stream:after=2"}
    body = {**model, "messages": MESSAGES, "stream": stream}

    with http.stream("POST", PATHS[wire], json=body, headers=headers) as response:
        pieces = response.iter_raw()
        with pytest.raises(httpx.ReadError, match="reset by peer"):
            received.extend(pieces)

    received = b"".join(received)
    if stream:
        mark = b'"text_delta"' if wire == "anthropic" else b'"delta":{"content":"'
        assert received.count(mark) == 2
    else:
        assert len(received) == 64


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("fault", ["silence", "silence_mid_stream:after=1"])
def test_silence_runs_into_the_clients_timeout(ask, wire, fault):
    """Nothing more comes, and the connection stays open until the client gives up."""
    with pytest.raises((ERRORS[wire].APIConnectionError, httpx2.ReadTimeout)) as caught:
        ask(wire, fault, stream=fault != "silence", timeout=0.2)

    assert "imeout" in repr(caught.value) + repr(caught.value.__cause__)


@pytest.mark.parametrize("wire", WIRES)
def test_truncated_chunk_closes_inside_json(post, wire):
    """An abrupt close leaves the HTTP message incomplete; a clean one leaves only the JSON so."""
    with pytest.raises(httpx.RemoteProtocolError):
        post(wire, "truncated_chunk:after=1", stream=True)
    clean = post(wire, "truncated_chunk:after=1,close=clean", stream=True)

    last = clean.text.splitlines()[-1].removeprefix("data: ")
    with pytest.raises(json.JSONDecodeError):
        json.loads(last)


@pytest.mark.parametrize("wire", WIRES)
def test_plain_body_can_be_cut_or_garbled(post, wire):
    """A plain body is cut with its length right (clean) or wrong (abrupt), or garbled at full length."""
    with pytest.raises(httpx.RemoteProtocolError):
        post(wire, "truncated_chunk:after=1")
    for fault in ("truncated_chunk:close=clean", "malformed_chunk"):
        response = post(wire, fault)
        assert response.status_code == 200
        with pytest.raises(json.JSONDecodeError):
            response.json()


@pytest.mark.parametrize("wire", WIRES)
def test_malformed_chunk_fails_the_clients_parser_and_the_stream_goes_on(ask, post, wire):
    """One event is not JSON; those after it are."""
    with pytest.raises(json.JSONDecodeError):
        ask(wire, "malformed_chunk:after=1", stream=True)

    events = [line for line in post(wire, "malformed_chunk:after=1", stream=True).text.splitlines() if "{" in line]
    broken = [at for at, line in enumerate(events) if "~" in line]
    assert len(broken) == 1
    json.loads(events[broken[0] + 1].removeprefix("data: "))


@pytest.mark.parametrize("wire", WIRES)
def test_error_mid_stream_is_raised_by_the_client(ask, wire):
    """The vendor's own error event ends the stream."""
    with pytest.raises(ERRORS[wire].APIError):
        ask(wire, "error_mid_stream:after=2", stream=True)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("drop", ["terminator", "finish"])
def test_missing_final_ends_as_if_all_were_well(post, wire, drop):
    """HTTP is complete; only the terminator, or the finish too, did not come."""
    text = post(wire, f"missing_final:drop={drop}", stream=True).text

    finish = "message_delta" if wire == "anthropic" else '"finish_reason":"stop"'
    assert "[DONE]" not in text
    assert "message_stop" not in text
    assert (finish in text) is (drop == "terminator")


@pytest.mark.parametrize("wire", WIRES)
def test_duplicate_final_comes_twice(post, wire):
    """Finish and terminator are both doubled."""
    text = post(wire, "duplicate_final", stream=True).text

    finish, end = (
        ("event: message_delta", "event: message_stop")
        if wire == "anthropic"
        else ('"finish_reason":"stop"', "data: [DONE]")
    )
    assert (text.count(finish), text.count(end)) == (2, 2)


@pytest.mark.parametrize("wire", WIRES)
def test_wrong_content_type_is_sent(post, wire):
    """The body is right and its type is not."""
    response = post(wire, "wrong_content_type:value=text/plain")

    assert response.headers["content-type"] == "text/plain"
    assert response.json()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", ["openai", "azure-openai"])
def test_refusal_is_openais_refusal_field(ask, wire, stream):
    """Content stays empty, the refusal has the words."""
    answer = ask(wire, "refusal", stream=stream)

    if stream:
        deltas = [chunk.choices[0].delta for chunk in answer if chunk.choices]
        assert "".join(delta.refusal or "" for delta in deltas).startswith("I'm sorry")
        assert not any(delta.content for delta in deltas)
    else:
        assert answer.choices[0].message.refusal.startswith("I'm sorry")
        assert answer.choices[0].message.content is None


def test_refusal_is_anthropics_stop_reason(ask):
    """No content, stop_reason refusal, and details."""
    message = ask("anthropic", "refusal")

    assert (message.content, message.stop_reason) == ([], "refusal")
    assert message.stop_details.type == "refusal"
    assert ask("anthropic", "refusal", stream=True)[-2].delta.stop_reason == "refusal"


@pytest.mark.parametrize("wire", WIRES)
def test_content_filter_stops_prompt_or_answer(ask, wire):
    """at=prompt is a 400; at=answer is a short answer with the vendor's word for it."""
    with pytest.raises(ERRORS[wire].BadRequestError):
        ask(wire, "content_filter")

    answer = ask(wire, "content_filter:at=answer")
    reason = answer.stop_reason if wire == "anthropic" else answer.choices[0].finish_reason
    assert reason == ("refusal" if wire == "anthropic" else "content_filter")


@pytest.mark.parametrize("wire", WIRES)
def test_wrong_usage_is_zero_missing_or_inflated(ask, wire):
    """The words are the same; only the figures lie."""

    def figures(answer):
        usage = answer.usage
        if usage is None:
            return None
        return usage.output_tokens if wire == "anthropic" else usage.completion_tokens

    true = ask(wire, "latency:ms=0")

    assert figures(ask(wire, "wrong_usage:kind=zero")) == 0
    assert figures(ask(wire, "wrong_usage:kind=missing")) is None
    assert figures(ask(wire, "wrong_usage:kind=inflated,factor=3")) == 3 * figures(true)
    assert text_of(wire, ask(wire, "wrong_usage")) == text_of(wire, true)


@pytest.mark.parametrize(
    ("kind", "looks"),
    [
        ("fence", lambda text: text.startswith("```json\n") and text.endswith("\n```")),
        ("prose", lambda text: text.startswith("Here is the JSON")),
        ("trailing_comma", lambda text: text.endswith(",}")),
        ("truncated", lambda text: text.startswith("{") and not text.endswith("}")),
        ("single_quotes", lambda text: text.startswith("{'")),
    ],
)
def test_malformed_answer_spoils_the_json_that_was_asked_for(ask, kind, looks):
    """Each way in which models spoil JSON; none of them parses."""
    answer = ask("openai", f"malformed_answer:kind={kind}", response_format={"type": "json_object"})

    text = answer.choices[0].message.content
    assert looks(text)
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


def test_malformed_answer_can_break_the_schema_alone(ask):
    """missing_field and wrong_type are JSON, but not what was asked for."""
    ask_json = {"response_format": {"type": "json_object"}}

    missing = json.loads(ask("openai", "malformed_answer:kind=missing_field", **ask_json).choices[0].message.content)
    wrong = json.loads(ask("openai", "malformed_answer:kind=wrong_type", **ask_json).choices[0].message.content)

    assert "answer" not in missing
    assert isinstance(wrong["answer"], dict)


@pytest.mark.parametrize("wire", WIRES)
def test_model_says_what_it_is_told_to_say(ask, wire):
    """Whatever was asked, so that what must not be said can be."""
    answer = ask(wire, "say:text=My card is 4111 1111 1111 1111.")

    assert "My card is 4111 1111 1111 1111." in answer.model_dump_json()


@pytest.mark.parametrize("fault", ["latency:ms=1", "latency:ms=1,before=first_chunk", "slow_drip:ms=1"])
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("stream", [False, True])
def test_waiting_changes_no_word(post, wire, fault, stream):
    """However late, the answer is whole; how late is told by the script's own tests."""
    late, prompt = post(wire, fault, stream=stream), post(wire, "latency:ms=0", stream=stream)

    assert late.status_code == 200
    assert len(late.text) == len(prompt.text)


def test_fault_can_ride_in_metadata_or_in_the_words(http):
    """What no header can carry through a gateway, the body can; the marker is no part of the question."""
    body = {"model": "gpt-4o-instant", "messages": MESSAGES}
    marked = [{"role": "user", "content": f"{QUESTION} [[fault wrong_usage:kind=missing]]"}]

    def post(change):
        return http.post(PATHS["openai"], json=body | change, headers=HEADERS)

    assert post({"metadata": {"simulator_fault": "status:code=503"}}).status_code == 503
    assert post({"metadata": {"simulator_fault": '{"name": "status", "code": 500}'}}).status_code == 500
    spoken = post({"messages": marked}).json()
    assert "usage" not in spoken
    assert spoken["choices"][0]["message"] == post({}).json()["choices"][0]["message"]


def test_header_overrides_the_body_and_others_are_added(http):
    """Of two faults with one name the header's wins; different ones play together."""
    body = {
        "model": "gpt-4o-instant",
        "messages": MESSAGES,
        "metadata": {"simulator_fault": "status:code=503;latency:ms=1"},
    }

    response = http.post(PATHS["openai"], json=body, headers=HEADERS | {"x-simulator-fault": "status:code=500"})

    assert response.status_code == 500
    assert http.get("/admin/state").json()["faults"] == {"latency": 1, "status": 1}


@pytest.mark.parametrize("wire", WIRES)
def test_bad_fault_is_a_400_that_names_it(post, wire):
    """A fault that does not exist is not passed over in silence."""
    response = post(wire, "earthquake:magnitude=8")

    assert response.status_code == 400
    assert "earthquake" in response.json()["error"]["message"]


def test_every_fault_of_the_table_is_seen_here():
    """A new fault comes with its test."""
    with open(__file__) as source:
        text = source.read()

    assert not [name for name in FAULTS if f'"{name}' not in text]
