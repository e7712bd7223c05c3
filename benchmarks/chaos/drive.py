"""One row: load, the fault, its end, until all is as before; then everything that is known of it is gathered."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks.chaos.asking import Kind, ledger_user, whole_hash
from benchmarks.chaos.faults import strike
from benchmarks.chaos.load import Load
from benchmarks.chaos.log import Attempts, Call, Ending, Evidence, Times
from benchmarks.chaos.rows import Row
from benchmarks.chaos.world import World

WARM_SECONDS: Final = 8.0
# So long must everything succeed for it to have recovered; and after so long it is given up.
CALM_SECONDS: Final = 10.0
GIVE_UP_SECONDS: Final = 90.0
LOOK_SECONDS: Final = 0.5
# A release that was just made is not everywhere yet, which is as before.
ON_ITS_WAY_SECONDS: Final = 2.5
# Reports leave each second, what waits in a spool goes in turns, and ingest stores it: if nothing comes for so long,
# nothing will.
SETTLE_SECONDS: Final = 20.0
SHADOW_ACCOUNT: Final = "o-shadow"
UNREACHED: Final = re.compile(r"unreachable|timeout|cancelled|interrupted|deadline|quota|circuit|process_lost")
ROWS_OF = (
    'SELECT "user", outcome, status, request_id FROM ledger_usagerow WHERE kind <> \'shadow\' AND "user" = ANY(%s)'
)
TAKEN_OVER = """
SELECT DISTINCT user_hash FROM ledger_idempotencyevidence WHERE event = 'taken_over' AND user_hash = ANY(%s)
"""
# Of acknowledgements that waited in a spool the later may be stored first, and clocks are set back here: one was really
# given after the other only where both say so.
BACKWARDS = """
SELECT count(*) FROM releases_ack AS older JOIN releases_ack AS newer USING (worker, boot, verdict)
WHERE verdict = 'ack' AND older.revision < newer.revision AND older.id > newer.id AND older.at > newer.at
"""


class Drive:
    """Drives the rows of one world, one after the other."""

    def __init__(self, world: World, *, first: int) -> None:
        self._world = world
        self.next_number = first
        ((slug,),) = world.query("SELECT slug FROM rollouts_canary WHERE state = 'running'")
        self._canary = str(slug)

    async def row(self, row: Row, *, hold_seconds: float) -> Evidence:
        """Drive one row and return what is known of it."""
        world = self._world
        load = Load(
            gateway_url=world.gateway_url, console_url=world.console_url, canary=self._canary, first=self.next_number
        )
        releases, backwards = self._releases(), self._backwards()
        begun_at = time.monotonic()
        running = asyncio.create_task(load.run())
        try:
            await asyncio.sleep(WARM_SECONDS)
            struck_at = time.monotonic()
            heal = await asyncio.to_thread(strike, world, row.fault)
            try:
                await asyncio.sleep(max(0.0, struck_at + hold_seconds - time.monotonic()))
            finally:
                heal()  # here, and not in a thread: what is started ends with the thread that has started it
            healed_at = time.monotonic() if hold_seconds else struck_at
            well_at = await self._recover(load, healed_at)
        finally:
            load.stop()
            await running
            await load.close()
            self.next_number = load.next_number
        times = Times(begun_at, struck_at, healed_at, well_at, time.monotonic())
        return await asyncio.to_thread(self._gather, load.calls, times, releases, backwards)

    async def _recover(self, load: Load, healed_at: float) -> float | None:
        """Wait until all is as before and stays so; since when, or None."""
        well_at: float | None = None
        unwell_at: float | None = None
        while time.monotonic() < healed_at + GIVE_UP_SECONDS:
            is_well = await asyncio.to_thread(self._world.well)
            looked_at = time.monotonic()
            if is_well:
                well_at, unwell_at = looked_at if well_at is None else well_at, None
            else:
                unwell_at = looked_at if unwell_at is None else unwell_at
                if looked_at >= unwell_at + ON_ITS_WAY_SECONDS:
                    well_at = None
            if well_at is not None and time.monotonic() >= max(well_at, healed_at) + CALM_SECONDS:
                since = time.monotonic() - CALM_SECONDS
                if all(call.ending is Ending.RIGHT for call in load.calls if call.ended_at and call.sent_at >= since):
                    return well_at
            await asyncio.sleep(LOOK_SECONDS)
        return well_at

    # --- what is known of it ---
    def _gather(self, calls: Sequence[Call], times: Times, releases: int, backwards: int) -> Evidence:
        asking = [call.number for call in calls if call.kind is not Kind.ACT]
        deadline = time.monotonic() + SETTLE_SECONDS
        attempts = self._attempts(asking)
        while time.monotonic() < deadline and any(one.begun > one.rows for one in attempts.values()):
            time.sleep(LOOK_SECONDS)
            before, attempts = attempts, self._attempts(asking)
            if attempts != before:
                deadline = time.monotonic() + SETTLE_SECONDS
        return Evidence(
            calls=calls,
            times=times,
            attempts=attempts,
            taken_over=self._taken_over(calls),
            releases=self._releases() - releases,
            backwards=self._backwards() - backwards,
            audit=self._audit(),
        )

    def _attempts(self, numbers: Sequence[int]) -> Mapping[int, Attempts]:
        begun: Counter[int] = Counter()
        done: Counter[int] = Counter()
        for line in self._world.provider_calls():
            if line["account"] != SHADOW_ACCOUNT:
                (begun if line["phase"] == "begun" else done)[int(str(line["number"]))] += 1
        named = {ledger_user(number): number for number in numbers}
        rows: Counter[int] = Counter()
        unreached: Counter[int] = Counter()
        well: dict[int, set[object]] = {}
        for user, outcome, status, request in self._world.query(ROWS_OF, [list(named)]):
            number = named[str(user)]
            rows[number] += 1
            if UNREACHED.search(str(outcome)):
                unreached[number] += 1
            if status == 200 and outcome == "ok":
                well.setdefault(number, set()).add(request)
        return {
            number: Attempts(begun[number], done[number], rows[number], unreached[number], len(well.get(number, ())))
            for number in numbers
        }

    def _taken_over(self, calls: Sequence[Call]) -> frozenset[int]:
        named = {whole_hash(call.number): call.number for call in calls}
        return frozenset(named[str(whose)] for (whose,) in self._world.query(TAKEN_OVER, [list(named)]))

    def _releases(self) -> int:
        ((count,),) = self._world.query("SELECT count(*) FROM releases_release")
        return int(str(count))

    def _backwards(self) -> int:
        ((count,),) = self._world.query(BACKWARDS)
        return int(str(count))

    def _audit(self) -> str:
        try:
            self._world.manage("verify_audit")
        except AssertionError as exc:
            return str(exc)[:500]
        return ""
