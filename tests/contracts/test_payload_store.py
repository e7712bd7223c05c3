"""What a payload store promises, tried on a directory, in memory, and on a server of S3's kind in its own process."""

from __future__ import annotations

import secrets
import stat
import uuid

import obstore
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from obstore.store import LocalStore, MemoryStore, S3Store

from dataplane.stores.payloads import (
    KEY_BYTES,
    BadPayloadKeys,
    ObjectPayloadStore,
    PayloadGone,
    PayloadKeys,
    PayloadTampered,
    PayloadUnavailable,
    is_store_url,
    open_objects,
    parse_payload_keys,
    read_payload_keys,
)
from launcher.keys import keep_payload_keys
from tests.contracts.payload_server import serve_s3

WORDS = b'{"messages": ["' + b"Where is my parcel? " * 10 + b'"]}'
NAME = "dead-letters/2026/03/04/0a-1b"
KEYS = [secrets.token_bytes(KEY_BYTES) for _ in range(2)]


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """A server of S3's kind, for as long as the tests of this file last."""
    with serve_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def operator(s3, monkeypatch):
    """The variables by which an operator names that server."""
    for name, value in s3.variables.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.fixture
def bucket(s3, operator):
    """An empty part of its bucket."""
    return open_objects(s3.url(f"some/prefix/{uuid.uuid4()}"), allow_http=True)


@pytest.fixture(params=["directory", "memory", "s3"])
def objects(request, tmp_path):
    """An empty object store."""
    if request.param == "s3":
        return request.getfixturevalue("bucket")
    return open_objects(f"file://{tmp_path}/with%20space" if request.param == "directory" else "memory://")


@pytest.fixture
def store(objects):
    return ObjectPayloadStore(objects, PayloadKeys(KEYS[:1]))


def raw(objects, name=NAME):
    return obstore.get(objects, name).bytes().to_bytes()


def test_what_is_put_comes_back_and_lies_there_as_noise(objects, store):
    """Whole, empty and large; the same payload twice is not the same noise twice."""
    for data in (WORDS, b"", secrets.token_bytes(3_000_000)):
        key = store.put(NAME, data)
        assert store.get(NAME, key) == data
    first = (store.put(NAME, WORDS), raw(objects))
    second = (store.put(NAME, WORDS), raw(objects))

    assert b"parcel" not in first[1]
    assert first[0] != second[0]
    assert first[1] != second[1]
    assert len(first[1]) == len(WORDS) + 1 + 12 + 16


def test_deleted_object_is_gone_and_deleting_is_repeatable(store):
    """Whoever deletes again after a crash is told the same."""
    key = store.put(NAME, WORDS)

    store.delete(NAME)
    store.delete(NAME)

    with pytest.raises(PayloadGone, match=NAME):
        store.get(NAME, key)


def test_object_without_its_key_is_noise_to_everybody(objects, store):
    """That is how a payload is erased, and with it every copy: no other key of ours opens it."""
    store.put(NAME, WORDS)
    other = store.put("other", b"x")

    with pytest.raises(PayloadTampered):
        store.get(NAME, other)
    with pytest.raises(PayloadUnavailable):
        store.get(NAME, "")
    sealed = raw(objects)
    for key in KEYS:
        with pytest.raises(InvalidTag):
            AESGCM(key).decrypt(sealed[1:13], sealed[13:], b"ballast.payload\n" + NAME.encode())


def test_object_cannot_pass_for_another(objects, store):
    """Neither moved to another name, with its key or without, nor put back in place of what came later."""
    key = store.put(NAME, WORDS)
    old = raw(objects)
    other_key = store.put("other", b"something else")
    obstore.put(objects, "other", old)
    for shown in (key, other_key):
        with pytest.raises(PayloadTampered):
            store.get("other", shown)
    new_key = store.put(NAME, b"new")
    obstore.put(objects, NAME, old)
    with pytest.raises(PayloadTampered):
        store.get(NAME, new_key)


def test_every_altered_byte_is_noticed(objects, store):
    """Of the object and of its key, wherever it stands; and what was cut off."""
    key = store.put(NAME, b"parcel")
    sealed = raw(objects)
    for at in range(len(sealed)):
        obstore.put(objects, NAME, sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :])
        with pytest.raises(PayloadTampered):
            store.get(NAME, key)
    for end in (0, 1, 20, len(sealed) - 1):
        obstore.put(objects, NAME, sealed[:end])
        with pytest.raises(PayloadTampered):
            store.get(NAME, key)
    obstore.put(objects, NAME, sealed)
    for altered in (key[:-3] + "AA=", key[:9], key + "!", key.replace(":", ":A", 1)):
        with pytest.raises(PayloadTampered):
            store.get(NAME, altered)
    assert store.get(NAME, key) == b"parcel"


def test_keys_are_changed_without_a_gap(objects):
    """The new one writes, both are read; without the old one its payloads cannot be had, which is no tampering."""
    key = ObjectPayloadStore(objects, PayloadKeys(KEYS[:1])).put(NAME, WORDS)
    both = ObjectPayloadStore(objects, PayloadKeys([KEYS[1], KEYS[0]]))
    new_key = both.put("new", b"new")

    assert both.get(NAME, key) == WORDS
    only_new = ObjectPayloadStore(objects, PayloadKeys([KEYS[1]]))
    assert only_new.get("new", new_key) == b"new"
    with pytest.raises(PayloadUnavailable, match=key.partition(":")[0]):
        only_new.get(NAME, key)


