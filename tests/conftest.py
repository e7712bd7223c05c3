"""Fixtures that tests of every app share. What they are made of is in `factories.py`."""

import os
from collections.abc import Iterator
from urllib.parse import quote

import psycopg
import pytest
from django.db import connection
from hypothesis import settings

# `HYPOTHESIS_PROFILE=deep` (make deep) looks longer; the default keeps `make test` quick and the same on every run.
settings.register_profile("default", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("deep", deadline=None, max_examples=300, stateful_step_count=60, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="module")
def keys_url(django_db_setup: None) -> Iterator[str]:
    """This run's database, as a data plane is told of it for its idempotency keys, for tests with the mark `django_db`.
    What is written there is committed, and removed when the module is done.
    """
    facts = connection.settings_dict
    login = f"{quote(facts['USER'])}:{quote(facts['PASSWORD'])}"
    url = f"postgresql://{login}@{quote(facts['HOST'], safe='')}:{facts['PORT']}/{facts['NAME']}"
    yield url
    with psycopg.connect(url, autocommit=True) as other:
        # Evidence refuses DELETE.
        other.execute("TRUNCATE ledger_idempotencyrecord, ledger_idempotencyevidence")
