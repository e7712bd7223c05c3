"""Finds a Chromium for the browser tests, or installs one.

One without a window, if there is a choice: the same engine, and a fifth less of processor time, since no browser is
drawn around each page.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from launcher.errors import LauncherError

# Without a window: names on PATH, and where Playwright keeps its own.
SHELLS = (
    ("chromium-headless-shell", "chrome-headless-shell", "headless_shell"),
    (
        "chromium_headless_shell-*/chrome-*/headless_shell",
        "chromium_headless_shell-*/chrome-*/chrome-headless-shell",
    ),
)
WHOLE = (
    ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
    (
        "chromium-*/chrome-linux*/chrome",
        "chromium-*/chrome-mac*/Chromium.app/Contents/MacOS/Chromium",
    ),
)
# Debian's; what is not there is passed over.
PACKAGES = ("chromium-headless-shell", "chromium")
VERSION_SECONDS = 30
INSTALL_SECONDS = 900


def find_chromium(environ: Mapping[str, str]) -> Path | None:
    """Return a Chromium that starts, or None: what BALLAST_CHROMIUM names, else one on PATH, else Playwright's own;
    and one with a window only if there is none without.

    Raises:
        LauncherError: BALLAST_CHROMIUM names something that does not start.
    """
    named = environ.get("BALLAST_CHROMIUM", "").strip()
    if named:
        if not starts(Path(named)):
            raise LauncherError(f"BALLAST_CHROMIUM is {named!r}, which does not start")
        return Path(named)
    return next((path for path in candidates(environ) if starts(path)), None)


def candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield the places where a Chromium may be, best first."""
    home = Path(environ.get("HOME", "/nonexistent"))
    caches = [Path(environ["PLAYWRIGHT_BROWSERS_PATH"])] if environ.get("PLAYWRIGHT_BROWSERS_PATH") else []
    caches += [home / ".cache" / "ms-playwright", home / "Library" / "Caches" / "ms-playwright"]
    for names, patterns in (SHELLS, WHOLE):
        for name in names:
            found = shutil.which(name, path=environ.get("PATH"))
            if found:
                yield Path(found)
        for cache in caches:
            for pattern in patterns:
                yield from sorted(cache.glob(pattern), reverse=True)


def starts(program: Path) -> bool:
    """Say whether `program --version` works: a name on PATH may be a stub that only says how to install it."""
    try:
        result = subprocess.run(  # noqa: S603 - a browser the developer has or named
            [str(program), "--version"], capture_output=True, timeout=VERSION_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.returncode == 0


def find_or_install_chromium(environ: Mapping[str, str]) -> Path:
    """Return a Chromium that starts, installing one if there is none: as root by apt-get, else by Playwright.

    Raises:
        LauncherError: none could be found or installed.
    """
    found = find_chromium(environ)
    if found:
        return found
    attempts: list[list[list[str]]] = []
    if os.geteuid() == 0 and shutil.which("apt-get"):
        attempts += [
            [["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", package]]
            for package in PACKAGES
        ]
    options = ["--only-shell", *(["--with-deps"] if os.geteuid() == 0 else [])]
    attempts.append([[sys.executable, "-m", "playwright", "install", *options, "chromium"]])
    for commands in attempts:
        if all(_install(command, environ) for command in commands):
            found = find_chromium(environ)
            if found:
                return found
    raise LauncherError(
        "no Chromium was found and none could be installed; install one, or name it in BALLAST_CHROMIUM"
    )


def _install(command: list[str], environ: Mapping[str, str]) -> bool:
    print(f"Installing Chromium: {' '.join(command)}", file=sys.stderr)
    try:
        result = subprocess.run(  # noqa: S603 - the commands above
            command,
            env={**environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdout=sys.stderr,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.returncode == 0
