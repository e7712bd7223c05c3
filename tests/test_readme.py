"""The README shows what is true: its snippet is the one that the launcher prints."""

from pathlib import Path

from launcher.welcome import sdk_snippet

ROOT = Path(__file__).resolve().parent.parent


def test_readme_shows_the_launchers_snippet():
    """Whoever pastes from the README runs the same program as whoever pastes from the terminal."""
    assert sdk_snippet("http://127.0.0.1:8080").rstrip() in (ROOT / "README.md").read_text()


def test_readme_links_to_files_that_exist():
    """Every picture and document that the README names is in the repository."""
    text = (ROOT / "README.md").read_text()
    named = [part.split(")")[0] for part in text.split("](")[1:]]

    missing = [name for name in named if not name.startswith("http") and not (ROOT / name).exists()]

    assert missing == []
