"""A pytest plugin that gives the tests real servers of their own, and no way to anybody else's.

The first process of a run starts an embedded PostgreSQL and Redis in a directory of its own; xdist's workers inherit
their addresses. Loaded with `-p`, so that it acts before pytest-django reads the settings. DATABASE_URL, REDIS_URL and
every other variable of ours in the caller's environment are ignored: tests must never write into somebody's real
database. Other servers are named on purpose, by BALLAST_TEST_DATABASE_URL and BALLAST_TEST_REDIS_URL.
"""

import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import MutableMapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psutil
import pytest
import redis

from dataplane.native import Native, NoBuild, activate
from launcher.environment import child_variables, read_settings
from launcher.errors import LauncherError
from launcher.keys import keep_payload_keys, keep_secret, keep_signing_key
from launcher.places import Places
from launcher.ports import pick_free
from launcher.postgres import STOP_SIGNAL as POSTGRES_STOP_SIGNAL
from launcher.postgres import EmbeddedPostgres, wait_until
from launcher.progress import tail
from launcher.redis import STOP_SIGNAL as REDIS_STOP_SIGNAL
from launcher.redis import EmbeddedRedis
from launcher.spawn import spawn, stop_child

PROJECT = Path(__file__).resolve().parent.parent
DATABASE_VARIABLE = "BALLAST_TEST_DATABASE_URL"
REDIS_VARIABLE = "BALLAST_TEST_REDIS_URL"
HOME_VARIABLE = "BALLAST_TEST_HOME"
OURS = re.compile(r"BALLAST_|DATABASE_URL$|REDIS_URL$|CELERY_BROKER_URL$|DEMO_\w+_KEY$|PG[A-Z]+$")
NATIVE_VARIABLE = "BALLAST_TEST_NATIVE"  # set by `make test-native`
KEPT = frozenset({DATABASE_VARIABLE, REDIS_VARIABLE, HOME_VARIABLE, NATIVE_VARIABLE, "BALLAST_CHROMIUM"})
HOME_PREFIX = "ballast-tests-"
READY_SECONDS = 60.0
STOP_SECONDS = 20.0
FIRST = "main"


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, parser: pytest.Parser, args: list[str]) -> None:
    """Start or inherit the servers and set the environment, ahead of everybody who reads it."""
    gc.disable()  # as manage.py does, for the same apps
    environ = os.environ
    for name in [name for name in environ if OURS.match(name) and name not in KEPT]:
        del environ[name]
    # Where this is set, each worker and each child would compile all of ours anew; git looks at none of what they keep.
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # Python has read it before us, and would rewrite the asserts of every test anew.
    sys.dont_write_bytecode = False
    worker = environ.get("PYTEST_XDIST_WORKER", FIRST)
    # Whether somebody has built something is not to decide about what is tested.
    native = Native.REQUIRE if environ.get(NATIVE_VARIABLE) else Native.OFF
    try:
        activate(native)
        if worker == FIRST:
            start_servers(environ, early_config)
        prepare_worker(environ, worker)
        environ["BALLAST_NATIVE"] = native
    except (LauncherError, NoBuild) as exc:
        raise pytest.UsageError(str(exc)) from exc


def start_servers(environ: MutableMapping[str, str], config: pytest.Config) -> None:
    """Make this run's directory and start what nobody named; all of it goes when `config` is torn down.

    Also on Ctrl-C, and on a failure right after this; if this process is killed, Linux ends the servers with it.

    Raises:
        LauncherError: a server does not come up; carries the end of its log.
    """
    remove_abandoned_homes(Path(tempfile.gettempdir()))
    home = Path(tempfile.mkdtemp(prefix=f"{HOME_PREFIX}{os.getpid()}-"))
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    home.chmod(0o711)  # PostgreSQL's account, if it is not ours, passes through
    environ[HOME_VARIABLE] = str(home)
    secrets = home / "secrets"
    secrets.mkdir(mode=0o700)
    if not environ.get(DATABASE_VARIABLE):
        environ[DATABASE_VARIABLE] = _start_postgres(home, secrets, config)
    if not environ.get(REDIS_VARIABLE):
        environ[REDIS_VARIABLE] = _start_redis(home, secrets, config)


