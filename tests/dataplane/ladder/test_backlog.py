"""How long questions have waited that were put off, as the leader of a fleet knows it."""

from __future__ import annotations

import pytest

from dataplane.errors.jobs import JobsUnavailable
from dataplane.ladder.backlog import Backlog


class Jobs:
    """A store that says how old its oldest jobs are, or is away."""

    def __init__(self, ages):
        self.ages = ages
        self.asked = 0

    async def oldest_put_off(self):
        self.asked += 1
        if self.ages is None:
            raise JobsUnavailable("it is away")
        return self.ages


async def test_leader_knows_the_oldest_and_that_none_waits():
    """A surface of which no question waits has no backlog, which is not the same as nobody knowing."""
    jobs = Jobs({"web-chat": 42.5})
    backlog = Backlog(jobs, leads=lambda: True)
    before = backlog.age_seconds("web-chat")

    await backlog.look(jobs)

    assert (before, backlog.age_seconds("web-chat"), backlog.age_seconds("search")) == (None, 42.5, 0.0)


@pytest.mark.parametrize("lost", ["the lead", "the store"])
async def test_nobody_knows_once_the_lead_or_the_store_is_lost(lost):
    """An age from before would hold the ladder, or let it down, on what was so a while ago."""
    jobs, leads = Jobs({"web-chat": 42.5}), [True]
    backlog = Backlog(jobs, leads=lambda: leads[0])
    await backlog.look(jobs)
    if lost == "the lead":
        leads[0] = False
    else:
        jobs.ages = None

    await backlog.look(jobs)

    assert backlog.age_seconds("web-chat") is None
    assert jobs.asked == (1 if lost == "the lead" else 2)
