"""Finding a browser for the tests."""

from pathlib import Path

import pytest

from launcher.chromium import find_chromium
from launcher.errors import LauncherError


def browser(path: Path, *, works: bool = True) -> Path:
    """A program that answers --version, or a stub that says how to install one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\nexit {0 if works else 1}\n")
    path.chmod(0o755)
    return path


def test_the_named_browser_wins(tmp_path: Path) -> None:
    """BALLAST_CHROMIUM goes before PATH."""
    named, on_path = browser(tmp_path / "named"), browser(tmp_path / "bin" / "chromium")

    assert find_chromium({"BALLAST_CHROMIUM": str(named), "PATH": str(on_path.parent)}) == named


def test_a_named_browser_that_does_not_start_is_refused(tmp_path: Path) -> None:
    """Silently taking another one would test something else."""
    with pytest.raises(LauncherError, match="BALLAST_CHROMIUM"):
        find_chromium({"BALLAST_CHROMIUM": str(tmp_path / "none"), "PATH": ""})


def test_a_stub_on_path_is_passed_over(tmp_path: Path) -> None:
    """Ubuntu's chromium-browser without snap is one; Playwright's own browser is taken then."""
    browser(tmp_path / "bin" / "chromium-browser", works=False)
    cached = browser(tmp_path / "cache" / "chromium-1200" / "chrome-linux" / "chrome")

    found = find_chromium({"PATH": str(tmp_path / "bin"), "PLAYWRIGHT_BROWSERS_PATH": str(tmp_path / "cache")})

    assert found == cached


def test_browser_without_a_window_goes_before_one_with(tmp_path: Path) -> None:
    """Wherever it is; between two of a kind, the one on PATH is taken."""
    browser(tmp_path / "bin" / "chromium")
    cached = browser(tmp_path / "cache" / "chromium_headless_shell-1200" / "chrome-linux" / "headless_shell")
    environ = {"PATH": str(tmp_path / "bin"), "PLAYWRIGHT_BROWSERS_PATH": str(tmp_path / "cache")}

    assert find_chromium(environ) == cached

    assert find_chromium(environ | {"PATH": str(browser(tmp_path / "s" / "headless_shell").parent)}) == (
        tmp_path / "s" / "headless_shell"
    )


def test_no_browser_is_none(tmp_path: Path) -> None:
    """The caller decides whether to install one."""
    assert find_chromium({"PATH": str(tmp_path), "HOME": str(tmp_path)}) is None
