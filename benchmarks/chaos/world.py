"""A whole Ballast as `make run` starts it, by the launcher and under its supervisor, on ports and data of its own.

It differs from the demo's by the traffic, which is ours, and the corpus, which nobody asks: embedder, indexer and
capture are left out. Celery has a Redis apart as its broker, which is kept here as a deployment's would be. The
simulator writes down what it is handed. Where clocks are to differ, libfaketime is loaded into those processes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import orjson
import psutil
from honcho.environ import parse_procfile

from benchmarks.chaos.disk import Disk
from benchmarks.chaos.upstream import BOOK
from launcher.record import RunRecord, find_leftovers
from tests.end_to_end.stack import LOOK_SECONDS, PROJECT, Program, Stack
from tests.end_to_end.traffic import hold_ladder

LEFT_OUT: Final = frozenset({"traffic", "embedder", "indexer", "capture", "engine", "engine-probe"})
SKEWED: Final = ("gateway", "agent", "worker")
GATEWAYS: Final = 2
# What the launcher makes for itself.
MADE: Final = frozenset(
    {
        "DATABASE_URL",
        "REDIS_URL",
        "BALLAST_SECRET_KEY",
        "BALLAST_AGENT_TOKEN",
        "BALLAST_SIGNING_KEY_FILE",
        "BALLAST_TRUSTED_KEYS_FILE",
        "BALLAST_PAYLOAD_KEYS_FILE",
    }
)
START_SECONDS: Final = 240.0
GATEWAY_PROCESS: Final = "gateway process"


class World(Stack):
    """See the module. `with World(...) as world:` waits until all of it is ready."""

    def __init__(self, data_dir: Path, *, clocks: bool) -> None:
        super().__init__(data_dir, processes=(), gateway_processes=GATEWAYS, own_broker=True, durable=True)
        self._clocks = clocks
        self._project = self.places.data_dir / "project"
        self._kept: tuple[str, ...] = ()
        self.disk = Disk(self.places.data_dir / "disk")

    @property
    def release_file(self) -> Path:
        """Where the agent puts releases."""
        return self.disk.directory / "release" / "release.json"

    # --- all of it ---
    def __enter__(self) -> World:
        try:
            self.disk.open()
            for directory in (self.release_file.parent, self.disk.directory / "spool"):
                directory.mkdir()
            self._make_project()
            assert self.broker is not None  # noqa: S101 - for the type checker
            self.broker.initialise()
            self._programs["broker"] = Program(self.broker.command, self.broker.working_directory)
            self.start("broker")
            self.wait_answering("broker")
            self.places.ports.write_text(json.dumps({"postgres": self.postgres.port, "redis": self.redis.port}))
            argv = (sys.executable, "-m", "launcher", "--project", str(self._project), "run")
            self._programs["launcher"] = Program(argv, PROJECT)
            self.start("launcher")
            self.wait_for(
                lambda: "\nReady in" in self.log_of("launcher"), "it runs", needs="launcher", seconds=START_SECONDS
            )
            hold_ladder(self)
        except BaseException:
            self.close()
            raise
        return self

    @property
    def environment(self) -> dict[str, str]:
        """What the launcher is told, and with it every process; the launcher itself makes addresses and secrets."""
        told = super().environment
        if "launcher" not in self._children:  # it is about to be started
            told = {name: value for name, value in told.items() if name not in MADE}
        return told | {
            "BALLAST_RELEASE_FILE": str(self.release_file),
            "BALLAST_SPOOL_DIR": str(self.disk.directory / "spool"),
            "PYTHONPATH": str(PROJECT),
        }

    def close(self) -> None:
        """Let everything go on that was stopped, and end it in order."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)
        super().close()
        self.disk.close()

    def _make_project(self) -> None:
        """The checkout, by links, under a Procfile of its own."""
        self._project.mkdir()
        for entry in PROJECT.iterdir():
            if entry.name not in {"Procfile", ".env", "var"}:
                (self._project / entry.name).symlink_to(entry)
        commands = dict(parse_procfile((PROJECT / "Procfile").read_text()).processes)
        commands["simulator"] = "python -m benchmarks.chaos.upstream"
        if self._clocks:
            for name in SKEWED:
                self.clock_of(name).write_text("+0\n")
                commands[name] = f"env {self._faketime(name)} {commands[name]}"
        self._kept = tuple(name for name in commands if name not in LEFT_OUT)
        (self._project / "Procfile").write_text("".join(f"{name}: {commands[name]}\n" for name in self._kept))

    def clock_of(self, name: str) -> Path:
        """What a process' clock differs by is read from here, once a second: `+300`, in seconds."""
        return self.places.data_dir / f"clock-{name}"

    def _faketime(self, name: str) -> str:
        spec = importlib.util.find_spec("libfaketime")
        assert spec is not None, "libfaketime is not installed"  # noqa: S101 - requirements-dev.txt has it
        assert spec.submodule_search_locations  # noqa: S101 - as above
        library = Path(spec.submodule_search_locations[0]) / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
        variables = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self.clock_of(name)),
            "FAKETIME_CACHE_DURATION": "1",
            # A step of the wall clock, as when somebody sets it: what counts elapsed time goes on evenly.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
        return " ".join(f"{key}={value}" for key, value in variables.items())

    # --- one process ---
    def _mark(self, name: str) -> psutil.Process | None:
        record = RunRecord.read(self.places.record)
        marks = [mark for mark in record.processes if mark.name == name] if record else []
        return marks[0].find() if marks else None

    def is_alive(self, name: str) -> bool:
        """Whether the process runs, of the launcher's or ours."""
        return super().is_alive(name) if name in self._programs else self._mark(name) is not None

    def pid(self, name: str) -> int:
        """The process's pid.

        Raises:
            AssertionError: it does not run.
        """
        if name in self._programs:
            return super().pid(name)
        process = self._mark(name)
        assert process is not None, f"{name} does not run"  # noqa: S101 - as in Stack
        return process.pid

    def processes(self) -> list[psutil.Process]:
        """Every living process of ours and of the launcher."""
        record = RunRecord.read(self.places.record)
        return [*super().processes(), *(find_leftovers(record) if record else ())]

    def family(self, name: str) -> list[psutil.Process]:
        """A process and all that it started; of GATEWAY_PROCESS, one of those that serve."""
        if name == GATEWAY_PROCESS:
            return [psutil.Process(self.gateway_pids()[0])]
        process = psutil.Process(self.pid(name))
        return [process, *process.children(recursive=True)]

    # --- what is known of it ---
    def well(self) -> bool:
        """Whether everything runs, the console is ready and every gateway process serves the latest release."""
        if not all(self.is_alive(name) for name in ("broker", *self._kept)) or len(self.gateway_pids()) != GATEWAYS:
            return False
        try:
            if httpx.get(f"{self.console_url}/readyz", timeout=5).status_code != httpx.codes.OK:
                return False
            with self.api("oncall") as api:
                counts = api.get("/fleet", timeout=5).raise_for_status().json()["counts"]
        except (httpx.HTTPError, ValueError, KeyError):
            return False
        return bool(counts["in_sync"] == counts["expected"] == GATEWAYS)

    def wait_well(self, seconds: float) -> bool:
        """Wait until it is well; False when it is not after so many seconds."""
        deadline = time.monotonic() + seconds
        while not self.well():
            if time.monotonic() >= deadline:
                return False
            time.sleep(LOOK_SECONDS)
        return True

    def provider_calls(self) -> Iterator[dict[str, object]]:
        """What the provider was handed, in order; see benchmarks.chaos.upstream."""
        book = self.places.data_dir / BOOK
        if book.exists():
            for line in book.read_bytes().splitlines():
                yield orjson.loads(line)

    def keep_logs(self, directory: Path) -> None:
        """Copy what every process has written to a place that outlives this world."""
        shutil.copytree(self.places.logs, directory, dirs_exist_ok=True)
