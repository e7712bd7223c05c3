"""A redrive while the workers that take its steps are killed: what is lost, and what is done twice.

    python -m benchmarks.redrive_under_kill [--letters 300] [--per-minute 240] [--seed 7]

Everything is real and runs on this one machine: PostgreSQL that is as durable as a deployment's, Redis, console,
gateway, provider simulator, a runner of jobs, beat, and the two Celery workers. A tenant's jobs are refused by its
provider and leave their letters, all in one group. On-call plans a redrive of the group, an approver signs it, it is
started. From then on until the plan is over something is done to the Procfile's `work` every few seconds, such that
about every other step is hit while it is under way: SIGKILL to the process that has it, SIGKILL to the worker with all
its processes, or a lease that is taken from a process which lives, so that two take the same step at a time.

One thing is hurried: the lease of who was killed is ended at once instead of after its 30 s, and what died is tried
again without its pause, so that many kills fit into one plan. What was done is counted where it arrives: in the table
of jobs, and in the attempts of the gateway at these jobs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx
import psutil

from benchmarks.load import describe_machine
from tests.browser.caller import Caller
from tests.end_to_end.stack import Stack, make_data_dir

TENANT = "globex"
STEP = "deadletters.redrive_step"
PROCESSES = ("simulator", "console", "ingest", "agent", "gateway", "jobs", "worker", "work", "beat")
REFUSED = "status:code=400"
AT_A_TIME = 8
CANARY_LETTERS = 1
# How long after a step was seen to begin, and how long after a blow the next one at the earliest.
INTO_STEP_SECONDS = 0.4
PAUSE_SECONDS = (1.0, 4.0)
LOOK_SECONDS = 0.01
# What share of blows waits for a step, and for how long at most. If all did, every step would die three times, be held
# for poison, and be replaced a minute later.
AIMED = 0.15
AIM_SECONDS = 8.0
LETTERS_SECONDS = 600.0
GIVE_UP_SECONDS = 1800.0
ROWS_OF_STEPS = f"kind = '{STEP}' AND state = 'running'"
HANDED_IN = "work_id IS NOT NULL"
# What the gateway did for the jobs that letters were handed in as.
ATTEMPTS = """
SELECT u.kind, u.outcome, count(*), count(DISTINCT u.request_id) FROM ledger_usagerow AS u
JOIN ledger_job AS j ON j.request_id = u.request_id WHERE j.redriven_from IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2
"""


@dataclass
class Blows:
    """What was done to the workers. `hits`: how often that was while a step was under way; `amid`: of those, how often
    the step had handed some of its letters in.
    """

    done: Counter[str] = field(default_factory=Counter)
    hits: int = 0
    amid: int = 0

    @property
    def kills(self) -> int:
        """How many were SIGKILL."""
        return sum(count for what, count in self.done.items() if what != "lease")


class Storm:
    """Strikes at the workers of durable work."""

    def __init__(self, stack: Stack, *, rng: Random) -> None:
        self._stack = stack
        self._rng = rng
        self.blows = Blows()

    def strike(self) -> None:
        """Wait for a step, strike somewhere in it, and make good what a deployment would, sooner."""
        if not self._stack.is_alive("work"):
            # Celery gives up when a process dies before all have begun; whatever runs it starts it again.
            self._stack.kill("work")
            self._stack.start("work")
        aimed_until = time.monotonic() + (AIM_SECONDS if self._rng.random() < AIMED else 0.0)
        while not (steps := self._under_way()) and time.monotonic() < aimed_until:
            time.sleep(LOOK_SECONDS)
        handed_in = count(self._stack, "deadletters_redriveitem", HANDED_IN)
        time.sleep(self._rng.uniform(0.0, INTO_STEP_SECONDS))
        more = count(self._stack, "deadletters_redriveitem", HANDED_IN) - handed_in
        steps, drawn = steps & self._under_way(), self._rng.random()
        if drawn < 0.7:
            self._kill_process(steps)
        elif drawn < 0.8:
            self._kill_worker()
        elif steps:
            self.blows.done["lease"] += 1
        self.blows.hits += bool(steps)
        self.blows.amid += bool(steps) and more > 0
        self._hurry()

    def _under_way(self) -> set[int]:
        """The processes that have a step, and live."""
        rows = self._stack.query(f"SELECT owner FROM work_task WHERE {ROWS_OF_STEPS}")  # noqa: S608 - ours
        return {int(str(owner).split("/")[-2]) for (owner,) in rows} & set(self._family())

    def _family(self) -> list[int]:
        with contextlib.suppress(psutil.Error):
            return [child.pid for child in psutil.Process(self._stack.pid("work")).children(recursive=True)]
        return []

    def _kill_process(self, steps: set[int]) -> None:
        """Kill the processes that have a step, else any one; their parent starts others."""
        for pid in steps or self._family()[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.blows.done["process"] += 1

    def _kill_worker(self) -> None:
        """Kill the worker and all its processes, as if its machine were gone, and start it anew."""
        family = self._family()
        self._stack.kill("work")
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.blows.done["worker"] += 1
        self._stack.start("work")

    def _hurry(self) -> None:
        """End the leases of steps, whose owners are dead or have lost them, and the pauses of what died before."""
        self._stack.query(f"UPDATE work_task SET lease_until = now() WHERE {ROWS_OF_STEPS} RETURNING id")  # noqa: S608 - ours
        self._stack.query(
            f"UPDATE work_task SET not_before = now() WHERE kind = '{STEP}' AND state = 'queued' AND lapses > 0"  # noqa: S608 - ours
            " RETURNING id"
        )

    def pause(self) -> None:
        """Leave them alone for a while."""
        time.sleep(self._rng.uniform(*PAUSE_SECONDS))


def count(stack: Stack, table: str, condition: str = "true") -> int:
    """How many rows there are of which this holds."""
    return int(str(stack.query(f"SELECT count(*) FROM {table} WHERE {condition}")[0][0]))  # noqa: S608 - ours


def calls(stack: Stack) -> int:
    """How many calls the provider saw."""
    return int(httpx.get(f"{stack.simulator_url}/admin/state", timeout=60).json()["total"])


def fail_jobs(stack: Stack, letters: int) -> str:
    """Have so many jobs refused; returns the fingerprint of the group of their letters."""
    faults = f"{stack.simulator_url}/admin/faults"
    httpx.post(faults, json={"fault": REFUSED}).raise_for_status()
    caller = Caller(stack, f"bk-demo-{TENANT}")
    try:
        with ThreadPoolExecutor(AT_A_TIME) as threads:
            list(threads.map(lambda number: caller.hand_in(f"Where is parcel {number}?"), range(letters)))
        stack.wait_for(
            lambda: count(stack, "deadletters_deadletter", "kind = 'job'") == letters,
            "every job has its letter",
            seconds=LETTERS_SECONDS,
        )
    finally:
        caller.close()
        httpx.delete(faults).raise_for_status()
    [[fingerprint]] = stack.query("SELECT DISTINCT fingerprint FROM deadletters_deadletter WHERE kind = 'job'")
    return str(fingerprint)


def ask(client: httpx.Client, method: str, path: str, **body: Any) -> dict[str, Any]:
    """Ask the console's API, and be answered."""
    answer = client.request(method, path, json=body) if method == "POST" else client.get(path)
    if not answer.is_success:
        raise SystemExit(f"{method} {path}: {answer.status_code} {answer.text}")
    told: dict[str, Any] = answer.json()
    return told


