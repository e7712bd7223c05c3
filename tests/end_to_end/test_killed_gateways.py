"""A gateway process that is killed: nothing that it had answered is missing in what is billed."""

from pathlib import Path

import pytest

from tests.end_to_end.gateways import Gateways, resumable

pytestmark = pytest.mark.end_to_end
# A route whose streams leave nothing in Redis by which somebody else could tell of them.
NOTHING_KEPT = "plain"
ANSWERS = 12
KILLS = 3


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
