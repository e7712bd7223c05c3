"""From a process to an engine that serves."""

from __future__ import annotations

from dataclasses import replace

from dataplane.health.observations import Ask, GpuReading, GpuReport, GpuState, Reach, Said
from dataplane.health.startup import Startup, Step
from tests.dataplane.health.health_world import POLICY, answer, reading, unseen


def test_engine_that_calls_itself_unready_has_not_loaded():
    """A model that is listed while /health says 503 is still on its way."""
    start = Startup(POLICY, now=0, has_tokenizer=True)

    start.observe(reading(1, healthy=False))
    before = start.step
    start.observe(reading(2, healthy=True))

    assert (before, start.step) == (Step.WEIGHTS, Step.TOKENIZER)


def test_engine_without_a_tokenizer_to_ask_goes_straight_to_its_first_pass():
    """Not every engine can be asked for one."""
    start = Startup(POLICY, now=0, has_tokenizer=False)

    start.observe(reading(1))

    assert start.wants(now=1) is Ask.WARM_UP


def test_first_pass_that_fails_is_tried_again_after_a_pause():
    """It is told, and it holds the start back."""
    start = Startup(POLICY, now=0, has_tokenizer=False)
    start.observe(reading(1))
    start.answered(answer(Ask.WARM_UP, 3, Said.FAILED, detail="/v1/completions answered 500"))

    early, later = start.wants(now=4), start.wants(now=8)

    assert (start.failures, start.failure) == (1, "warm-up failed: /v1/completions answered 500")
    assert (early, later) == (None, Ask.WARM_UP)
    assert not start.is_done


def test_tokenizer_that_is_not_served_shows_nothing_against_the_engine():
    """Some versions have no such path; a pass cannot be left out in the same way."""
    start = Startup(POLICY, now=0, has_tokenizer=True)
    start.observe(reading(1))
    start.answered(answer(Ask.TOKENIZE, 2, Said.MISFIT))
    start.answered(answer(Ask.WARM_UP, 3, Said.MISFIT))

    assert (start.step, start.failures) == (Step.WARM_UP, 1)


def test_what_grows_is_no_stuck_load():
    """Bytes on the GPU, a log, or another answer than before count; a few megabytes do not."""
    start = Startup(POLICY, now=0, has_tokenizer=True)
    grown = []
    for at, gigabytes in ((0, 1.0), (100, 1.01), (200, 2.0)):
        device = GpuReading("GPU-1", memory_used_bytes=int(gigabytes * 1e9))
        start.observe_gpu(GpuReport(at, GpuState.OK, (device,)))
        grown.append(start.grew_at)
    start.observe(unseen(250, Reach.REFUSED))
    start.observe(unseen(300, Reach.BROKEN))

    assert grown == [None, None, 200]
    assert start.grew_at == 300
    assert not start.is_stuck(now=600)
    assert start.is_stuck(now=601)


def test_load_of_which_nothing_is_seen_has_its_whole_budget():
    """Without a GPU or a log to look at there is no telling a slow load from a stuck one."""
    start = Startup(replace(POLICY, load_budget_seconds=900), now=0, has_tokenizer=True)
    for at in range(0, 900, 100):
        start.observe(unseen(at, Reach.REFUSED))

    assert not start.is_stuck(now=900)
    assert start.is_stuck(now=901)
