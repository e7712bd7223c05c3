import pytest
from django.db import OperationalError, connection
from django.test import Client

from controlplane.api import health
from dataplane.vitals import Vitals
from tests.factories import make_deployment

pytestmark = pytest.mark.django_db


def readyz():
    answer = Client().get("/readyz")
    return answer.status_code, answer.json()


def test_livez_looks_at_nothing(queries):
    """A restart mends nothing that it could look at."""
    assert queries(lambda: Client().get("/livez")) == 0
    assert Client().get("/livez").json() == {"status": "ok", "loops": {}}
    assert Client().get("/startupz").json() == {"status": "ok"}


def test_readyz_is_ok_when_the_console_is_usable(monkeypatch):
    """Database, migrations, Redis, key, policy and a release: all there."""
    monkeypatch.setattr(health, "REDIS_SECONDS", 60.0)  # a Redis that pauses is there
    make_deployment()

    status, body = readyz()

    assert (status, body["status"]) == (200, "ok")
    assert set(body["checks"]) == {"database", "migrations", "redis", "signing_key", "approval_policy", "release"}
    assert set(body["checks"].values()) == {"ok"}


def test_readyz_of_a_fresh_deployment_says_what_is_missing():
    """503, with the command that mends it."""
    status, body = readyz()

    assert (status, body["status"]) == (503, "not ready")
    assert "bootstrap_policy" in body["checks"]["approval_policy"]
    assert "no release" in body["checks"]["release"]


def test_readyz_names_a_missing_key_and_redis_without_secrets(settings, tmp_path):
    """Neither a path's content nor an address with a password comes out."""
    make_deployment()
    settings.SIGNING_KEY_FILE = tmp_path / "absent.pem"
    settings.REDIS_URL = "redis://:hunter2@127.0.0.1:1/0"

    status, body = readyz()

    assert status == 503
    assert "BALLAST_SIGNING_KEY_FILE" in body["checks"]["signing_key"]
    assert "REDIS_URL" in body["checks"]["redis"]
    assert "hunter2" not in str(body)
    assert str(tmp_path) not in str(body)


def test_readyz_answers_while_the_database_is_away(monkeypatch):
    """It says so instead of failing, and asks it nothing more."""

    def away(*args, **kwargs):
        raise OperationalError("connection refused: postgresql://ballast:hunter2@db")

    monkeypatch.setattr(connection, "ensure_connection", away)
    monkeypatch.setattr(connection, "cursor", away)

    status, body = readyz()

    assert status == 503
    assert "DATABASE_URL" in body["checks"]["database"]
    assert body["checks"]["signing_key"] == "ok"
    assert "hunter2" not in str(body)


def test_readyz_counts_migrations_that_wait(monkeypatch):
    """A deployment half upgraded takes no traffic."""
    monkeypatch.setattr(health.MigrationExecutor, "migration_plan", lambda self, targets: [object(), object()])

    assert readyz()[1]["checks"]["migrations"].startswith("2 migrations are not applied")


@pytest.fixture
def console(monkeypatch):
    """Vitals of a console of this test's own."""
    vitals = Vitals()
    monkeypatch.setattr(health, "CONSOLE", vitals)
    return vitals


def test_thread_that_live_lines_share_is_seen_when_it_is_wedged(console):
    """503 with its name: pages have threads of their own and would answer for ever."""
    console.pulse("live lines", within_seconds=0).beat()
    for _ in range(2):  # the first look sees the stamp
        console.look()

    answer = Client().get("/livez")

    assert (answer.status_code, answer.json()["status"], list(answer.json()["loops"])) == (
        503,
        "wedged",
        ["live lines"],
    )


def test_console_that_was_told_to_stop_is_not_ready_and_alive(console, queries):
    """Whoever sends it requests looks elsewhere, before its socket is closed."""
    make_deployment()
    console.drain()

    assert queries(lambda: Client().get("/readyz")) == 0
    assert readyz() == (503, {"status": "draining", "checks": {}})
    assert Client().get("/livez").status_code == 200
