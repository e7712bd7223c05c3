"""What becomes of JSON that models broke: read right, refused, or read wrong in silence.

    python -m benchmarks.json_repair [--documents 400] [--seed 7]

The same documents, broken in the same ways, go to the reader of the repair ladder (rungs R0 to R3, which ask nobody)
and to the json-repair library, in turns in one process. A mutant that is JSON itself says nothing of repair: it is
counted and left out. *Lossless* is what the reader gives as certain; a value that it gives so and that is not the
original's is a false acceptance. Beside that: valid documents, which must come out as they went in, however they are
cut, and texts of a million characters that are made to take long.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import json_repair

from benchmarks.load import describe_machine
from dataplane.repair.labels import Label, Rung
from dataplane.repair.reader import JsonReader, Repaired
from dataplane.repair.stream import JsonStream
from dataplane.schema_check import SchemaChecker
from tests.dataplane.repair.broken_json import ADVERSARIAL, MUTATIONS, document, is_json, meant, written

READER = JsonReader(None, coercions=frozenset(), labels=frozenset(Label), wants="object", schemas=SchemaChecker())
ADVERSARIAL_CHARACTERS = 1_000_000
HEADER = (
    "mutation           |    N | JSON left out | right, lossless | right, any label | false acceptances | "
    "library right | library wrong, silently"
)


def timed(call: Callable[[str], Any], text: str) -> tuple[Any, float]:
    """What a call gives, and its milliseconds."""
    started = time.perf_counter()
    given = call(text)
    return given, (time.perf_counter() - started) * 1e3


def by_library(text: str) -> Any:
    """The value that json-repair gives; "", as it says it itself, where it finds none."""
    try:
        return json_repair.loads(text)
    except (ValueError, RecursionError):
        return ""


class Tally:
    """What became of the mutants of one kind."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.millis: list[float] = []
        self.library_millis: list[float] = []

    def take(self, mutant: str, expected: Any) -> None:
        """Have both read a mutant."""
        reading, millis = timed(READER.read, mutant)
        self.millis.append(millis)
        self.counts["mutants"] += 1
        if isinstance(reading, Repaired):
            is_right = json.loads(reading.text) == expected
            self.counts["right"] += is_right
            if reading.label is Label.LOSSLESS:
                self.counts["right, lossless" if is_right else "falsely accepted"] += 1
        given, millis = timed(by_library, mutant)
        self.library_millis.append(millis)
        if given == expected:
            self.counts["library right"] += 1
        elif given != "":
            self.counts["library wrong"] += 1

    def line(self, name: str) -> str:
        """A row of the table."""
        counts, mutants = self.counts, self.counts["mutants"] or 1

        def share(of: str) -> str:
            return f"{counts[of] / mutants:.1%}"

        return (
            f"{name:18} | {counts['mutants']:4} | {counts['left out']:13} | {share('right, lossless'):>15} | "
            f"{share('right'):>16} | {counts['falsely accepted']:17} | {share('library right'):>13} | "
            f"{share('library wrong'):>23}"
        )


def spread(millis: list[float]) -> str:
    """Mean and p99."""
    ordered = sorted(millis)
    return f"{sum(ordered) / len(ordered):.2f} ms mean, {ordered[int(len(ordered) * 0.99)]:.1f} ms p99"


def measure_mutants(documents: int, rng: Random) -> None:
    """Print the table of the mutations."""
    print(HEADER)
    every = Tally()
    for name, mutate in MUTATIONS.items():
        tally = Tally()
        for _ in range(documents):
            text = written(document(rng), rng)
            mutant = mutate(text, rng)
            if is_json(mutant):
                tally.counts["left out"] += 1
            else:
                tally.take(mutant, meant(name, text, mutant))
        print(tally.line(name))
        every.counts += tally.counts
        every.millis += tally.millis
        every.library_millis += tally.library_millis
    print(every.line("all"))
    mutants, false = every.counts["mutants"], every.counts["falsely accepted"]
    bound = f", so below {3 / mutants:.2%} with 95 % confidence" if not false else ""
    print(f"false acceptances: {false} of {mutants}{bound}")
    print(f"time for a mutant: {spread(every.millis)}; json-repair {spread(every.library_millis)}")


def measure_valid(documents: int, rng: Random) -> None:
    """Print how many valid documents came out otherwise, whole and cut into pieces."""
    changed = changed_in_pieces = 0
    millis = []
    for _ in range(documents):
        text = written(document(rng), rng)
        reading, milli = timed(READER.read, text)
        millis.append(milli)
        changed += not (isinstance(reading, Repaired) and reading.rung is Rung.STRICT and reading.text is text)
        stream = JsonStream(READER, incremental=True)
        at = 0
        while at < len(text):
            size = rng.choice((1, 2, 3, 5, 8, 40))
            stream.feed(text[at : at + size])
            at += size
        changed_in_pieces += stream.sent != text
    print(
        f"valid documents that came out otherwise: {changed} of {documents} whole, {changed_in_pieces} in pieces "
        f"(0 of them means below {3 / documents:.2%}); {spread(millis)}"
    )


def measure_adversarial() -> None:
    """Print what texts made to take long take."""
    print(f"texts of {ADVERSARIAL_CHARACTERS:,} characters made of one thing:")
    for name, unit in ADVERSARIAL.items():
        text = (unit * (ADVERSARIAL_CHARACTERS // len(unit) + 1))[:ADVERSARIAL_CHARACTERS]
        reading, millis = timed(READER.read, text)
        told = f"read as {len(reading.text)} characters" if isinstance(reading, Repaired) else reading.mode
        print(f"  {name!r:20} {millis:8.1f} ms  {told}")


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=400, help="for each mutation")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    rng = Random(arguments.seed)  # noqa: S311  the same documents in each run
    print(f"machine: {describe_machine()}")
    measure_mutants(arguments.documents, rng)
    measure_valid(arguments.documents * 5, rng)
    measure_adversarial()


if __name__ == "__main__":
    main()
