"""What the database needs before the processes start, and how to tell cheaply that it has it already.

Each Django process costs two seconds of processor time, so a start where nothing changed runs none.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import psycopg

SOURCES = ("controlplane", "dataplane", "fixtures", "static")
SINGLE_FILES = ("manage.py", "requirements.txt", "requirements-production.txt")


def _files(project: Path) -> Iterator[Path]:
    for name in SINGLE_FILES:
        yield project / name
    for name in SOURCES:
        yield from sorted(
            path
            for path in (project / name).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
        )


def migration_state(database_url: str) -> str:
    """Return what distinguishes one migrated database from another: how many migrations ran in it, and the last one.

    Empty for a database that was never migrated or cannot be asked.
    """
    try:
        with psycopg.connect(database_url, connect_timeout=5) as connection:
            row = connection.execute(
                "SELECT count(*), max(id), max(applied), current_database() FROM django_migrations"
            ).fetchone()
    except psycopg.Error:
        return ""
    return repr(row)


def fingerprint(project: Path, *, database_url: str, demo: bool, engine: bool, key_id: str) -> str:
    """Return a digest of all that migrations, static files and demo data depend on.

    Files count by name, size and time of change, the database by its migrations; empty if it has none.
    """
    state = migration_state(database_url)
    if not state:
        return ""
    digest = hashlib.sha256(repr((state, demo, engine, key_id)).encode())
    for path in _files(project):
        with contextlib.suppress(OSError):
            status = path.stat()
            digest.update(repr((str(path.relative_to(project)), status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()


def is_prepared(stamp: Path, digest: str) -> bool:
    """Say whether the last preparation that went through saw this very fingerprint."""
    try:
        stored = json.loads(stamp.read_text())
    except (OSError, ValueError):
        return False
    return bool(digest) and isinstance(stored, dict) and stored.get("fingerprint") == digest


def note_prepared(stamp: Path, digest: str) -> None:
    """Remember that everything was prepared at this fingerprint."""
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(json.dumps({"fingerprint": digest}))
