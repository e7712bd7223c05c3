"""Start-up: the environment becomes frozen settings, or one clear line and exit status 1."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from dataplane.__main__ import main
from dataplane.credentials import SecretStore, SecretUnavailable
from dataplane.environment import (
    BadVariable,
    Environment,
    agent_settings,
    gateway_settings,
    runner_settings,
    supervisor_settings,
)
from dataplane.process import _open_beside
from dataplane.settings import QdrantSettings

AGENT = {"REDIS_URL": "redis://127.0.0.1:6379/0", "BALLAST_AGENT_TOKEN": "t", "BALLAST_HOST_NAME": "h"}


def test_defaults_are_those_of_one_machine():
    """Nothing set is a gateway on loopback with everything under var/."""
    settings = gateway_settings(Environment({"BALLAST_HOST_NAME": "h"}), slot=1)

    assert (settings.host, settings.port, settings.region, settings.worker) == (
        "127.0.0.1",
        8080,
        "eu-west",
        "h/gateway-1",
    )
    assert settings.release_file == Path("var/release.json")
    assert settings.trusted_keys_file == Path("var/keys/trusted-keys.json")
    assert settings.reports.spool_dir == Path("var/spool")
    assert settings.reports.redis_url is None


def test_data_directory_moves_what_is_not_named_on_its_own():
    """Two copies run side by side with one variable each."""
    settings = gateway_settings(
        Environment({"BALLAST_DATA_DIR": "/srv/b", "BALLAST_RELEASE_FILE": "/run/release.json"}), slot=0
    )

    assert settings.release_file == Path("/run/release.json")
    assert settings.trusted_keys_file == Path("/srv/b/keys/trusted-keys.json")


def test_agent_uses_redis_as_broker_unless_another_is_named():
    """One server is enough for a start."""
    settings = agent_settings(Environment(AGENT))

    assert (settings.broker_url, settings.console_url) == (AGENT["REDIS_URL"], "http://127.0.0.1:8000")
    named = agent_settings(Environment(AGENT | {"CELERY_BROKER_URL": "amqp://mq/", "BALLAST_CONSOLE_PORT": "9000"}))
    assert (named.broker_url, named.console_url) == ("amqp://mq/", "http://127.0.0.1:9000")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BALLAST_GATEWAY_PORT", "http"),
        ("BALLAST_GATEWAY_PORT", "0"),
        ("BALLAST_GATEWAY_PORT", "70000"),
        ("BALLAST_GATEWAY_PROCESSES", "0"),
        ("BALLAST_GATEWAY_PROCESSES", "two"),
        ("BALLAST_HOST_NAME", "a/b"),
        ("REDIS_URL", "postgres://x"),
        ("REDIS_URL", "redis://x:port/0"),
    ],
)
def test_bad_variable_is_one_line_with_its_name_and_exit_status_one(capsys, name, value):
    """Whoever mistyped it finds it."""
    assert main(["serve"], {name: value}) == 1

    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert name in lines[0]


def test_gateway_knows_where_users_reach_it_only_if_it_is_told():
    """Links are made from it, so it ends without a slash; what is no web address stops the start."""
    told = {"BALLAST_GATEWAY_PUBLIC_URL": "https://gw.example/"}

    assert gateway_settings(Environment({}), slot=0).public_url == ""
    assert gateway_settings(Environment(told), slot=0).public_url == "https://gw.example"
    with pytest.raises(BadVariable, match="BALLAST_GATEWAY_PUBLIC_URL"):
        gateway_settings(Environment({"BALLAST_GATEWAY_PUBLIC_URL": "gw.example"}), slot=0)


def test_status_pages_link_to_no_promises_unless_it_is_told_where_they_are():
    """What is no web address stops the start."""
    told = {"BALLAST_FAIRNESS_URL": "https://console.example/fairness/"}

    assert gateway_settings(Environment({}), slot=0).fairness_url == ""
    assert gateway_settings(Environment(told), slot=0).fairness_url == "https://console.example/fairness/"
    with pytest.raises(BadVariable, match="BALLAST_FAIRNESS_URL"):
        gateway_settings(Environment({"BALLAST_FAIRNESS_URL": "/fairness/"}), slot=0)


def test_gateway_asks_a_qdrant_only_if_it_is_told_where_one_is():
    """Its key is referred to, and had when the gateway starts; what is no web address stops the start."""
    told = {"BALLAST_QDRANT_URL": "https://qdrant:6333", "BALLAST_QDRANT_KEY": "env:KEY"}
    settings = gateway_settings(Environment(told), slot=0).qdrant

    assert gateway_settings(Environment({}), slot=0).qdrant is None
    assert settings == QdrantSettings(url="https://qdrant:6333", key="env:KEY", prefix="ballast")
    assert _open_beside(None, SecretStore({})) == {}
    assert set(_open_beside(settings, SecretStore({"KEY": "k"}))) == {"qdrant"}
    with pytest.raises(SecretUnavailable, match="'env:KEY'"):
        _open_beside(settings, SecretStore({}))
    with pytest.raises(BadVariable, match="BALLAST_QDRANT_URL"):
        gateway_settings(Environment({"BALLAST_QDRANT_URL": ":memory:"}), slot=0)


def test_runner_of_jobs_asks_the_gateway_of_its_machine_unless_told():
    """What it needs besides is a broker and the database; how much it does at once, and keeps how long, can be set."""
    given = {"REDIS_URL": "redis://127.0.0.1:6379/0", "DATABASE_URL": "postgresql://u@db/b", "BALLAST_HOST_NAME": "h"}
    settings = runner_settings(Environment(given))

    assert (settings.gateway_url, settings.broker_url) == ("http://127.0.0.1:8080", given["REDIS_URL"])
    assert (settings.concurrency, settings.keep_seconds) == (8, 24 * 3600)
    more = {"BALLAST_GATEWAY_URL": "https://gw", "BALLAST_JOB_CONCURRENCY": "200", "BALLAST_JOB_KEEP_HOURS": "1"}
    told = runner_settings(Environment(given | more))
    assert (told.gateway_url, told.concurrency, told.keep_seconds) == ("https://gw", 200, 3600)
    assert gateway_settings(Environment({"BALLAST_JOB_LIMIT": "7"}), slot=0).job_limit == 7
    for name in ("REDIS_URL", "DATABASE_URL"):
        with pytest.raises(BadVariable, match=r"DATABASE_URL|CELERY_BROKER_URL"):
            runner_settings(Environment({key: value for key, value in given.items() if key != name}))


@pytest.mark.parametrize(
    ("missing", "name"), [("REDIS_URL", "CELERY_BROKER_URL"), ("BALLAST_AGENT_TOKEN", "BALLAST_AGENT_TOKEN")]
)
def test_agent_without_what_it_needs_does_not_start(missing, name):
    """An agent that could never receive a release would only look alive."""
    with pytest.raises(BadVariable) as error:
        agent_settings(Environment(AGENT | {missing: ""}))

    assert error.value.name == name


def test_password_in_a_bad_address_is_not_printed():
    """The line goes to a terminal and to logs."""
    with pytest.raises(BadVariable) as error:
        gateway_settings(Environment({"REDIS_URL": "http://:hunter2@x"}), slot=0)

    assert "hunter2" not in str(error.value)


def test_port_in_use_is_one_line_and_exit_status_one(capsys):
    """No traceback for the most common mistake."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        assert main(["serve"], {"BALLAST_GATEWAY_PORT": str(port)}) == 1

    [line] = capsys.readouterr().err.strip().splitlines()
    assert f"127.0.0.1:{port}" in line


