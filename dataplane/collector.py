"""Python's collector of garbage, where it has nothing to find."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Look for no garbage while what is made lasts: modules that are imported, a document that is read. There is none,
    and to look through everything again and again takes a third of an import, and thirty times of the reading.
    """
    # Two threads may be here at once: whichever found it on puts it on again, so it never stays off.
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
