"""Breaker and stream policies and fallback stacks: read whole or refused by path, never with two parts that fight."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.documents import MalformedRelease, Node
from dataplane.policies import (
    BREAKER_THRESHOLDS,
    STREAM_THRESHOLDS,
    BreakerPolicy,
    CachedAnswers,
    FallbackStack,
    StreamPolicy,
)
from tests.dataplane.conftest import breaker_policy, stream_policy, threshold

RATES = ("failure_rate", "timeout_rate", "dragging_rate")
COUNTS = ("minimum_attempts", "probes", "healthy_probes")


def stack(**changes: Any) -> dict[str, Any]:
    return {
        "answers": {"copy": "faq", "embedding_route": "embed", "minimum_score": threshold(0.9)},
        "template": {"copy": "sorry"},
        "outage": {"copy": "down"},
    } | changes


def test_policy_has_every_number_under_its_name() -> None:
    """What the console lists is what the document says, in the order of the class."""
    policy = BreakerPolicy.parse("standard", Node(breaker_policy(open_seconds=12, probes=2), "$"))

    assert policy.slug == "standard"
    assert (policy.open_seconds.value, policy.probes.value, policy.latency_p95_ms.value) == (12, 2, 2000)
    assert tuple(policy.thresholds()) == BREAKER_THRESHOLDS
    assert policy.thresholds()["calm_seconds"] is policy.calm_seconds


@pytest.mark.parametrize(
    ("member", "value", "words"),
    [
        *[(rate, value, "is not above 0 and at most 1") for rate in RATES for value in (0, 1.01)],
        *[(count, value, "is outside 1..") for count in COUNTS for value in (0, 10_000_000)],
        *[(count, 1.5, "expected a whole number") for count in COUNTS],
        ("window_seconds", 601, "at most 600"),
        ("latency_p95_ms", 0, "is not above 0"),
        ("ttft_p95_ms", 3_600_001, "at most 3.6e"),
        ("drain_tokens_per_second", 0, "is not above 0"),
        ("open_seconds", 3601, "at most 3600"),
        ("calm_seconds", 86_401, "at most 86400"),
    ],
)
def test_number_out_of_range_is_refused_at_its_value(member: str, value: float, words: str) -> None:
    """Shares are shares, counts are whole, and nothing waits for ever."""
    with pytest.raises(MalformedRelease, match=words) as refusal:
        BreakerPolicy.parse("p", Node(breaker_policy(**{member: value}), "$"))

    assert refusal.value.path == f"$.{member}.value"


@pytest.mark.parametrize(
    ("changes", "refused_at", "words"),
    [
        ({"flap_factor": 0.9}, "$.flap_factor", "open for less each time it flaps"),
        ({"open_seconds": 30, "max_open_seconds": 29}, "$.max_open_seconds", "less than open_seconds, 30"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(changes: dict[str, float], refused_at: str, words: str) -> None:
    """A breaker that keeps coming back open stays open longer, never shorter."""
    with pytest.raises(MalformedRelease, match=words) as refusal:
        BreakerPolicy.parse("p", Node(breaker_policy(**changes), "$"))

    assert refusal.value.path == refused_at


def test_policy_with_a_number_missing_or_one_too_many_is_refused() -> None:
    """There are no defaults that nobody decided."""
    for name in BREAKER_THRESHOLDS:
        document = breaker_policy()
        del document[name]
        with pytest.raises(MalformedRelease, match=rf"^\$: missing key '{name}'$"):
            BreakerPolicy.parse("p", Node(document, "$"))
    with pytest.raises(MalformedRelease, match=r"^\$\.slug: unknown key"):
        BreakerPolicy.parse("p", Node(breaker_policy(slug=1), "$"))


@pytest.mark.parametrize("on_cut", ["continue", "regenerate", "end"])
def test_stream_policy_has_its_numbers_and_its_words(on_cut: str) -> None:
    """Up to both ends of each range; only `end` takes nothing up again."""
    most = 0 if on_cut == "end" else 3
    document = stream_policy(
        on_cut=on_cut,
        transcript="digest",
        refund="none",
        retention_seconds=604_800,
        abandon_seconds=3600,
        continuations=most,
    )

    policy = StreamPolicy.parse("resumable", Node(document, "$"))

    assert (policy.slug, policy.on_cut, policy.transcript, policy.refund) == ("resumable", on_cut, "digest", "none")
    assert {name: number.value for name, number in policy.thresholds().items()} == {
        "retention_seconds": 604_800,
        "abandon_seconds": 3600,
        "continuations": most,
    }
    assert tuple(policy.thresholds()) == STREAM_THRESHOLDS


@pytest.mark.parametrize(
    ("document", "refused_at", "words"),
    [
        (stream_policy(retention_seconds=604_801), "$.retention_seconds.value", "at most 604800"),
        (stream_policy(retention_seconds=59.9), "$.retention_seconds", "less than 60, too short to come back in"),
        (stream_policy(abandon_seconds=0), "$.abandon_seconds.value", "is not above 0"),
        (stream_policy(abandon_seconds=3601), "$.abandon_seconds.value", "at most 3600"),
        (stream_policy(continuations=4), "$.continuations.value", "4 is outside 0..3"),
        (stream_policy(continuations=1.5), "$.continuations.value", "expected a whole number"),
        (stream_policy(on_cut="retry"), "$.on_cut", "'retry' is not one of continue, end, regenerate"),
        (stream_policy(transcript="drop"), "$.transcript", "'drop' is not one of digest, keep"),
        (stream_policy(refund="all"), "$.refund", "'all' is not one of none, unacknowledged, undelivered"),
        (stream_policy(on_cut="end", continuations=1), "$.continuations", "takes no stream up again; set it to 0"),
        (stream_policy(continuations=0), "$.continuations", "on_cut 'continue' never happens; set that to 'end'"),
        (stream_policy(on_cut="regenerate", continuations=0), "$.continuations", "on_cut 'regenerate' never happens"),
        (stream_policy() | {"resume": True}, "$.resume", "unknown key"),
        ({name: one for name, one in stream_policy().items() if name != "refund"}, "$", "missing key 'refund'"),
    ],
)
def test_stream_policy_that_nobody_can_follow_is_refused_by_path(
    document: dict[str, Any], refused_at: str, words: str
) -> None:
    """Numbers out of range, words that mean nothing, and streams that go on but never may."""
    with pytest.raises(MalformedRelease, match=words) as refusal:
        StreamPolicy.parse("p", Node(document, "$"))

    assert refusal.value.path == refused_at


def test_stack_names_the_copy_of_each_rung() -> None:
    """A rung's name is the kind of copy that it takes; a rung that is not there takes none."""
    whole = FallbackStack.parse("help", Node(stack(), "$"))
    bare = FallbackStack.parse("help", Node(stack(answers=None, template=None), "$"))

    assert whole.copy_used() == {"answers": "faq", "template": "sorry", "outage": "down"}
    assert whole.answers is not None
    assert whole.answers.minimum_score is not None
    assert (whole.answers.embedding_route, whole.answers.minimum_score.value) == ("embed", 0.9)
    assert bare.copy_used() == {"outage": "down"}
    assert (bare.answers, bare.template) == (None, None)


