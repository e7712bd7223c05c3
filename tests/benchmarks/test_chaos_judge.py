"""What `make chaos` makes of what it saw: it finds what is lost, done twice, wrong or hidden when it is there."""

from dataclasses import replace

import pytest

from benchmarks.chaos.asking import Kind
from benchmarks.chaos.judge import judge
from benchmarks.chaos.log import Attempts, Call, Ending, Evidence, Times
from benchmarks.chaos.rows import WITHHELD, Fault, How, Promise, Row

TIMES = Times(begun_at=0.0, struck_at=10.0, healed_at=20.0, well_at=22.0, ended_at=40.0)
STRICT = Promise(within_seconds=15.0)
LENIENT = Promise(
    within_seconds=15.0,
    told={Kind.STREAM: frozenset({"upstream_interrupted"})},
    in_flight=frozenset({Kind.PLAIN}),
    unanswered=frozenset({Kind.ACT}),
    again=True,
)
ONCE = Attempts(begun=1, done=1, rows=1, requests=1)
TWICE = Attempts(begun=2, done=2, rows=2, requests=2)
BEFORE, AMID, UNDER_WAY, LONG_AFTER = (2.0, 3.0), (12.0, 13.0), (9.0, 12.0), (37.0, 38.0)


def made(
    kind: Kind = Kind.PLAIN, ending: Ending = Ending.RIGHT, span: tuple[float, float] = AMID, *, code: str = ""
) -> Call:
    """Request 7, sent and over at the two moments of `span`."""
    return Call(7, kind, span[0], ended_at=span[1], ending=ending, code=code)


def seen(call: Call, **more: object) -> Evidence:
    """Evidence in which all else is as it should be: `call`, and one attempt at it that was billed once."""
    usual = Evidence(calls=[call], times=TIMES, attempts={7: ONCE}, releases=int(call.kind is Kind.ACT))
    return replace(usual, **more)


def row(promise: Promise) -> Row:
    """A row that promises this."""
    return Row("somebody, away", Fault("somebody", How.AWAY, 10), promise)


def test_a_request_that_is_answered_right_breaks_nothing():
    """All figures but those of what was sent and answered are none."""
    figures = judge(row(STRICT), seen(made()))

    assert (figures.sent, figures.right, figures.breaches) == ({Kind.PLAIN: 1}, 1, [])
    assert figures.lost == figures.duplicated == figures.wrong == figures.hidden == 0
    assert figures.bound_percent == 300


@pytest.mark.parametrize(
    ("kind", "span", "lost"),
    [
        (Kind.PLAIN, UNDER_WAY, 0),
        (Kind.PLAIN, AMID, 1),
        (Kind.PLAIN, BEFORE, 1),
        (Kind.KEYED, UNDER_WAY, 1),
        (Kind.ACT, AMID, 0),
        (Kind.ACT, BEFORE, 1),
        (Kind.ACT, LONG_AFTER, 1),
    ],
)
def test_no_answer_is_lost_unless_the_row_allows_it_then(kind, span, lost):
    """Plain requests may be cut off where they were under way, acts for as long as it lasts, others never."""
    figures = judge(row(LENIENT), seen(made(kind, Ending.BROKEN, span), releases=0))

    assert figures.lost == lost
    assert bool([breach for breach in figures.breaches if "lost" in breach]) is bool(lost)
    assert figures.broken.total() == 1 - lost


@pytest.mark.parametrize(
    ("kind", "code", "span", "breaks"),
    [
        (Kind.STREAM, "upstream_interrupted", AMID, False),
        (Kind.STREAM, "upstream_interrupted", BEFORE, True),
        (Kind.STREAM, "upstream_interrupted", LONG_AFTER, True),
        (Kind.STREAM, "internal_error", AMID, True),
        (Kind.PLAIN, "upstream_interrupted", AMID, True),
    ],
)
def test_an_error_is_one_that_the_row_names_while_it_lasts(kind, code, span, breaks):
    """Another code, another kind or another time breaks the promise; it is counted by its code in any case."""
    figures = judge(row(LENIENT), seen(made(kind, Ending.TOLD, span, code=code)))

    assert figures.told == {f"{kind} {code}": 1}
    assert bool([breach for breach in figures.breaches if "was told" in breach]) is breaks


