"""`make run`: from nothing to a console that can be used, and back to nothing on Ctrl-C."""

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from honcho.environ import parse_procfile

from launcher.engine import require_engine
from launcher.environment import Settings, read_settings, read_variables
from launcher.errors import LauncherError, StopRequested
from launcher.interrupts import Interrupts
from launcher.keys import keep_payload_keys, keep_signing_key
from launcher.manage import PAYLOAD_KEYS, variables_of
from launcher.outside import place_of, require_broker, require_database, require_redis
from launcher.places import Places
from launcher.ports import recall_port, require_free
from launcher.postgres import STOP_SIGNAL as POSTGRES_STOP_SIGNAL
from launcher.postgres import EmbeddedPostgres
from launcher.prepare import fingerprint, is_prepared, note_prepared
from launcher.progress import Progress
from launcher.readiness import Readiness, probe
from launcher.record import RUN_ID_VARIABLE, ProcessMark, RunRecord, end_leftovers
from launcher.redis import EmbeddedRedis
from launcher.supervisor import Program, Supervisor
from launcher.welcome import welcome

DATABASE_READY_SECONDS = 60.0
READY_SECONDS = 120.0
PROBE_PAUSE_SECONDS = 0.25
ENGINE_ONLY = frozenset({"engine", "engine-probe"})  # a model server of one's own, which is asked for by name
DEMO_ONLY = frozenset({"simulator", "embedder", "traffic"}) | ENGINE_ONLY
AFTER_READY = frozenset({"traffic"})  # traffic that nobody can answer yet would only paint errors on the first screen
# Who asks stops before who answers: traffic, jobs, gateways (they drain), what they hand on to, console, databases.
STOP_RANKS: Mapping[str, int] = {
    **dict.fromkeys(("traffic", "beat", "jobs", "indexer"), 0),
    "gateway": 1,
    **dict.fromkeys(("shadow", "simulator", "embedder", "engine", "engine-probe", "agent"), 2),
}
STOP_RANK_OTHERS = 3
STOP_RANK_REDIS, STOP_RANK_POSTGRES = 8, 9
# A gateway outside the demo is not ready for some seconds first, and then gives its streams 30.
GRACE_SECONDS: Mapping[str, float] = {"gateway": 45.0, "postgres": 30.0}
GRACE_SECONDS_OTHERS = 10.0
EMBEDDER_HOST = "127.0.0.1"  # whatever else is bound to: it asks nobody for a key, and speaks IPv4 only
PROBED = ("console", "gateway")
READY, STARTED = "/readyz", "/startupz"


def run(*, project: Path, environ: Mapping[str, str], out: TextIO, errors: TextIO) -> int:
    """Run the copy whose checkout is `project` until it is told to stop; return the exit status, 0 or 1."""
    progress = Progress(out)
    interrupts = Interrupts()
    interrupts.install()
    try:
        _run(project=project, environ=environ, progress=progress, interrupts=interrupts)
    except StopRequested:
        return 0
    except LauncherError as exc:
        Progress(errors).say(f"ballast: {exc}")
        return 1
    return 0


