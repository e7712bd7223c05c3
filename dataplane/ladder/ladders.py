"""The ladders of one gateway process, put together: where its requests stand, its part in the fleet, what it sees, and
what it says of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dataplane.access import TIERS
from dataplane.events import Event
from dataplane.fleet import FleetBreakers
from dataplane.ladder.backlog import Backlog
from dataplane.ladder.counting import SurfaceCounting
from dataplane.ladder.desk import LadderDesk
from dataplane.ladder.fleet import FleetLadders
from dataplane.ladder.gauges import Gauges
from dataplane.ladder.look import Look
from dataplane.ladder.orders import HostOrders
from dataplane.ladder.policy import Surface
from dataplane.networks import Allowed
from dataplane.quota_desk import QuotaDesk
from dataplane.release import Release
from dataplane.sandboxes import TrustedKeys
from dataplane.stores.jobs import JobStore
from dataplane.stores.ladder import LadderStore


class Ladders:
    """See the module. `desk` is what requests ask, `look` counts their attempts, and `counting` what becomes of them.
    Belongs to one event loop.
    """

    def __init__(
        self,
        *,
        store: LadderStore | None,
        worker: str,
        region: str,
        public_url: str,
        breakers: FleetBreakers,
        quotas: QuotaDesk,
        report: Callable[[Event], None],
        clock: Callable[[], float],
        wall: Callable[[], float],
        orders_file: Path,
        trusted_keys: TrustedKeys | None = None,
        allowed: Allowed | None = None,
        jobs: JobStore | None = None,
    ) -> None:
        """`store` None: a fleet of one; `jobs` None: nobody knows what was put off; `trusted_keys` None: no order on
        this host is obeyed, else those in `orders_file`. `worker` is unique in the fleet, also over restarts; `region`
        is the gateway's; `allowed` says where gauges may be, None: anywhere; `public_url` is where users reach the
        gateway; `clock` is monotonic seconds, `wall` epoch seconds.
        """
        self.counting = SurfaceCounting(region=region, wall=wall)
        self.fleet = FleetLadders(
            store=store,
            worker=worker,
            look=lambda surface: self.look.told(surface),
            ceiling=lambda surface: self.desk.ceiling(surface),
            report=report,
            clock=clock,
            wall=wall,
            counting=self.counting,
        )
        self.desk = LadderDesk(fleet=self.fleet, region=region, wall=wall, public_url=public_url)
        self._gauges = Gauges(leads=lambda: self.fleet.leads, allowed=allowed)
        self._backlog = Backlog(jobs, leads=lambda: self.fleet.leads)
        self.look = Look(
            desk=self.desk,
            breakers=breakers,
            quotas=quotas,
            gauges=self._gauges.values,
            backlog=self._backlog.age_seconds,
            clock=clock,
        )

        self._orders: HostOrders | None = None
        if trusted_keys is not None:
            self._orders = HostOrders(
                file=orders_file, trusted=trusted_keys, obey=self.desk.obey, report=report, wall=wall
            )

    def adopt(self, release: Release) -> None:
        """Follow another release."""
        self.desk.adopt(release)
        self.look.adopt(release)
        self._gauges.adopt(release)
        self.fleet.adopt(release)
        if self._orders is not None:
            self._orders.adopt(release)

    async def start(self) -> None:
        """Begin to take part in the fleet, and to obey this host."""
        await self.fleet.start()
        if self._orders is not None:
            await self._orders.start()
        await self._gauges.start()
        await self._backlog.start()

    async def stop(self) -> None:
        """Take part no more; another worker decides at once."""
        if self._orders is not None:
            await self._orders.stop()
        await self._backlog.stop()
        await self._gauges.stop()
        await self.fleet.stop()

    def states(self) -> list[dict[str, Any]]:
        """How every ladder stands at this worker: what people see to be sure that a rung is engaged everywhere.

        Shape: [{"surface": slug, "level": int, "engaged": {tier: int}, "ids": [str], "readings": {trigger: float or
                null}, "generation": int, "is_alone": bool, "reserved": {tier: int}}]. `level` is the rung that triggers
                engaged, `engaged` the one that stands for callers here, `ids` are of the activations in force here,
                orders on this host among them, `readings` the fleet's at the last turn, `reserved` the places in use
                here.
        """
        return [self._state(surface) for surface in self.desk.surfaces()]

    def _state(self, surface: Surface) -> dict[str, Any]:
        slug = surface.slug
        standing = self.fleet.standing(slug)
        return {
            "surface": slug,
            "level": standing.level,
            "engaged": {tier: self.desk.engaged(surface, tier).rung for tier in sorted(TIERS)},
            "ids": [one.id for one in self.desk.in_force(slug)],
            "readings": {
                name: None if value is None else round(value, 4) for name, value in self.fleet.readings(slug).items()
            },
            "generation": standing.generation,
            "is_alone": self.fleet.is_alone,
            "reserved": dict(self.desk.reserved(slug)),
        }
