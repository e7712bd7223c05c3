"""A whole Ballast on free ports: real servers and the Procfile's processes, each of which a test can stop, kill, start.

    with Stack(data_dir, processes=("simulator", "console", "ingest", "agent", "gateway")) as stack:
        stack.wait_ready()
        ...stack.console_url, stack.gateway_url, stack.sign_in("owner")...
        stack.kill("agent")
        stack.start("agent")

It is migrated and holds the demo's data. Nothing of it outlives `close`, nor this process.
"""

import contextlib
import fcntl
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import httpx
import psutil
import psycopg
from honcho.environ import parse_procfile

from launcher.environment import child_variables, read_settings
from launcher.keys import keep_payload_keys, keep_secret, keep_signing_key
from launcher.places import Places
from launcher.postgres import STOP_SIGNAL as POSTGRES_STOP_SIGNAL
from launcher.postgres import EmbeddedPostgres, wait_until
from launcher.progress import tail
from launcher.pytest_services import HOME_VARIABLE
from launcher.readiness import probe
from launcher.record import RUN_ID_VARIABLE, wait_gone
from launcher.redis import EmbeddedRedis
from launcher.spawn import Account, spawn, stop_child
from tests.ports import pick_port

PROJECT = Path(__file__).resolve().parents[2]
DEMO_PASSWORD = "ballast-demo"
PROCESSES = ("simulator", "console", "ingest", "agent", "gateway")
PREPARE_SECONDS = 300
READY_SECONDS = 120.0
STOP_SECONDS = 60.0
ANSWER_SECONDS = 60
# Between two looks at something that is waited for; each is a request or a query, and costs the others' time.
LOOK_SECONDS = 0.2
# A connection that was idle could be closed at the very moment at which it is used again.
NONE_KEPT = httpx.Limits(max_keepalive_connections=0)
# What PostgreSQL was told of its two accounts, beside the other secrets.
PASSWORDS = ("postgres-password", "postgres-superuser-password")
# They stop when nobody asks them any more.
SERVERS = ("postgres", "redis", "broker")
NO_SIGNAL = 0


@dataclass(frozen=True, slots=True)
class Program:
    """How one process of the stack is started and stopped."""

    argv: tuple[str, ...]
    directory: Path
    stop_signal: int = signal.SIGTERM
    account: Account | None = None
    before_start: Callable[[], object] | None = None