def _run(*, project: Path, environ: Mapping[str, str], progress: Progress, interrupts: Interrupts) -> None:
    started = time.monotonic()
    variables = read_variables(environ, project=project)
    settings = read_settings(variables, project=project)
    places = Places(settings.data_dir)
    places.make()
    mark = ProcessMark.of("launcher", os.getpid())
    with places.locked(mark=mark):
        progress.say("Ballast")
        with progress.step("Environment") as outcome:
            cleared = _clear_leftovers(places)
            procfile = _read_procfile(project, settings)
            if settings.demo_engine:
                require_engine()
            _require_ports(settings, procfile)
            _require_outside_servers(settings)
            key_id = _keep_keys(settings, places)
            python = ".".join(str(part) for part in sys.version_info[:3])
            outcome.text = f"Python {python}, data in {settings.data_dir}, signing key {key_id}"
            if cleared:
                outcome.text += f"; stopped what a killed run left: {', '.join(cleared)}"
        record = RunRecord.start(console_url=settings.console_url)
        supervisor = Supervisor(record=record, record_path=places.record, progress=progress, interrupts=interrupts)
        copy = _Copy(project, variables, settings, places, progress, interrupts, supervisor, record.run_id)
        try:
            copy.start(procfile, key_id=key_id)
            progress.say(f"Ready in {time.monotonic() - started:.1f} s")
            progress.say(welcome(settings))
            supervisor.watch()
        finally:
            with progress.step("Stopping") as outcome:
                supervisor.stop_all()
                end_leftovers(RunRecord.read(places.record) or record)
                places.record.unlink(missing_ok=True)
                outcome.text = "everything stopped"


