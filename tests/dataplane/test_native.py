import shutil
import subprocess
import sys
from sysconfig import get_config_var

import pytest

from dataplane.native import (
    MODULES,
    SOURCES,
    BuildFinder,
    LoadedAlready,
    Native,
    NoBuild,
    activate,
    builds_of,
    digest,
    files_of,
    sources,
)

SUFFIX = get_config_var("EXT_SUFFIX")


@pytest.fixture
def checkout(tmp_path):
    """Sources like ours, of which nobody has built anything."""
    root = tmp_path / "dataplane"
    shutil.copytree(SOURCES, root, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def pretend_to_build(root):
    """Files where those of a build would be; none of them can be loaded."""
    directory = builds_of(root) / digest(root)
    for name in sources(root):
        file = directory.joinpath(*name.split(".")).with_suffix(SUFFIX)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (directory / f"abc__mypyc{SUFFIX}").touch()
    return directory


def test_every_module_that_is_compiled_is_there_once_and_in_order():
    """A name that is misspelt would be found out by whoever makes an image."""
    assert list(MODULES) == sorted(set(MODULES))
    assert [name for name, file in sources().items() if not file.is_file()] == []


def test_command_that_looks_for_a_build_has_not_imported_what_it_replaces():
    """`python -m dataplane` decides before the first of these modules is there."""
    code = "import sys, dataplane.__main__; print(*(name for name in sys.modules if name.startswith('dataplane.')))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # ours

    assert set(ran.stdout.split()) & set(sources()) == set()


def test_build_is_known_by_all_sources_of_the_data_plane(checkout):
    """Constants of modules that are not compiled are part of those that are."""
    before = digest(checkout)

    (checkout / "settings.py").write_text((checkout / "settings.py").read_text() + "\n")

    assert digest(checkout) != before


def test_build_of_other_sources_is_none(checkout):
    """Whoever changes a line runs Python again."""
    directory = pretend_to_build(checkout)
    fits = files_of(directory) is not None
    (checkout / "settings.py").write_text("")

    assert fits
    assert activate(Native.AUTO, checkout) is False
    with pytest.raises(NoBuild, match="run make native"):
        activate(Native.REQUIRE, checkout)


def test_half_a_build_is_none(checkout):
    """All of its modules, or none: some compiled and some not would not fit together."""
    directory = pretend_to_build(checkout)
    next(directory.joinpath("dataplane").glob(f"timers{SUFFIX}")).unlink()

    assert files_of(directory) is None
    assert activate(Native.AUTO, checkout) is False


def test_build_comes_too_late_for_modules_that_are_loaded(checkout):
    """They would be there twice, with two of each class."""
    import dataplane.timers  # noqa: F401  # is what is meant

    pretend_to_build(checkout)

    assert activate(Native.AUTO, checkout) is False
    with pytest.raises(LoadedAlready, match=r"dataplane\."):
        activate(Native.REQUIRE, checkout)


def test_modules_of_a_build_are_found_in_it(checkout):
    """And nothing else is looked for there."""
    directory = pretend_to_build(checkout)
    finder = BuildFinder(files_of(directory))

    found = finder.find_spec("dataplane.providers.base", None)

    assert found.origin == str(directory / "dataplane" / "providers" / f"base{SUFFIX}")
    assert finder.find_spec("dataplane.settings", None) is None
