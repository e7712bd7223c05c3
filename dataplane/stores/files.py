"""Files that readers, and a crash, only ever meet whole: as they were before, or as they are now."""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path

# What tells one state of a file from another: modification time in ns, inode, size. None: there is no such file.
Stamp = tuple[int, int, int] | None


def stamp_of(path: Path) -> Stamp:
    """The state that a file is in, without reading it."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path`: a temporary file beside it, fsync, rename, fsync of the directory. Its mode is 0600.

    Raises:
        OSError: `path` is as it was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_or_make_key(path: Path, *, size_bytes: int) -> str:
    """Return the text of a key file; where there is none, make it, with one random key in base64, for our user only.

    Raises:
        OSError: it can be neither read nor made.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        write_atomically(temporary, base64.b64encode(secrets.token_bytes(size_bytes)) + b"\n")
        try:
            os.link(temporary, path)  # never over another process' file, and never half written
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return path.read_text()
