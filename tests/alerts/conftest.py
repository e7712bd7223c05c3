"""A receiver for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.alerts.receiver import Receiver, serve


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Somebody to tell."""
    with serve() as receiver:
        yield receiver
