"""The demo's own model server: there when it is asked for, and only then."""

from pathlib import Path

import pytest

from launcher.engine import require_engine
from launcher.environment import child_variables, read_settings
from launcher.errors import LauncherError
from launcher.run import ENGINE_ONLY, _read_procfile

PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("variables", "starts"),
    [
        ({}, False),
        ({"BALLAST_DEMO_ENGINE": "true"}, True),
        ({"BALLAST_DEMO": "false", "BALLAST_DEMO_ENGINE": "1"}, False),
    ],
    ids=["demo", "demo with an engine", "no demo"],
)
def test_engine_and_its_probe_start_when_the_demo_is_asked_for_them(tmp_path, variables, starts):
    """Both or neither; all else of the demo is there either way."""
    settings = read_settings(variables, project=tmp_path)

    started = set(_read_procfile(PROJECT, settings))

    assert started & ENGINE_ONLY == (ENGINE_ONLY if starts else set())
    assert ("simulator" in started) == settings.demo


def test_engine_that_is_not_installed_is_named_with_what_installs_it():
    """Before anything is started."""
    with pytest.raises(LauncherError, match=r"needs no_such_engine; `make run ENGINE=1` and `make engine` install"):
        require_engine(["json", "no_such_engine"])


def test_children_are_told_where_the_engine_is(tmp_path):
    """The Procfile's variables, and the seed's."""
    settings = read_settings({"BALLAST_DEMO_ENGINE": "1", "BALLAST_ENGINE_PORT": "9060"}, project=tmp_path)
    anything = {"signing_key_file": tmp_path, "trusted_keys_file": tmp_path, "payload_keys_file": tmp_path}

    told = child_variables(settings, database_url="d", redis_url="r", secret_key="s", agent_token="a", **anything)

    assert (told["BALLAST_DEMO_ENGINE"], told["BALLAST_ENGINE_PORT"], told["BALLAST_ENGINE_PROBE_PORT"]) == (
        "true",
        "9060",
        "8065",
    )
