"""Tokens, paces and durations: the small figures that everything else reports."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.simulator.conversation import Wire
from dataplane.simulator.profiles import INSTANT, PROFILES, Pacing, profile_for
from dataplane.simulator.rate_limits import go_duration, rfc3339
from dataplane.simulator.tokens import count_tokens, tokenize

# Each look is a round trip, so the simulator has time to notice between two of them.
MOST_LOOKS = 5000


@given(st.text())
def test_tokens_join_to_their_text(text):
    """No character is lost or added, and the count is that of the pieces."""
    assert "".join(tokenize(text)) == text
    assert count_tokens(text) == len(tokenize(text))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.012, "12ms"), (1, "1s"), (1.5, "1.5s"), (90, "1m30s"), (360, "6m0s"), (3600, "1h0m0s")],
)
def test_durations_read_as_go_prints_them(seconds, text):
    """OpenAI's resets are Go durations."""
    assert go_duration(seconds) == text


def test_resets_are_rfc_3339_and_never_early():
    """A fraction of a second rounds up."""
    assert rfc3339(0.2) == "1970-01-01T00:00:01Z"


@pytest.mark.parametrize(
    ("model", "wire", "instant"),
    [
        ("gpt-4o-instant", Wire.OPENAI, True),
        ("benchmark", Wire.ANTHROPIC, True),
        ("gpt-4o", Wire.OPENAI, False),
        ("anything-else", Wire.OPENAI, False),
    ],
)
def test_model_name_chooses_the_pace(model, wire, instant):
    """Benchmark models do not wait, all others do."""
    assert profile_for(model, wire=wire).instant is instant


def test_azure_has_its_own_pace_for_the_same_model():
    """A deployment named as the model is slower than the model at OpenAI."""
    azure, openai = (profile_for("gpt-4o", wire=wire).first_token_seconds for wire in (Wire.AZURE, Wire.OPENAI))

    assert azure > openai


@given(st.sampled_from([profile for _, profile in PROFILES]), st.integers(0, 2**64 - 1))
def test_waits_are_repeatable_and_bounded(profile, seed):
    """A draw is never over four medians, and the same seed draws the same."""
    first = Pacing(profile, seed).first_token_seconds()

    assert first == Pacing(profile, seed).first_token_seconds()
    assert 0 <= first <= 4 * profile.first_token_seconds
    assert INSTANT.first_token_seconds == 0


def test_client_that_leaves_a_stream_is_counted(http):
    """The simulator stops generating when nobody reads, and says so."""
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    headers = {"authorization": "Bearer k", "x-simulator-fault": "slow_drip:ms=400"}

    with http.stream("POST", "/openai/v1/chat/completions", json=body, headers=headers) as response:
        next(response.iter_raw())
        assert http.get("/admin/state").json()["active_streams"] == 1
    states = (http.get("/admin/state").json() for _ in range(MOST_LOOKS))
    state = next(state for state in states if state["clients_left"])

    assert (state["clients_left"], state["active_streams"]) == (1, 0)
