"""Where dumps lie: put once, kept for their time, in a directory and on a server of S3's kind."""

from __future__ import annotations

import hashlib
import stat
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from controlplane.corpora.errors import DumpRetained, VaultTaken, VaultUnavailable
from controlplane.corpora.locked_puts import Credentials, LockedPuts
from controlplane.corpora.vault import Vault, open_vault
from tests.contracts.payload_server import REGION, S3Server, serve_s3
from tests.factories import NOW

LATER = NOW + timedelta(days=30)
FOLDER = "help-centre-n1"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server of S3's kind, for as long as the tests of this file last; it checks signatures, and locks nothing."""
    with serve_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def on_s3(s3: S3Server, settings, monkeypatch: pytest.MonkeyPatch) -> Vault:
    """An empty part of its bucket, named as an operator does."""
    for name, value in s3.variables.items():
        monkeypatch.setenv(name, value)
    settings.PAYLOAD_OVER_HTTP, settings.S3_ENDPOINT = True, s3.endpoint
    return open_vault(s3.url(str(uuid.uuid4())), region=REGION)


@pytest.fixture(params=["directory", "s3"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Vault:
    if request.param == "s3":
        made: Vault = request.getfixturevalue("on_s3")
        return made
    return open_vault((tmp_path / "dumps").as_uri())


def test_what_is_put_is_read_and_listed_and_goes_when_its_time_is_over(kept: Vault) -> None:
    """Whole, or as much of it as somebody can use; what is not there is said not to be."""
    kept.put(FOLDER, "chunks-000000", b"0123456789", retain_until=LATER)
    kept.put(FOLDER, "manifest.json", b"{}", retain_until=LATER)
    kept.finish(FOLDER)

    assert kept.names(FOLDER) == {"chunks-000000", "manifest.json"}
    assert kept.read(FOLDER, "chunks-000000") == b"0123456789"
    assert kept.read(FOLDER, "chunks-000000", limit=4) == b"0123"
    with pytest.raises(FileNotFoundError):
        kept.read(FOLDER, "chunks-000001")
    kept.delete(FOLDER, retain_until=LATER, now=LATER)
    kept.delete(FOLDER, retain_until=LATER, now=LATER)
    assert kept.names(FOLDER) == set()


def test_nothing_is_deleted_before_its_time(kept: Vault) -> None:
    """Not a second before, by anybody who asks here."""
    kept.put(FOLDER, "manifest.json", b"{}", retain_until=LATER)

    with pytest.raises(DumpRetained, match="is kept until 2026-04-03 12:00 UTC"):
        kept.delete(FOLDER, retain_until=LATER, now=LATER - timedelta(seconds=1))

    assert kept.names(FOLDER) == {"manifest.json"}


def test_directory_is_written_once(tmp_path: Path) -> None:
    """The same again is no mistake, something else is; and the file system refuses whoever goes around this."""
    kept = open_vault(tmp_path.as_uri())
    kept.put(FOLDER, "chunks-000000", b"first", retain_until=LATER)
    kept.put(FOLDER, "chunks-000000", b"first", retain_until=LATER)

    with pytest.raises(VaultTaken, match="nothing is overwritten"):
        kept.put(FOLDER, "chunks-000000", b"other", retain_until=LATER)
    kept.finish(FOLDER)

    file = tmp_path / FOLDER / "chunks-000000"
    assert file.read_bytes() == b"first"
    assert (stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(file.parent.stat().st_mode)) == (0o444, 0o555)


def test_store_that_is_none_or_away_is_said_to_be(settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its address; of what lies there nothing is known."""
    with pytest.raises(VaultUnavailable, match="ftp://host/dumps"):
        open_vault("ftp://host/dumps")


def locked(answers: list[httpx.Response], asked: list[httpx.Request]) -> LockedPuts:
    """Puts into a bucket of a server that gives these answers, one after the other."""

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return answers.pop(0)

    return LockedPuts(
        bucket="dumps",
        prefix="prod",
        region="eu-central-1",
        endpoint="",
        credentials=Credentials("AKIAEXAMPLE", "secret", token="lent"),
        http=httpx.Client(transport=httpx.MockTransport(answer)),
        clock=lambda: NOW,
    )


def test_s3_is_told_to_keep_an_object_whoever_wants_to_delete_it() -> None:
    """In mode COMPLIANCE until the date, only where there is none of the name, and with the digest that locks ask for;
    each of these headers is signed, or S3 would not take them.
    """
    asked: list[httpx.Request] = []
    data = b"words"

    locked([httpx.Response(503), httpx.Response(200)], asked).put("a/chunks-000000", data, retain_until=LATER)

    _, request = asked
    assert str(request.url) == "https://dumps.s3.eu-central-1.amazonaws.com/prod/a/chunks-000000"
    assert request.headers["x-amz-object-lock-mode"] == "COMPLIANCE"
    assert request.headers["x-amz-object-lock-retain-until-date"] == "2026-04-03T12:00:00Z"
    assert request.headers["if-none-match"] == "*"
    assert request.headers["x-amz-content-sha256"] == hashlib.sha256(data).hexdigest()
    signed = request.headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    assert {name for name in request.headers if name.startswith("x-amz-")} <= set(signed)
    assert "host" in signed


@pytest.mark.parametrize(
    ("answers", "error", "said"),
    [
        ([httpx.Response(412)], VaultTaken, "is there already"),
        ([httpx.Response(403, text="AccessDenied")], VaultUnavailable, "HTTP 403 AccessDenied"),
        ([httpx.Response(503)] * 3, VaultUnavailable, "HTTP 503"),
    ],
)
def test_what_s3_refuses_is_not_taken_for_kept(
    answers: list[httpx.Response], error: type[Exception], said: str
) -> None:
    """It is said what S3 said."""
    with pytest.raises(error, match=said):
        locked(list(answers), []).put("a/b", b"x", retain_until=LATER)


def test_server_of_s3s_kind_takes_our_signature(on_s3: Vault) -> None:
    """With names that have to be escaped too; a wrong secret is refused."""
    on_s3.put("größe +&/n1", "chunks-000000", b"words", retain_until=LATER)

    assert on_s3.read("größe +&/n1", "chunks-000000") == b"words"
    assert on_s3._locked is not None
    on_s3._locked._credentials = Credentials(on_s3._locked._credentials.key_id, "wrong")
    with pytest.raises(VaultUnavailable, match="HTTP 403"):
        on_s3.put("n1", "chunks-000001", b"words", retain_until=LATER)
