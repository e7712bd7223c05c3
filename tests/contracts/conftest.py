"""What the tests of the store of idempotency keys are made of."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from django.db import connection

from dataplane.idempotency import MIN_TTL_SECONDS, Outcome, Scope, fingerprint_of

# Evidence refuses DELETE.
FORGET = "TRUNCATE ledger_idempotencyrecord, ledger_idempotencyevidence"
# Far longer than a test takes, however long a busy machine stands still in the middle of it.
LEASE_SECONDS = 3000.0
CHAT = "/v1/chat/completions"
ADA = Scope("acme", "ada")
QUESTION = fingerprint_of({"model": "chat", "messages": [{"role": "user", "content": "Hi"}]}, path=CHAT)
OTHER = fingerprint_of({"model": "chat", "messages": [], "seed": 1}, path=CHAT)
ANSWER = Outcome(
    status=200,
    headers=(("ballast-lane", "l"), ("x", "é")),
    media="application/json",
    body=b'{"answer": "\x00\xff"}',
    usage={"total_tokens": 3, "prompt_tokens": 1},
)


async def claim(store, key="k", *, scope=ADA, fingerprint=QUESTION, owner="w1", request="r1", repeatable=True):
    """Claim a key for LEASE_SECONDS, on the usual terms."""
    return await store.claim(
        scope,
        key,
        fingerprint,
        owner=owner,
        request_id=request,
        lease_seconds=LEASE_SECONDS,
        ttl_seconds=float(MIN_TTL_SECONDS),
        is_repeatable=repeatable,
    )


@pytest.fixture(scope="module")
def database(django_db_setup) -> Iterator[str]:
    """Where this run's database is, for connections of one's own. What is written there is committed, and removed when
    the module is done.
    """
    facts = connection.settings_dict
    url = psycopg.conninfo.make_conninfo(
        host=facts["HOST"], port=facts["PORT"], user=facts["USER"], password=facts["PASSWORD"], dbname=facts["NAME"]
    )
    yield url
    with psycopg.connect(url, autocommit=True) as other:
        other.execute(FORGET)
