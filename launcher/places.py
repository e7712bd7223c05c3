"""Where one copy keeps its things, and the lock that makes it one."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from launcher.errors import LauncherError
from launcher.record import ProcessMark

MARKER_TEXT = "Made by Ballast's launcher; `make clean` removes this directory and everything in it.\n"


@dataclass(frozen=True, slots=True)
class Places:
    """The directories and files of the copy whose data lie in `data_dir`."""

    data_dir: Path

    @property
    def marker(self) -> Path:
        """Says that the whole directory is ours to remove."""
        return self.data_dir / ".made-by-ballast"

    @property
    def keys(self) -> Path:
        """The key that signs releases and the keys that are trusted."""
        return self.data_dir / "keys"

    @property
    def secrets(self) -> Path:
        """Passwords, the console's secret key and the agents' token."""
        return self.data_dir / "secrets"

    @property
    def logs(self) -> Path:
        """One log per process."""
        return self.data_dir / "logs"

    @property
    def run(self) -> Path:
        """What is true only while something runs, or about the last run."""
        return self.data_dir / "run"

    @property
    def record(self) -> Path:
        """The processes of the run, see launcher.record."""
        return self.run / "processes.json"

    @property
    def lock(self) -> Path:
        """Held by the one launcher of this copy; names it."""
        return self.run / "launcher.lock"

    @property
    def ports(self) -> Path:
        """The ports the embedded servers had last time."""
        return self.run / "ports.json"

    @property
    def prepared(self) -> Path:
        """The fingerprint of the last preparation, see launcher.prepare."""
        return self.run / "prepared.json"

    @property
    def postgres(self) -> Path:
        """The embedded PostgreSQL."""
        return self.data_dir / "postgres"

    @property
    def redis(self) -> Path:
        """The embedded Redis."""
        return self.data_dir / "redis"

    def log_of(self, name: str) -> Path:
        """The log of one process."""
        return self.logs / f"{name}.log"

    def make(self) -> None:
        """Make what is missing; a directory that was empty or not there is marked as ours.

        Raises:
            LauncherError: it cannot be made or written to.
        """
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            if not any(self.data_dir.iterdir()):
                self.marker.write_text(MARKER_TEXT)
            for directory in (self.keys, self.secrets):
                directory.mkdir(mode=0o700, exist_ok=True)
            for directory in (self.logs, self.run, self.data_dir / "static"):
                directory.mkdir(exist_ok=True)
        except OSError as exc:
            raise LauncherError(
                f"BALLAST_DATA_DIR is {str(self.data_dir)!r}, which cannot be used: {exc.strerror or exc}"
            ) from exc

    @contextmanager
    def locked(self, *, mark: ProcessMark) -> Iterator[None]:
        """Hold the copy's lock; the kernel lets go of it however this process ends.

        Raises:
            LauncherError: another launcher holds it.
        """
        with self.lock.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                holder = self.holder()
                who = f" (pid {holder.pid})" if holder else ""
                raise LauncherError(
                    f"a copy with its data in {self.data_dir} is already running{who}; "
                    f"`make stop` stops it, another BALLAST_DATA_DIR and other ports run a second one"
                ) from exc
            lock.truncate(0)
            lock.write(json.dumps(asdict(mark)))
            lock.flush()
            yield

    def holder(self) -> ProcessMark | None:
        """Return who took the lock last, running or not; None when that is unknown."""
        try:
            stored = json.loads(self.lock.read_text())
            return ProcessMark(str(stored["name"]), int(stored["pid"]), float(stored["created_at"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
