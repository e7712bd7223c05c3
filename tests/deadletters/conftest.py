"""What tests of dead letters stand on."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from obstore.store import MemoryStore

from controlplane.accounts.models import ApiKey
from dataplane.stores.payloads import KEY_BYTES, ObjectPayloadStore, PayloadKeys
from tests.deadletters.redrives import make_ground


@pytest.fixture
def objects() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def store(objects: MemoryStore) -> ObjectPayloadStore:
    """An empty payload store."""
    return ObjectPayloadStore(objects, PayloadKeys([secrets.token_bytes(KEY_BYTES)]))


@pytest.fixture(scope="module")
def ground(lasting: Any) -> None:
    """A release that admits acme, for all tests of a module."""
    with lasting():
        make_ground()


@pytest.fixture
def key() -> ApiKey:
    """A key of acme."""
    return ApiKey.objects.get(tenant__slug="acme")
