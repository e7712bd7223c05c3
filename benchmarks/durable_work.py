"""Durable work under everything that can happen to it: what is lost, what is done twice, what keeps others waiting.

    python -m benchmarks.durable_work [--errands 10000] [--workers 2] [--children 2] [--seed 7]

Everything is real and runs on this one machine: PostgreSQL that is as durable as a deployment's, Redis as a broker that
forgets whatever it held each time it is killed, Celery workers and their beat. Errands leave their effect in a table in
the transaction in which they are noted as done; some fail once or twice, some always, some give up, some are slow, and
a few kill the process that does them. All of them are due at once. One in a hundred of what is handed in is no errand
but a message that nobody can read. Meanwhile, every few seconds, a process is killed with SIGKILL: one that works, a
worker with all its processes, a worker's first process alone (its children go on without it), or the broker.

Nothing is hurried: leases and pauses are those of a deployment, which is what the quarantine of those that kill takes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from random import Random

from benchmarks.load import describe_machine
from dataplane.deadletters import MAX_LAPSES
from tests.end_to_end.chaos import Chaos
from tests.end_to_end.stack import Stack, make_data_dir

# Errands that kill, wherever they are begun; and how many messages in ten thousand nobody can read.
KILLERS = 3
UNREADABLE_PER_HUNDRED = 1
CHUNK = 330
SLOWEST_SECONDS = 0.5
PAUSE_SECONDS = (2.0, 5.0)
BROKER_AWAY_SECONDS = 2.0
BROKER_EVERY_SECONDS = 25.0
LANDING_SECONDS = 60.0
GIVE_UP_SECONDS = 1800.0


class Storm:
    """Kills one process after the other."""

    def __init__(self, stack: Stack, chaos: Chaos, *, workers: int, rng: Random) -> None:
        self._stack = stack
        self._chaos = chaos
        self._workers = workers
        self._rng = rng
        self._broker_at = time.monotonic() + BROKER_EVERY_SECONDS / 2
        self.killed: Counter[str] = Counter()

    def strike(self) -> None:
        """Kill something, and start again what a deployment would."""
        if time.monotonic() >= self._broker_at:
            self._broker_at = time.monotonic() + BROKER_EVERY_SECONDS
            self._stack.kill("broker")
            time.sleep(BROKER_AWAY_SECONDS)
            self._stack.start("broker")
            self._stack.wait_answering("broker")
            self.killed["broker"] += 1
            return
        number = self._rng.randrange(self._workers)
        drawn = self._rng.random()
        if drawn < 0.6:
            self.killed["child"] += self._chaos.kill_child(number, pick=self._rng.random())
        elif drawn < 0.85:
            self._chaos.kill_worker(number)
            self._chaos.start_worker(number)
            self.killed["worker"] += 1
        else:
            self._chaos.kill_parent(number)
            self._chaos.start_worker(number)
            self.killed["parent"] += 1


def unreadable_batches(total: int) -> Iterator[range]:
    """The unreadable messages, in batches of ten."""
    for first in range(0, total, 10):
        yield range(first, min(first + 10, total))


def main() -> None:
    """Run it, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--errands", type=int, default=10_000, help="all that is handed in, unreadable messages included"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--children", type=int, default=2, help="processes that work, of each worker")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    unreadable = options.errands * UNREADABLE_PER_HUNDRED // 100
    rng = Random(options.seed)  # noqa: S311 - the same storm again, not a secret
    killers = frozenset(rng.sample(range(options.errands - unreadable), KILLERS))
    directory = make_data_dir()
    stack = Stack(directory, processes=(), own_broker=True, durable=True, seeded=False)
    try:
        with stack:
            environment = {**stack.environment, "HOME": os.environ.get("HOME", "/tmp")}  # noqa: S108 - for Celery
            chaos = Chaos(
                stack.places.logs,
                environment=environment,
                database_url=stack.postgres.url,
                broker_url=stack.broker_url,
                children=options.children,
            )
            try:
                measure(
                    stack,
                    chaos,
                    options,
                    errands=options.errands - unreadable,
                    unreadable=unreadable,
                    rng=rng,
                    killers=killers,
                )
            finally:
                chaos.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def measure(
    stack: Stack,
    chaos: Chaos,
    options: argparse.Namespace,
    *,
    errands: int,
    unreadable: int,
    rng: Random,
    killers: frozenset[int],
) -> None:
    """Hand everything in, let the storm go until it is over, and print the accounts."""
    for number in range(options.workers):
        chaos.start_worker(number)
    chaos.start_beat()
    begun = time.monotonic()
    for first in range(0, errands, CHUNK):
        chaos.hand_in(
            first,
            min(first + CHUNK, errands),
            seed=options.seed,
            poison=killers,
            slowest=SLOWEST_SECONDS,
            delay_seconds=3600,
        )
    # What only the broker knew, the broker would lose: the storm begins when all is in the table.
    chaos.wait_for(lambda: chaos.standing().queued == errands, 300)
    handed_in = time.monotonic() - begun
    chaos.sql("UPDATE work_task SET not_before = now()")
    begun = time.monotonic()
    storm = Storm(stack, chaos, workers=options.workers, rng=rng)
    batches, sent, overtaken = unreadable_batches(unreadable), 0, {}
    while True:
        standing = chaos.standing()
        for killer in dead_killers(chaos, killers) - set(overtaken):
            overtaken[killer] = (time.monotonic() - begun, standing.done)
        if standing.in_flight == 0 and standing.messages == unreadable:
            break
        if time.monotonic() - begun > GIVE_UP_SECONDS:
            print(f"given up: {standing}")
            break
        batch = next(batches, None)
        if batch is not None:
            for number in batch:
                chaos.send_bad_message(number)
            sent += len(batch)
            # They too are the broker's until a worker has them.
            chaos.wait_for(lambda: chaos.standing().messages == sent, LANDING_SECONDS)  # noqa: B023 - at once
        storm.strike()
        time.sleep(rng.uniform(*PAUSE_SECONDS))
    report(chaos, storm, errands, unreadable, killers, overtaken, handed_in, time.monotonic() - begun)