class Stack:
    """See the module. Databases come up in the constructor's `with`, processes by `start`.

    Args:
        data_dir: Empty; any account may pass through the directories above it, see `make_data_dir`.
        processes: Names in the Procfile, started in this order.
        gateway_processes: How many processes serve behind the gateway's one port.
        own_broker: True gives Celery a second Redis, named "broker", so that it can go without the reports going.
        durable: False trades PostgreSQL's crash safety for speed.
        seeded: False leaves the database without the demo.
        postgres_settings: Further lines of postgresql.conf.
        variables: Laid over what every process is told.
        own_variables: Laid over that, by the name of one process.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        processes: Sequence[str] = PROCESSES,
        gateway_processes: int = 2,
        own_broker: bool = False,
        durable: bool = False,
        seeded: bool = True,
        postgres_settings: Mapping[str, str] | None = None,
        variables: Mapping[str, str] | None = None,
        own_variables: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.places = Places(data_dir.resolve())
        self.names = tuple(processes)
        self._seeded = seeded
        self.run_id = secrets.token_hex(16)
        self._programs: dict[str, Program] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._variables = dict(variables or {})
        self._own_variables = dict(own_variables or {})
        self._postgres_settings = dict(postgres_settings or {})
        self.settings = read_settings(
            {
                "BALLAST_DEMO": "true",
                "BALLAST_DATA_DIR": str(self.places.data_dir),
                "BALLAST_CONSOLE_PORT": str(pick_port()),
                "BALLAST_GATEWAY_PORT": str(pick_port()),
                "BALLAST_SIMULATOR_PORT": str(pick_port()),
                "BALLAST_EMBEDDER_PORT": str(pick_port()),
                "BALLAST_GATEWAY_PROCESSES": str(gateway_processes),
                "BALLAST_HOST_NAME": "stack",
            },
            project=PROJECT,
        )
        self.places.make()
        secrets_dir = self.places.secrets
        self.postgres = EmbeddedPostgres.at(
            self.places.postgres, secrets=secrets_dir, port=pick_port(), durable=durable
        )
        self.redis = EmbeddedRedis(self.places.redis, secrets_dir, pick_port(), durable=False)
        broker = self.places.data_dir / "broker"
        self.broker = EmbeddedRedis(broker, secrets_dir, pick_port(), durable=False) if own_broker else None

    @property
    def console_url(self) -> str:
        """Where the console answers, without a slash at the end."""
        return self.settings.local_console

    @property
    def gateway_url(self) -> str:
        """Where the gateway answers; the SDK's base_url is this and `/v1`."""
        return self.settings.local_gateway

    @property
    def simulator_url(self) -> str:
        """Where the provider simulator answers."""
        return f"http://127.0.0.1:{self.settings.simulator_port}"

    @property
    def broker_url(self) -> str:
        """The Celery broker."""
        return (self.broker or self.redis).url()

    @property
    def environment(self) -> dict[str, str]:
        """What every process of the stack is told; nothing of the caller's own configuration reaches it."""
        places = self.places
        inherited = {name: value for name, value in os.environ.items() if name in {"HOME", "LANG", "TZ", "TMPDIR"}}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        variables = child_variables(
            self.settings,
            database_url=self.postgres.url,
            redis_url=self.redis.url(),
            secret_key=keep_secret(places.secrets / "secret-key"),
            agent_token=keep_secret(places.secrets / "agent-token"),
            signing_key_file=places.keys / "release-signing.pem",
            trusted_keys_file=places.keys / "trusted-keys.json",
            payload_keys_file=places.keys / "payload-keys",
        )
        own = {"PATH": path, "CELERY_BROKER_URL": self.broker_url, RUN_ID_VARIABLE: self.run_id}
        return {**inherited, **variables, **own, **self._variables}

    # --- all of it ---
    def __enter__(self) -> "Stack":
        """Bring up databases, data and processes, without waiting for the last ones to be ready."""
        try:
            with self._cluster() as is_migrated:
                self._start_databases()
                keep_signing_key(self.places.keys / "release-signing.pem", self.places.keys / "trusted-keys.json")
                keep_payload_keys(self.places.keys / "payload-keys")
                if not is_migrated:
                    self.manage("migrate", "--noinput")
            if self._seeded:
                self.manage("seed_demo")
            commands = parse_procfile((PROJECT / "Procfile").read_text()).processes
            for name in self.names:
                self._programs[name] = Program(("/bin/sh", "-c", f"exec {commands[name]}"), PROJECT)
                self.start(name)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _cluster(self) -> Iterator[bool]:
        """Whether PostgreSQL's cluster is there already, and migrated; what is made instead is kept when that is done.

        The first stack of a test run makes one, and the others copy it: that takes a tenth of the time.
        """
        home = os.environ.get(HOME_VARIABLE)
        if home is None or self.postgres.durable or self._postgres_settings:
            yield False
            return
        kept = Path(home) / "stack"
        with (Path(home) / "stack.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not kept.exists():
                yield False
                self.stop("postgres")  # so that all of it is in the files
                making = kept.with_name("stack-making")
                making.mkdir()
                _copy(self.postgres.cluster, making / "cluster")
                for name in PASSWORDS:
                    _copy(self.places.secrets / name, making / name)
                making.rename(kept)
                self.start("postgres")
                self.wait_answering("postgres")
                return
        self.postgres.cluster.parent.mkdir(parents=True, exist_ok=True)
        _copy(kept / "cluster", self.postgres.cluster)
        for name in PASSWORDS:
            _copy(kept / name, self.places.secrets / name)
        yield True

    def _start_databases(self) -> None:
        self.postgres.initialise()
        with (self.postgres.cluster / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in self._postgres_settings.items())
        self._programs["postgres"] = Program(
            self.postgres.command,
            self.postgres.working_directory,
            stop_signal=POSTGRES_STOP_SIGNAL,
            account=self.postgres.account,
            before_start=self.postgres.clear_stale_lock,
        )
        servers = {"redis": self.redis} | ({"broker": self.broker} if self.broker else {})
        for name, server in servers.items():
            server.initialise()
            self._programs[name] = Program(server.command, server.working_directory)
        self.start("postgres")
        for name in servers:
            self.start(name)
        for name in ("postgres", *servers):
            self.wait_answering(name)

    def wait_ready(self) -> None:
        """Return when console and gateway, as far as they are part of this stack, say that they can be used.

        Raises:
            AssertionError: they do not, within two minutes; carries the end of the log.
        """
        for name in ("console", "gateway"):
            if name in self.names:
                self.wait_answering(name)

    def wait_answering(self, name: str) -> None:
        """Return when a server (a database, `console` or `gateway`) can be used; errors as `wait_ready`."""
        servers: dict[str, EmbeddedPostgres | EmbeddedRedis | None] = {
            "postgres": self.postgres,
            "redis": self.redis,
            "broker": self.broker,
        }
        server = servers.get(name)
        url = f"{self.console_url if name == 'console' else self.gateway_url}/readyz"
        is_ready = server.is_ready if server else lambda: probe(url).is_ready
        self.wait_for(is_ready, f"{name} is ready", needs=name)

    def close(self) -> None:
        """Stop everything, all processes at once and then their servers, and see that nothing with this stack's mark is
        left.
        """
        asking = [name for name in self._children if name not in SERVERS]
        for name in asking:
            with contextlib.suppress(ProcessLookupError):
                self._children[name].send_signal(self._programs[name].stop_signal)
        for name in asking:  # a second signal would tell some of them to hurry
            stop_child(self._children.pop(name), stop_signal=NO_SIGNAL, grace_seconds=STOP_SECONDS)
        for name in SERVERS:
            if name in self._children:
                self.stop(name)
        stuck = wait_gone(self.processes(), seconds=STOP_SECONDS)
        for process in stuck:
            with contextlib.suppress(psutil.Error):
                process.kill()
        wait_gone(stuck, seconds=STOP_SECONDS)

    def processes(self) -> list[psutil.Process]:
        """Every living process of this stack, grandchildren too, by the mark in its environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(RUN_ID_VARIABLE) == self.run_id and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    # --- one process ---
    def begin(self, name: str) -> None:
        """Start a process of the Procfile that this stack was not made with."""
        if name not in self._programs:
            command = parse_procfile((PROJECT / "Procfile").read_text()).processes[name]
            self._programs[name] = Program(("/bin/sh", "-c", f"exec {command}"), PROJECT)
        self.start(name)

    def start(self, name: str) -> None:
        """Start a process that is not running; it is not ready yet."""
        program = self._programs[name]
        if program.before_start is not None:
            program.before_start()
        database = name in {"postgres", "redis", "broker"}
        marked = {"PATH": os.environ.get("PATH", os.defpath), RUN_ID_VARIABLE: self.run_id}
        self._children[name] = spawn(
            program.argv,
            environment=marked if database else {**self.environment, **self._own_variables.get(name, {})},
            directory=program.directory,
            log_path=self.places.log_of(name),
            stop_signal=program.stop_signal,
            account=program.account,
        )

    def stop(self, name: str) -> None:
        """Stop a process as `make stop` would, and wait for its end."""
        child = self._children.pop(name)
        stop_child(child, stop_signal=self._programs[name].stop_signal, grace_seconds=STOP_SECONDS)

    def kill(self, name: str) -> None:
        """Kill -9 a process, not its children, and wait for its end."""
        child = self._children.pop(name)
        child.kill()
        child.wait()

    def is_alive(self, name: str) -> bool:
        """Say whether the process runs."""
        return name in self._children and self._children[name].poll() is None

    def pid(self, name: str) -> int:
        """The process's pid."""
        return self._children[name].pid

    def gateway_pids(self) -> list[int]:
        """The living gateway processes behind the port, by pid; none while the gateway does not run."""
        if not self.is_alive("gateway"):
            return []
        found = []
        for process in psutil.Process(self.pid("gateway")).children(recursive=True):
            try:
                if "gateway-process" in process.cmdline():
                    found.append(process.pid)
            except psutil.Error:
                continue
        return found

    def log_of(self, name: str) -> str:
        """What the process has written so far."""
        path = self.places.log_of(name)
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_for(
        self, condition: Callable[[], bool], what: str, *, needs: str | None = None, seconds: float = READY_SECONDS
    ) -> None:
        """Wait until `condition` holds.

        Args:
            needs: A process without which there is no point in waiting on.
        Raises:
            AssertionError: it does not hold within `seconds`, or the process died; says `what`, and what was logged.
        """
        alive = (lambda: self.is_alive(needs)) if needs else (lambda: True)
        if not wait_until(condition, alive=alive, seconds=seconds, pause=LOOK_SECONDS):
            said = " / ".join(tail(self.places.log_of(needs), lines=15)) if needs else ""
            raise AssertionError(f"waited {seconds:.0f} s in vain: {what}. {said}")

    # --- what a test does with it ---
    def manage(self, *arguments: str, stdin: str = "") -> str:
        """Run a management command, which reads `stdin`, and return what it printed.

        Raises:
            AssertionError: it failed; carries its output.
        """
        result = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=PROJECT,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PREPARE_SECONDS,
            check=False,
        )
        assert result.returncode == 0, f"manage.py {' '.join(arguments)}: {result.stdout}{result.stderr}"
        return result.stdout

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Ask the control plane's database."""
        with psycopg.connect(self.postgres.url, connect_timeout=ANSWER_SECONDS) as connection:
            return connection.execute(sql.encode(), parameters).fetchall()

    def api(self, username: str) -> httpx.Client:
        """A client of the console's API with the demo token of an operator; whoever asks for it closes it."""
        token = f"op-demo-{username}"
        return httpx.Client(
            base_url=f"{self.console_url}/api/v1",
            headers={"authorization": f"Bearer {token}"},
            timeout=ANSWER_SECONDS,
            limits=NONE_KEPT,
        )

    def sign_in(self, username: str) -> "Browser":
        """A signed-in session at the console, as a browser without a screen holds it."""
        browser = Browser(self)
        browser.sign_in(username)
        return browser


