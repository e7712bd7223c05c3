"""What three ways of probing a model server make of the same traces: who is killed, who is missed, how long it takes.

    python -m benchmarks.probes [--noisy 50]

The traces of tests/dataplane/health/traces say what is true and what can be seen, second by second. Kubelet is played
on a clock that is only a number, so the figures are the same on every machine. All get the same generous startup probe
(45 minutes) and a liveness probe of three failures at 10 s; readiness is asked as each is meant to be: this probe
every 5 s with one failure, the others as Kubernetes has it, three failures at 10 s.

- *plain /health*: the engine's own path answers all three questions, as its documentation has it.
- *metrics age*: an engine whose numbers have not changed for 60 s is dead.
- *metrics age, running*: the same, only while requests run or wait.

Then this probe meets all of them again, `--noisy` times, with a tenth of its looks lost and its asks up to twice as
slow.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from random import Random

from benchmarks.load import describe_machine, table
from tests.dataplane.health.replay import (
    OURS,
    PLAIN,
    MetricsAge,
    MetricsAgeRunning,
    Ours,
    Outcome,
    PlainHealth,
    Probe,
    Subject,
    Trace,
    all_traces,
    replay,
)

SUBJECTS: tuple[tuple[Callable[[Trace], Subject], Sequence[Probe]], ...] = (
    (Ours, OURS),
    (PlainHealth, PLAIN),
    (MetricsAge, PLAIN),
    (MetricsAgeRunning, PLAIN),
)


def fate(outcome: Outcome) -> str:
    """What became of the engine, in a word or two."""
    if outcome.is_false_kill:
        return "FALSE KILL"
    if outcome.is_useless_kill:
        return "USELESS KILL"
    if outcome.is_missed:
        return "MISSED"
    return "" if outcome.killed_at is None else "killed, rightly"


def cell(outcome: Outcome) -> str:
    """Seconds from its death to not ready, and its fate."""
    seconds = "never" if outcome.not_ready_after is None else f"{outcome.not_ready_after} s"
    if outcome.trace.dead_from is None or outcome.is_false_kill:
        seconds = ""
    return " ".join(part for part in (seconds, fate(outcome)) if part) or "-"


def summary(name: str, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """One subject over all traces: its kills, what it missed, and the seconds of the matrix."""
    matrix = {key: sum((one.matrix or {}).get(key, 0) for one in outcomes) for key in MATRIX}
    dead = [one for one in outcomes if one.trace.dead_from is not None]
    mended = [one for one in dead if one.trace.restart_helps and not one.trace.exits]
    hopeless = [one for one in dead if not one.trace.mends_at_once]
    # A kill before the death ends the trace: what was never seen dead is no time.
    seen = sorted(one.not_ready_after for one in dead if one.not_ready_after is not None)
    late = "-" if not seen else f"{seen[len(seen) // 2]} / {seen[-1]} s"
    return (
        name,
        f"{sum(one.is_false_kill for one in outcomes)} of {len(outcomes)}",
        f"{sum(one.is_useless_kill for one in hopeless)} of {len(hopeless)}",
        f"{sum(one.is_missed for one in mended)} of {len(mended)}",
        f"{len(seen)} of {len(dead)}",
        late,
        *(f"{matrix[key]}" for key in MATRIX),
        f"{max(one.drains for one in outcomes)}",
    )


MATRIX = (("alive", True), ("alive", False), ("dead", True), ("dead", False))
HEAD = (
    "",
    "false kills",
    "useless kills",
    "missed wedges",
    "dead seen not ready",
    "after, median / worst",
    "alive, ready (s)",
    "alive, not ready (s)",
    "dead, ready (s)",
    "dead, not ready (s)",
    "most drains",
)


def main() -> None:
    """Replay all, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--noisy", type=int, default=50)
    arguments = parser.parse_args()
    traces = all_traces()
    results = [[replay(trace, make, probes) for trace in traces] for make, probes in SUBJECTS]
    names = [column[0].subject.name for column in results]
    hours = sum(one.until for one in traces) / 3600
    print(f"machine: {describe_machine()}; N = {len(traces)} traces, {hours:.1f} hours\n")
    rows = [(trace.name, *(cell(column[row]) for column in results)) for row, trace in enumerate(traces)]
    print(table([("seconds to not ready, and what became of it", *names), *rows]))
    print("\n" + table([HEAD, *(summary(name, column) for name, column in zip(names, results, strict=True))]))
    canaries = sum(
        number for one in results[0] for (ask, _), number in one.subject.judge.counts.asked.items() if ask == "canary"
    )
    print(f"\nthis probe: {canaries} canaries, a token each")
    noisy = [
        replay(trace, lambda one, seed=seed: Ours(one, noise=Random(f"{seed} {one.name}")), OURS)  # noqa: S311  # seeded
        for seed in range(arguments.noisy)
        for trace in traces
    ]
    if noisy:
        false = sum(one.is_false_kill for one in noisy)
        seconds = [one.not_ready_after for one in noisy if one.not_ready_after is not None]
        bound = f", at most {3 / len(noisy):.2%} with 95 % confidence" if not false else ""
        useless, missed = sum(one.is_useless_kill for one in noisy), sum(one.is_missed for one in noisy)
        print(
            f"with noise, N = {len(noisy)}: {false} false kills{bound}; {useless} useless kills; "
            f"{missed} wedges missed; not ready after {max(seconds)} s at worst"
        )


if __name__ == "__main__":
    main()