def dead_killers(chaos: Chaos, killers: frozenset[int]) -> set[int]:
    """Those that are quarantined."""
    rows = chaos.sql(
        "SELECT key::bigint FROM work_task WHERE state = 'dead' AND key::bigint = ANY(%s)", sorted(killers)
    )
    return {int(number) for (number,) in rows}


def report(
    chaos: Chaos,
    storm: Storm,
    errands: int,
    unreadable: int,
    killers: frozenset[int],
    overtaken: dict[int, tuple[float, int]],
    handed_in: float,
    seconds: float,
) -> None:
    """Print the accounts."""
    standing, total = chaos.standing(), errands + unreadable
    effects = chaos.effects_of_done()
    once = effects.get(1, 0)
    lost = total - standing.done - standing.dead - standing.in_flight - standing.messages
    causes = dict(chaos.sql("SELECT category, count(*) FROM deadletters_deadletter GROUP BY 1 ORDER BY 2 DESC"))
    [[groups]] = chaos.sql("SELECT count(*) FROM deadletters_group")
    deliveries = dict(
        chaos.sql("SELECT key::bigint, epoch FROM work_task WHERE key::bigint = ANY(%s)", sorted(killers))
    )
    [[innocent]] = chaos.sql(
        "SELECT count(*) FROM work_task AS t JOIN deadletters_deadletter AS d ON d.work_id = t.id"
        " WHERE d.code = 'poison' AND NOT t.key::bigint = ANY(%s)",
        sorted(killers),
    )
    [[lapsed]] = chaos.sql(
        "SELECT count(*) FROM work_task WHERE jsonb_path_exists(causes, '$[*] ? (@.code == \"lapsed\")')"
    )
    [[stored]] = chaos.sql("SELECT count(*) FROM deadletters_deadletter WHERE payload_state = 'stored'")
    print(describe_machine())
    print(
        f"handed in: {errands} errands and {unreadable} unreadable messages, the errands stored after {handed_in:.1f} s"
    )
    print("killed: " + ", ".join(f"{count} x {what}" for what, count in sorted(storm.killed.items())))
    print(
        f"done {standing.done} + dead {standing.dead + standing.messages} + in flight {standing.in_flight} = "
        f"{standing.done + standing.dead + standing.messages + standing.in_flight} of {total}; lost {lost}"
        f" (95 % bound {300 / total:.3f} %)"
    )
    print(
        f"errands that are done with exactly one effect: {once} of {standing.done}"
        f" (95 % bound of others {300 / max(standing.done, 1):.3f} %); effects of what is not done:"
        f" {chaos.effects_of_others()}"
    )
    print(
        f"deaths without a letter, or letters without a death: {chaos.letters_without_a_death()};"
        f" letters by category: {causes}; in {groups} groups; payloads in the store: {stored}"
    )
    print(f"errands whose process was killed under them: {lapsed}; of those that do not kill, quarantined: {innocent}")
    for killer, (at, done) in sorted(overtaken.items()):
        print(
            f"killer {killer}: quarantined after {deliveries.get(killer)} deliveries (of {MAX_LAPSES}), {at:.0f} s"
            f" after all was due, when {done} others were done"
        )
    print(f"from when all was due until nothing was in flight: {seconds:.0f} s")


if __name__ == "__main__":
    main()
