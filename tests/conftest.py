"""Fixtures that tests of every app share. What they are made of is in `factories.py`."""

import fcntl
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.test import TransactionTestCase, override_settings
from hypothesis import settings
from pytest_django import DjangoDbBlocker
from xdist.scheduler import LoadFileScheduling

from controlplane.api import limits
from controlplane.ladder.models import LadderPolicy
from launcher.pytest_services import HOME_VARIABLE
from tests.emptied import Emptier
from tests.factories import make_deployment
from tests.ladder.ladder_policies import make_ladder, make_words

# `HYPOTHESIS_PROFILE=deep` (make deep) looks longer; the default keeps `make test` quick and the same on every run.
settings.register_profile("default", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("deep", deadline=None, max_examples=300, stateful_step_count=60, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


# What takes longest, longest first: begun last, one of these would run on when every other worker has ended.
LONGEST = (
    "tests/browser",
    "tests/guides",
    "tests/test_permissions.py",
    "tests/launcher/test_run.py",
    "tests/end_to_end/test_convergence.py",
    "tests/approvals/test_every_order.py",
    "tests/end_to_end/test_dependency_loss.py",
    "tests/end_to_end",
    "tests/launcher",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest first; the others stay in their order."""
    places = [config.rootpath / place for place in LONGEST]

    @cache
    def rank(path: Path) -> int:
        return next((at for at, place in enumerate(places) if path == place or place in path.parents), len(places))

    items.sort(key=lambda item: rank(item.path))


def pytest_configure() -> None:
    """Look for no garbage while tests are imported and collected; there is little, and it would take a fifth longer."""
    gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Look for garbage from now on, but not among all that was imported and collected, nor even once: it would take a
    second; and seldom: what requests and queries leave behind is a few megabytes, and to look after every few takes a
    tenth of the time.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()


# Each starts a whole Ballast once, for all its files.
TOGETHER = ("tests/browser", "tests/guides")


class Files(LoadFileScheduling):
    """Hands whole files to xdist's workers, and to one of them all the files of a directory of `TOGETHER`."""

    def _split_scope(self, nodeid: str) -> str:
        scope: str = super()._split_scope(nodeid)
        return next((place for place in TOGETHER if scope.startswith(f"{place}/")), scope)


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadFileScheduling | None:
    """Ours in the place of `--dist loadfile`, and in the order of collection."""
    if config.getvalue("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False
    return Files(config, log)


MIGRATED = "ballast_migrated"


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings_parallel_suffix: None, django_db_blocker: DjangoDbBlocker
) -> None:
    """Of xdist's workers the first migrates a database, and each gets a copy of it: to migrate takes much longer.

    Only on a server of this run's own, with which it goes.
    """
    home = Path(os.environ[HOME_VARIABLE])
    if "PYTEST_XDIST_WORKER" not in os.environ or not (home / "postgres").exists():
        return
    done = home / "migrated"
    with (home / "migrated.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            with django_db_blocker.unblock():
                _migrate(MIGRATED)
            done.touch()
    connection.settings_dict["TEST"]["TEMPLATE"] = MIGRATED


def _migrate(name: str) -> None:
    """Make a database of that name, in the place of one that a failure left half made."""
    with connection._nodb_cursor() as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {name}")
        cursor.execute(f"CREATE DATABASE {name}")
    facts = connection.settings_dict
    ours = facts["NAME"]
    facts["NAME"] = name
    try:
        call_command("migrate", verbosity=0, interactive=False)
    finally:
        connection.close()  # a database that somebody is connected to cannot be copied
        facts["NAME"] = ours


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """pytest-django's; and a test that commits is cleared away after by an `Emptier`, on a server of this run's own."""
    home = Path(os.environ[HOME_VARIABLE])
    if not (home / "postgres").exists():
        yield
        return
    emptier = Emptier(home / "secrets" / "postgres-superuser-password")
    with django_db_blocker.unblock():
        emptier.remember()
    djangos_own = TransactionTestCase._fixture_teardown

    def tear_down(case: TransactionTestCase) -> None:
        if case.reset_sequences or case.serialized_rollback:
            djangos_own(case)
        else:
            emptier.empty()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", tear_down)
        yield


@pytest.fixture(scope="module")
def lasting(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker
) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """`with lasting(): make_deployment()`, in a fixture of a module, makes what all its tests stand on.

    What a test adds is undone after it, and what they stand on after the last of them. So no test of such a module may
    commit (`transaction=True`), and each one that is not marked `django_db` must do without the database.
    """
    whole_module = transaction.atomic()
    with django_db_blocker.unblock():
        whole_module.__enter__()
    yield django_db_blocker.unblock
    with django_db_blocker.unblock():
        transaction.set_rollback(True)
        whole_module.__exit__(None, None, None)


@pytest.fixture(scope="module")
def deployment(lasting: Callable[[], AbstractContextManager[None]]) -> None:
    """What `make_deployment` makes, for all tests of a module that is marked `usefixtures("deployment")`."""
    with lasting():
        make_deployment()


@pytest.fixture(scope="module")
def demo(lasting: Callable[[], AbstractContextManager[None]]) -> None:
    """The demo as its first start leaves it, for all tests of a module; to load it takes seconds."""
    with lasting(), override_settings(DEMO=True):
        call_command("seed_demo", verbosity=0)


@pytest.fixture(scope="module")
def ladder(deployment: None, lasting: Callable[[], AbstractContextManager[None]]) -> LadderPolicy:
    """Upon `deployment` a ladder policy in force, the words of all its rungs signed, for all tests of a module."""
    with lasting():
        make_words()
        return make_ladder()


# And by what works for it.
WRITTEN_BY_THE_DATA_PLANE = (
    *("ledger_idempotencyrecord", "ledger_idempotencyevidence", "ledger_job", "ledger_repair", "work_task"),
    *("deadletters_deadletter", "deadletters_group", "deadletters_grouptenant"),
)


@pytest.fixture(scope="module")
def keys_url(django_db_setup: None) -> Iterator[str]:
    """This run's database, as a data plane and its workers are told of it, for tests with the mark `django_db`. What
    they write there is committed, and removed when the module is done.
    """
    facts = connection.settings_dict
    login = f"{quote(facts['USER'])}:{quote(facts['PASSWORD'])}"
    url = f"postgresql://{login}@{quote(facts['HOST'], safe='')}:{facts['PORT']}/{facts['NAME']}"
    yield url
    with psycopg.connect(url, autocommit=True) as other:
        # Some of it refuses DELETE.
        other.execute(f"TRUNCATE {', '.join(WRITTEN_BY_THE_DATA_PLANE)} CASCADE")


@pytest.fixture(scope="session", autouse=True)
def no_rate_limits() -> Iterator[None]:
    """Tests call from one address, thousands of times a minute; those of the limits set their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "CALLS", 10**9)
        patch.setattr(limits, "STRANGERS", 10**9)
        yield
