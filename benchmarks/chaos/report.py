"""The table, and what is said while it comes about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmarks.chaos.asking import Kind
from benchmarks.chaos.judge import MANY_BREACHES, Figures, bound_percent
from benchmarks.chaos.load import RATES
from benchmarks.chaos.rows import Row
from benchmarks.chaos.world import GATEWAYS, World
from benchmarks.load import describe_machine
from benchmarks.load import table as aligned

HEAD = (
    "row",
    "sent",
    "right",
    "told",
    "cut off",
    "lost",
    "again",
    "twice",
    "wrong",
    "hidden",
    "as before after",
)


def heading(world: World, *, clocks: bool) -> str:
    """What runs, where."""
    rates = ", ".join(f"{rate:g} {kind}" for kind, rate in RATES.items())
    what = "clocks by libfaketime" if clocks else f"disk: {world.disk.how}"
    return f"{describe_machine()}\n{GATEWAYS} gateway processes; a second: {rates}; {what}"


def line(row: Row, figures: Figures) -> str:
    """One row, as soon as it is known, with what broke its promise."""
    said = [f"{name} {value}" for name, value in zip(HEAD[1:], cells(figures), strict=True)]
    broken = [f"    BROKEN PROMISE: {breach}" for breach in figures.breaches[:MANY_BREACHES]]
    more = len(figures.breaches) - len(broken)
    return "\n".join([f"{row.name}: {', '.join(said)}", *broken, *([f"    … and {more} more"] if more > 0 else [])])


def cells(figures: Figures) -> tuple[str, ...]:
    """What the table says of a row, but its name."""
    lost = f"{figures.lost} (< {figures.bound_percent:.2f} %)" if not figures.lost else str(figures.lost)
    recovered = "never" if figures.recovered_seconds is None else f"{figures.recovered_seconds:.1f} s"
    return (
        str(figures.sent.total()),
        str(figures.right),
        counted(figures.told),
        counted(figures.broken),
        lost,
        str(figures.again),
        str(figures.duplicated),
        str(figures.wrong),
        str(figures.hidden),
        recovered,
    )


def promised(row: Row) -> str:
    """One line of the table in docs/failure-modes.md."""
    return f"| {row.name} | {row.fault.words} | {row.promise.words} | {row.promise.within_seconds:.0f} s |"


def counted(counter: Counter[str]) -> str:
    """How many of each."""
    return ", ".join(f"{count} {what}" for what, count in sorted(counter.items())) or "0"


def table(results: Sequence[tuple[Row, Figures]], *, markdown: bool) -> str:
    """All rows, the sum below them."""
    rows = [HEAD, *((row.name, *cells(figures)) for row, figures in results)]
    sent = sum((figures.sent for _, figures in results), Counter[Kind]())
    lost = sum(figures.lost for _, figures in results)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(sent.items()))
    total = f"{lost} lost of {sent.total():,} ({kinds})"
    total += f", 95 % bound {bound_percent(sent.total()):.3f} %" if not lost else ""
    broken = sum(bool(figures.breaches) for _, figures in results)
    total += f"; {len(results) - broken} of {len(results)} rows kept their promise"
    if markdown:
        marked = [rows[0], ("---",) * len(HEAD), *rows[1:]]
        return "\n".join([*(f"| {' | '.join(row)} |" for row in marked), "", total])
    return f"{aligned(rows)}\n{total}"
