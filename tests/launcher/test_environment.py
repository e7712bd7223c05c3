"""Variables: what is accepted, what is refused and in which words."""

import re
from pathlib import Path

import pytest

from launcher.environment import CHECKS, child_variables, read_data_dir, read_dotenv, read_settings
from launcher.errors import LauncherError

PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BALLAST_DEMO", "perhaps"),
        ("BALLAST_BIND", "example.com"),
        ("BALLAST_CONSOLE_PORT", "eighty"),
        ("BALLAST_CONSOLE_PORT", "0"),
        ("BALLAST_GATEWAY_PORT", "65536"),
        ("BALLAST_SIMULATOR_PORT", "-1"),
        ("BALLAST_EMBEDDER_PORT", "8070x"),
        ("BALLAST_ENGINE_PORT", "8060x"),
        ("BALLAST_ENGINE_PROBE_PORT", "0"),
        ("BALLAST_DEMO_ENGINE", "perhaps"),
        ("BALLAST_GATEWAY_PROCESSES", "0"),
        ("BALLAST_GATEWAY_PROCESSES", "2.5"),
        ("BALLAST_REGION", "eu west"),
        ("BALLAST_HOST_NAME", "-"),
        ("BALLAST_CONSOLE_URL", "127.0.0.1:8000"),
        ("BALLAST_CONSOLE_URL", "http://127.0.0.1:8000/console"),
        ("BALLAST_SECRET_KEY", "short"),
        ("BALLAST_AGENT_TOKEN", "short"),
        ("BALLAST_SIGNING_KEY_FILE", "no/such/file.pem"),
        ("BALLAST_TRUSTED_KEYS_FILE", "no/such/file.json"),
        ("DATABASE_URL", "sqlite:///db.sqlite3"),
        ("DATABASE_URL", "postgresql://127.0.0.1"),
        ("DATABASE_URL", "postgresql://127.0.0.1:many/app"),
        ("REDIS_URL", "http://127.0.0.1:6379"),
        ("CELERY_BROKER_URL", "sqs://"),
    ],
)
def test_a_bad_value_is_refused_by_name(variable: str, value: str, tmp_path: Path) -> None:
    """The one line begins with the variable's name."""
    with pytest.raises(LauncherError, match=rf"^{variable} ") as refused:
        read_settings({variable: value}, project=tmp_path)

    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("variable", ["DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL", "BALLAST_SECRET_KEY"])
def test_a_refused_secret_is_not_repeated(variable: str, tmp_path: Path) -> None:
    """Whatever is wrong with a value that may hold a password, the line does not show it."""
    with pytest.raises(LauncherError) as refused:
        read_settings({variable: "x://u:hushword@"}, project=tmp_path)

    assert "hushword" not in str(refused.value)


@pytest.mark.parametrize("bind", ["0.0.0.0", "192.0.2.7", "::"])  # noqa: S104 - refused here
def test_demo_mode_binds_to_loopback_only(bind: str, tmp_path: Path) -> None:
    """Its passwords are public; without the demo the same address is fine."""
    with pytest.raises(LauncherError, match="BALLAST_BIND"):
        read_settings({"BALLAST_BIND": bind}, project=tmp_path)

    assert read_settings({"BALLAST_BIND": bind, "BALLAST_DEMO": "false"}, project=tmp_path).bind == bind


def test_two_servers_cannot_have_one_port(tmp_path: Path) -> None:
    """The line names both variables."""
    with pytest.raises(LauncherError, match=r"BALLAST_GATEWAY_PORT is 8000, which BALLAST_CONSOLE_PORT has"):
        read_settings({"BALLAST_GATEWAY_PORT": "8000"}, project=tmp_path)


