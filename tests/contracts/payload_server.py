"""A server of S3's kind for the tests of payloads: a process of its own, which checks who asks and can go away."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from launcher.postgres import wait_until
from launcher.spawn import spawn
from tests.ports import pick_port

BUCKET = "payloads"
REGION = "eu-west-1"
# The server reads nothing shorter.
ACCESS_KEY_ID, SECRET_ACCESS_KEY = "AKIATESTSOFPAYLOADS1", "only-for-the-tests-of-payloads-00"
READY_SECONDS = 120.0


class S3Server:
    """One bucket, kept in a directory of `home`, so that a server that comes back still has it."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._buckets = home / "buckets"
        self._port = pick_port()
        self._child: subprocess.Popen[bytes] | None = None
        (self._buckets / BUCKET).mkdir(parents=True)

    @property
    def endpoint(self) -> str:
        """Where it answers, without TLS."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def variables(self) -> dict[str, str]:
        """What an operator sets for it, but for BALLAST_PAYLOAD_STORE."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
        }

    def url(self, prefix: str) -> str:
        """The BALLAST_PAYLOAD_STORE of somebody who has a prefix of the bucket to himself."""
        return f"s3://{BUCKET}/{prefix}"

    def objects(self, prefix: str) -> list[Path]:
        """The files in which it keeps what lies under a prefix."""
        return [path for path in (self._buckets / BUCKET / prefix).rglob("*") if path.is_file()]

    def start(self) -> None:
        """Return when it answers."""
        program = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        assert program is not None, "rclone is not there; install requirements-dev.txt"
        options = ["--config", os.devnull, "--addr", f"127.0.0.1:{self._port}"]
        people = f"{ACCESS_KEY_ID},{SECRET_ACCESS_KEY}"
        child = self._child = spawn(
            [program, "serve", "s3", *options, "--auth-key", people, str(self._buckets)],
            environment={"PATH": os.environ["PATH"], "HOME": str(self._home)},
            directory=self._home,
            log_path=self._home / "server.log",
            stop_signal=signal.SIGKILL,
        )
        if not wait_until(self._is_listening, alive=lambda: child.poll() is None, seconds=READY_SECONDS):
            raise AssertionError(f"S3 does not start: {(self._home / 'server.log').read_text()}")

    def stop(self) -> None:
        """End it, at once; nothing happens when it does not run."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def _is_listening(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=5):
            return True
        return False


@contextlib.contextmanager
def serve_s3(home: Path) -> Iterator[S3Server]:
    """A server that is there until the end of the block."""
    server = S3Server(home)
    try:
        server.start()
        yield server
    finally:
        server.stop()
