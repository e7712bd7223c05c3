"""How a broken-off answer goes on: whether at all, by which lanes, and what of the new answer is new."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.continuation import IfNot, Overlap, note_of, prefilled, ways_asked_for, ways_on, why_broken_off, why_not
from dataplane.errors.admission import DeadlineExceeded
from dataplane.errors.streams import AnswerDiverged
from dataplane.errors.upstream import UpstreamInterrupted, UpstreamRateLimited, UpstreamRejected
from dataplane.messages import (
    ChatRequest,
    Finish,
    RefusalDelta,
    Start,
    StreamChunk,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageDelta,
)
from dataplane.release import parse_document
from dataplane.stream_rows import Origin, Partial

QUESTION = ChatRequest("chat", [{"role": "user", "content": "Hi"}], {}, stream=True)
SO_FAR = Partial("Hello, you ", 3)


@pytest.fixture(scope="module")
def lane(make_document):
    """Makes lanes."""
    document = make_document()
    made = next(iter(parse_document(document, digest="d" * 64).routing.lanes.values()))
    return lambda name, **changes: replace(made, id=name, **changes)


@pytest.mark.parametrize(
    ("parameters", "partial", "why"),
    [
        ({}, {}, None),
        ({"n": 1, "logprobs": False, "modalities": ["text"], "max_tokens": 4}, {}, None),
        ({}, {"called_tools": True}, "calling a tool"),
        ({}, {"refused": True}, "declining"),
        ({"n": 2}, {}, "several choices"),
        ({"logprobs": True}, {}, "log probabilities"),
        ({"modalities": ["text", "audio"]}, {}, "sound"),
        ({"max_tokens": 3}, {}, "length limit"),
        ({"max_completion_tokens": 3, "max_tokens": 50}, {}, "length limit"),
        ({"max_completion_tokens": None, "max_tokens": None}, {}, None),
    ],
)
def test_some_answers_cannot_be_taken_up(parameters, partial, why):
    """Each for its reason, told in words."""
    said = why_not(replace(QUESTION, parameters=parameters), replace(SO_FAR, **partial))

    assert said is None if why is None else why in said


@pytest.mark.parametrize(
    ("error", "ends_elsewhere"),
    [
        (UpstreamInterrupted("gone", lane="l"), False),
        (UpstreamRateLimited(lane="l", retry_after_seconds=1.0), False),
        (UpstreamRejected("no", lane="l", status=400), True),
        (DeadlineExceeded(deadline_ms=1, stage="streaming"), True),
        (AnswerDiverged(after_characters=2), True),
    ],
)
def test_only_what_the_lane_is_to_blame_for_may_end_otherwise_elsewhere(error, ends_elsewhere):
    """What the caller, or this gateway, is to blame for would be the same anywhere."""
    assert (why_broken_off(error) is not None) == ends_elsewhere


def test_the_ways_on_are_those_of_the_policy(lane):
    """Writing on first, at lanes that can; then asking anew, at lanes of the same model first; the broken one last."""
    cut = lane("cut", model="m", capabilities=frozenset({"chat", "prefill"}))
    able = lane("able", model="n", capabilities=frozenset({"chat", "prefill"}))
    alike = lane("alike", model="m", capabilities=frozenset({"chat"}))
    lanes = (cut, able, alike)

    def ways(on_cut, partial=SO_FAR, **parameters):
        request = replace(QUESTION, parameters=parameters)
        found = ways_on(request, partial, on_cut=on_cut, lanes=lanes, cut="cut")
        return [(way.how, [one.id for one in way.lanes], way.expected) for way in found]

    anew = ("regenerated", ["alike", "cut", "able"], "Hello, you ")
    assert ways("end") == []
    assert ways("continue") == [("prefill", ["able", "cut"], " ")]
    assert ways("regenerate") == [("prefill", ["able", "cut"], " "), anew]
    assert ways("continue", Partial(" \n", 1)) == []
    assert ways("regenerate", response_format={"type": "json_object"}) == [anew]
    assert ways("continue", response_format={"type": "json_object"}) == []
    asked = list(ways_asked_for(QUESTION, SO_FAR, lanes=(alike,)))
    assert [(way.how, way.is_required) for way in asked] == [("regenerated", False)]


def test_a_lane_is_given_the_words_so_far_and_what_is_left_of_the_limit():
    """Without the white space at their end; and at least one token."""
    request = replace(QUESTION, parameters={"max_tokens": 10, "max_completion_tokens": 2, "temperature": 0.5})

    made = prefilled(request, SO_FAR)

    assert made.messages == [*QUESTION.messages, {"role": "assistant", "content": "Hello, you"}]
    assert made.parameters == {"max_tokens": 7, "max_completion_tokens": 1, "temperature": 0.5}
    assert request.parameters["max_tokens"] == 10


def test_the_note_says_what_is_gone_on_from(lane):
    """In the same stream or another; of a new answer it says that nothing of the old one counts."""
    same = Overlap("", IfNot.PASS)
    origin = Origin("0" * 32, 5, "chatcmpl-1", SO_FAR)
    other = Overlap("Hello", IfNot.GIVE_ALL)
    other.feed(StreamChunk((TextDelta("Bye"),)))

    resumed = note_of(None, "1" * 32, SO_FAR, "prefill", lane("l"), same)["resumed"]
    continues = note_of(origin, "1" * 32, SO_FAR, "regenerated", lane("l"), other)["continues"]

    assert (resumed["stream"], resumed["prefix_characters"], resumed["lane"]) == ("1" * 32, 11, "l")
    assert resumed["prefix_sha256"] == hashlib.sha256(b"Hello, you ").hexdigest()
    assert (continues["stream"], continues["after"], continues["prefix_characters"]) == ("0" * 32, 5, 0)


# --- what is new ------------------------------------------------------------------------------------------------------
STOP = Finish("stop")


def fed(overlap, pieces, *, last=STOP):
    """What is handed over of an answer that comes in these pieces: its text, and the error that ended it."""
    text = ""
    try:
        for delta in [Start("i", "m", 1), *map(TextDelta, pieces), UsageDelta(Usage(1, 2)), last]:
            chunk = overlap.feed(StreamChunk((delta,), raw=b"{}"))
            assert chunk.raw is None
            text += "".join(one.text for one in chunk.deltas if isinstance(one, TextDelta))
    except AnswerDiverged as exc:
        return text, exc.after_characters
    return text, None


LETTERS = st.text("ab ", max_size=12)
CUTS = st.lists(st.integers(0, 12), max_size=6)


def cut_up(text, cuts):
    """The text in pieces, cut at these places; some may be empty."""
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[begin:end] for begin, end in itertools.pairwise(places)]


@given(expected=LETTERS, answer=LETTERS, cuts=CUTS, if_not=st.sampled_from(IfNot))
def test_what_is_new_does_not_depend_on_how_the_answer_is_cut(expected, answer, cuts, if_not):
    """In one piece, letter by letter or anyhow: the same text, the same verdict, the same count of what was dropped."""
    whole, pieces = Overlap(expected, if_not), Overlap(expected, if_not)

    assert fed(whole, [answer]) == fed(pieces, cut_up(answer, cuts))

    assert (whole.has_diverged, whole.dropped_characters) == (pieces.has_diverged, pieces.dropped_characters)
    common = (
        len(answer)
        if expected.startswith(answer)
        else max(size for size in range(len(expected) + 1) if answer.startswith(expected[:size]))
    )
    assert whole.dropped_characters == (0 if whole.has_diverged else min(common, len(expected)))


@given(expected=LETTERS, more=LETTERS, cuts=CUTS, if_not=st.sampled_from(IfNot))
def test_an_answer_that_begins_as_expected_goes_on_where_that_ends(expected, more, cuts, if_not):
    """Whatever would follow if it did not."""
    assert fed(Overlap(expected, if_not), cut_up(expected + more, cuts)) == (more, None)


@given(expected=st.text("ab ", min_size=1, max_size=12), answer=LETTERS)
def test_an_answer_that_begins_otherwise_is_refused_passed_or_given_whole(expected, answer):
    """Refused before anything of it was seen; passed from where it differs; or given as the new answer that it is."""
    if answer.startswith(expected):
        return
    common = next((place for place, pair in enumerate(zip(answer, expected, strict=False)) if pair[0] != pair[1]), None)
    common = min(len(answer), len(expected)) if common is None else common

    assert fed(Overlap(expected, IfNot.REFUSE), [answer]) == ("", common)
    assert fed(Overlap(expected, IfNot.PASS), [answer]) == (answer[common:], None)
    given_whole = Overlap(expected, IfNot.GIVE_ALL)
    assert fed(given_whole, [answer]) == (answer, None)
    assert given_whole.has_diverged


@pytest.mark.parametrize("last", [ToolCallDelta(0, "t", "f", "{"), RefusalDelta("I will not"), Finish("stop")])
def test_a_tool_call_a_refusal_or_an_end_where_words_were_due_is_another_answer(last):
    """The words that were held back come before it, if they come at all."""
    assert fed(Overlap("Hello", IfNot.REFUSE), ["He"], last=last) == ("", 2)
    assert fed(Overlap("Hello", IfNot.GIVE_ALL), ["He"], last=last) == ("He", None)
    assert fed(Overlap("  ", IfNot.PASS), [" "], last=last) == ("", None)
