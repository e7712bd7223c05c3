"""Prometheus' promtool, which checks and tries the alert rules: found, or taken out of the distribution's package."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from launcher.errors import LauncherError

PACKAGE: Final = "prometheus"
INSIDE: Final = Path("usr") / "bin" / "promtool"
SECONDS: Final = 600


def find_promtool(environ: Mapping[str, str], *, kept: Path) -> Path | None:
    """Return what BALLAST_PROMTOOL names, else the one on PATH, else the one that was taken out; None: there is none.

    Raises:
        LauncherError: BALLAST_PROMTOOL names no file.
    """
    named = environ.get("BALLAST_PROMTOOL", "").strip()
    if named:
        if not Path(named).is_file():
            raise LauncherError(f"BALLAST_PROMTOOL is {named!r}, where there is no file")
        return Path(named)
    found = shutil.which("promtool", path=environ.get("PATH"))
    if found:
        return Path(found)
    return kept if kept.is_file() else None


def find_or_take_promtool(environ: Mapping[str, str], *, kept: Path) -> Path:
    """Return a promtool, taking it out of the package if there is none: that needs no root, and installs nothing.

    Args:
        kept: Where it is put for the next time.
    Raises:
        LauncherError: none could be found or taken.
    """
    found = find_promtool(environ, kept=kept)
    if found:
        return found
    if shutil.which("apt-get") and shutil.which("dpkg-deb"):
        if _take(environ, kept=kept):
            return kept
        if os.geteuid() == 0:  # nobody has asked for lists of packages yet
            _run(["apt-get", "update"], environ, directory=Path("/"))
            if _take(environ, kept=kept):
                return kept
    raise LauncherError(
        "no promtool was found and none could be taken; install Prometheus, or name it in BALLAST_PROMTOOL"
    )


def _take(environ: Mapping[str, str], *, kept: Path) -> bool:
    with TemporaryDirectory(ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)
        _run(["apt-get", "download", PACKAGE], environ, directory=directory)
        for file in directory.glob(f"{PACKAGE}_*.deb"):
            _run(["dpkg-deb", "-x", str(file), str(directory / "inside")], environ, directory=directory)
            if (directory / "inside" / INSIDE).is_file():
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(directory / "inside" / INSIDE, kept)
                return True
    return False


def _run(command: list[str], environ: Mapping[str, str], *, directory: Path) -> None:
    print(f"Taking promtool: {' '.join(command)}", file=sys.stderr)
    subprocess.run(  # noqa: S603 - the commands above
        command, cwd=directory, env=dict(environ), stdout=sys.stderr, timeout=SECONDS, check=False
    )
