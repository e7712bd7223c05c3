"""The hot path as machine code: what `make native` has built of exactly these sources is taken in the place of them.

mypyc compiles the modules that nearly every request passes through. A build lies in a directory that is named by the
digest of all sources of the data plane, so a build of other sources is never taken for one of these: whoever changes a
line runs Python again until the next build. Both run the same tests (`make test-native`). `python -m dataplane.native
MODULE …` runs a module with the build of these sources, such as `benchmarks.in_process`.
"""

from __future__ import annotations

import hashlib
import runpy
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from importlib.abc import MetaPathFinder
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from sysconfig import get_config_var
from types import ModuleType
from typing import Final

PACKAGE: Final = "dataplane"
SOURCES: Final = Path(__file__).resolve().parent
DIGEST_LENGTH: Final = 16
# What mypyc links the modules of one build into; they import it, each at its own import.
SHARED_SUFFIX: Final = "__mypyc"

# In the order of their names. A class in here can only have subclasses in here, and what they are given must be of the
# types that they say; so nothing belongs here that is not worth it.
MODULES: Final = (
    "access",
    "aggregation",
    "answer_gate",
    "asgi_reply",
    "asgi_request",
    "attempts",
    "authentication",
    "blame",
    "board",
    "breaker",
    "capabilities",
    "chat",
    "cohorts",
    "eval_tokens",
    "evidence",
    "fleet",
    "frames",
    "gateway",
    "http_protocol",
    "idempotency",
    "ids",
    "integrity",
    "job_tokens",
    "journey",
    "ladder.counting",
    "ladder.desk",
    "ladder.look",
    "ladder.steps",
    "lane_caller",
    "lane_choice",
    "lane_fit",
    "last_words",
    "managed_prompts",
    "messages",
    "metrics",
    "outbox",
    "pipeline",
    "placeholders",
    "prompts",
    "providers.anthropic",
    "providers.anthropic_schema",
    "providers.azure_openai",
    "providers.base",
    "providers.openai",
    "quota_desk",
    "quota_grants",
    "quota_share",
    "record_base",
    "recording",
    "relay",
    "repairing",
    "request_counts",
    "request_headers",
    "request_parser",
    "retry",
    "rollups",
    "routing",
    "samples",
    "sharding",
    "sketches",
    "steering",
    "stores.ring",
    "stores.slots",
    "timers",
    "transport",
    "under_way",
    "validating",
    "validators.abuse",
    "validators.check",
    "validators.counting",
    "validators.detector",
    "validators.figures",
    "validators.folding",
    "validators.gate",
    "validators.grounding",
    "validators.kinds",
    "validators.pace",
    "validators.patterns",
    "validators.personal",
    "validators.policy",
    "validators.secrets",
    "validators.values",
    "validators.window",
    "validators.wording",
)


class Native(StrEnum):
    """What a process is to make of a build."""

    AUTO = "auto"
    """Take it where there is one of these sources, and none of its modules is loaded yet."""
    OFF = "off"
    """Run Python."""
    REQUIRE = "require"
    """Do not start without."""


class NoBuild(Exception):
    """There is no build of these sources, and one is required."""

    def __init__(self, directory: Path) -> None:
        super().__init__(f"there is no build of these sources at {str(directory)!r}; run make native")


class LoadedAlready(Exception):
    """A module that has a build was imported before builds were looked for."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name!r} was imported before its build was looked for, and would be there twice")


class BuildFinder(MetaPathFinder):
    """Finds the modules of one build, before Python's own finders find their sources."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.files = files

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As `MetaPathFinder.find_spec`."""
        file = self.files.get(fullname)
        if file is None:
            return None
        return spec_from_file_location(fullname, file, loader=ExtensionFileLoader(fullname, str(file)))


def sources(root: Path = SOURCES) -> dict[str, Path]:
    """The source of each module that is compiled, by its full name."""
    return {f"{PACKAGE}.{name}": root.joinpath(*name.split(".")).with_suffix(".py") for name in MODULES}


def digest(root: Path = SOURCES) -> str:
    """What names a build: all sources of the data plane, since constants of modules that are not compiled are part of
    those that are; and the Python that loads it. 16 hex digits.
    """
    total = hashlib.sha256(str(get_config_var("EXT_SUFFIX")).encode())
    for file in sorted(root.rglob("*.py")):
        total.update(f"\0{file.relative_to(root)}\0".encode())
        total.update(file.read_bytes())
    return total.hexdigest()[:DIGEST_LENGTH]


def files_of(directory: Path) -> dict[str, Path] | None:
    """The files of the build in `directory` by the names of their modules; None when one of them is missing."""
    suffix = str(get_config_var("EXT_SUFFIX"))
    files = {name: directory.joinpath(*name.split(".")).with_suffix(suffix) for name in sources()}
    shared = {file.name.removesuffix(suffix): file for file in directory.glob(f"*{SHARED_SUFFIX}{suffix}")}
    if len(shared) != 1 or not all(file.is_file() for file in files.values()):
        return None
    return files | shared


def builds_of(root: Path = SOURCES) -> Path:
    """Where builds of a checkout are kept, each in a directory that is named by its digest."""
    return root.parent / "build" / "native"


def activate(native: Native, root: Path = SOURCES) -> bool:
    """Have the modules of a build of these sources imported from it, and return whether there is one.

    Raises:
        NoBuild: one is required.
        LoadedAlready: one is required, and this is too late.
    """
    if native is Native.OFF:
        return False
    directory = builds_of(root) / digest(root)
    files = files_of(directory)
    if files is None:
        if native is Native.REQUIRE:
            raise NoBuild(directory)
        return False
    if any(isinstance(finder, BuildFinder) and finder.files == files for finder in sys.meta_path):
        return True
    for name in files:
        if name in sys.modules:
            if native is Native.REQUIRE:
                raise LoadedAlready(name)
            return False
    sys.meta_path.insert(0, BuildFinder(files))
    return True


if __name__ == "__main__":
    activate(Native.REQUIRE)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
