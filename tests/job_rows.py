"""Jobs as the data plane would leave them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg

from controlplane.ledger.jobs import Job
from dataplane.jobs import OVER, State
from dataplane.journey import new_id
from tests.factories import NOW

# Jobs that have failed leave letters.
EMPTY = "TRUNCATE ledger_job, deadletters_deadletter, deadletters_group, deadletters_grouptenant CASCADE"


def make_job(*, tenant: str = "acme", state: str = "queued", at: datetime = NOW, **fields: Any) -> Job:
    """One job, handed in at `at`; over or leased as its state says. Its words are `secret`."""
    is_running, is_over = state == State.RUNNING, state in OVER
    values: dict[str, Any] = {
        "id": UUID(new_id(at.timestamp())),
        "key_id": "7",
        "user": "secret",
        "user_hash": "ab" * 32,
        "key": f"secret-{new_id(at.timestamp())}",
        "fingerprint": "0" * 64,
        "endpoint": "/v1/chat/completions",
        "request": b"secret",
        "request_bytes": 6,
        "tag": 0,
        "epoch": 1 if is_running or is_over else 0,
        "owner": "host/jobs/1" if is_running or is_over else "",
        "lease_until": at + timedelta(seconds=30) if is_running else None,
        "created_at": at,
        "not_before": at,
        "expires_at": at + timedelta(hours=24),
        "taken_at": at if is_running or is_over else None,
        "ended_at": at + timedelta(seconds=9) if is_over else None,
        "response": b"secret" if state == State.COMPLETED else None,
        "response_bytes": 6 if state == State.COMPLETED else 0,
        "status": 200 if state == State.COMPLETED else 0,
    }
    return Job.objects.create(tenant=tenant, state=state, **values | fields)


@contextmanager
def empty_table(database: str) -> Iterator[Callable[..., list[Any]]]:
    """Runs SQL on an empty table of jobs, as somebody else, and returns its rows; what is left there goes."""
    with psycopg.connect(database, autocommit=True) as other:

        def run(statement: Any, *parameters: Any) -> list[Any]:
            cursor = other.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

        run(EMPTY)
        yield run
        run(EMPTY)
