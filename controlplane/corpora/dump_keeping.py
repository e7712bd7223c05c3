"""Which dumps are to be made, and which may go: on the clock's account, and as durable work for people who ask."""

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone

from controlplane.accounts.models import Operator
from controlplane.audit import operations as audit
from controlplane.corpora.dumping import copy_dump, make_dump, verify_dump
from controlplane.corpora.errors import DumpRefused, DumpRetained, NamespaceNotReady, VaultUnavailable
from controlplane.corpora.models import Corpus, Dump
from controlplane.corpora.policies import promises
from controlplane.corpora.records import DumpState
from controlplane.corpora.vault import Vault, second_vault, vault
from controlplane.work import operations as work
from controlplane.work.handlers import Attempt

logger = logging.getLogger(__name__)

DUMP: Final = "corpora.dump"
VERIFY: Final = "corpora.verify_dump"
CLOCK: Final = "ballast"
# What lies in a store can rot there; a store tells nobody.
VERIFY_EVERY: Final = timedelta(days=7)
# Whoever wrote a dump for so long does not any more.
GIVEN_UP: Final = timedelta(days=2)


def good_dumps(corpus: Corpus) -> QuerySet[Dump]:
    """Those of a corpus that can be restored as far as anybody knows, the newest first."""
    return corpus.dumps.filter(state=DumpState.COMPLETE, deleted_at=None, verify_error="").order_by("-as_of", "-id")


def ask_for_dump(*, corpus: Corpus, actor: Operator | str, now: datetime, key: str = "") -> UUID:
    """Have a dump made of what serves now; returns the id of the work.

    Args:
        key: The same again under a key is the same dump.
    Raises:
        NamespaceNotReady: nothing serves.
    """
    if corpus.live_namespace_id is None:
        raise NamespaceNotReady(f"corpus {corpus.slug!r} is served from no namespace; there is nothing to dump")
    arguments = {"corpus": corpus.slug, "actor": audit.name_of(actor)}
    return work.enqueue(kind=DUMP, arguments=arguments, key=key, now=now)


def ask_for_verification(*, dump: Dump, now: datetime, key: str = "") -> UUID:
    """Have a dump read whole; its row says what was found. Returns the id of the work.

    Args:
        key: As `ask_for_dump`.
    Raises:
        DumpRefused: it was never finished, or is deleted.
    """
    if dump.state != DumpState.COMPLETE or dump.deleted_at is not None:
        raise DumpRefused(f"dump {dump.name!r} is {'deleted' if dump.deleted_at else dump.get_state_display().lower()}")
    return work.enqueue(kind=VERIFY, arguments={"dump": dump.pk}, key=key, now=now)


def run_dump(arguments: dict[str, Any], attempt: Attempt) -> None:
    """As `controlplane.work` calls it: a try after a failed one begins another dump.

    Raises:
        DumpFailed: as `make_dump`.
    """
    corpus = Corpus.objects.select_related("live_namespace").get(slug=arguments["corpus"])
    if corpus.live_namespace is not None:
        make_dump(namespace=corpus.live_namespace, actor=arguments["actor"], now=timezone.now())


def run_verification(arguments: dict[str, Any], attempt: Attempt) -> None:
    """As `controlplane.work` calls it."""
    dump = Dump.objects.get(pk=arguments["dump"])
    if dump.deleted_at is None:
        verify_dump(dump, now=timezone.now())


def ask_for_due(*, now: datetime) -> int:
    """Have every dump made whose time has come, once however often this is asked; returns of how many corpora. The copy
    of one that has none yet is tried again beside.
    """
    asked = 0
    for slug, promised in promises().items():
        hours = promised.recovery.dump_hours
        corpus = Corpus.objects.filter(slug=slug, live_namespace__isnull=False).first()
        if not hours or corpus is None:
            continue
        newest = corpus.dumps.exclude(state=DumpState.FAILED).filter(began_at__gt=now - timedelta(hours=hours))
        if not newest.exists():
            # The slots of the clock: of all who ask within one, the first is heard.
            slot = int(now.timestamp()) // (hours * 3600)
            ask_for_dump(corpus=corpus, actor=CLOCK, now=now, key=f"{slug}/{hours}/{slot}")
            asked += 1
    return asked


def ask_to_verify(*, now: datetime) -> int:
    """Have the newest good dump of each corpus read whole: when it is made, and again whenever that was VERIFY_EVERY
    ago. Where it could not be read, it is tried again a day later. Returns of how many corpora.
    """
    asked = 0
    for corpus in Corpus.objects.all():
        dump = good_dumps(corpus).first()
        if dump is not None and (dump.verified_at is None or dump.verified_at <= now - VERIFY_EVERY):
            ask_for_verification(dump=dump, key=f"{dump.pk}/{now:%Y-%m-%d}", now=now)
            asked += 1
    return asked


def copy_uncopied(*, now: datetime) -> int:
    """Copy the newest good dump of each corpus that has no copy; returns how many have one now."""
    copied = 0
    for corpus in Corpus.objects.all():
        dump = good_dumps(corpus).first()
        if dump is not None and dump.copied_at is None:
            copied += copy_dump(dump, now=now)
    return copied


def delete_dump(
    *, dump: Dump, actor: Operator | str, now: datetime, kept: Vault | None = None, second: Vault | None = None
) -> None:
    """Delete a dump in both stores; its row stays. One that is deleted is left as it is.

    Raises:
        DumpRetained: its time is not over, or it is the newest good one of its corpus.
        VaultUnavailable: some of it may still be there; it can be asked for again.
    """
    dump.refresh_from_db()
    if dump.deleted_at is not None:
        return
    if dump.retain_until is not None and now < dump.retain_until:
        raise DumpRetained(f"dump {dump.name!r} is kept until {dump.retain_until:%Y-%m-%d %H:%M} UTC")
    if dump == good_dumps(dump.corpus).first():
        raise DumpRetained(f"dump {dump.name!r} is the newest good one of {dump.corpus.slug!r}; it is never deleted")
    there = second or second_vault()
    if there is not None:
        there.delete(dump.name, retain_until=dump.retain_until, now=now)
    (kept or vault()).delete(dump.name, retain_until=dump.retain_until, now=now)
    _note_deleted(dump, actor, now)


@audit.operation
def _note_deleted(dump: Dump, actor: Operator | str, now: datetime) -> None:
    dump.deleted_at = now
    dump.save(update_fields=["deleted_at"])
    audit.record("corpus.dump_deleted", actor=actor, target=dump.corpus, at=now, data={"dump": dump.name})


def expire_dumps(*, now: datetime) -> int:
    """Note as failed what nobody writes any more, and delete every dump whose time is over, but for the newest good one
    of each corpus; returns how many.
    """
    Dump.objects.filter(state=DumpState.WRITING, began_at__lt=now - GIVEN_UP).update(
        state=DumpState.FAILED, error="whoever wrote it died", ended_at=now
    )
    deleted = 0
    for dump in _expired(now):
        try:
            delete_dump(dump=dump, actor=CLOCK, now=now)
        except DumpRetained:
            continue
        except VaultUnavailable as exc:
            logger.warning("dump %s is not deleted yet: %s", dump.name, exc)
            continue
        deleted += 1
    return deleted


def _expired(now: datetime) -> Iterator[Dump]:
    over = Dump.objects.exclude(state=DumpState.WRITING).filter(deleted_at=None, retain_until__lte=now)
    yield from over.select_related("corpus").order_by("id")
