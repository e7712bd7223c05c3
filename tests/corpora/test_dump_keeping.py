"""Which dumps are made by the clock, and which may go."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from controlplane.corpora.dump_keeping import (
    VERIFY_EVERY,
    ask_for_due,
    ask_for_dump,
    ask_to_verify,
    delete_dump,
    expire_dumps,
    good_dumps,
)
from controlplane.corpora.errors import DumpRetained, NamespaceNotReady
from controlplane.corpora.models import Corpus, Dump, Namespace
from controlplane.corpora.namespaces import switch
from controlplane.corpora.vault import Vault, open_vault
from controlplane.work.models import Task
from tests.corpora.kept_corpora import crew, make_corpus, make_namespace
from tests.factories import NOW

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def kept(settings, tmp_path: Path) -> Vault:
    """The store that the settings name."""
    settings.DUMP_STORE = (tmp_path / "dumps").as_uri()
    return open_vault(settings.DUMP_STORE)


@pytest.fixture
def namespace() -> Namespace:
    """What a corpus is served from, of which a dump is made every 24 h and kept for 30 days."""
    namespace = make_namespace(make_corpus(), fill=False)
    switch(corpus=namespace.corpus, namespace=namespace, reason="r", actor=crew.oncall, now=NOW)
    namespace.corpus.refresh_from_db()
    return namespace


def dumped(namespace: Namespace, kept: Vault | None = None, *, at: datetime = NOW, **changes: object) -> Dump:
    """A row of a dump, with something in its folder."""
    until = at + 30 * DAY
    made = {"state": "complete", "actor": "tests", "began_at": at, "as_of": at, "retain_until": until} | changes
    dump = Dump.objects.create(corpus=namespace.corpus, namespace=namespace, name=f"d-{Dump.objects.count()}", **made)
    if kept is not None:
        kept.put(dump.name, "manifest.json", dump.name.encode(), retain_until=until)
        kept.finish(dump.name)
    return dump


def handed_in() -> list[str]:
    return list(Task.objects.filter(kind="corpora.dump").values_list("key", flat=True))


def test_dump_is_made_when_the_last_is_as_old_as_the_policy_says(namespace: Namespace) -> None:
    """Once, however often the clock asks; one under way counts, one that failed does not."""
    dumped(namespace, at=NOW)
    dumped(namespace, at=NOW + 12 * HOUR, state="failed")

    early = ask_for_due(now=NOW + 23 * HOUR)
    due = [ask_for_due(now=NOW + 24 * HOUR + timedelta(minutes=minute)) for minute in range(3)]
    dumped(namespace, at=NOW + 25 * HOUR, state="writing")
    again = ask_for_due(now=NOW + 26 * HOUR)

    assert (early, due, again) == (0, [1, 1, 1], 0)
    assert len(handed_in()) == 1


def test_newest_dump_is_read_whole_when_it_is_made_and_weekly(namespace: Namespace) -> None:
    """Once a day at most, however often the clock asks; one that is damaged gives its place to the one before."""
    older, newer = dumped(namespace, at=NOW), dumped(namespace, at=NOW + HOUR)

    made = [ask_to_verify(now=NOW + 2 * HOUR + timedelta(minutes=minute)) for minute in range(2)]
    Dump.objects.filter(pk=newer.pk).update(verified_at=NOW + 3 * HOUR)
    verified = ask_to_verify(now=NOW + VERIFY_EVERY)
    weekly = ask_to_verify(now=NOW + VERIFY_EVERY + 3 * HOUR)
    Dump.objects.filter(pk=newer.pk).update(verify_error="block chunks-000000: its digest is another")
    damaged = ask_to_verify(now=NOW + VERIFY_EVERY + 4 * HOUR)

    assert (made, verified, weekly, damaged) == ([1, 1], 0, 1, 1)
    work = Task.objects.filter(kind="corpora.verify_dump").order_by("id")
    assert [json.loads(one.arguments)["dump"] for one in work] == [newer.pk, newer.pk, older.pk]


def test_no_dump_is_made_of_what_serves_nobody_or_is_not_to_be_dumped() -> None:
    """A corpus without a namespace, and one whose policy says 0 hours."""
    corpus = make_corpus(recovery={"strategy": "rebuild", "dump_hours": 0})
    namespace = make_namespace(corpus, fill=False)

    with pytest.raises(NamespaceNotReady, match="served from no namespace"):
        ask_for_dump(corpus=corpus, actor=crew.oncall, now=NOW)
    Corpus.objects.filter(pk=corpus.pk).update(live_namespace=namespace)

    assert ask_for_due(now=NOW) == 0
    assert handed_in() == []


def test_dumps_go_when_their_time_is_over_but_never_the_newest_good_one(namespace: Namespace, kept: Vault) -> None:
    """One that is known to be flawed is not good; half-written ones go like the others."""
    old, good = dumped(namespace, kept, at=NOW), dumped(namespace, kept, at=NOW + DAY)
    flawed = dumped(namespace, kept, at=NOW + 2 * DAY, verify_error="chunks-000000: x")
    half = dumped(namespace, kept, at=NOW + 2 * DAY, state="writing")
    young = dumped(namespace, kept, at=NOW + 3 * DAY, verify_error="chunks-000000: x")

    early = expire_dumps(now=NOW + 30 * DAY - timedelta(seconds=1))
    expired = expire_dumps(now=NOW + 33 * DAY - timedelta(seconds=1))

    gone = {dump.name for dump in Dump.objects.filter(deleted_at__isnull=False)}
    assert (early, expired, gone) == (0, 3, {old.name, flawed.name, half.name})
    assert [kept.names(dump.name) for dump in (old, flawed, half)] == [set()] * 3
    assert [kept.names(dump.name) for dump in (good, young)] == [{"manifest.json"}] * 2
    assert Dump.objects.get(pk=half.pk).state == "failed"
    assert list(good_dumps(namespace.corpus)) == [good]


@pytest.mark.parametrize(("at", "said"), [(29, "is kept until"), (31, "newest good one")])
def test_deleting_a_dump_by_hand_is_refused_like_that(namespace: Namespace, kept: Vault, at: int, said: str) -> None:
    """Before its time, and ever while it is the newest good one."""
    dump = dumped(namespace, kept)

    with pytest.raises(DumpRetained, match=said):
        delete_dump(dump=dump, actor=crew.admin, now=NOW + at * DAY)

    assert kept.names(dump.name) == {"manifest.json"}