def start_plan(stack: Stack, fingerprint: str, *, per_minute: int) -> str:
    """Plan the redrive of a group, have it signed, start it; returns the plan's id."""
    with stack.api("oncall") as oncall, stack.api("approver-one") as approver:
        plan = ask(
            oncall,
            "POST",
            "/redrive-plans",
            fingerprint=fingerprint,
            reason="the provider takes requests again",
            canary_letters=CANARY_LETTERS,
            per_minute=per_minute,
            most_per_minute=6000,
        )
        path = f"/redrive-plans/{plan['id']}"
        ask(oncall, "POST", f"{path}/dry-run")
        stack.wait_for(lambda: ask(oncall, "GET", path)["state"] == "checked", "the dry run is over", seconds=600)
        change = ask(oncall, "POST", f"{path}/open")
        digest = ask(approver, "GET", f"/changes/{change['id']}")["current_digest"]
        word = {"role": "approver", "decision": "approve", "digest": digest}
        ask(approver, "POST", f"/changes/{change['id']}/sign-off", **word)
        ask(oncall, "POST", f"{path}/start")
        return str(plan["id"])


def measure(stack: Stack, options: argparse.Namespace) -> None:
    """Let letters come, redrive them in a storm, and print the accounts."""
    stack.wait_ready()
    fingerprint = fail_jobs(stack, options.letters)
    jobs_before, calls_before = count(stack, "ledger_job"), calls(stack)
    plan = start_plan(stack, fingerprint, per_minute=options.per_minute)
    storm = Storm(stack, rng=Random(options.seed))  # noqa: S311 - the same storm again, not a secret
    begun = time.monotonic()
    while not count(stack, "deadletters_redriveplan", f"id = '{plan}' AND ended_at IS NOT NULL"):
        if time.monotonic() - begun > GIVE_UP_SECONDS:
            print("given up")
            break
        storm.strike()
        storm.pause()
    seconds = time.monotonic() - begun
    report(
        stack,
        plan,
        storm.blows,
        letters=options.letters,
        seconds=seconds,
        made=count(stack, "ledger_job") - jobs_before,
        called=calls(stack) - calls_before,
    )


