"""A gateway process that is killed: nothing that it had answered is missing in what is billed."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.gateways import Gateways, resumable

pytestmark = pytest.mark.end_to_end
# A route whose streams leave nothing in Redis by which somebody else could tell of them.
NOTHING_KEPT = "plain"
ANSWERS = 12
KILLS = 3
UNDER_WAY = 5


def test_every_answer_of_a_killed_process_has_its_usage_row(tmp_path: Path) -> None:
    """kill -9 right after a plain answer, again and again: its successor tells of it, and of what was streamed before.

    Not right after a stream, whose end a caller may read a moment before its attempt is settled.
    """
    answered = []
    with Gateways(tmp_path, resumable(), processes=1) as gateways:
        for _ in range(KILLS):
            answers = [gateways.ask(0, NOTHING_KEPT, stream=number % 2 == 0) for number in range(ANSWERS)]
            gateways.kill(0)
            answered += [answer.raise_for_status().headers["ballast-request-id"] for answer in answers]
            gateways.restart(0)
        gateways.wait_for(lambda: {row["request_id"] for row in gateways.reported("usage")} >= set(answered))

        rows = gateways.reported("usage")

    # A process that is killed as it hands a row over cannot know that it arrived, so it may come again, as it was.
    attempts = {row["attempt_id"]: row for row in rows}
    assert all(row == attempts[row["attempt_id"]] for row in rows)
    assert sorted(row["request_id"] for row in attempts.values()) == sorted(answered)
    assert {row["outcome"] for row in rows} == {"ok"}


@pytest.mark.parametrize("stream", [False, True])
def test_attempt_under_way_at_a_kill_is_on_the_bill(tmp_path: Path, stream: bool) -> None:
    """The provider has the request, and answers nobody: one row each, once, with what was sent by estimate. What was
    answered before keeps its own row, and a second successor tells of nothing again.
    """
    with Gateways(tmp_path, resumable(), processes=1) as gateways, ThreadPoolExecutor(UNDER_WAY) as threads:
        answered = gateways.ask(0, NOTHING_KEPT).raise_for_status().headers["ballast-request-id"]
        rule = gateways.strike("fast", "silence")
        asked = [threads.submit(gateways.ask, 0, NOTHING_KEPT, stream=stream) for _ in range(UNDER_WAY)]
        gateways.wait_for(lambda: gateways.hits(rule) == UNDER_WAY)
        gateways.kill(0)
        for one in asked:
            assert isinstance(one.exception(60), httpx.HTTPError)
        gateways.restart(0)

        def lost() -> dict[str, dict[str, Any]]:
            rows = gateways.reported("usage")
            return {row["attempt_id"]: row for row in rows if row["outcome"] == "process_lost"}

        gateways.wait_for(lambda: len(lost()) == UNDER_WAY)
        gateways.kill(0)
        gateways.restart(0)
        gateways.relieve()
        last = gateways.ask(0, NOTHING_KEPT).raise_for_status().headers["ballast-request-id"]
        gateways.wait_for(lambda: last in {row["request_id"] for row in gateways.reported("usage")})
        rows, found = gateways.reported("usage"), lost()

    assert len({row["request_id"] for row in found.values()}) == len(found) == UNDER_WAY
    assert {(row["tenant"], row["lane"], row["route"], row["stream"]) for row in found.values()} == {
        ("demo", "fast", NOTHING_KEPT, stream)
    }
    assert all(row["input_tokens"] > 0 and row["cost_micros"] > 0 for row in found.values())
    assert {row["request_id"] for row in rows if row["outcome"] == "ok"} == {answered, last}
    assert all(row == found[row["attempt_id"]] for row in rows if row["outcome"] == "process_lost")