def test_an_answer_that_a_validator_had_no_time_for_is_told_of_in_any_row():
    """It is counted, and no promise is broken by it."""
    figures = judge(row(STRICT), seen(made(ending=Ending.TOLD, code=WITHHELD)))

    assert figures.told == {f"plain {WITHHELD}": 1}
    assert figures.breaches == []


def test_a_wrong_answer_is_never_allowed():
    """Not under any promise, nor at any time."""
    figures = judge(row(LENIENT), seen(made(ending=Ending.WRONG)))

    assert figures.wrong == 1
    assert "answered wrongly" in figures.breaches[0]


@pytest.mark.parametrize(
    ("promise", "taken_over", "span", "again", "twice"),
    [
        (STRICT, {7}, UNDER_WAY, 0, 1),
        (LENIENT, set(), UNDER_WAY, 0, 1),
        (LENIENT, {7}, AMID, 0, 1),
        (LENIENT, {7}, UNDER_WAY, 1, 0),
    ],
)
def test_what_is_executed_twice_is_a_duplicate_unless_it_was_taken_over(promise, taken_over, span, again, twice):
    """Only what was under way, under a promise that names it, and with evidence that says so, may be executed again."""
    evidence = seen(made(Kind.KEYED, span=span), attempts={7: TWICE}, taken_over=frozenset(taken_over))

    figures = judge(row(promise), evidence)

    assert (figures.again, figures.duplicated) == (again, twice)
    assert bool(figures.breaches) is bool(twice)


@pytest.mark.parametrize("promise", [STRICT, LENIENT])
@pytest.mark.parametrize("span", [AMID, UNDER_WAY, (8.0, 9.5)])
def test_an_attempt_without_a_usage_row_is_hidden(promise, span):
    """It is counted, and never allowed: not even of what was under way when a process died."""
    figures = judge(row(promise), seen(made(span=span), attempts={7: Attempts(begun=1, done=1)}))

    assert figures.hidden == 1
    assert "without a usage row" in figures.breaches[0]


@pytest.mark.parametrize(("unreached", "breaks"), [(0, True), (1, False)])
def test_a_usage_row_of_an_attempt_that_the_provider_never_saw_must_say_so(unreached, breaks):
    """Somebody would be billed for it otherwise."""
    attempts = Attempts(begun=1, done=1, rows=2, unreached=unreached, requests=1)

    figures = judge(row(STRICT), seen(made(), attempts={7: attempts}))

    assert bool(figures.breaches) is breaks


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"releases": 0}, "made 0 releases"),
        ({"releases": 2}, "made 2 releases"),
        ({"backwards": 1}, "older than one"),
        ({"audit": "event 9: altered"}, "event 9"),
        ({"times": replace(TIMES, well_at=None)}, "given up"),
        ({"times": replace(TIMES, well_at=36.0)}, "took 16 s"),
    ],
)
def test_the_record_and_the_recovery_are_judged_too(more, words):
    """An act without its release, a release that came out of order, an altered record, a fleet that stays behind."""
    figures = judge(row(STRICT), seen(made(Kind.ACT), **more))

    assert [breach for breach in figures.breaches if words in breach]


@pytest.mark.parametrize(("sent_at", "seconds"), [(12.0, 2.0), (27.0, 7.0)])
def test_recovery_ends_with_the_last_request_that_did_not_succeed(sent_at, seconds):
    """From the end of the fault; never before console and fleet are as before."""
    call = made(Kind.STREAM, Ending.TOLD, (sent_at, sent_at + 1), code="upstream_interrupted")

    figures = judge(row(LENIENT), seen(call))

    assert figures.recovered_seconds == seconds