class Browser:
    """A console session over HTTP: cookies and CSRF as a browser has them."""

    def __init__(self, stack: Stack) -> None:
        self._cookie = f"ballast_csrf_{stack.settings.console_port}"
        self.client = httpx.Client(base_url=stack.console_url, timeout=ANSWER_SECONDS, limits=NONE_KEPT)

    def sign_in(self, username: str) -> None:
        """Fill in the sign-in form, and be let in."""
        answer = self.try_to_sign_in(username)
        assert answer.status_code == httpx.codes.FOUND, f"{username} cannot sign in: {answer.status_code}"

    def try_to_sign_in(self, username: str) -> httpx.Response:
        """Fill in the sign-in form and return what came of it; a redirect is a success."""
        self.client.get("/accounts/login/").raise_for_status()
        return self.post("/accounts/login/", {"login": username, "password": DEMO_PASSWORD})

    def post(self, path: str, fields: Mapping[str, str]) -> httpx.Response:
        """Submit a form; redirects are not followed."""
        token = self.client.cookies.get(self._cookie) or ""
        headers = {"x-csrftoken": token, "origin": str(self.client.base_url).rstrip("/")}
        return self.client.post(path, data=dict(fields), headers=headers)

    def close(self) -> None:
        """Close the connection."""
        self.client.close()


def _copy(source: Path, target: Path) -> None:
    """Copy a file or a tree with its owners and modes: PostgreSQL takes its own only."""
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


def make_data_dir() -> Path:
    """Make an empty directory that PostgreSQL's account can reach; whoever asks for it removes it."""
    directory = Path(tempfile.mkdtemp(prefix="ballast-stack-"))
    directory.chmod(0o711)
    return directory