def test_nothing_set_gives_the_documented_defaults(tmp_path: Path) -> None:
    """Demo on, loopback, 8000, 8080, 8090 and 8070, data under var."""
    settings = read_settings({"BALLAST_DEMO": " "}, project=tmp_path)

    assert (settings.demo, settings.bind) == (True, "127.0.0.1")
    assert (settings.console_port, settings.gateway_port, settings.simulator_port) == (8000, 8080, 8090)
    assert settings.embedder_port == 8070
    assert (settings.demo_engine, settings.engine_port, settings.engine_probe_port) == (False, 8060, 8065)
    assert settings.data_dir == tmp_path / "var"
    assert settings.console_url == "http://127.0.0.1:8000"


def test_engine_of_the_demo_is_the_demos_alone(tmp_path: Path) -> None:
    """Outside the demo nobody gets a model server by a variable that was left behind."""
    asked = {"BALLAST_DEMO_ENGINE": "1"}

    assert read_settings(asked, project=tmp_path).demo_engine
    assert not read_settings(asked | {"BALLAST_DEMO": "false"}, project=tmp_path).demo_engine


def test_an_ipv6_address_is_bracketed_in_urls(tmp_path: Path) -> None:
    """`::1` gives http://[::1]:8000."""
    assert read_settings({"BALLAST_BIND": "::1"}, project=tmp_path).local_console == "http://[::1]:8000"


def test_dotenv_takes_quotes_comments_and_blanks(tmp_path: Path) -> None:
    """`NAME=` counts as unset; a quoted '#' belongs to the value."""
    path = tmp_path / ".env"
    path.write_text("# a comment\n\nBALLAST_REGION='eu-north'  # why\nBALLAST_BIND=\nSECRET=\"a#b c\"\n")

    assert read_dotenv(path) == {"BALLAST_REGION": "eu-north", "SECRET": "a#b c"}


@pytest.mark.parametrize("line", ["BALLAST_REGION", "export BALLAST_REGION=eu", "BALLAST_REGION='eu"])
def test_a_dotenv_line_that_makes_no_sense_is_refused_by_number(line: str, tmp_path: Path) -> None:
    """A typing slip is said, not skipped."""
    path = tmp_path / ".env"
    path.write_text(f"# first\n{line}\n")

    with pytest.raises(LauncherError, match=r"\.env line 2"):
        read_dotenv(path)


def test_the_data_directory_is_found_whatever_else_is_wrong(tmp_path: Path) -> None:
    """`make stop` works beside a broken `.env`, and the environment wins over a sound one."""
    (tmp_path / ".env").write_text("BALLAST_DATA_DIR=stored\n")
    assert read_data_dir({}, project=tmp_path) == tmp_path / "stored"
    assert read_data_dir({"BALLAST_DATA_DIR": "given"}, project=tmp_path) == tmp_path / "given"

    (tmp_path / ".env").write_text("nonsense\n")
    assert read_data_dir({"BALLAST_DATA_DIR": "given"}, project=tmp_path) == tmp_path / "given"


def test_every_variable_is_in_the_example_file(tmp_path: Path) -> None:
    """What the launcher checks or hands on, what the settings and the data plane read: all is listed there."""
    listed = set(re.findall(r"^([A-Z_]+)=", (PROJECT / ".env.example").read_text(), flags=re.MULTILINE))
    handed_on = child_variables(
        read_settings({"BALLAST_DEMO": "false"}, project=tmp_path),
        database_url="",
        redis_url="",
        secret_key="",
        agent_token="",
        signing_key_file=tmp_path,
        trusted_keys_file=tmp_path,
        payload_keys_file=tmp_path,
    )
    sources = [
        PROJECT / "controlplane" / "settings.py",
        PROJECT / "dataplane" / "__main__.py",
        PROJECT / "dataplane" / "environment.py",
    ]
    read = {
        name
        for source in sources
        if source.exists()
        for name in re.findall(r'"(BALLAST_[A-Z_]+|DATABASE_URL|REDIS_URL|CELERY_BROKER_URL)"', source.read_text())
    }

    assert (set(CHECKS) | set(handed_on) | read) - {"DJANGO_SETTINGS_MODULE", "PYTHONUNBUFFERED"} <= listed
