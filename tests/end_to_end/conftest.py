"""Where a whole Ballast may keep its things."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.stack import make_data_dir


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """An empty directory that PostgreSQL's account can reach; pytest's own is closed to it."""
    directory = make_data_dir()
    yield directory
    shutil.rmtree(directory, ignore_errors=True)
