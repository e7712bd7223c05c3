"""The examples of the guides, run as they stand against a whole Ballast, print what the guides say that they print.

Only the two addresses of `make run` are others here; keys and tokens are the demo's.
"""

import contextlib
import io
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from launcher.environment import read_settings
from tests.end_to_end.stack import Stack
from tests.guides.guide import ROLES, ROOT, Block, Guide, printed, read_guide

SHELL_SECONDS = 120
WITH_EXAMPLES = [role for role in ROLES if any(block.is_run for block in read_guide(role).examples)]


@pytest.mark.parametrize("role", WITH_EXAMPLES)
def test_examples_print_what_their_guide_says(role: str, asked: Stack, tmp_path: Path) -> None:
    """From the first to the last, each going on with what those before it made, as a reader does who types them."""
    guide, names = read_guide(role), {"__name__": "__main__"}
    (tmp_path / "manage.py").symlink_to(ROOT / "manage.py")
    for block in guide.examples:
        if not block.is_run:
            continue

        output = _run(_moved(block.code, asked), block, guide, names, tmp_path, asked.environment)

        where = f"{guide.path.name}:{block.line}"
        assert block.prints is not None or not output.strip(), f"{where} printed what is not said: {output}"
        assert block.prints is None or printed(block.prints, output), f"{where} says {block.prints}, printed {output}"


def _moved(code: str, stack: Stack) -> str:
    """The same code, for where this Ballast is instead of where `make run` puts one."""
    usual = read_settings({}, project=ROOT)
    return code.replace(usual.local_gateway, stack.gateway_url).replace(usual.local_console, stack.console_url)


def _run(
    code: str, block: Block, guide: Guide, names: dict[str, Any], directory: Path, environment: Mapping[str, str]
) -> str:
    """What it prints; errors fail the test, with the guide's own line. Shells are where the console runs, but in a
    directory of the test's own.
    """
    if block.language == "python":
        output = io.StringIO()
        lines = "\n" * (block.line - 1)  # so that a traceback names the guide's lines
        with contextlib.redirect_stdout(output):
            exec(compile(lines + code, guide.path, "exec"), names)  # noqa: S102 - our own documents
        return output.getvalue()
    kept = directory / "variables"
    kept.touch()
    script = f"set -euo pipefail; source {kept}\n{code}\nexport -p > {kept}\n"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=directory,
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=SHELL_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{guide.path.name}:{block.line}: {done.stdout}{done.stderr}"
    return done.stdout