def report(stack: Stack, plan: str, blows: Blows, *, letters: int, seconds: float, made: int, called: int) -> None:
    """Print the accounts."""
    [[state, note]] = stack.query("SELECT state, note FROM deadletters_redriveplan WHERE id = %s", [plan])
    items = {
        str(name): int(str(number))
        for name, number in stack.query(
            "SELECT state, count(*) FROM deadletters_redriveitem WHERE plan_id = %s GROUP BY 1", [plan]
        )
    }
    with stack.api("oncall") as oncall:
        told = ask(oncall, "GET", f"/redrive-plans/{plan}")["report"]
    done, failed, skipped = (items.get(name, 0) for name in ("done", "failed", "skipped"))
    left = items.get("planned", 0) + items.get("handed_in", 0)
    each = Counter(
        int(str(number))
        for (number,) in stack.query(
            "SELECT count(j.id) FROM deadletters_deadletter AS d LEFT JOIN ledger_job AS j ON j.redriven_from = d.id"
            " WHERE d.kind = 'job' AND d.redriven_from IS NULL GROUP BY d.id"
        )
    )
    twice = sum(number for jobs, number in each.items() if jobs > 1)
    other = count(
        stack,
        "deadletters_redriveitem AS i JOIN deadletters_deadletter AS d ON d.id = i.letter_id"
        " LEFT JOIN ledger_job AS j ON j.id = i.work_id",
        f"i.plan_id = '{plan}' AND NOT (i.state = 'done' AND j.state = 'completed' AND d.state = 'resolved'"
        " AND d.redriven_as = i.work_id AND j.redriven_from = d.id)",
    )
    taken = stack.query(f"SELECT coalesce(sum(epoch), 0), count(*) FROM work_task WHERE kind = '{STEP}'")  # noqa: S608 - ours
    quarantined = count(stack, "work_task", f"kind = '{STEP}' AND state = 'dead'")
    print(describe_machine())
    print(
        f"{letters} letters, {blows.kills} SIGKILLs, done {done} + failed {failed} + skipped {skipped} + left {left} ="
        f" {done + failed + skipped + left}; effects twice: {twice} (95 % bound {300 / letters:.2f} %)"
    )
    print(
        "struck: "
        + ", ".join(f"{number} x {what}" for what, number in sorted(blows.done.items()))
        + f"; {blows.hits} times while a step was under way, {blows.amid} of them after some of its letters;"
        f" steps: {taken[0][1]}, taken {taken[0][0]} times, quarantined {quarantined}"
    )
    print(
        f"letters by the number of jobs that they were handed in as: {dict(sorted(each.items()))}; jobs made: {made};"
        f" calls that the provider saw: {called}"
    )
    print(
        "attempts of the gateway at these jobs: "
        + "; ".join(f"{kind} {outcome} {number} for {jobs}" for kind, outcome, number, jobs in stack.query(ATTEMPTS))
    )
    print(f"letters that are not done, completed and resolved, each as the other says: {other}")
    print(f"the plan: {state} ({note}); its report: {told}")
    print(f"from the start of the plan to its end: {seconds:.0f} s")


def main() -> None:
    """Run it, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--letters", type=int, default=300)
    parser.add_argument("--per-minute", type=int, default=240, help="letters a minute that the ramp begins with")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    directory = make_data_dir()
    try:
        with Stack(directory, processes=PROCESSES, gateway_processes=1, durable=True) as stack:
            measure(stack, options)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
