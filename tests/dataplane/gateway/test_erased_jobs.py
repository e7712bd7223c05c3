"""What an application is told of a job whose words were erased as those of its user, at a live gateway."""

from __future__ import annotations

import hashlib

import httpx
import psycopg
import pytest

from dataplane.assembly import Stores
from dataplane.cursors import CursorKeys
from dataplane.idempotency import Scope
from dataplane.stores import jobs_sql
from dataplane.stores.jobs import PostgresJobStore
from tests.job_rows import empty_table

from .conftest import make_settings, release_sections, run_gateway

pytestmark = pytest.mark.django_db  # asks for the tables; what the gateway writes there is committed

BODY = {"model": "chat", "messages": [{"role": "user", "content": "Where is Ada's parcel?"}]}


@pytest.fixture
def http(simulator_url, keys_url):
    """A client of a gateway that takes jobs, on an empty table of them."""
    sections = release_sections(simulator_url)
    tenant = sections["access"]["keys"][hashlib.sha256(b"bk-globex").hexdigest()]["tenant"]
    assert tenant == "globex"
    stores = Stores(jobs=PostgresJobStore(keys_url, timeout_seconds=60))
    with (
        empty_table(keys_url),
        run_gateway(
            sections, settings=make_settings(job_limit=5), stores=stores, cursors=CursorKeys([b"n" * 32])
        ) as gateway,
        httpx.Client(base_url=gateway.url, headers={"authorization": "Bearer bk-globex"}, timeout=90) as client,
    ):
        yield client


def erase(keys_url, user):
    whose = {"tenant": "globex", "user_hash": Scope("globex", user).user_hash, "begun_by": None}
    with psycopg.connect(keys_url, autocommit=True) as other:
        other.execute(jobs_sql.ERASE, whose)


@pytest.mark.parametrize("named", ["header", "body"])
def test_erased_job_is_told_as_such(http, keys_url, named):
    """With a status and a code of its own, and how it stood; however its user was named. It cannot be taken for a job
    without an answer, and nothing says that asking again may help.
    """
    headers = {"ballast-user": "ada"} if named == "header" else {}
    body = BODY if named == "header" else BODY | {"user": "ada"}
    job = http.post("/v1/jobs", json={"endpoint": "/v1/chat/completions", "body": body}, headers=headers).json()
    other = http.post("/v1/jobs", json={"endpoint": "/v1/chat/completions", "body": BODY}).json()

    erase(keys_url, "ada")

    for answer in (http.get(f"/v1/jobs/{job['id']}"), http.post(f"/v1/jobs/{job['id']}/cancel")):
        told = answer.json()
        assert (answer.status_code, told["error"]["code"], told["error"]["type"]) == (
            410,
            "job_erased",
            "invalid_request_error",
        )
        assert answer.headers["x-should-retry"] == "false"
        assert "retry-after" not in answer.headers
        assert (told["id"], told["status"], told["response"], told["attempts"]) == (job["id"], "cancelled", None, 0)
        assert told["erased_at"] >= told["created_at"]
        assert "Ada" not in answer.text
    assert http.get(f"/v1/jobs/{other['id']}").json()["status"] == "queued"
