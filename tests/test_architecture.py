"""The walls of the house: who may import whom, and who may look at the environment."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA_PLANE = sorted((ROOT / "dataplane").rglob("*.py"))

LOAD_WITHOUT_DJANGO = """
import importlib, pkgutil, sys

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"django", "rest_framework", "channels", "environ", "controlplane", "launcher"}:
            raise ImportError(f"the data plane imported {name}")

sys.meta_path.insert(0, Wall())
import dataplane
for module in pkgutil.walk_packages(dataplane.__path__, "dataplane."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print("loaded")
"""


def test_import_contracts_are_kept():
    """Apps import downwards, faces are imported by nobody, the planes meet in values and deciders alone."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout


def test_data_plane_loads_where_django_does_not_exist():
    """Every module of the data plane imports in a process that has no Django and no control plane."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD_WITHOUT_DJANGO], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.stdout == "loaded\n", done.stderr


@pytest.mark.parametrize("path", DATA_PLANE, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_main_reads_the_environment(path):
    """Settings reach the data plane as values; only `__main__` looks at os.environ."""
    tree = ast.parse(path.read_text())
    reads = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv", "environb"}
    ]

    assert path.name == "__main__.py" or not reads, f"{path}: lines {reads}"


DECIDERS = (
    "answer_gate",
    "blame",
    "board",
    "breaker",
    "chat",
    "cohorts",
    "deadletters",
    "destinations",
    "eval_tokens",
    "fallback",
    "health/engines",
    "health/exposition",
    "health/findings",
    "health/gate",
    "health/gpus",
    "health/heartbeat",
    "health/judge",
    "health/liveness",
    "health/manifest",
    "health/observations",
    "health/policy",
    "health/startup",
    "health/strain",
    "health/words",
    "health/xids",
    "idempotency",
    "jobs",
    "json_answers",
    "json_formats",
    "ladder/activations",
    "ladder/decider",
    "ladder/effects",
    "ladder/emergency",
    "ladder/page",
    "ladder/policy",
    "ladder/reserve",
    "ladder/signals",
    "ladder/status",
    "ladder/words",
    "managed_prompts",
    "policies",
    "prompts",
    "pulse",
    "quota",
    "repair/candidates",
    "repair/coerce",
    "repair/completion",
    "repair/extraction",
    "repair/kept",
    "repair/labels",
    "repair/ladder",
    "repair/missing",
    "repair/modes",
    "repair/policy",
    "repair/reader",
    "repair/requests",
    "repair/stream",
    "repair/supplied",
    "repair/transducer",
    "repair/values",
    "request_headers",
    "retrieval/acceptance",
    "retrieval/chunking",
    "retrieval/freshness",
    "retrieval/found",
    "retrieval/hashes",
    "retrieval/modes",
    "retrieval/policy",
    "retrieval/requests",
    "retrieval/tables",
    "retrieval/words",
    "retry",
    "retrieval/dump_format",
    "routing",
    "rung_words",
    "shadow/budget",
    "shadow/choosing",
    "shadow/compare",
    "shadow/offers",
    "shadow/policy",
    "shadow/sampling",
    "shadow/switch",
    "sharding",
    "signed_copy",
    "validators/checksums",
    "validators/detector",
    "validators/figures",
    "validators/folding",
    "validators/grounding",
    "validators/json_paths",
    "validators/judge",
    "validators/kinds",
    "validators/patterns",
    "validators/personal",
    "validators/policy",
    "validators/prose",
    "validators/redaction",
    "validators/secrets",
    "validators/structure",
    "validators/values",
    "validators/wording",
    "vectors",
)
CLOCKS_AND_WAITS = {"asyncio", "socket", "threading", "time", "redis", "psycopg", "httptools"}


@pytest.mark.parametrize("name", DECIDERS)
def test_deciders_neither_wait_nor_look_at_a_clock(name):
    """What decides is pure: the console previews it, tests drive it, and `now` is an argument."""
    tree = ast.parse((ROOT / "dataplane" / f"{name}.py").read_text())
    waits = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef | ast.Await)]
    imported = {
        alias.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    } | {node.module.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}

    assert waits == []
    assert imported & CLOCKS_AND_WAITS == set()
