"""`make run`, seen from outside: real servers, a small Procfile, signals, and nothing left behind."""

import json
import os
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator

import psutil
import psycopg
import pytest
import redis

from launcher.postgres import wait_until
from launcher.record import wait_gone
from tests.launcher.conftest import START_SECONDS, FakeProject, make_open_directory

pytestmark = pytest.mark.end_to_end
STOP_SECONDS = 120


@pytest.fixture(scope="module")
def running() -> Iterator[FakeProject]:
    """A project that was started once, for tests that leave it running as it was."""
    with make_open_directory() as directory:
        fake = FakeProject(directory)
        try:
            fake.start_and_wait()
            yield fake
        finally:
            fake.close()


def test_first_run_prepares_everything_and_says_how_to_use_it(running: FakeProject) -> None:
    """Migrations and demo data come before the processes; address, logins, keys and snippet are printed."""
    with urllib.request.urlopen(f"http://127.0.0.1:{running.console_port}/readyz") as answer:
        assert answer.status == 200
    assert running.managed == ["migrate", "collectstatic", "seed_demo"]
    for said in (
        f"http://127.0.0.1:{running.console_port}",
        "approver-two",
        "ballast-demo",
        "bk-demo-initech",
        "OpenAI(",
    ):
        assert said in running.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_stop_signal_leaves_no_process(project: FakeProject, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end every child, also one that moved to a session of its own; the exit status is 0."""
    launcher = project.start_and_wait()
    assert len(project.processes()) > 5

    launcher.send_signal(number)

    assert launcher.wait(STOP_SECONDS) == 0, project.output
    assert project.processes() == []


def test_second_run_keeps_the_data_and_prepares_nothing(project: FakeProject) -> None:
    """What was migrated and seeded once is not done again while neither code nor database changed."""
    first = project.start_and_wait()
    first.send_signal(signal.SIGINT)
    first.wait(STOP_SECONDS)

    project.start_and_wait()

    assert project.managed == ["migrate", "collectstatic", "seed_demo"]


def test_changed_code_is_prepared_again(project: FakeProject) -> None:
    """A new file beside the migrations makes the next start migrate and seed."""
    first = project.start_and_wait()
    first.send_signal(signal.SIGINT)
    first.wait(STOP_SECONDS)
    (project.directory / "controlplane").mkdir()
    (project.directory / "controlplane" / "new.py").write_text("")

    project.start_and_wait()

    assert project.managed == ["migrate", "collectstatic", "seed_demo"] * 2


def test_run_after_kill_9_of_the_launcher(project: FakeProject) -> None:
    """A killed launcher does not stop the next one, which ends up with one set of processes."""
    killed = project.start_and_wait()
    before = {process.pid for process in project.processes()}
    killed.kill()
    killed.wait()

    second = project.start_and_wait()

    after = {process.pid for process in project.processes()}
    assert not before & after
    second.send_signal(signal.SIGINT)
    assert second.wait(STOP_SECONDS) == 0
    assert project.processes() == []


def test_second_launcher_of_the_same_data_is_refused(running: FakeProject) -> None:
    """One line names the running one; it goes on undisturbed."""
    refused = running.finish()

    assert refused.returncode == 1
    assert f"already running (pid {running.launcher.pid})" in refused.stderr
    assert running.launcher.poll() is None


def test_stop_ends_a_running_copy(project: FakeProject) -> None:
    """`make stop` ends launcher and children; asked again, it says that nothing runs."""
    launcher = project.start_and_wait()

    stopped = project.finish(command="stop")

    assert stopped.returncode == 0
    assert "gateway" in stopped.stdout
    assert launcher.wait(STOP_SECONDS) == 0
    assert project.processes() == []
    assert "Nothing is running" in project.finish(command="stop").stdout


def test_clean_stops_and_removes_the_data(project: FakeProject) -> None:
    """`make clean` ends the copy, removes its directory and says which."""
    project.start_and_wait()

    cleaned = project.finish(command="clean")

    assert cleaned.returncode == 0
    assert f"Removed {project.data_dir}" in cleaned.stdout
    assert not project.data_dir.exists()
    assert project.processes() == []


def test_clean_refuses_a_directory_that_is_not_ours(project: FakeProject) -> None:
    """A data directory that held other files is never removed."""
    theirs = project.directory / "theirs"
    theirs.mkdir()
    (theirs / "letter.txt").write_text("dear diary")

    refused = project.finish(command="clean", environment={"BALLAST_DATA_DIR": str(theirs)})

    assert refused.returncode == 1
    assert "BALLAST_DATA_DIR" in refused.stderr
    assert (theirs / "letter.txt").exists()


def test_a_process_that_dies_is_named_and_started_again(running: FakeProject) -> None:
    """A killed process comes back under a new pid, and the terminal says which one it was."""
    victim = running.server_on(running.console_port)

    victim.kill()

    def is_back() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", running.console_port)) == 0 and not victim.is_running()

    assert wait_until(is_back, alive=lambda: True, seconds=START_SECONDS)
    assert "console was ended by SIGKILL" in running.output


def test_a_killed_database_comes_back_with_its_data(running: FakeProject) -> None:
    """kill -9 of the embedded PostgreSQL costs a moment, not the copy."""
    lock_file = running.data_dir / "postgres" / "cluster" / "postmaster.pid"
    pid = int(lock_file.read_text().split()[0])

    os.kill(pid, signal.SIGKILL)

    def is_back() -> bool:
        try:
            lines = lock_file.read_text().splitlines()
        except FileNotFoundError:  # between the old server's lock and the new one's
            return False
        return bool(lines) and lines[0] != str(pid) and lines[-1].strip() == "ready"

    assert wait_until(is_back, alive=lambda: running.launcher.poll() is None, seconds=START_SECONDS), running.output


def test_a_port_in_use_is_one_line(project: FakeProject) -> None:
    """The line names port, variable and remedy; nothing was started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        refused = project.finish(environment={"BALLAST_GATEWAY_PORT": str(port)})

    assert refused.returncode == 1
    assert len(refused.stderr.strip().splitlines()) == 1
    assert f"port {port} is in use" in refused.stderr
    assert "BALLAST_GATEWAY_PORT" in refused.stderr
    assert project.processes() == []


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("DATABASE_URL", "postgresql://hidden-user:hidden-word@127.0.0.1:{port}/app"),
        ("REDIS_URL", "redis://hidden-user:hidden-word@127.0.0.1:{port}/0"),
        ("CELERY_BROKER_URL", "amqp://hidden-user:hidden-word@127.0.0.1:{port}//"),
    ],
)
def test_an_unreachable_server_is_one_line_without_credentials(project: FakeProject, variable: str, url: str) -> None:
    """The line names the variable and the address; neither user nor password appears anywhere."""
    refused = project.finish(environment={variable: url.format(port=project.simulator_port)})

    assert refused.returncode == 1
    assert len(refused.stderr.strip().splitlines()) == 1
    assert variable in refused.stderr
    assert f"127.0.0.1:{project.simulator_port}" in refused.stderr
    assert "hidden" not in refused.stderr + refused.stdout