def test_supervisor_shares_the_gateways_settings():
    """Processes differ by their slot alone."""
    settings = supervisor_settings(Environment({"BALLAST_GATEWAY_PROCESSES": "4"}))

    assert (settings.processes, settings.gateway.slot) == (4, 0)


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [({}, 5), ({"BALLAST_DEMO": "true"}, 0), ({"BALLAST_DEMO": "true", "BALLAST_DRAIN_GRACE": "7"}, 7)],
)
def test_gateways_that_serve_anybody_are_given_a_grace(variables, seconds):
    """In the demo nobody sends requests who would have to hear of it first."""
    settings = supervisor_settings(Environment({"BALLAST_HOST_NAME": "h"} | variables))

    assert settings.gateway.drain_grace_seconds == seconds


def test_probes_are_answered_only_where_a_port_is_named():
    """On the address that servers of the host listen on."""
    named = AGENT | {"BALLAST_HEALTH_PORT": "9090", "BALLAST_BIND": "0.0.0.0"}  # noqa: S104  # a value that is read

    assert agent_settings(Environment(AGENT)).health is None
    assert agent_settings(Environment(named)).health == ("0.0.0.0", 9090)  # noqa: S104  # as above


def test_word_that_is_neither_true_nor_false_is_refused():
    """Taken for false, it would give no grace unnoticed, or one where none is wanted."""
    with pytest.raises(BadVariable, match=r"^BALLAST_DEMO: 'ture'"):
        supervisor_settings(Environment({"BALLAST_HOST_NAME": "h", "BALLAST_DEMO": "ture"}))