class _Copy:
    """One start, step by step; each step assumes the ones above it."""

    def __init__(
        self,
        project: Path,
        variables: Mapping[str, str],
        settings: Settings,
        places: Places,
        progress: Progress,
        interrupts: Interrupts,
        supervisor: Supervisor,
        run_id: str,
    ) -> None:
        self._project = project
        self._settings = settings
        self._places = places
        self._progress = progress
        self._interrupts = interrupts
        self._supervisor = supervisor
        self._base = {
            **variables,
            RUN_ID_VARIABLE: run_id,
            # The Procfile's `python` is this one, wherever the command was started from.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{variables.get('PATH', os.defpath)}",
        }

    def start(self, procfile: Mapping[str, str], *, key_id: str) -> None:
        """Bring everything up, databases first.

        Raises:
            LauncherError: something does not come up; its last log lines have been shown.
            StopRequested: a signal came in between.
        """
        redis = None if self._settings.redis_url else self._start_redis()
        postgres = None if self._settings.database_url else self._start_postgres()
        database_url = self._await_postgres(postgres)
        redis_url = self._await_redis(redis)
        environment = {**self._base, **self._variables(database_url=database_url, redis_url=redis_url)}
        self._prepare(environment, database_url=database_url, key_id=key_id)
        self._start_processes(procfile, environment)

    def _start_postgres(self) -> EmbeddedPostgres:
        server = EmbeddedPostgres.at(
            self._places.postgres,
            secrets=self._places.secrets,
            port=recall_port(self._places.ports, "postgres"),
        )
        server.initialise()
        self._interrupts.check()
        self._supervisor.start(
            Program(
                name="postgres",
                argv=server.command,
                environment=self._server_environment(),
                directory=server.working_directory,
                log_path=self._places.log_of("postgres"),
                stop_rank=STOP_RANK_POSTGRES,
                stop_signal=POSTGRES_STOP_SIGNAL,
                grace_seconds=GRACE_SECONDS["postgres"],
                account=server.account,
                before_start=server.clear_stale_lock,
            )
        )
        return server

    def _start_redis(self) -> EmbeddedRedis:
        server = EmbeddedRedis(self._places.redis, self._places.secrets, recall_port(self._places.ports, "redis"))
        server.initialise()
        self._supervisor.start(
            Program(
                name="redis",
                argv=server.command,
                environment=self._server_environment(),
                directory=server.working_directory,
                log_path=self._places.log_of("redis"),
                stop_rank=STOP_RANK_REDIS,
                grace_seconds=GRACE_SECONDS_OTHERS,
            )
        )
        return server

    def _server_environment(self) -> dict[str, str]:
        """The databases need no secrets of ours, and a PG* variable of the caller must not change them."""
        return {
            name: value
            for name, value in self._base.items()
            if name in {"PATH", "HOME", "TZ", "TMPDIR", RUN_ID_VARIABLE}
        }

    def _await_postgres(self, server: EmbeddedPostgres | None) -> str:
        with self._progress.step("PostgreSQL") as outcome:
            if server is None:
                url = self._settings.database_url or ""
                outcome.text = f"yours at {place_of(url)}"
                return url
            self._await_server("postgres", server)
            outcome.text = f"embedded, port {server.port}"
            return server.url

    def _await_redis(self, server: EmbeddedRedis | None) -> str:
        with self._progress.step("Redis") as outcome:
            if server is None:
                url = self._settings.redis_url or ""
                outcome.text = f"yours at {place_of(url)}"
                return url
            self._await_server("redis", server)
            outcome.text = f"embedded, port {server.port}"
            return server.url()

    def _await_server(self, name: str, server: EmbeddedPostgres | EmbeddedRedis) -> None:
        deadline = time.monotonic() + DATABASE_READY_SECONDS
        if not self._supervisor.watch(until=server.is_ready, deadline=deadline):
            self._interrupts.check()
            self._progress.show_tail(name, self._places.log_of(name))
            raise LauncherError(
                f"{name} is not ready after {DATABASE_READY_SECONDS:.0f} s; its log is {self._places.log_of(name)}"
            )

    def _variables(self, *, database_url: str, redis_url: str) -> dict[str, str]:
        return variables_of(self._settings, self._places, database_url=database_url, redis_url=redis_url)

    def _prepare(self, environment: Mapping[str, str], *, database_url: str, key_id: str) -> None:
        demo = self._settings.demo
        engine = self._settings.demo_engine
        digest = fingerprint(self._project, database_url=database_url, demo=demo, engine=engine, key_id=key_id)
        if is_prepared(self._places.prepared, digest):
            with self._progress.step("Migrations") as outcome:
                outcome.text = "up to date, nothing changed since the last start"
            return
        self._manage("Migrations", "migrate", "--noinput", environment=environment)
        self._manage("Static files", "collectstatic", "--noinput", environment=environment)
        if demo:
            self._manage("Demo data", "seed_demo", environment=environment)
        note_prepared(
            self._places.prepared,
            fingerprint(self._project, database_url=database_url, demo=demo, engine=engine, key_id=key_id),
        )

    def _manage(self, title: str, *arguments: str, environment: Mapping[str, str]) -> None:
        name = arguments[0]
        with self._progress.step(title):
            status = self._supervisor.run_to_end(
                Program(
                    name=name,
                    argv=(sys.executable, "manage.py", *arguments),
                    environment=environment,
                    directory=self._project,
                    log_path=self._places.log_of(name),
                    stop_rank=STOP_RANK_OTHERS,
                )
            )
            self._interrupts.check()
            if status != 0:
                log_path = self._places.log_of(name)
                self._progress.show_tail(name, log_path)
                raise LauncherError(
                    f"`manage.py {' '.join(arguments)}` ended with status {status}; its log is {log_path}"
                )

    def _start_processes(self, procfile: Mapping[str, str], environment: Mapping[str, str]) -> None:
        for name, command in procfile.items():
            if name not in AFTER_READY:
                self._start_process(name, command, environment)
        self._progress.say(f"  {'Processes'.ljust(14)} … {', '.join(procfile)}")
        self._await_ready([name for name in PROBED if name in procfile])
        for name, command in procfile.items():
            if name in AFTER_READY:
                self._start_process(name, command, environment)

    def _start_process(self, name: str, command: str, environment: Mapping[str, str]) -> None:
        self._interrupts.check()
        self._supervisor.start(
            Program(
                name=name,
                # `exec`: the shell fills in the variables and is gone, so that signals reach the process itself.
                argv=("/bin/sh", "-c", f"exec {command}"),
                environment=environment,
                directory=self._project,
                log_path=self._places.log_of(name),
                stop_rank=STOP_RANKS.get(name, STOP_RANK_OTHERS),
                stop_signal=signal.SIGTERM,
                grace_seconds=GRACE_SECONDS.get(name, GRACE_SECONDS_OTHERS),
            )
        )

    def _await_ready(self, names: list[str]) -> None:
        bases = {"console": self._settings.local_console, "gateway": self._settings.local_gateway}
        answers = {name: Readiness(False, "was not asked") for name in names}
        next_probe_at = 0.0

        # Outside the demo nobody has decided yet what is served: that is for the people whom a running console lets in.
        path = READY if self._settings.demo else STARTED

        def all_ready() -> bool:
            nonlocal next_probe_at
            if time.monotonic() >= next_probe_at:
                for name in names:
                    if not answers[name].is_ready:
                        answers[name] = probe(bases[name] + path)
                next_probe_at = time.monotonic() + PROBE_PAUSE_SECONDS
            return all(answer.is_ready for answer in answers.values())

        with self._progress.step("Waiting for") as outcome:
            word = "ready" if self._settings.demo else "started"
            outcome.text = f"{' and '.join(names)} {word}" if names else "nothing"
            if self._supervisor.watch(until=all_ready, deadline=time.monotonic() + READY_SECONDS):
                return
            self._interrupts.check()
            late = [name for name in names if not answers[name].is_ready]
            for name in late:
                self._progress.show_tail(name, self._places.log_of(name))
            details = "; ".join(f"{name}: GET {bases[name]}{path} {answers[name].said}" for name in late)
            raise LauncherError(f"not ready after {READY_SECONDS:.0f} s: {details}")