def test_a_failed_migration_shows_its_last_words(project: FakeProject) -> None:
    """The log's tail and one line; everything that had been started is stopped."""
    (project.directory / "manage.py").write_text("raise SystemExit('relation of ships does not exist')")

    refused = project.finish()

    assert refused.returncode == 1
    assert "migrate | relation of ships does not exist" in refused.stdout
    assert "ended with status 1" in refused.stderr
    assert project.processes() == []


def test_children_of_a_killed_launcher_die_with_it(project: FakeProject) -> None:
    """On Linux the kernel ends the databases and the Procfile's processes when the launcher is killed."""
    if not os.path.exists("/proc/self"):
        pytest.skip("the kernel of this machine cannot tie a child to its parent; the next run cleans up instead")
    launcher = project.start_and_wait()
    children = psutil.Process(launcher.pid).children()

    launcher.kill()
    launcher.wait()

    assert wait_gone(children, seconds=STOP_SECONDS) == []


def test_management_commands_are_told_what_the_processes_are(running: FakeProject) -> None:
    """Addresses and secrets that the copy has made for itself, which a person knows none of: with them PostgreSQL and
    Redis let us in.
    """
    told = running.directory / "told.json"
    (running.directory / "manage.py").write_text(
        f"import json, os, sys; json.dump([sys.argv[1:], dict(os.environ)], open({str(told)!r}, 'w')); sys.exit(7)"
    )

    done = subprocess.run(
        [*running.command("manage"), "create_admin", "--username", "you"], env=running.environment, check=False
    )

    arguments, variables = json.loads(told.read_text())
    assert (done.returncode, arguments) == (7, ["create_admin", "--username", "you"])
    psycopg.connect(variables["DATABASE_URL"], connect_timeout=60).close()
    with redis.Redis.from_url(variables["REDIS_URL"]) as client:
        assert client.ping()
    assert len(variables["BALLAST_SECRET_KEY"]) >= 32