def test_store_that_is_away_is_told_as_such_and_soon():
    """Of all three steps; nothing waits for it for ever."""
    quick = {"retry_config": {"max_retries": 0}, "client_options": {"timeout": "5s", "allow_http": True}}
    nowhere = S3Store(
        "bucket", endpoint="http://127.0.0.1:1", region="r", access_key_id="a", secret_access_key="s", **quick
    )
    away = ObjectPayloadStore(nowhere, PayloadKeys(KEYS[:1]))
    key = ObjectPayloadStore(MemoryStore(), PayloadKeys(KEYS[:1])).put(NAME, WORDS)

    for step in (lambda: away.put(NAME, WORDS), lambda: away.get(NAME, key), lambda: away.delete(NAME)):
        with pytest.raises(PayloadUnavailable, match=NAME):
            step()


def test_object_that_was_never_put_is_gone(store):
    """As one that was deleted, under a key that is good; others are not touched."""
    other = store.put("other", b"x")
    key = PayloadKeys(KEYS[:1]).wrap(secrets.token_bytes(KEY_BYTES), name=NAME)

    store.delete(NAME)
    with pytest.raises(PayloadGone, match=NAME):
        store.get(NAME, key)

    assert store.get("other", other) == b"x"


def test_s3_that_goes_away_loses_nothing_and_says_so(s3, bucket):
    """Killed, it can be asked for nothing; when it is back what was put is there, and what was not put can be."""
    store = ObjectPayloadStore(bucket, PayloadKeys(KEYS[:1]))
    kept, deleted = store.put(NAME, WORDS), store.put("deleted", b"x")
    s3.stop()
    try:
        for step in (lambda: store.put("new", b"new"), lambda: store.get(NAME, kept), lambda: store.delete("deleted")):
            with pytest.raises(PayloadUnavailable):
                step()
    finally:
        s3.start()

    assert (store.get(NAME, kept), store.get("deleted", deleted)) == (WORDS, b"x")
    assert store.get("new", store.put("new", b"new")) == b"new"
    store.delete("deleted")
    with pytest.raises(PayloadGone):
        store.get("deleted", deleted)


def test_bucket_that_is_not_there_is_a_store_that_is_away(operator):
    """Nothing in it is taken for gone, and nothing for deleted: a misspelt name must not empty anybody's letters."""
    nowhere = ObjectPayloadStore(open_objects("s3://payloadz/x", allow_http=True), PayloadKeys(KEYS[:1]))
    key = ObjectPayloadStore(MemoryStore(), PayloadKeys(KEYS[:1])).put(NAME, WORDS)

    for step in (lambda: nowhere.put(NAME, WORDS), lambda: nowhere.get(NAME, key), lambda: nowhere.delete(NAME)):
        with pytest.raises(PayloadUnavailable, match=f"{NAME}.*NoSuchBucket"):
            step()


def test_s3_refuses_who_has_another_secret(s3, operator):
    """The operator is told what S3 says, and the secret is not repeated."""
    operator.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-of-somebody-else-entirely")
    other = ObjectPayloadStore(open_objects(s3.url("other"), allow_http=True), PayloadKeys(KEYS[:1]))
    key = ObjectPayloadStore(MemoryStore(), PayloadKeys(KEYS[:1])).put(NAME, WORDS)

    for step in (lambda: other.put(NAME, WORDS), lambda: other.get(NAME, key), lambda: other.delete(NAME)):
        with pytest.raises(PayloadUnavailable, match=f"{NAME}.*SignatureDoesNotMatch.*403") as caught:
            step()
        assert "hunter2" not in str(caught.value)
    assert s3.objects("other") == []


def test_s3_is_asked_without_tls_only_where_that_is_told(s3, operator):
    """Otherwise nothing leaves this machine, whatever the address says."""
    store = ObjectPayloadStore(open_objects(s3.url("plain")), PayloadKeys(KEYS[:1]))

    with pytest.raises(PayloadUnavailable):
        store.put(NAME, WORDS)

    assert s3.objects("plain") == []


def test_addresses_are_a_directory_or_a_bucket(tmp_path):
    """Anything else is refused with what would do; the directory is made, for its owner only."""
    assert isinstance(open_objects(f"file://{tmp_path}/a/b"), LocalStore)
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    assert isinstance(open_objects("s3://bucket/some/prefix"), S3Store)
    for url in ("", "payloads", "file://host/x", "s3:///x", "gs://bucket", "http://[", "https://bucket"):
        assert not is_store_url(url)
        with pytest.raises(ValueError, match="payload store"):
            open_objects(url)


def test_key_file_is_made_once_by_the_launcher_and_read_strictly(tmp_path):
    """A file that is missing, or holds something else, is named; what it holds is not shown."""
    path = tmp_path / "keys" / "payload-keys"
    with pytest.raises(BadPayloadKeys, match="BALLAST_PAYLOAD_KEYS_FILE"):
        read_payload_keys(path)
    keep_payload_keys(path)
    text = path.read_text()
    keep_payload_keys(path)

    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == (text, 0o600)
    assert ObjectPayloadStore(MemoryStore(), read_payload_keys(path)).put(NAME, b"")
    for bad in ("", "hunter2!", "aGVsbG8=", f"{text}\nhunter2!"):
        with pytest.raises(BadPayloadKeys) as caught:
            parse_payload_keys(bad)
        assert "hunter2" not in str(caught.value)
