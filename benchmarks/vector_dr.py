"""What a corpus' index takes to come back from a dump, and to be dumped: beside what PostgreSQL alone takes for it.

    python -m benchmarks.vector_dr [--rows 20000] [--dimensions 384] [--rounds 3]

Everything is real and runs on this one machine: a PostgreSQL that is as durable as a deployment's, and a directory as
the store of dumps. Peers, by turns with ours in every round, on the same rows and with the same memory and workers for
building indexes: `COPY … TO STDOUT (FORMAT binary)` of the same rows into nothing; and `COPY … FROM STDIN (FORMAT
binary)` of them out of memory, then the same CREATE INDEX statements. Ours reads, hashes and checks the blocks as well,
compares every chunk with its document, and puts the table in its place.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from statistics import median
from typing import Any

import django

from benchmarks.load import describe_machine, table
from tests.end_to_end.stack import Stack, make_data_dir


def main() -> None:
    """Run it, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="chunks, four to a document")
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    print(describe_machine())
    directory = make_data_dir()
    try:
        with Stack(directory, processes=(), durable=True, seeded=False) as stack:
            os.environ.update(stack.environment)
            django.setup()
            measure(options)
    finally:
        for folder in directory.rglob("dumps/*"):
            folder.chmod(0o755)
        shutil.rmtree(directory, ignore_errors=True)


def measure(options: argparse.Namespace) -> None:
    """Dump and restore, by turns with the peers, and print each figure beside its peer's."""
    from benchmarks import vector_rows

    ground = vector_rows.lay(rows=options.rows, dimensions=options.dimensions, seed=options.seed)
    took: dict[str, list[float]] = {}

    def timed(name: str, act: Any) -> Any:
        vector_rows.settle()
        began = time.perf_counter()
        done = act()
        took.setdefault(name, []).append(time.perf_counter() - began)
        return done

    for _ in range(options.rounds):
        size = timed("raw COPY TO", ground.copy_out)
        dump = timed("dump", ground.dump)
        load, index = timed("raw COPY FROM + indexes", ground.copy_in)
        took.setdefault("of it COPY FROM", []).append(load)
        took.setdefault("of it indexes", []).append(index)
        restored = timed("restore", lambda: ground.restore(dump))  # noqa: B023 - at once
        took.setdefault("of it loading", []).append(restored.load_seconds)
        took.setdefault("of it indexing", []).append(restored.index_seconds)
    print(
        f"{options.rows} chunks of {options.dimensions} dimensions, {dump.bytes / 2**20:.0f} MiB with their documents"
        f" ({size / 2**20:.0f} MiB as COPY sends them), {dump.blocks} blocks; median of {options.rounds} rounds"
    )
    rows = [("", "seconds", "rows/s", "MiB/s")]
    for name, seconds in took.items():
        middle = median(seconds)
        rows.append((name, f"{middle:.2f}", f"{options.rows / middle:,.0f}", f"{dump.bytes / 2**20 / middle:,.0f}"))
    print(table(rows))
    for ours, raw in (("dump", "raw COPY TO"), ("restore", "raw COPY FROM + indexes")):
        ratios = [peer / one for one, peer in zip(took[ours], took[raw], strict=True)]
        listed = ", ".join(f"{100 * ratio:.0f} %" for ratio in ratios)
        print(f"{ours} at {100 * median(ratios):.0f} % of the rate of {raw} (by round: {listed})")


if __name__ == "__main__":
    main()
