"""Predicted beside drilled: how long a corpus takes to come back, as Ballast says before and as a game day measures.

    python -m benchmarks.recovery_drills [--sizes 2000 8000 20000] [--dimensions 384] [--rounds 2]

Everything is real and runs on this one machine, but for the model: vectors are drawn, which costs next to nothing, so
that a rebuild shows what all but embedding takes. A small corpus of its own is drilled first, and is all that the first
round of each size can be predicted by; from the second round on a corpus is predicted by its own drills. The peer of a
rebuild, on the same rows: `COPY … FROM STDIN (FORMAT binary)` and the same CREATE INDEX statements.
"""

from __future__ import annotations

import argparse
import os
import shutil
from typing import TYPE_CHECKING

import django

from benchmarks.load import describe_machine, table
from tests.end_to_end.stack import Stack, make_data_dir

if TYPE_CHECKING:
    from controlplane.corpora.models import RecoveryDrill

HEADINGS = ("chunks", "way", "round", "predicted s", "drilled s", "deviation", "of it restoring s")
CALIBRATION = 1_000
CALIBRATING_DRILLS = 2


def main() -> None:
    """Run it, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2_000, 8_000, 20_000], help="chunks, about")
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=2)
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
    """Drill every size, and print each prediction beside what it took."""
    from benchmarks import drilled_corpora

    sizes = {f"dr-{size}": size for size in options.sizes}
    fields = drilled_corpora.Fields(options.dimensions, options.seed)
    fields.promise(["dr-calibration", *sizes])
    calibration = fields.lay("dr-calibration", CALIBRATION)
    for _ in range(CALIBRATING_DRILLS):
        for strategy in ("restore", "rebuild"):
            fields.drill(calibration, strategy)
    rows: list[tuple[str, ...]] = [HEADINGS]
    rates: list[tuple[str, ...]] = [("chunks", "rebuild rows/s", "raw COPY + index rows/s", "share")]
    for slug, size in sizes.items():
        corpus = fields.lay(slug, size)
        for number in range(options.rounds):
            for strategy in ("restore", "rebuild"):
                rows.append(_row(fields.drill(corpus, strategy), strategy, number + 1))
                print("drilled:", *rows[-1], flush=True)
        chunks, rebuilt, raw = fields.rebuild_rates(corpus)
        rates.append((f"{chunks:,}", f"{rebuilt:,.0f}", f"{raw:,.0f}", f"{100 * rebuilt / raw:.0f} %"))
    print(table(rows))
    print(table(rates))


def _row(drill: RecoveryDrill, strategy: str, number: int) -> tuple[str, ...]:
    predicted, took = drill.predicted_seconds or 0.0, drill.rto_seconds or 0.0
    deviation = (took - predicted) / predicted
    return (
        f"{(drill.report or {})['rows']:,}",
        strategy,
        str(number),
        f"{predicted:.2f}",
        f"{took:.2f}",
        f"{100 * deviation:+.0f} %",
        f"{drill.seconds['restore']:.2f}",
    )


if __name__ == "__main__":
    main()
