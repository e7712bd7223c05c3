"""Secrets in streams: no character of one leaves, wherever the stream is cut."""

from __future__ import annotations

import json
from random import Random

import pytest

from dataplane.validators.check import check
from dataplane.validators.values import Output, Verdict
from dataplane.validators.window import Passed, StreamWindow
from tests.dataplane.validators.policies import (
    ALL_PII,
    ALL_SECRETS,
    ORDINARY,
    Planted,
    Streamed,
    cut,
    planted_secrets,
    policy,
    rule,
    stream,
)

PLANTED = planted_secrets()
BLOCKING = policy(rule("secrets", "secrets", ALL_SECRETS))
REMOVING = policy(
    rule("pii", "pii", ALL_PII, on_failure="repair"), rule("secrets", "secrets", ALL_SECRETS, on_failure="repair")
)
# Of a long secret, every place near its beginning, and then some.
NEAR = 40


def places(planted: Planted) -> list[int]:
    """Where a stream is cut."""
    near = range(max(1, planted.start - 12), min(len(planted.text), planted.start + NEAR))
    return [*near, *range(near.stop, len(planted.text), 61)]


def assert_nothing_left(planted: Planted, streamed: Streamed) -> None:
    assert streamed.is_blocked
    assert planted.text.startswith(streamed.text)
    assert len(streamed.text) <= planted.start


def test_enough_secrets_are_planted() -> None:
    """At least forty, of every class that there is."""
    assert len(PLANTED) >= 80
    assert {planted.name.split("-")[1] for planted in PLANTED} == set(ALL_SECRETS["classes"])


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
def test_secret_is_found_whole_and_named(planted: Planted) -> None:
    """In a finished answer, all of it is within the span of a finding that says what it is."""
    report = check(BLOCKING, Output(planted.text, is_json=planted.is_json))

    spans = [span for span in report.findings[0].spans if span.what == planted.what]
    assert report.verdict is Verdict.BLOCK
    assert any(span.start <= planted.start and planted.start + len(planted.shown) <= span.end for span in spans), (
        report.findings[0]
    )
    assert planted.shown not in json.dumps(report.to_json())


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
def test_no_character_of_a_secret_leaves_whatever_the_cut(planted: Planted) -> None:
    """In one piece, cut once at each place, cut twice around each character, and character by character."""
    text = planted.text
    for pieces in (
        [text],
        *(cut(text, place) for place in places(planted)),
        *(cut(text, place, place + 1) for place in places(planted)[:20]),
        list(text),
    ):
        assert_nothing_left(planted, stream(BLOCKING, pieces, is_json=planted.is_json))


@pytest.mark.parametrize("planted", PLANTED[::3], ids=lambda planted: planted.name)
def test_stream_without_the_secret_is_the_finished_answer_without_it(planted: Planted) -> None:
    """Cut anywhere, what leaves is byte for byte what is left of the whole, and so are the findings."""
    whole = check(REMOVING, Output(planted.text, is_json=planted.is_json), cpu_clock=lambda: 0.0)
    rng = Random(planted.name)

    assert whole.repairs is not None
    assert planted.shown[6:18] not in whole.repairs.text
    for count in (0, 1, 2, 2, 2, 5, 20):
        places = sorted(rng.sample(range(1, len(planted.text)), min(count, len(planted.text) - 1)))
        streamed = stream(REMOVING, cut(planted.text, *places), is_json=planted.is_json)
        assert streamed.text == whole.repairs.text
        assert streamed.window.report.findings == whole.findings
    if planted.is_json:
        json.loads(whole.repairs.text)


HIDDEN = "ghp_" + "aB3dE6fG9hJ2kL5mN8pQ1rS4tU7vW0xY3zA6"
DISGUISES = {
    "full width": "".join(chr(ord(one) + 0xFEE0) if one.isalnum() else one for one in HIDDEN),
    "zero width": "\u200b".join(HIDDEN),
    "soft hyphens": HIDDEN[:9] + "\u00ad" + HIDDEN[9:20] + "\u2060" + HIDDEN[20:],
    "struck out": "".join(one + "\u0336" for one in HIDDEN),
    "mathematical": "".join(chr(0x1D400 + ord(one) - 65) if one.isupper() else one for one in HIDDEN),
    "Markdown": HIDDEN.replace("_", "\\_"),
    "escaped": "".join(f"\\u{ord(one):04x}" for one in HIDDEN),
    "escaped twice": "".join(f"\\\\u{ord(one):04X}" for one in HIDDEN),
    "escaped pairs": "".join(
        json.dumps(chr(0x1D400 + ord(one) - 65))[1:-1] if one.isupper() else one for one in HIDDEN
    ),
}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_secret_in_disguise_does_not_leave_either(disguise: str) -> None:
    """Characters that look the same, or like nothing, and escapes hide nothing, wherever the stream is cut."""
    shown = DISGUISES[disguise]
    for is_json in (False, True):
        text = f'{{"key": "{shown}"}}' if is_json else f"The key: {shown} there"
        planted = Planted(disguise, "GitHub token", text, shown, is_json)
        for pieces in ([text], list(text), *(cut(text, place) for place in range(planted.start - 2, len(text) - 2, 3))):
            assert_nothing_left(planted, stream(BLOCKING, pieces, is_json=is_json))


def test_long_secret_is_swallowed_to_its_end_without_being_held() -> None:
    """Of a token of ten thousand characters, the window keeps what a match may have, and what follows leaves."""
    token = "eyJhbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0" * 400 + ".s1gnature"
    window = StreamWindow(REMOVING)
    longest = max(watch.sieve.longest or 0 for watch in REMOVING.watches(is_tool=False))

    text = f"Use {token} now, please."
    outcomes = []
    most_held = 0
    for at in range(0, len(text), 5):
        outcomes.append(window.feed(text[at : at + 5]))
        most_held = max(most_held, window.held)
    outcomes.append(window.finish())

    assert "".join(one.text for one in outcomes if isinstance(one, Passed)) == "Use [removed] now, please."
    assert most_held <= longest < 500


def test_key_file_without_an_end_is_removed_to_the_end() -> None:
    """A private key whose last line never comes takes the rest of the answer with it."""
    text = "Here:\n-----BEGIN RSA PRIVATE" + " KEY-----\nMIIEpAIBAAKCAQEA7\nand more words follow"

    assert stream(REMOVING, list(text)).text == "Here:\n[removed]"


@pytest.mark.parametrize("seed", range(3))
def test_ordinary_answers_pass_unchanged_whatever_the_cuts(seed: int) -> None:
    """No finding, and every byte leaves, in order."""
    rng = Random(seed)
    for answer in ORDINARY:
        places = sorted(rng.sample(range(1, len(answer)), min(len(answer) - 1, rng.choice([1, 2, 3, 40]))))
        streamed = stream(REMOVING, cut(answer, *places))
        assert streamed.text == answer
        assert not streamed.window.report.failed


def test_ordinary_answers_leave_word_by_word() -> None:
    """What is held back of an answer without secrets is hardly more than the word that is being written."""
    held = []
    for answer in ORDINARY:
        window = StreamWindow(BLOCKING)
        for character in answer:
            window.feed(character)
            held.append(window.held)

    assert sum(held) / len(held) < 8
