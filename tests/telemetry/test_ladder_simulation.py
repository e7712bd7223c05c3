"""What another policy would have done on a stored load: by the data plane's own decider."""

from datetime import timedelta

from controlplane.telemetry.ladder_simulation import simulate
from controlplane.telemetry.surface_load import Load, LoadPoint
from dataplane.ladder.decider import LadderDecider
from dataplane.ladder.policy import Ladder
from tests.dataplane.conftest import threshold
from tests.ladders import surface, trigger
from tests.worker_reports import NOON

BUCKET = timedelta(seconds=10)
NOTHING = dict.fromkeys(
    (
        "in_flight",
        "requests_per_second",
        "backlog_age_seconds",
        "queue_age_seconds",
        "quota_utilisation",
        "breakers_open_share",
    )
)


def policy(**triggers):
    found = Ladder.parse({"web-chat": surface(triggers=triggers or {"load": trigger()})})
    return found["web-chat"]


def point(number, in_flight=None, *, attempts=0, failures=0, gauges=None, level=0):
    values = NOTHING | {"in_flight": in_flight}
    return LoadPoint(NOON + number * BUCKET, values, gauges or {}, attempts, failures, level, 0, False)


def load(points):
    points = tuple(points)
    return Load("web-chat", NOON, points[-1].at + BUCKET if points else NOON, BUCKET, points)


def test_simulation_takes_the_steps_that_the_decider_takes():
    """The same readings at the same times give the same moves as in a worker."""
    surface_of = policy()
    rush = [20] * 6 + [150] * 30 + [10] * 120
    decider = LadderDecider(surface_of)
    expected = []
    for number, value in enumerate(rush):
        now = (NOON + (number + 1) * BUCKET).timestamp()
        moved = decider.judge({"load": float(value)}, now=now)
        if moved is not None:
            expected.append((now, moved.before, moved.after, str(moved.cause), moved.trigger, moved.reading))

    found = simulate(surface_of, load(point(number, float(value)) for number, value in enumerate(rush)))

    moves = [(one.at.timestamp(), one.before, one.after, one.cause, one.trigger, one.reading) for one in found.moves]
    assert moves == expected
    assert [move.after for move in found.moves] == [1, 2, 3, 4, 3, 2, 1, 0]
    assert sum(found.seconds.values()) == 10 * len(rush)
    assert found.levels[-1] == 0
    assert simulate(surface_of, found.load) == found


def test_gap_presses_nobody_and_begins_pressure_anew():
    """Where nobody told of the load, nothing is known of it; how many gaps there are is said."""
    slow = trigger() | {"sustain_seconds": threshold(60)}
    points = [point(number, 150.0) for number in (0, 1, 2, 40, 41, 42, 43, 44, 45, 46)]

    found = simulate(policy(load=slow), load(points))

    assert [move.at for move in found.moves] == [NOON + 47 * BUCKET]
    assert found.sentence == ("0.0 h of readings, 1 gap: 1 move, rung 1 for 10 s. What happened: no rung was on.")


def test_budget_is_tried_on_attempts_that_were_counted_without_it():
    """The window's sums are worked out from the stored attempts, and forget what lies before it."""
    burn = trigger(signal="error_budget_burn", enter=9, leave=1) | {
        "objective": threshold(0.99),
        "window_seconds": threshold(60),
        "sustain_seconds": threshold(0),
    }
    points = [point(number, attempts=10, failures=2 if number in (6, 7, 8, 9) else 0) for number in range(30)]

    found = simulate(policy(burn=burn), load(points))

    first = found.moves[0]
    assert (first.at, first.trigger, round(first.reading, 6)) == (NOON + 9 * BUCKET, "burn", 10.0)
    assert found.unread == ()


def test_trigger_without_readings_is_named():
    """A GPU that nobody looked at then tells nothing now."""
    gpu = trigger(signal="gpu_utilisation", enter=0.9, leave=0.5)
    gpu |= {"url": "http://vllm.internal:8000/metrics", "metric": "load", "full": 1}

    blind = simulate(policy(gpu=gpu), load(point(number, 150.0) for number in range(10)))
    seen = simulate(policy(gpu=gpu), load(point(number, gauges={"gpu": 1.0}, level=2) for number in range(10)))

    assert (blind.moves, blind.unread) == ((), ("gpu",))
    assert (seen.unread, seen.moves[0].after) == ((), 1)
    assert seen.happened == {0: 0, 2: 100.0}


def test_nothing_is_tried_on_no_load():
    """And it says so."""
    found = simulate(policy(), load([]))

    assert (found.moves, found.sentence) == ((), "No readings are stored, so nothing can be tried.")
    assert found.to_json()["gaps"] == 0
