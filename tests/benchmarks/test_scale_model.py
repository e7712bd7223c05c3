"""What the model of other sizes says is what its numbers say."""

from random import Random

import pytest

from benchmarks.scale_model import COSTS, PARTS, Queue, full_at, order, read_numbers, saturation, spread_release


@pytest.fixture
def numbers():
    return read_numbers(COSTS, []) | {"ingest_processes": 4.0}


def test_every_part_has_more_to_do_the_more_is_asked(numbers):
    """So there is one rate at which it is full."""
    for part in PARTS:
        loads = [part.load(rate, numbers) for rate in (1e3, 1e5, 1e7)]

        assert loads == sorted(loads), part.name
        assert loads[0] < loads[2], part.name


def test_part_is_full_where_its_load_is_what_one_server_does(numbers):
    """Neither a request before that nor one after it."""
    for part in PARTS:
        rate = full_at(part, numbers)

        assert part.load(rate, numbers) == pytest.approx(part.limit(numbers), rel=1e-6), part.name


def test_what_gives_way_first_changes_with_the_numbers(numbers):
    """A database of any size lets something else be first; so do requests without keys and streams."""
    first = order(numbers)[0][1].name
    larger = numbers | {"postgres_terabytes": 1e9, "processes_per_host": 1e6}

    assert order(larger)[0][1].name != first
    assert saturation(larger) != saturation(numbers)


def test_own_numbers_take_the_place_of_measured_ones():
    """Both of what is measured and of what is assumed."""
    found = read_numbers(COSTS, ["request_cpu_us=50", "share_keyed=0.5"])

    assert (found["request_cpu_us"], found["share_keyed"]) == (50.0, 0.5)


@pytest.mark.parametrize(
    ("setting", "why"),
    [("request_cpu=1", "known: "), ("share_keyed=much", "to be a number"), ("share_keyed=-1", "below")],
)
def test_number_that_means_nothing_is_refused_by_its_name(setting, why):
    """Rather than a table that looks as if it had been heard."""
    with pytest.raises(SystemExit, match=why):
        read_numbers(COSTS, [setting])


def test_queue_serves_first_who_comes_first_as_soon_as_a_server_is_free():
    """Two servers, a second each."""
    queue = Queue(2, 1.0)

    assert [queue.serve(at) for at in (0.0, 0.0, 0.5, 3.0)] == [1.0, 1.0, 2.0, 4.0]


def test_release_reaches_every_host_with_the_broker_and_without(numbers):
    """Without it, within the time in which every host has asked once; with it, in a hundredth of that for most."""
    pushed = spread_release(200, numbers | {"loss_share": 0.0}, push=True, together=False, rng=Random(1))
    asked = spread_release(200, numbers, push=False, together=False, rng=Random(1))

    assert len(pushed.has) == len(asked.has) == 200
    assert len(pushed.known) == len(asked.known) == 200 * numbers["processes_per_host"]
    assert pushed.has[-1] < asked.has[100]
    assert asked.has[-1] <= numbers["reconcile_seconds"] * 1.2 + 1.0
