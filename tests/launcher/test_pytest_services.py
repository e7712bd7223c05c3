"""The servers this very test run has."""

import os
from pathlib import Path

import pytest
import redis

from launcher.pytest_services import OURS, database_number, redis_url_of, remove_abandoned_homes


def test_this_run_uses_the_servers_made_for_it() -> None:
    """DATABASE_URL and REDIS_URL are the plugin's, whatever the caller had."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")

    assert os.environ["DATABASE_URL"] == os.environ["BALLAST_TEST_DATABASE_URL"]
    assert os.environ["REDIS_URL"] == redis_url_of(os.environ["BALLAST_TEST_REDIS_URL"], worker)
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        assert client.ping()


def test_this_worker_has_keys_and_secrets_of_its_own() -> None:
    """A data directory that no other worker writes into."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")

    assert Path(os.environ["BALLAST_DATA_DIR"]).name == worker
    assert Path(os.environ["BALLAST_SIGNING_KEY_FILE"]).is_file()
    assert Path(os.environ["BALLAST_TRUSTED_KEYS_FILE"]).is_file()
    assert len(os.environ["BALLAST_SECRET_KEY"]) >= 32


@pytest.mark.parametrize(("worker", "number"), [("main", 0), ("gw0", 1), ("gw1", 2)])
def test_each_worker_has_its_own_redis_database(worker: str, number: int) -> None:
    """Credentials and query stay, the database changes."""
    assert database_number(worker) == number
    assert redis_url_of("rediss://:pw@h:1/9?a=b", worker) == f"rediss://:pw@h:1/{number}?a=b"


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL", "BALLAST_DEMO", "PGHOST"])
def test_the_callers_variables_are_ours_to_ignore(name: str) -> None:
    """None of them may lead a test to a real server."""
    assert OURS.match(name)


def test_only_directories_of_dead_runs_are_removed(tmp_path: Path) -> None:
    """The pid in the name decides."""
    alive, dead = tmp_path / f"ballast-tests-{os.getpid()}-a", tmp_path / "ballast-tests-999999999-b"
    alive.mkdir()
    dead.mkdir()

    remove_abandoned_homes(tmp_path)

    assert alive.exists()
    assert not dead.exists()