def _clear_leftovers(places: Places) -> list[str]:
    """Stop what a killed launcher of this copy left behind; the lock says that none is running."""
    record = RunRecord.read(places.record)
    if record is None:
        return []
    cleared = end_leftovers(record)
    places.record.unlink(missing_ok=True)
    return cleared


def _read_procfile(project: Path, settings: Settings) -> dict[str, str]:
    try:
        processes = parse_procfile((project / "Procfile").read_text(encoding="utf-8")).processes
    except (OSError, AssertionError) as exc:
        raise LauncherError(f"{project / 'Procfile'} cannot be used: {exc}") from exc
    left_out = (frozenset() if settings.demo else DEMO_ONLY) | (frozenset() if settings.demo_engine else ENGINE_ONLY)
    return {name: command for name, command in processes.items() if name not in left_out}


def _require_ports(settings: Settings, procfile: Mapping[str, str]) -> None:
    listeners = (
        ("console", "BALLAST_CONSOLE_PORT", settings.console_port, settings.bind),
        ("gateway", "BALLAST_GATEWAY_PORT", settings.gateway_port, settings.bind),
        ("simulator", "BALLAST_SIMULATOR_PORT", settings.simulator_port, settings.bind),
        ("embedder", "BALLAST_EMBEDDER_PORT", settings.embedder_port, EMBEDDER_HOST),
        ("engine", "BALLAST_ENGINE_PORT", settings.engine_port, EMBEDDER_HOST),
        ("engine-probe", "BALLAST_ENGINE_PROBE_PORT", settings.engine_probe_port, EMBEDDER_HOST),
    )
    for name, variable, port, host in listeners:
        if name in procfile:
            require_free(host, port, variable=variable)


def _require_outside_servers(settings: Settings) -> None:
    if settings.database_url:
        require_database(settings.database_url)
    if settings.redis_url:
        require_redis(settings.redis_url)
    if settings.broker_url and settings.broker_url != settings.redis_url:
        require_broker(settings.broker_url)


def _keep_keys(settings: Settings, places: Places) -> str:
    keep_payload_keys(settings.payload_keys_file or places.keys / PAYLOAD_KEYS)
    return keep_signing_key(
        settings.signing_key_file or places.keys / "release-signing.pem",
        settings.trusted_keys_file or places.keys / "trusted-keys.json",
        may_trust=settings.trusted_keys_file is None,
        statements_file=settings.release_file.with_name(f"{settings.release_file.name}.trust"),
    )
