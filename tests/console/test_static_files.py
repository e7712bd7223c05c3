"""Static files as browsers get them: named by their digest, compressed, and referring to each other by those names."""

import re
from pathlib import Path

import pytest
from django.contrib.staticfiles.storage import staticfiles_storage
from django.core.management import call_command

from controlplane.static_files import CollectedFiles


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory into which everything was collected."""
    directory = tmp_path_factory.mktemp("static")
    storage = CollectedFiles(location=directory, base_url="/static/")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staticfiles_storage, "_wrapped", storage)
        patch.setattr("django.contrib.staticfiles.management.commands.collectstatic.staticfiles_storage", storage)
        call_command("collectstatic", interactive=False, verbosity=0)
    return directory


def test_files_keep_their_names_until_they_are_collected(tmp_path):
    """A page rendered in a test needs no preparation."""
    storage = CollectedFiles(location=tmp_path, base_url="/static/")

    assert storage.url("css/tokens.css") == "/static/css/tokens.css"


def test_collected_file_is_named_by_its_digest(collected):
    """The address changes with the content, so a browser may keep what it has for ever."""
    url = CollectedFiles(location=collected, base_url="/static/").url("css/tokens.css")

    assert re.fullmatch(r"/static/css/tokens\.[0-9a-f]{12}\.css", url)
    assert (collected / url.removeprefix("/static/")).is_file()


def test_missing_file_is_an_error_once_files_are_collected(collected):
    """A misspelt name in a template is found by the first page that uses it."""
    with pytest.raises(ValueError, match="nowhere"):
        CollectedFiles(location=collected, base_url="/static/").url("css/nowhere.css")


def test_modules_import_each_other_by_collected_names(collected):
    """No import in our scripts leads to a name that is not there."""
    imports = [
        (script, found)
        for script in (collected / "js").glob("*.js")
        for found in re.findall(r"""(?:from\s|import\()\s*["'](\./[^"']+)["']""", script.read_text())
    ]

    assert imports
    assert [(script.name, name) for script, name in imports if not (script.parent / name).is_file()] == []


def test_texts_are_compressed_beside_the_original(collected):
    """What is worth compressing is, ahead of the first request."""
    larger = [
        path.name
        for path in collected.glob("*/*")
        if path.suffix in {".css", ".js", ".svg"} and path.stat().st_size > 2_000
        if not path.with_name(f"{path.name}.gz").is_file()
    ]

    assert larger == []
