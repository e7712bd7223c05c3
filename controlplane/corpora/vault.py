"""Where dumps lie: an object store that things are put into once.

Nothing is ever overwritten, and nothing is deleted before its time, as far as each kind of store can be made to refuse:
- On S3 with Object Lock (see `locked_puts`) the store refuses everybody, whoever holds our credentials too. Without
  credentials in the variables, as with a machine's role, that is left to the bucket's default retention.
- In a directory a finished dump is files that nobody may write in a folder that nobody may change. That stops mistakes,
  ours and other programs'; it does not stop who owns the files and changes their modes first, nor root, nor the disk.
  What it cannot stop is found: see `dump_format`. Who must be stopped has a second store, elsewhere.
"""

import os
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
import obstore
from django.conf import settings
from django.utils import timezone
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, ObjectStore

from controlplane.corpora.errors import DumpRetained, VaultTaken, VaultUnavailable
from controlplane.corpora.locked_puts import DEFAULT_REGION, TIMEOUT_SECONDS, Credentials, LockedPuts
from dataplane.stores.payloads import open_objects

_FILE: Final = 0o444
_FOLDER: Final = 0o555
_OPEN_FOLDER: Final = 0o755


class Vault:
    """One store of dumps; each dump is a folder of objects."""

    def __init__(self, url: str, objects: ObjectStore, locked: LockedPuts | None = None) -> None:
        self.url = url
        self._objects = objects
        self._locked = locked

    def put(self, folder: str, name: str, data: bytes, *, retain_until: datetime) -> None:
        """Keep an object; the same again is no mistake.

        Raises:
            VaultTaken: something else lies under the name.
            VaultUnavailable: it is not kept.
        """
        path = f"{folder}/{name}"
        try:
            if self._locked is not None:
                self._locked.put(path, data, retain_until=retain_until)
            else:
                obstore.put(self._objects, path, data, mode="create")
            if (directory := self._directory) is not None:
                _keep(directory / path)
        except (AlreadyExistsError, VaultTaken) as exc:
            # An answer that was lost, or somebody who does it again.
            if sha256(self.read(folder, name, limit=len(data) + 1)).digest() != sha256(data).digest():
                raise VaultTaken(f"{path!r} is in {self.url} with other bytes; nothing is overwritten there") from exc
        except (BaseError, OSError) as exc:
            raise VaultUnavailable(f"{path!r} cannot be stored in {self.url}: {_told(exc)}") from exc

    def finish(self, folder: str) -> None:
        """Nothing more is to come into a folder.

        Raises:
            VaultUnavailable: it cannot be closed.
        """
        if (directory := self._directory) is not None:
            try:
                (directory / folder).chmod(_FOLDER)
                _sync(directory)
            except OSError as exc:
                raise VaultUnavailable(f"{folder!r} in {self.url} cannot be closed: {_told(exc)}") from exc

    def read(self, folder: str, name: str, *, limit: int | None = None) -> bytes:
        """An object's bytes, the first `limit` of them.

        Raises:
            FileNotFoundError: there is none.
            VaultUnavailable: nobody knows.
        """
        path = f"{folder}/{name}"
        try:
            found = obstore.get(self._objects, path)
            if limit is None or found.meta["size"] <= limit:
                return found.bytes().to_bytes()
            # Not by a range: not every store of S3's kind knows them.
            data = b""
            for chunk in found.stream(min_chunk_size=limit):
                data += bytes(chunk)
                if len(data) >= limit:
                    break
            return data[:limit]
        except FileNotFoundError as exc:
            raise FileNotFoundError(f"{path!r} is not in {self.url}") from exc
        except (BaseError, OSError) as exc:
            raise VaultUnavailable(f"{path!r} cannot be read from {self.url}: {_told(exc)}") from exc

    def names(self, folder: str) -> set[str]:
        """What is in a folder; nothing where there is none.

        Raises:
            VaultUnavailable: nobody knows.
        """
        try:
            listed = [one["path"] for page in obstore.list(self._objects, prefix=folder) for one in page]
        except (BaseError, OSError) as exc:
            raise VaultUnavailable(f"{folder!r} in {self.url} cannot be listed: {_told(exc)}") from exc
        return {path.removeprefix(f"{folder}/") for path in listed}

    def delete(self, folder: str, *, retain_until: datetime | None, now: datetime) -> None:
        """Delete a dump whose time is over, or that was never finished; its manifest first, so that what is left of it
        is none.

        Raises:
            DumpRetained: its time is not over.
            VaultUnavailable: some of it may still be there, or the store refuses.
        """
        if retain_until is not None and now < retain_until:
            raise DumpRetained(f"dump {folder!r} is kept until {retain_until:%Y-%m-%d %H:%M} UTC; nobody can delete it")
        try:
            if (directory := self._directory) is not None and (directory / folder).is_dir():
                (directory / folder).chmod(_OPEN_FOLDER)
            for name in sorted(self.names(folder), reverse=True):
                obstore.delete(self._objects, f"{folder}/{name}")
            if directory is not None:
                with suppress(FileNotFoundError):
                    (directory / folder).rmdir()
        except (BaseError, OSError) as exc:
            raise VaultUnavailable(f"{folder!r} in {self.url} is not deleted: {_told(exc)}") from exc

    @property
    def _directory(self) -> Path | None:
        """Of a store that is one."""
        if isinstance(self._objects, LocalStore) and self._objects.prefix is not None:
            return Path(self._objects.prefix)
        return None


def open_vault(url: str, *, region: str = "") -> Vault:
    """The store at an address, `file:///directory` or `s3://bucket/prefix`.

    Args:
        region: Of the bucket; empty: as AWS_REGION says.
    Raises:
        VaultUnavailable: it is none, or the directory cannot be made.
    """
    try:
        objects = open_objects(url, allow_http=settings.PAYLOAD_OVER_HTTP, region=region or None)
    except (BaseError, ValueError, OSError) as exc:
        raise VaultUnavailable(f"{url!r} cannot be used as a store of dumps: {_told(exc)}") from exc
    parts, credentials = urlsplit(url), Credentials.read(os.environ)
    if parts.scheme != "s3" or credentials is None:
        return Vault(url, objects)
    locked = LockedPuts(
        bucket=parts.netloc,
        prefix=parts.path.strip("/"),
        region=region or os.environ.get("AWS_REGION", DEFAULT_REGION),
        endpoint=settings.S3_ENDPOINT,
        credentials=credentials,
        http=httpx.Client(timeout=TIMEOUT_SECONDS),
        clock=timezone.now,
    )
    return Vault(url, objects, locked)


def vault() -> Vault:
    """The store that the settings name.

    Raises:
        VaultUnavailable: as `open_vault`.
    """
    return _opened(settings.DUMP_STORE, "", settings.PAYLOAD_OVER_HTTP, settings.S3_ENDPOINT)


def second_vault() -> Vault | None:
    """The store that dumps are copied to; None: the settings name none.

    Raises:
        VaultUnavailable: as `open_vault`.
    """
    if not settings.DUMP_COPY_STORE:
        return None
    region = settings.DUMP_COPY_REGION
    return _opened(settings.DUMP_COPY_STORE, region, settings.PAYLOAD_OVER_HTTP, settings.S3_ENDPOINT)


@lru_cache(maxsize=4)
def _opened(url: str, region: str, allow_http: bool, endpoint: str) -> Vault:
    return open_vault(url, region=region)


def _keep(path: Path) -> None:
    """Have nobody write a file any more, and have it survive a power cut."""
    path.chmod(_FILE)
    _sync(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _told(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