def test_questions_may_be_matched_as_they_are_written_only() -> None:
    """Without an embedding route there is nothing to score, so there is no score."""
    literal = {"copy": "faq", "embedding_route": None, "minimum_score": None}

    assert FallbackStack.parse("help", Node(stack(answers=literal), "$")).answers == CachedAnswers("faq", None, None)


@pytest.mark.parametrize(
    ("changes", "refused_at", "words"),
    [
        ({"outage": None}, "$.outage", "expected an object, got null"),
        ({"outage": {"copy": ""}}, "$.outage.copy", "must not be empty"),
        ({"template": {"copy": "a", "locale": "en"}}, "$.template.locale", "unknown key"),
        ({"template": "sorry"}, "$.template", "expected an object, got a string"),
        ({"answers": {"copy": "faq"}}, "$.answers", "missing key 'embedding_route'"),
        (
            {"answers": {"copy": "faq", "embedding_route": None, "minimum_score": threshold(0.9)}},
            "$.answers.minimum_score",
            "there is no embedding_route to give a score",
        ),
        (
            {"answers": {"copy": "faq", "embedding_route": "embed", "minimum_score": None}},
            "$.answers.minimum_score",
            "expected an object, got null",
        ),
        (
            {"answers": {"copy": "faq", "embedding_route": "embed", "minimum_score": threshold(1.01)}},
            "$.answers.minimum_score.value",
            "at most 1",
        ),
        ({"apology": {"copy": "a"}}, "$.apology", "unknown key"),
    ],
)
def test_stack_that_is_not_as_promised_is_refused_by_path(changes: dict[str, Any], refused_at: str, words: str) -> None:
    """Every stack ends in an outage notice, and a score without a route, or the reverse, is half a decision."""
    with pytest.raises(MalformedRelease, match=words) as refusal:
        FallbackStack.parse("help", Node(stack(**changes), "$"))

    assert refusal.value.path == refused_at


@given(value=st.floats() | st.integers() | st.none() | st.booleans(), name=st.sampled_from(BREAKER_THRESHOLDS))
def test_any_number_is_accepted_or_refused_by_path(value: Any, name: str) -> None:
    """Whatever stands for a number: the policy carries exactly it, or the refusal leads there."""
    try:
        carried = BreakerPolicy.parse("p", Node(breaker_policy(**{name: value}), "$")).thresholds()[name].value
    except MalformedRelease as refusal:
        carried, refused_at = None, refusal.path.split(".")[1]
    else:
        refused_at = None

    assert carried == value or refused_at in (name, "max_open_seconds")
