"""Durable work under whatever can happen to it: what is handed in, who is killed, and how it stands.

Knows nothing of Django: it hands errands in through the workers themselves, kills those, and asks the database.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil
import psycopg
from celery import Celery
from kombu import Connection, Exchange, Queue

from dataplane.quorum import QUORUM, is_rabbitmq
from launcher.postgres import wait_until

PROJECT = Path(__file__).resolve().parents[2]
APP = "tests.end_to_end.chaos_app"
WORK_QUEUE, CONTROL_QUEUE = "ballast.work", "ballast.control"
HAND_IN = "chaos.hand_in"
EFFECTS = (
    "CREATE TABLE IF NOT EXISTS chaos_effect (number bigint NOT NULL, attempt bigint NOT NULL, pid bigint NOT NULL)"
)
STOP_SECONDS = 60.0
# What other programs may put on a queue of ours: no JSON, a serialiser that we do not take, JSON of no task, no task's
# arguments.
BAD_MESSAGES = (
    (b"{not json", "application/json", {"task": "work.run"}),
    (b"\x80\x05K\x01.", "application/x-python-serialize", {"task": "work.run"}),
    (b'{"hello": "world"}', "application/json", {}),
    (b'{"args": 1}', "application/json", {"task": "work.run"}),
    (b"[[], {}, {}]", "application/json", {"task": "nobody.has_it"}),
)


@dataclass(frozen=True, slots=True)
class Standing:
    """How the errands stand, and what they left."""

    queued: int
    running: int
    done: int
    dead: int
    letters: int
    messages: int

    @property
    def in_flight(self) -> int:
        """Handed in, and not over."""
        return self.queued + self.running


class Stopped(Protocol):
    """A broker that a test stops and starts."""

    def start(self) -> None:
        """Start it, or again."""

    def stop(self) -> None:
        """Stop it."""


class Chaos:
    """Workers on somebody's database and broker.

    Args:
        directory: For logs.
        environment: What each worker is told.
        database_url, broker_url: The same, for asking and for sending.
    """

    def __init__(
        self, directory: Path, *, environment: Mapping[str, str], database_url: str, broker_url: str, children: int = 2
    ) -> None:
        self._directory = directory
        self._environment = {**environment, "CELERY_BROKER_URL": broker_url, "DATABASE_URL": database_url}
        self._database_url = database_url
        self._broker_url = broker_url
        self._children = children
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        self._beat: subprocess.Popen[bytes] | None = None
        self._sender = Celery("chaos", set_as_current=False)
        self._orphans: list[psutil.Process] = []
        self.sql(EFFECTS)

    # --- processes ---
    def start_worker(self, number: int) -> None:
        """Start a worker of several processes; it is not ready yet."""
        command = ["worker", "--queues", f"{WORK_QUEUE},{CONTROL_QUEUE}", "--hostname", f"chaos-{number}@here"]
        options = ["--concurrency", str(self._children), "--without-gossip", "--without-mingle", "--loglevel", "INFO"]
        self._workers[number] = self._spawn(f"worker-{number}", [*command, *options])

    def start_beat(self) -> None:
        """Start what sends word of the sweep."""
        self._beat = self._spawn("beat", ["beat", "--schedule", str(self._directory / "schedule")])

    def _spawn(self, name: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        with (self._directory / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", APP, *arguments],
                cwd=PROJECT,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a group of its own, so that it can be killed with its children
            )

    def kill_worker(self, number: int) -> None:
        """SIGKILL to a worker and all its children, as if its machine were gone."""
        worker = self._workers.pop(number)
        self._kill_group(worker)

    def kill_parent(self, number: int) -> None:
        """SIGKILL to a worker's first process: its children are left to themselves, with what they are doing."""
        worker = self._workers.pop(number)
        family = psutil.Process(worker.pid).children(recursive=True)
        worker.kill()
        worker.wait()
        self._orphans += family

    def kill_child(self, number: int, *, pick: float = 0.0) -> bool:
        """SIGKILL to one of the processes in which a worker works; False: there is none now."""
        with contextlib.suppress(psutil.Error):
            found = psutil.Process(self._workers[number].pid).children()
            if found:
                found[int(pick * len(found))].kill()
                return True
        return False

    def close(self) -> None:
        """End everything, whatever became of it."""
        for child in [*self._workers.values(), *([self._beat] if self._beat else [])]:
            self._kill_group(child)
        for orphan in self._orphans:
            with contextlib.suppress(psutil.Error):
                orphan.kill()
        self._sender.close()

    def _kill_group(self, child: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait(STOP_SECONDS)

    def logged(self) -> str:
        """The end of what the workers have logged."""
        return "".join(log.read_text(errors="replace")[-3000:] for log in sorted(self._directory.glob("*.log")))

    # --- work ---
    def hand_in(
        self,
        first: int,
        last: int,
        *,
        seed: int,
        poison: frozenset[int] = frozenset(),
        slowest: float = 0.2,
        delay_seconds: float = 0.0,
    ) -> None:
        """Have the errands first..last-1 handed in by a worker; it is not done yet. `slowest` is how many seconds those
        that are slow take at most.
        """
        self._send(HAND_IN, first, last, seed, sorted(poison), slowest, delay_seconds)

    def send_sweep(self) -> None:
        """Have a worker sweep, as the beat does."""
        self._send("work.sweep")

    def _send(self, task: str, *arguments: Any) -> None:
        # By a connection of its own: an environment variable would be stronger than the application's setting.
        with Connection(self._broker_url, connect_timeout=5) as broker:
            queue = self._queue(CONTROL_QUEUE)
            self._sender.send_task(task, args=arguments, queue=queue, connection=broker, retry=False)

    def _queue(self, name: str) -> Queue:
        """As the workers declare it: another kind would be refused."""
        arguments = QUORUM if is_rabbitmq(self._broker_url) else None
        return Queue(name, Exchange(name, type="direct"), routing_key=name, queue_arguments=arguments)

    def send_bad_message(self, number: int) -> None:
        """Put something on the workers' queue that nobody can read."""
        body, content_type, headers = BAD_MESSAGES[number % len(BAD_MESSAGES)]
        name = str(uuid.uuid4())
        more = {"id": name, "lang": "py", "root_id": name, "argsrepr": "", "kwargsrepr": ""} if headers else {}
        with Connection(self._broker_url) as broker:
            producer = broker.Producer()
            producer.publish(
                body,
                exchange=Exchange(WORK_QUEUE, type="direct"),
                routing_key=WORK_QUEUE,
                declare=[self._queue(WORK_QUEUE)],
                content_type=content_type,
                content_encoding="binary" if content_type.endswith("serialize") else "utf-8",
                headers={**headers, **more},
                correlation_id=name,
                serializer=None,
                retry=False,
            )

    def hurry(self) -> None:
        """Let the leases of the dead be over, and every pause, as if much time had passed."""
        owners = [owner for (owner,) in self.sql("SELECT DISTINCT owner FROM work_task WHERE state = 'running'")]
        dead = [owner for owner in owners if not _is_alive(int(owner.split("/")[2]))]
        self.sql("UPDATE work_task SET lease_until = now() WHERE state = 'running' AND owner = ANY(%s)", dead)
        self.sql("UPDATE work_task SET not_before = now() WHERE state = 'queued'")

    # --- how it stands ---
    def sql(self, statement: str, *parameters: Any) -> list[Any]:
        """Ask the database."""
        with psycopg.connect(self._database_url, autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def standing(self) -> Standing:
        """How it stands, at one moment."""
        [row] = self.sql(
            "SELECT count(*) FILTER (WHERE state = 'queued'), count(*) FILTER (WHERE state = 'running'),"
            " count(*) FILTER (WHERE state = 'done'), count(*) FILTER (WHERE state = 'dead'),"
            " (SELECT count(*) FROM deadletters_deadletter WHERE kind = 'errand'),"
            " (SELECT count(*) FROM deadletters_deadletter WHERE kind = 'message') FROM work_task"
        )
        return Standing(*row)

    def effects_of_done(self) -> dict[int, int]:
        """How many errands that are done have left how many effects."""
        rows = self.sql(
            "SELECT times, count(*) FROM (SELECT count(e.number) AS times FROM work_task AS t"
            " LEFT JOIN chaos_effect AS e ON e.number = t.key::bigint WHERE t.state = 'done' GROUP BY t.id) AS c"
            " GROUP BY times"
        )
        return dict(rows)

    def effects_of_others(self) -> int:
        """How many effects there are of errands that are not done."""
        [[number]] = self.sql(
            "SELECT count(*) FROM chaos_effect AS e JOIN work_task AS t ON e.number = t.key::bigint"
            " WHERE t.state <> 'done'"
        )
        return int(number)

    def letters_without_a_death(self) -> int:
        """How many letters there are of errands that are not dead, and dead errands without one."""
        [[number]] = self.sql(
            "SELECT count(*) FROM (SELECT work_id FROM deadletters_deadletter WHERE kind = 'errand') AS d"
            " FULL JOIN (SELECT id FROM work_task WHERE state = 'dead') AS t ON t.id = d.work_id"
            " WHERE t.id IS NULL OR d.work_id IS NULL"
        )
        return int(number)

    def lose_worker_and_broker(self, broker: Stopped, *, errands: int, seed: int, poison: int) -> Standing:
        """Hand in errands, the `poison` one among them; kill a worker and lose the broker while they are done; send
        messages that nobody can read; and go on until all is over. Returns how they stood when the broker was lost.
        """
        self.hand_in(0, errands, seed=seed, poison=frozenset({poison}))
        self.wait_for(lambda: self.standing().done >= errands // 4)
        self.kill_worker(0)
        broker.stop()  # with it goes word of all that waits
        killed_at = self.standing()
        broker.start()
        for number in range(len(BAD_MESSAGES)):
            self.send_bad_message(number)

        def is_over() -> bool:
            self.hurry()
            self.send_sweep()
            return self.standing().in_flight == 0

        self.wait_for(is_over)
        self.wait_for(lambda: self.standing().messages == len(BAD_MESSAGES))
        return killed_at

    def death_of(self, errand: int) -> tuple[str, int, str]:
        """State, epoch and the code of the letter of an errand that is dead."""
        [[state, epoch, code]] = self.sql(
            "SELECT t.state, t.epoch, d.code FROM work_task AS t JOIN deadletters_deadletter AS d ON d.work_id = t.id"
            " WHERE t.key = %s",
            str(errand),
        )
        return state, epoch, code

    def wait_for(self, condition: Any, seconds: float = 120.0) -> None:
        """Wait for the workers to get somewhere; how long it takes is never part of what is tested."""
        happened = wait_until(lambda: bool(condition()), alive=lambda: True, seconds=seconds)
        assert happened, f"it did not happen: {self.standing()}; {self.logged()}"


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
