"""`python -m launcher native`, and `python -m launcher.native` where an image is made, which has nothing else of the
launcher: compiles the data plane's hot path, see `dataplane/native.py`.
"""

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TextIO

from dataplane import native
from launcher.errors import LauncherError
from launcher.native_records import NotARecord, unrolled

# mypyc reads the types that `make types` has checked; what it does not know has none for it.
MYPY: tuple[str, ...] = ("--config-file=", "--ignore-missing-imports")


def build(*, project: Path, out: TextIO) -> Path:
    """Compile the modules, unless that is done already, and return the build's directory.

    Builds of other sources are removed. It appears whole or not at all.

    Raises:
        LauncherError: the compiler, or mypyc, is not there, or does not succeed.
    """
    sources = project / native.PACKAGE
    builds = native.builds_of(sources)
    directory = builds / native.digest(sources)
    if native.files_of(directory) is not None:
        print(f"Native: {directory} is of these sources", file=out)
        return directory
    print(f"Native: compiling {len(native.MODULES)} modules; this takes some minutes", file=out, flush=True)
    builds.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=builds, prefix=".building-") as name:
        made = Path(name) / "lib"
        compile_into(made, scratch=Path(name) / "scratch", project=project)
        if native.files_of(made) is None:
            raise LauncherError(f"the compiler left no whole build in {str(made)!r}")
        for old in builds.iterdir():
            if not old.name.startswith("."):
                shutil.rmtree(old)
        made.rename(directory)
    print(f"Native: {directory}", file=out)
    return directory


def compile_into(made: Path, *, scratch: Path, project: Path) -> None:
    """Run mypyc and the C compiler.

    Raises:
        LauncherError: as `build`.
    """
    try:
        from mypyc.build import mypycify
        from setuptools import Distribution  # type: ignore[import-untyped]  # setuptools ships no types
        from setuptools.errors import BaseError  # type: ignore[import-untyped]  # as above
    except ImportError as exc:
        raise LauncherError(f"{exc}; python -m pip install -r requirements-build.txt") from exc
    written = scratch / "sources"
    shutil.copytree(project / native.PACKAGE, written / native.PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    files = [str(file.relative_to(written)) for file in native.sources(written / native.PACKAGE).values()]
    with contextlib.chdir(written):
        try:
            for file in map(Path, files):
                file.write_text(unrolled(file.read_text()))
            extensions = mypycify(
                [*MYPY, *files], opt_level="2", debug_level="0", multi_file=True, target_dir=str(scratch / "c")
            )
            distribution = Distribution({"name": "ballast-native", "ext_modules": extensions})
            command = distribution.get_command_obj("build_ext")
            command.build_lib, command.build_temp = str(made), str(scratch)
            command.parallel = os.cpu_count()
            distribution.run_command("build_ext")
        except (BaseError, SystemExit, NotARecord) as exc:
            raise LauncherError(f"the data plane's modules cannot be compiled: {exc}") from exc


if __name__ == "__main__":
    build(project=Path.cwd(), out=sys.stdout)
