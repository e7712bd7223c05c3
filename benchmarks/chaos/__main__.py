"""Each component killed and stopped under load: what was lost, done twice, wrong, and how long until all was as before.

    python -m benchmarks.chaos [--only ROW…] [--seconds N] [--markdown] [--keep DIRECTORY]

Everything is real and runs on this one machine; see benchmarks.chaos.world. It ends with status 1 if a row breaks what
it promises: benchmarks.chaos.rows.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.chaos import report
from benchmarks.chaos.drive import Drive
from benchmarks.chaos.judge import Figures, judge
from benchmarks.chaos.rows import ROWS, Row
from benchmarks.chaos.world import World
from tests.end_to_end.stack import make_data_dir


def main() -> int:
    """Drive the rows, print the table, and say whether every promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="ROW", help="rows whose names begin so")
    parser.add_argument("--seconds", type=float, help="how long a fault lasts, where it is one that lasts")
    parser.add_argument("--markdown", action="store_true", help="print the table as docs/failure-modes.md has it")
    parser.add_argument("--keep", type=Path, help="where to copy the logs of all processes")
    options = parser.parse_args()
    rows = [row for row in ROWS if not options.only or any(row.name.startswith(name) for name in options.only)]
    if not rows:
        parser.error(f"no row's name begins so; there are: {'; '.join(row.name for row in ROWS)}")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    results: list[tuple[Row, Figures]] = []
    for needs_clocks in (False, True):
        of_world = [row for row in rows if row.needs_clocks is needs_clocks]
        if of_world:
            results += drive_all(of_world, clocks=needs_clocks, options=options, first=1 + 100_000 * len(results))
    print(report.table(results, markdown=options.markdown))
    return 1 if any(figures.breaches for _, figures in results) else 0


def drive_all(
    rows: Sequence[Row], *, clocks: bool, options: argparse.Namespace, first: int
) -> list[tuple[Row, Figures]]:
    """Drive rows in one world, and say of each at once what came of it."""
    directory = make_data_dir()
    results = []
    try:
        world = World(directory, clocks=clocks)
        try:
            with world:
                print(report.heading(world, clocks=clocks), flush=True)
                drive = Drive(world, first=first)
                for row in rows:
                    hold = options.seconds if options.seconds and row.fault.seconds else row.fault.seconds
                    results.append((row, judge(row, asyncio.run(drive.row(row, hold_seconds=hold)))))
                    print(report.line(*results[-1]), flush=True)
        finally:
            if options.keep:
                world.keep_logs(options.keep / ("clocks" if clocks else "plain"))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return results


if __name__ == "__main__":
    sys.exit(main())
