"""A fleet and its account, in virtual time: what the provider sees, and what callers wait."""

from __future__ import annotations

import pytest

from dataplane.simulator.limits import LimitKind
from tests.dataplane.quota_world import Fleet, Tenant
from tests.dataplane.virtual_time import run

MIX = [
    Tenant("acme", "vip", callers=32),
    Tenant("globex", "standard", callers=128),  # greedy: half of everybody
    Tenant("initech", "free", callers=32),
    Tenant("nightly", "standard", "batch", callers=64),
]


@pytest.mark.parametrize("kind", LimitKind, ids=lambda kind: kind.value)
def test_storm_uses_the_quota_and_meets_no_429(kind):
    """256 callers over 8 workers, whatever way the provider counts: nearly all is used, next to nothing refused, and
    nobody starves.
    """

    async def storm():
        fleet = Fleet(kind)
        began = fleet.clock()
        await fleet.storm(MIX, seconds=65.0)
        await fleet.stop()
        return fleet, began

    fleet, began = run(storm())

    used = sum(began + 5 <= at < began + 65 for at in fleet.admitted_at) / (60 * 60)
    assert fleet.throttled_share <= 0.01
    assert used >= 0.9
    interactive = {name: fleet.told[name].answered for name in ("acme", "globex", "initech")}
    total = sum(interactive.values()) + fleet.told["nightly"].answered
    assert fleet.told["nightly"].answered / total == pytest.approx(0.2, abs=0.03)
    shares = [interactive[name] / sum(interactive.values()) for name in interactive]
    assert shares == pytest.approx([4 / 7, 2 / 7, 1 / 7], abs=0.05)
