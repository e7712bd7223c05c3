"""The embedded servers: they start, keep what they were told through kill -9, and are nobody else's."""

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
import redis

from launcher.postgres import STOP_SIGNAL, EmbeddedPostgres, account_for, find_programs, may_traverse, wait_until
from launcher.redis import EmbeddedRedis
from launcher.spawn import Account, spawn, stop_child
from tests.launcher.conftest import make_open_directory
from tests.ports import pick_port

pytestmark = pytest.mark.end_to_end
START_SECONDS = 120.0
STOP_SECONDS = 120
IS_ROOT = os.geteuid() == 0
ROOT_ONLY = "only root lends PostgreSQL another account; without root every test here runs it as ourselves"


@dataclass(slots=True)
class Bench:
    """Starts servers below one directory and ends what is left."""

    directory: Path
    processes: list[subprocess.Popen[bytes]]

    @property
    def secrets(self) -> Path:
        """Where the passwords lie."""
        path = self.directory / "secrets"
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def run(self, server: EmbeddedPostgres | EmbeddedRedis) -> subprocess.Popen[bytes]:
        """Start a server and return when it is ready."""
        server.initialise()
        account = None
        if isinstance(server, EmbeddedPostgres):
            account = server.account
            server.clear_stale_lock()
        log_path = self.directory / "server.log"
        process = spawn(
            server.command, environment={}, directory=server.working_directory, log_path=log_path, account=account
        )
        self.processes.append(process)
        assert wait_until(server.is_ready, alive=lambda: process.poll() is None, seconds=START_SECONDS), (
            log_path.read_text()
        )
        return process


@pytest.fixture
def bench(open_directory: Path) -> Iterator[Bench]:
    """A place to start servers in."""
    bench = Bench(open_directory, [])
    yield bench
    for process in bench.processes:
        stop_child(process, stop_signal=STOP_SIGNAL, grace_seconds=STOP_SECONDS)


@pytest.fixture
def absent(bench: Bench) -> EmbeddedPostgres:
    """A cluster that is not there yet."""
    return EmbeddedPostgres.at(bench.directory / "postgres", secrets=bench.secrets, port=pick_port())


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """Where a cluster was made and never started, with its secrets: making one takes longer than all that is tested."""
    with make_open_directory() as directory:
        bench = Bench(directory, [])
        EmbeddedPostgres.at(directory / "postgres", secrets=bench.secrets, port=pick_port()).initialise()
        yield directory


@pytest.fixture
def postgres(made: Path, bench: Bench, absent: EmbeddedPostgres) -> EmbeddedPostgres:
    """A cluster that was just made: a copy of the one in `made`, of the same owner."""
    subprocess.run(["cp", "-a", f"{made}/.", str(bench.directory)], check=True)
    return absent


def ask(server: EmbeddedPostgres, query: str) -> object:
    """The first value of the first row."""
    with psycopg.connect(server.url) as connection:
        row = connection.execute(query.encode()).fetchone()
        return row[0] if row else None


