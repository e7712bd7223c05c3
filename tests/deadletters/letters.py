"""Dead letters as work leaves them."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from django.db import connection

from controlplane.deadletters import operations
from controlplane.deadletters.models import DeadLetter
from controlplane.work.deaths import Death
from dataplane.deadletters import Category, Failure
from tests.factories import NOW

ADA = "ad" * 32


def make_letter(
    *,
    tenant: str = "acme",
    user_hash: str = ADA,
    category: Category = Category.TIMEOUT,
    message: str = "took 3 s",
    payload: bytes = b'{"secret":1}',
    at: datetime = NOW,
    **fields: Any,
) -> DeadLetter:
    """The letter of an errand of Ada's that failed at `at`."""
    failure = Failure(category, "upstream_timeout", message)
    values: dict[str, Any] = {
        "kind": "errand",
        "name": "tests.errand",
        "work_id": uuid.uuid4(),
        "failure": failure,
        "payload": payload,
        "attempts": 2,
        "causes": [{"at": NOW.isoformat(), "owner": "w", "code": "c", "message": message, "status": 504}],
        "tenant": tenant,
        "user_hash": user_hash,
        "key": "k",
    }
    letter = operations.bury(Death(**values | fields), at)
    return DeadLetter.objects.get(pk=letter)


def sql(statement: str, *parameters: Any) -> list[Any]:
    """Run SQL in the test's transaction."""
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []
