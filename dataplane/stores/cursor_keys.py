"""The file of the keys that sign resume cursors of streams, and what runners of jobs show."""

from __future__ import annotations

from pathlib import Path

from dataplane.cursors import MIN_KEY_BYTES, BadCursorKeys, CursorKeys, parse_cursor_keys
from dataplane.stores.files import read_or_make_key


def read_cursor_keys(path: Path) -> CursorKeys:
    """Read the keys that sign cursors and runners' tokens; where there are none, make one.

    Raises:
        OSError, BadCursorKeys: it cannot be read or made; it holds something else.
    """
    try:
        return parse_cursor_keys(read_or_make_key(path, size_bytes=MIN_KEY_BYTES))
    except (BadCursorKeys, UnicodeDecodeError) as exc:
        raise BadCursorKeys(f"{path} (BALLAST_CURSOR_KEYS_FILE): {exc}") from exc
