"""The payloads of dead letters: into the object store, out of it, and gone."""

import logging
import secrets
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from django.conf import settings

from controlplane.deadletters.errors import PayloadPurged
from controlplane.deadletters.models import DeadLetter
from controlplane.work.handlers import Attempt
from dataplane.deadletters import PayloadState

# Faces catch these, and know no store.
from dataplane.stores.payloads import (
    BadPayloadKeys,
    ObjectPayloadStore,
    PayloadStore,
    open_objects,
    parse_payload_keys,
)
from dataplane.stores.payloads import PayloadError as PayloadError
from dataplane.stores.payloads import PayloadUnavailable as PayloadUnavailable

logger = logging.getLogger(__name__)

DELETE: Final = "deadletters.delete_objects"
# How many letters one look at the table is for, and how many failures in a row say that the store is away.
LOOKED_AT: Final = 100
AWAY_AFTER: Final = 3


def payload_store() -> PayloadStore:
    """The store that the settings name; the key file is read again when it changes, so that a rotation needs no
    restart.

    Raises:
        PayloadUnavailable: BALLAST_PAYLOAD_KEYS_FILE is absent or holds something else, or BALLAST_PAYLOAD_STORE cannot
            be opened.
    """
    path = Path(settings.PAYLOAD_KEYS_FILE)
    try:
        return _open(settings.PAYLOAD_STORE, settings.PAYLOAD_OVER_HTTP, path, path.stat().st_mtime_ns)
    except (OSError, ValueError, BadPayloadKeys) as exc:
        raise PayloadUnavailable(
            f"BALLAST_PAYLOAD_KEYS_FILE {str(path)!r} or BALLAST_PAYLOAD_STORE cannot be used: {exc}"
        ) from exc


@lru_cache(maxsize=2)
def _open(url: str, allow_http: bool, path: Path, modified_ns: int) -> PayloadStore:
    return ObjectPayloadStore(open_objects(url, allow_http=allow_http), parse_payload_keys(path.read_text()))


class ConfiguredStore:
    """The store that the settings name, opened when something is asked of it: what lies in a row needs none."""

    def put(self, name: str, data: bytes) -> str:
        """As `PayloadStore.put`."""
        return payload_store().put(name, data)

    def get(self, name: str, wrapped_key: str) -> bytes:
        """As `PayloadStore.get`."""
        return payload_store().get(name, wrapped_key)

    def delete(self, name: str) -> None:
        """As `PayloadStore.delete`."""
        payload_store().delete(name)


def store_pending(store: PayloadStore) -> int:
    """Put what lies in the table into the store, oldest first, until there is no more or the store is away. Returns how
    many.

    Each goes under a name of its own, and the row is moved only if it still waits: whoever comes second, or after
    somebody has purged it, takes back what he put. What a crash leaves behind in between nobody can read, since its key
    is nowhere.
    """
    stored, failed_in_a_row, after = 0, 0, None
    while failed_in_a_row < AWAY_AFTER:
        pending = DeadLetter.objects.filter(payload_state=PayloadState.PENDING.value).order_by("id")
        if after is not None:
            pending = pending.filter(pk__gt=after)
        letters = list(pending.only("id", "created_at", "payload_body")[:LOOKED_AT])
        if not letters:
            break
        for letter in letters:
            after = letter.pk
            try:
                stored += _store(letter, store)
                failed_in_a_row = 0
            except PayloadUnavailable as exc:
                logger.warning("the payload of dead letter %s stays in the table: %s", letter.pk, exc)
                failed_in_a_row += 1
                if failed_in_a_row == AWAY_AFTER:
                    break
    return stored


def _store(letter: DeadLetter, store: PayloadStore) -> bool:
    name = f"dead-letters/{letter.created_at:%Y/%m/%d}/{letter.pk.hex}-{secrets.token_hex(4)}"
    body = letter.payload_body
    assert body is not None  # noqa: S101 - the constraint says so of every pending letter
    key = store.put(name, bytes(body))
    moved = DeadLetter.objects.filter(pk=letter.pk, payload_state=PayloadState.PENDING.value).update(
        payload_state=PayloadState.STORED.value, payload_body=None, payload_name=name, payload_key=key
    )
    if not moved:
        store.delete(name)
    return bool(moved)


def payload_of(letter: DeadLetter, store: PayloadStore) -> bytes:
    """What the work of a letter takes, wherever it lies now.

    Raises:
        PayloadPurged: it is gone on purpose.
        PayloadUnavailable, PayloadGone, PayloadTampered: of the store.
    """
    letter.refresh_from_db(fields=["payload_state", "payload_body", "payload_name", "payload_key"])
    if letter.payload_state == PayloadState.PURGED:
        raise PayloadPurged(letter.pk)
    if letter.payload_body is not None:
        return bytes(letter.payload_body)
    return store.get(letter.payload_name, letter.payload_key)


def delete_objects(arguments: dict[str, Any], attempt: Attempt) -> None:
    """Delete what lies under the names `names`: durable work, handed in by whoever wiped their keys.

    Raises:
        PayloadUnavailable: some may still be there.
    """
    store = payload_store()
    for name in arguments["names"]:
        store.delete(name)
