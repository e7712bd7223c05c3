"""What the launcher's tests share: directories PostgreSQL's account can reach, and a small project to launch."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from launcher.postgres import wait_until
from tests.ports import pick_port

PROJECT = Path(__file__).resolve().parents[2]
START_SECONDS = 240.0


@contextmanager
def make_open_directory() -> Iterator[Path]:
    """A directory that any account may pass through; pytest's own is closed to all but one."""
    directory = Path(tempfile.mkdtemp(prefix="ballast-launcher-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory of this test, which any account may pass through."""
    with make_open_directory() as directory:
        yield directory


class FakeProject:
    """A checkout with a Procfile of tiny servers and a manage.py that notes what it was asked."""

    def __init__(self, directory: Path) -> None:
        directory.chmod(0o755)
        self.directory = directory
        self.data_dir = directory / "var"
        self.console_port, self.gateway_port, self.simulator_port = pick_port(), pick_port(), pick_port()
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "PYTHONPATH": str(PROJECT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "BALLAST_CONSOLE_PORT": str(self.console_port),
            "BALLAST_GATEWAY_PORT": str(self.gateway_port),
            "BALLAST_SIMULATOR_PORT": str(self.simulator_port),
        }
        (directory / "Procfile").write_text(
            "console: python server.py $BALLAST_CONSOLE_PORT\n"
            "gateway: python server.py $BALLAST_GATEWAY_PORT --stray\n"
            "traffic: python server.py 0\n"
        )
        (directory / "server.py").write_text(SERVER)
        (directory / "manage.py").write_text(MANAGE)
        self._launchers: list[subprocess.Popen[str]] = []

    def command(self, name: str) -> list[str]:
        """The launcher's command line for this project."""
        return [sys.executable, "-m", "launcher", "--project", str(self.directory), name]

    def start(self) -> subprocess.Popen[str]:
        """Start `run` in the background, its output in `launcher.out`."""
        with (self.directory / "launcher.out").open("w") as out:
            launcher = subprocess.Popen(
                self.command("run"), env=self.environment, stdout=out, stderr=subprocess.STDOUT, text=True
            )
        self._launchers.append(launcher)
        return launcher

    @property
    def launcher(self) -> subprocess.Popen[str]:
        """The launcher that was started last."""
        return self._launchers[-1]

    def start_and_wait(self) -> subprocess.Popen[str]:
        """Start `run` and return once it says that Ctrl-C stops everything."""
        launcher = self.start()
        wait_until(
            lambda: "Ctrl-C stops everything" in self.output,
            alive=lambda: launcher.poll() is None,
            seconds=START_SECONDS,
        )
        assert "Ctrl-C stops everything" in self.output, self.output
        return launcher

    def finish(
        self, *, environment: dict[str, str] | None = None, command: str = "run"
    ) -> subprocess.CompletedProcess[str]:
        """Run a command that ends by itself and return what it said."""
        return subprocess.run(
            self.command(command),
            env={**self.environment, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )

    @property
    def output(self) -> str:
        """What the last `run` has printed so far."""
        return (self.directory / "launcher.out").read_text()

    @property
    def managed(self) -> list[str]:
        """The management commands that ran, in order."""
        log = self.directory / "managed.txt"
        return log.read_text().splitlines() if log.exists() else []

    def processes(self) -> list[psutil.Process]:
        """Every living process that has to do with this project: by where it runs or by what it was called with."""
        found = []
        for process in psutil.process_iter():
            try:
                is_ours = str(self.directory) in process.cwd() or str(self.directory) in " ".join(process.cmdline())
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def server_on(self, port: int) -> psutil.Process:
        """The living process that was told to serve on this port."""
        found = []
        for process in self.processes():
            with suppress(psutil.Error):  # PostgreSQL's come and go
                if process.cmdline()[-2:] == ["server.py", str(port)]:
                    found.append(process)
        (server,) = found
        return server

    def close(self) -> None:
        """End whatever a failed test left."""
        for launcher in self._launchers:
            if launcher.poll() is None:
                launcher.send_signal(signal.SIGTERM)
                try:
                    launcher.wait(120)
                except subprocess.TimeoutExpired:
                    launcher.kill()
                    launcher.wait()
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()


@pytest.fixture
def project(open_directory: Path) -> Iterator[FakeProject]:
    """A small project to launch; nothing of it outlives the test."""
    fake = FakeProject(open_directory)
    yield fake
    fake.close()


SERVER = textwrap.dedent('''\
    """Answers 200 to everything; with --stray it also leaves a child in a session of its own."""

    import http.server
    import subprocess
    import sys

    if "--stray" in sys.argv:
        subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)


    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()


    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
    ''')

MANAGE = textwrap.dedent('''\
    """Notes the command and marks the database as migrated."""

    import os
    import sys

    import psycopg

    with open("managed.txt", "a") as log:
        log.write(sys.argv[1] + "\\n")
    if sys.argv[1] == "migrate":
        with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS django_migrations (id serial, applied timestamptz DEFAULT now())"
            )
    ''')