def test_postgres_18_comes_with_pgvector_and_a_role_that_is_no_superuser(
    bench: Bench, postgres: EmbeddedPostgres
) -> None:
    """As on a managed PostgreSQL; a database made later has pgvector too."""
    bench.run(postgres)

    assert str(ask(postgres, "SHOW server_version")).startswith("18.")
    assert ask(postgres, "SELECT '[3,4]'::vector <-> '[0,0]'::vector") == 5.0
    assert ask(postgres, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE another")
    with psycopg.connect(postgres.url, dbname="another") as connection:
        connection.execute("SELECT '[1]'::vector")


def test_postgres_lets_nobody_in_without_the_password(bench: Bench, postgres: EmbeddedPostgres) -> None:
    """Another user of the machine can reach the port and gets no further."""
    bench.run(postgres)

    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://postgres:guess@127.0.0.1:{postgres.port}/postgres")


@pytest.mark.parametrize("ending", [STOP_SIGNAL, signal.SIGKILL], ids=["stop", "kill -9"])
def test_postgres_keeps_its_data_through(bench: Bench, postgres: EmbeddedPostgres, ending: signal.Signals) -> None:
    """What was committed is there after the next start."""
    first = bench.run(postgres)
    with psycopg.connect(postgres.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    first.send_signal(ending)
    first.wait(STOP_SECONDS)

    bench.run(postgres)

    assert ask(postgres, "SELECT answer FROM kept") == 42


def test_a_stale_lock_with_a_foreign_pid_is_dropped_and_its_process_spared(
    bench: Bench, postgres: EmbeddedPostgres
) -> None:
    """After a reboot the pid in postmaster.pid may be anybody's: here, that of another cluster's server."""
    spared = bench.run(postgres)
    other = EmbeddedPostgres.at(bench.directory / "other", secrets=bench.secrets, port=pick_port())
    other.initialise()
    lock_file = other.cluster / "postmaster.pid"
    lock_file.write_text((postgres.cluster / "postmaster.pid").read_text())

    other.clear_stale_lock()

    assert not lock_file.exists()
    assert wait_until(postgres.is_ready, alive=lambda: spared.poll() is None, seconds=START_SECONDS)


def test_an_orphaned_server_of_the_same_cluster_is_stopped(bench: Bench, postgres: EmbeddedPostgres) -> None:
    """Two servers on one cluster would destroy it; the one left by a killed launcher goes first."""
    orphan = bench.run(postgres)

    postgres.clear_stale_lock()

    assert orphan.wait(STOP_SECONDS) == 0


def test_a_half_made_cluster_is_made_again(bench: Bench, absent: EmbeddedPostgres) -> None:
    """initdb works beside the cluster's place; what a kill left there is thrown away."""
    left = absent.cluster.parent / "initialising" / "cluster"
    left.mkdir(parents=True)
    (left / "PG_VERSION").write_text("18")

    assert absent.initialise()

    bench.run(absent)


@pytest.mark.skipif(
    not IS_ROOT, reason="only root lends PostgreSQL another account; all tests here run it as ourselves"
)
def test_root_runs_postgres_as_nobody_where_there_is_no_postgres_account(
    bench: Bench, absent: EmbeddedPostgres
) -> None:
    """Any account will do that can reach the cluster."""
    import pwd

    entry = pwd.getpwnam("nobody")
    server = replace(absent, account=Account("nobody", entry.pw_uid, entry.pw_gid))

    bench.run(server)

    assert server.cluster.stat().st_uid == entry.pw_uid
    assert account_for(server.cluster).name == "nobody"


@pytest.mark.skipif(
    not IS_ROOT, reason="only root lends PostgreSQL another account; all tests here run it as ourselves"
)
def test_a_closed_checkout_is_left_closed_and_the_server_moves(bench: Bench) -> None:
    """In a mode-0700 home the cluster goes where its account can reach it, and nobody's permissions change."""
    closed = bench.directory / "home"
    closed.mkdir(mode=0o700)

    server = EmbeddedPostgres.at(
        closed / "var" / "postgres",
        secrets=bench.secrets,
        port=pick_port(),
        relocated_root=bench.directory / "relocated",
    )
    bench.run(server)

    assert server.cluster.is_relative_to(bench.directory / "relocated")
    assert closed.stat().st_mode & 0o777 == 0o700


def test_a_directory_closed_to_others_is_closed_to_the_account(open_directory: Path) -> None:
    """Every directory on the way counts, and only search permission does."""
    closed = open_directory / "closed"
    closed.mkdir(mode=0o700)
    stranger = Account("stranger", uid=54321, gid=54321)

    assert may_traverse(open_directory, stranger)
    assert not may_traverse(closed / "inside", stranger)


def test_the_programs_are_found_without_importing_the_wheel() -> None:
    """Importing it would make directories in the home of whoever runs this."""
    assert (find_programs() / "bin" / "postgres").exists()


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL], ids=["stop", "kill -9"])
def test_redis_keeps_its_data_through(bench: Bench, ending: signal.Signals) -> None:
    """What a second passed over is in the append-only file; here the write is synced before the kill."""
    server = EmbeddedRedis(bench.directory / "redis", bench.secrets, pick_port())
    first = bench.run(server)
    with redis.Redis.from_url(server.url()) as client:
        client.config_set("appendfsync", "always")
        client.set("kept", "42")
    first.send_signal(ending)
    first.wait(STOP_SECONDS)

    bench.run(server)

    with redis.Redis.from_url(server.url()) as client:
        assert client.get("kept") == b"42"


def test_redis_lets_nobody_in_without_the_password(bench: Bench) -> None:
    """Nor is another Redis on the port taken for ours."""
    server = EmbeddedRedis(bench.directory / "redis", bench.secrets, pick_port())
    bench.run(server)
    stranger = replace(server, secrets=bench.directory)

    with redis.Redis(port=server.port) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    assert not stranger.is_ready()