def _start_postgres(home: Path, secrets: Path, config: pytest.Config) -> str:
    server = EmbeddedPostgres.at(home / "postgres", secrets=secrets, port=pick_free(), durable=False)
    server.initialise()
    _start("postgres", server, POSTGRES_STOP_SIGNAL, home, config)
    return server.url


def _start_redis(home: Path, secrets: Path, config: pytest.Config) -> str:
    server = EmbeddedRedis(home / "redis", secrets, pick_free(), durable=False)
    server.initialise()
    _start("redis", server, REDIS_STOP_SIGNAL, home, config)
    return server.url()


def _start(
    name: str, server: EmbeddedPostgres | EmbeddedRedis, stop_signal: int, home: Path, config: pytest.Config
) -> None:
    log_path = home / f"{name}.log"
    process = spawn(
        server.command,
        environment={"PATH": os.environ.get("PATH", os.defpath)},
        directory=server.working_directory,
        log_path=log_path,
        stop_signal=stop_signal,
        account=server.account if isinstance(server, EmbeddedPostgres) else None,
    )
    config.add_cleanup(lambda: _stop(process, stop_signal))
    if not wait_until(server.is_ready, alive=lambda: process.poll() is None, seconds=READY_SECONDS):
        raise LauncherError(f"{name} for the tests does not come up: " + " / ".join(tail(log_path, lines=5)))


def _stop(process: subprocess.Popen[bytes], stop_signal: int) -> None:
    stop_child(process, stop_signal=stop_signal, grace_seconds=STOP_SECONDS)


def prepare_worker(environ: MutableMapping[str, str], worker: str) -> None:
    """Give one worker its data directory, keys and an empty Redis database, and set every variable of ours.

    pytest-django gives it its own PostgreSQL database.

    Raises:
        LauncherError: the Redis has no database left for this worker, or cannot be reached.
    """
    places = Places(Path(environ[HOME_VARIABLE]) / worker)
    settings = read_settings({"BALLAST_DEMO": "true", "BALLAST_DATA_DIR": str(places.data_dir)}, project=PROJECT)
    places.make()
    signing_key_file, trusted_keys_file = places.keys / "release-signing.pem", places.keys / "trusted-keys.json"
    keep_signing_key(signing_key_file, trusted_keys_file)
    payload_keys_file = places.keys / "payload-keys"
    keep_payload_keys(payload_keys_file)
    redis_url = redis_url_of(environ[REDIS_VARIABLE], worker)
    variables = child_variables(
        settings,
        database_url=environ[DATABASE_VARIABLE],
        redis_url=redis_url,
        secret_key=keep_secret(places.secrets / "secret-key"),
        agent_token=keep_secret(places.secrets / "agent-token"),
        signing_key_file=signing_key_file,
        trusted_keys_file=trusted_keys_file,
        payload_keys_file=payload_keys_file,
    )
    try:
        with redis.Redis.from_url(redis_url, socket_connect_timeout=5, socket_timeout=5) as client:
            client.flushdb()
    except redis.RedisError as exc:
        raise LauncherError(f"{REDIS_VARIABLE}: database {database_number(worker)} cannot be emptied: {exc}") from exc
    # The settings module stays pytest-django's business, so that `--ds` works.
    environ.update({name: value for name, value in variables.items() if name != "DJANGO_SETTINGS_MODULE"})


def database_number(worker: str) -> int:
    """Return the Redis database of a worker: 0 for the first process, 1 for gw0, 2 for gw1 and so on."""
    return 0 if worker == FIRST else int(worker.removeprefix("gw")) + 1


def redis_url_of(url: str, worker: str) -> str:
    """Return `url` with the worker's own database in it."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc, f"/{database_number(worker)}", parts.query, ""))


def remove_abandoned_homes(directory: Path) -> None:
    """Remove the directories of runs that were killed: their pid is in the name, and nobody has it now."""
    for home in directory.glob(f"{HOME_PREFIX}*"):
        pid = home.name.removeprefix(HOME_PREFIX).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(home, ignore_errors=True)
