"""The ledger row of a stream: its tokens, each part of the one before, whoever ended it and however it was read."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.access import OURSELVES
from dataplane.documents import Node
from dataplane.errors.upstream import UpstreamInterrupted, UpstreamUnavailable
from dataplane.frames import DONE, Ending, digest_frames
from dataplane.journey import Inbound, Journey
from dataplane.messages import Usage
from dataplane.policies import StreamPolicy
from dataplane.release import parse_document
from dataplane.stream_rows import (
    Segment,
    finished_row,
    identity,
    origin_of,
    orphan_rows,
    segments_json,
    tokens_through,
    usage_rows,
    with_delivery,
)

from .conftest import SECTIONS, stream_policy

POLICY = StreamPolicy.parse("kept", Node(stream_policy(on_cut="regenerate"), "$"))
DOCUMENT = {"schema": 1, "revision": 1, "cut_at": "2026-01-02T03:04:05Z", "reason": "test"} | {
    "audit_head": {"seq": 7, "hash": "ab" * 32},
    "sections": SECTIONS,
}
LANE = next(iter(parse_document(json.loads(json.dumps(DOCUMENT)), digest="d" * 64).routing.lanes.values()))
CUT = UpstreamInterrupted("gone", lane="l")
ENDS = {"ok": None, "cut": CUT, "refused": UpstreamUnavailable("no", lane="l", status=503), "running": None}


def frame(text):
    return json.dumps({"id": "chatcmpl-1", "choices": [{"delta": {"content": text}}]}).encode()


def answer(journey, pieces, *, dropped=0, usage=None, end="ok"):
    """One attempt of a journey that gave these pieces, the first characters of which are dropped; and its frames."""
    attempt = journey.begin_attempt(LANE, now=1.0)
    attempt.sent_bytes = 100
    attempt.characters = sum(map(len, pieces))
    attempt.usage = None if usage is None else Usage(20, usage)
    if end == "ok":
        attempt.outcome = "ok"
    elif end != "running":
        attempt.fail(ENDS[end])
    run = SimpleNamespace(dropped_characters=min(dropped, attempt.characters))
    text = "".join(pieces)[run.dropped_characters :]
    return attempt, run, [frame(text[place : place + 5]) for place in range(0, len(text), 5)]


def make_journey():
    journey = Journey(Inbound("req_1", b"{}", 0.0, user="ada"))
    journey.tenant, journey.route = OURSELVES, "chat"
    return journey


ANSWERS = st.lists(
    st.fixed_dictionaries(
        {
            "pieces": st.lists(st.text("ab ", max_size=30), max_size=4),
            "dropped": st.integers(0, 60),
            "usage": st.none() | st.integers(0, 200),
            "end": st.sampled_from(sorted(ENDS)),
        }
    ),
    max_size=3,
)


def build(answers):
    """The journey, segments and frames of a stream whose attempts gave these answers."""
    journey, segments, payloads = make_journey(), [], []
    for one in answers:
        attempt, run, frames = answer(journey, **one)
        if frames:
            segments.append(Segment(attempt, run, "first" if not segments else "regenerated", "", len(payloads) + 1))
            payloads += frames
    return journey, segments, payloads


def row_of(journey, segments, payloads):
    """The row without delivery; the last payload is the terminal event."""
    return finished_row(
        identity(journey, POLICY, stream="0" * 32, started_at=1.0, continues=""),
        at=2.0,
        ending=Ending.INTERRUPTED,
        code="upstream_interrupted",
        segments=segments_json(segments, last=len(payloads)),
        usage=usage_rows(journey, wall=2.0, now=3.0),
        payloads=payloads,
        words="words",
        transcript="digest",
    )


@settings(max_examples=60)
@given(answers=ANSWERS, delivered=st.integers(0, 60), acked=st.integers(0, 60))
def test_each_figure_is_part_of_the_one_before(answers, delivered, acked):
    """billed >= generated >= buffered >= delivered >= acknowledged, whatever the attempts gave and the readers took."""
    journey, segments, payloads = build(answers)
    payloads.append(b'{"error":{}}')
    delivered = min(delivered, len(payloads))
    acked = min(acked, delivered)

    row = with_delivery(row_of(journey, segments, payloads), payloads, delivered=delivered, acked=acked)

    figures = [row[f"{name}_tokens"] for name in ("billed", "generated", "buffered", "delivered", "acked")]
    assert figures == sorted(figures, reverse=True)
    assert figures[-1] >= 0
    assert row["billed_tokens"] == sum(one["output_tokens"] for one in usage_rows(journey, wall=2.0, now=3.0))
    for one in row["segments"]:
        assert one["billed_tokens"] >= one["generated_tokens"] >= one["buffered_tokens"] >= 0
    whole = with_delivery(row, payloads, delivered=len(payloads), acked=len(payloads))
    assert whole["delivered_tokens"] == whole["acked_tokens"] == row["buffered_tokens"]


@settings(max_examples=60)
@given(answers=ANSWERS)
def test_what_is_delivered_grows_with_every_frame(answers):
    """From nothing to everything that was buffered, and segments follow each other without a gap."""
    _, segments, payloads = build(answers)
    payloads.append(DONE)
    rows = segments_json(segments, last=len(payloads))

    tokens = [tokens_through(rows, payloads, through) for through in range(len(payloads) + 1)]

    assert tokens == sorted(tokens)
    assert (tokens[0], tokens[-1]) == (0, sum(one["buffered_tokens"] for one in rows))
    ends = [(one["first_seq"], one["last_seq"]) for one in rows]
    assert [first for first, _ in ends[1:]] == [last + 1 for _, last in ends[:-1]]


@settings(max_examples=60)
@given(answers=ANSWERS, known=st.integers(0, 60), end=st.sampled_from(["running", "ok"]), delivered=st.integers(0, 60))
def test_the_rows_of_an_orphan_keep_the_order_too(answers, known, end, delivered):
    """Its owner noted them when less was known than the log has; what is new is told from the frames, and priced."""
    answers = [{**one, "end": "cut"} for one in answers[:-1]] + [{**one, "end": end} for one in answers[-1:]]
    journey, segments, payloads = build(answers)
    if segments and segments[-1].attempt is journey.attempts[-1]:
        attempt = segments[-1].attempt
        attempt.characters = min(attempt.characters, known)  # as it stood when the owner told of it
    noted = segments_json(segments, last=min(known, len(payloads)))
    before = usage_rows(journey, wall=2.0, now=3.0)
    as_noted = json.dumps([noted, before])

    closed, usage = orphan_rows(noted, before, payloads, output_price=10_000_000)

    payloads.append(b'{"error":{}}')
    row = with_delivery(
        finished_row(
            {"stream_id": "0" * 32},
            at=2.0,
            ending=Ending.INTERRUPTED,
            code="upstream_interrupted",
            segments=closed,
            usage=usage,
            payloads=payloads,
            words="",
            transcript="digest",
        ),
        payloads,
        delivered=min(delivered, len(payloads)),
        acked=0,
    )
    figures = [row[f"{name}_tokens"] for name in ("billed", "generated", "buffered", "delivered", "acked")]
    assert figures == sorted(figures, reverse=True)
    more = sum(one["output_tokens"] for one in usage) - sum(one["output_tokens"] for one in before)
    assert sum(one["cost_micros"] for one in usage) - sum(one["cost_micros"] for one in before) == 10 * more
    if closed:
        assert (closed[-1]["partial"], closed[-1]["last_seq"]) == (True, len(payloads) - 1)
        assert usage[-1]["outcome"] == "owner_lost"
    assert json.dumps([noted, before]) == as_noted


def test_an_orphan_is_billed_for_what_its_frames_hold():
    """Four characters to a token, of the last attempt; those before it are as they were."""
    journey, segments, payloads = build(
        [{"pieces": ["Hello, "], "end": "cut"}, {"pieces": ["you there, my friend"], "end": "running"}]
    )
    segments[1].attempt.characters = 4

    closed, usage = orphan_rows(
        segments_json(segments, last=3), usage_rows(journey, wall=2.0, now=3.0), payloads, output_price=10_000_000
    )

    assert [(one["first_seq"], one["last_seq"], one["buffered_tokens"]) for one in closed] == [(1, 2, 2), (3, 6, 5)]
    assert [one["output_tokens"] for one in usage] == [2, 5]
    assert [(one["outcome"], one["status"]) for one in usage] == [("upstream_interrupted", 502), ("owner_lost", 499)]


def test_a_row_says_what_the_stream_was():
    """Who asked, under which policy, how it ended, and what anybody can check it by."""
    journey, segments, payloads = build([{"pieces": ["Hello, you"], "usage": 9, "end": "ok"}])
    payloads.append(DONE)

    row = row_of(journey, segments, payloads)

    assert (row["stream_id"], row["request_id"], row["tenant"]) == ("0" * 32, "req_1", "ballast")
    assert (row["policy"], row["on_cut"], row["refund"]) == ("kept", "regenerate", "undelivered")
    assert row["user"] == hashlib.sha256(b"ada").hexdigest()[:16]
    assert (row["frames"], row["bytes"], row["digest"]) == (3, sum(map(len, payloads)), digest_frames(payloads))
    assert row["text_digest"] == hashlib.sha256(b"words").hexdigest()
    assert (row["billed_tokens"], row["cost_micros"], row["transcript"]) == (9, 140, None)
    [segment] = row["segments"]
    assert (segment["lane"], segment["estimated"], segment["partial"]) == (LANE.id, False, False)


def test_an_answer_that_no_lane_gave_has_no_segments():
    """Signed copy is streamed too, and costs nobody anything."""
    row = with_delivery(row_of(make_journey(), [], [frame("Back soon."), DONE]), [b"", b""], delivered=2, acked=1)

    assert (row["segments"], row["frames"]) == ([], 2)
    assert {row[f"{name}_tokens"] for name in ("billed", "generated", "buffered", "delivered", "acked")} == {0}


def test_the_words_of_an_attempt_that_are_dropped_are_no_part_of_what_is_buffered():
    """They were generated, and billed, and the caller had them before."""
    _, segments, payloads = build(
        [
            {"pieces": ["Hello, "], "end": "cut"},
            {"pieces": ["Hello, you there"], "dropped": 8, "usage": 40, "end": "ok"},
        ]
    )

    first, second = segments_json(segments, last=len(payloads))

    assert (first["buffered_tokens"], second["generated_tokens"], second["buffered_tokens"]) == (2, 40, 20)
    assert (segments[1].characters_kept, segments[1].tokens_kept) == (8, 2)


@pytest.mark.parametrize(
    ("delta", "called_tools", "refused"),
    [
        ({"content": "there"}, False, False),
        ({"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}, True, False),
        ({"refusal": "I will not"}, False, True),
    ],
)
def test_an_ended_stream_is_taken_up_behind_its_last_frame_that_counts(delta, called_tools, refused):
    """With its words, its id, and what else came."""
    last = json.dumps({"choices": [{"delta": delta}]}).encode()

    origin = origin_of("0" * 32, [frame("Hello, "), last, b'{"error":{}}'])

    assert (origin.after, origin.answer_id) == (2, "chatcmpl-1")
    assert (origin.partial.called_tools, origin.partial.refused) == (called_tools, refused)
    assert origin.partial.text.startswith("Hello, ")
    assert origin_of("0" * 32, [b'{"error":{}}']).answer_id == "0" * 32
