"""Erase what is kept of one user of a tenant, wherever it lies, and say that it is done only when it is.

What the database holds goes with the commit; objects go when the payload store says so, however often it must be asked;
and what was under way meanwhile, whose words are only written when it ends, goes a while later. Beat sees to both.
"""

import logging
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from django.db import connection, transaction

from controlplane.accounts.models import Operator
from controlplane.audit import operations as audit
from controlplane.deadletters.erasures import SUBJECT_CHARACTERS, Erasure, ErasureState, Kept
from controlplane.deadletters.errors import NoReason, NoSubject
from controlplane.deadletters.kinds import JOB
from controlplane.deadletters.models import DeadLetter
from controlplane.deadletters.retention import PURGED_PER_STEP, wipe
from controlplane.ledger.idempotency import IdempotencyRecord, IdempotencyRecordQuerySet
from controlplane.ledger.repairs import Repair
from controlplane.ledger.streams import erase_transcripts
from controlplane.telemetry.samples import AnswerSample
from controlplane.telemetry.shadows import ShadowSample
from controlplane.work import operations as work
from dataplane.deadletters import PayloadState, fingerprint_of
from dataplane.ids import new_id
from dataplane.stores import jobs_sql as sql
from dataplane.stores.payloads import PayloadStore, PayloadUnavailable

logger = logging.getLogger(__name__)

# Who the audit record says finished: nobody has to ask for that.
ERASURE: Final = "erasure"
# When it is gone over again: longer than a request that waits for an answer takes, and than reports take to come in.
AGAIN_AFTER: Final = timedelta(minutes=15)
# A runner that has just taken a job hears within seconds that it is to stop; and clocks of hosts may differ as much.
_BEGINNING: Final = timedelta(seconds=30)
# Streams, repairs and usage know a user by so many digits of the hash (`dataplane.journey.hash_user`).
_SHORT_HASH_CHARACTERS: Final = 16


@audit.operation
def erase_subject(*, tenant: str, user_hash: str, reason: str, actor: Operator | str, now: datetime) -> Erasure:
    """Erase what is kept of the words of one user of a tenant, and whose they were: see `Kept`. Letters that are held
    stay, and are named. What is left to do then is done by `finish`.

    A job of theirs that waits or runs is cancelled: without its words it cannot be done.

    Args:
        user_hash: SHA-256 of the user's id, in hex, as `dataplane.idempotency.Scope` has it.
    Raises:
        NoSubject: who, is not said.
        NoReason: why, is not said.
    """
    if not tenant or not user_hash:
        raise NoSubject
    if not reason.strip():
        raise NoReason
    counts, left = _erase(tenant, user_hash, now=now)
    held = DeadLetter.objects.filter(tenant=tenant, user_hash=user_hash).exclude(hold_by="").order_by("pk")
    erasure = Erasure.objects.create(
        id=UUID(new_id(now.timestamp())),
        tenant=tenant,
        subject=user_hash[:SUBJECT_CHARACTERS],
        user_hash=user_hash,
        reason=reason[:1000],
        asked_by=audit.name_of(actor),
        asked_at=now,
        again_at=now + AGAIN_AFTER,
        counts=counts,
        held=[str(name) for name in held.values_list("pk", flat=True)],
        objects_left=left,
    )
    data = {"subject": erasure.subject, **counts, "held": erasure.held, "objects": len(left), "reason": reason}
    audit.record("subject.erased", actor=actor, target=erasure, at=now, data=data)
    return erasure


def finish(*, erasure: Erasure, store: PayloadStore, now: datetime) -> bool:
    """Do what is left of an erasure, as far as it can be done now. False: something is left still, and the row says
    why. Whoever does it at the same time does no harm.
    """
    if not _delete_objects(erasure, store):
        return False
    return erasure.is_due(now) and _go_over_again(erasure=erasure, now=now)


def _delete_objects(erasure: Erasure, store: PayloadStore) -> bool:
    gone, problem = set(), ""
    for name in erasure.objects_left:
        try:
            store.delete(name)
        except PayloadUnavailable as exc:
            logger.warning("objects of an erasure of %s stay in the payload store: %s", erasure.tenant, exc)
            problem = f"the payload store is away: {exc}"[:300]
            break
        gone.add(name)
    if gone or problem != erasure.problem:
        with transaction.atomic():
            # As it stands now: somebody else may have finished it meanwhile, or found more.
            row = Erasure.objects.under_way().select_for_update().filter(pk=erasure.pk).first()
            if row is None:
                return True
            row.objects_left, row.problem = [name for name in row.objects_left if name not in gone], problem
            row.save(update_fields=["objects_left", "problem"])
        return not row.objects_left
    return not erasure.objects_left


@audit.operation
def _go_over_again(*, erasure: Erasure, now: datetime) -> bool:
    """Erase what has come to an end since, of what had begun when it was asked for; and if nothing of it can come any
    more, note that it is done.
    """
    row = Erasure.objects.select_for_update().get(pk=erasure.pk)
    if row.is_done:
        return True
    more, left = _erase(row.tenant, row.user_hash, again=row, now=now)
    row.counts = {kind: number + row.counts.get(kind, 0) for kind, number in more.items()}
    row.objects_left = [*row.objects_left, *left]
    row.problem = ""
    if _keys_of(row.tenant, row.user_hash, again=row).running_at(now).exists():
        row.problem = "a request of theirs is still being answered"
    is_done = not row.objects_left and not row.problem
    if is_done:
        row.state, row.user_hash, row.finished_at = ErasureState.DONE.value, "", now
        data = {"subject": row.subject, "asked_at": row.asked_at.isoformat(), **row.counts}
        audit.record("subject.erasure_done", actor=ERASURE, target=row, at=now, data=data)
    row.save()
    return is_done


def _erase(
    tenant: str, user_hash: str, *, again: Erasure | None = None, now: datetime
) -> tuple[dict[str, int], list[str]]:
    """Erase in the caller's transaction. Returns how many rows of each kind, and the names of objects to be deleted.

    Args:
        again: It was done before, at once. Now only what had begun when it was asked for; and of what does not say when
            that was, what came until it was to be gone over again: what they ask for afterwards is theirs anew.
    """
    begun_by, come_by = (None, None) if again is None else (again.asked_at, again.again_at)
    counts = dict.fromkeys((kind.value for kind in Kept), 0)
    objects: list[str] = []
    # A job fails and leaves a letter, a letter is handed in as a job: whichever was looked at first, the other may have
    # come meanwhile. What was found is locked, so a round that finds nothing is the last.
    while True:
        jobs = _erase_jobs(tenant, user_hash, begun_by)
        letters = DeadLetter.objects.filter(tenant=tenant, user_hash=user_hash, hold_by="")
        if come_by is not None:
            # Those of jobs that had begun by then went with them.
            letters = letters.exclude(kind=JOB).filter(created_at__lte=come_by)
        names = list(letters.order_by("pk").values_list("pk", flat=True))
        for some in _in_steps(names):
            wiped, left = wipe(some, now=now)
            counts[Kept.LETTERS] += wiped
            objects += left
        # Letters whose time was over say no more whose they were; those of jobs still do, by their work.
        known = DeadLetter.objects.filter(kind=JOB, tenant=tenant, work_id__in=jobs).values_list("pk", flat=True)
        counts[Kept.SUMMARIES] += sum(_forget_summaries(some) for some in _in_steps([*names, *known]))
        counts[Kept.JOBS] += len(jobs)
        if not jobs and not names:
            break
    counts[Kept.WORK] = work.forget_subject(tenant=tenant, user_hash=user_hash)
    counts[Kept.REPLAYS] = _keys_of(tenant, user_hash, again=again).forget_answers()
    short = user_hash[:_SHORT_HASH_CHARACTERS]
    repairs = Repair.objects.filter(tenant=tenant, user_hash=short)
    samples = AnswerSample.objects.of_user(tenant=tenant, user=short)
    shadows = ShadowSample.objects.of_user(tenant=tenant, user=short)
    if come_by is not None:
        repairs, samples = repairs.filter(created_at__lte=come_by), samples.filter(at__lte=come_by)
        shadows = shadows.filter(at__lte=come_by)
    counts[Kept.REPAIRS] = repairs.erase()
    counts[Kept.SAMPLES] = samples.delete()[0]
    counts[Kept.SHADOWS] = shadows.delete()[0]
    counts[Kept.TRANSCRIPTS] = erase_transcripts(tenant=tenant, user=short, until=begun_by)
    return counts, objects


def _keys_of(tenant: str, user_hash: str, *, again: Erasure | None) -> IdempotencyRecordQuerySet:
    until = None if again is None else again.asked_at + _BEGINNING
    return IdempotencyRecord.objects.of_subject(tenant=tenant, user_hash=user_hash, until=until)


def _erase_jobs(tenant: str, user_hash: str, begun_by: datetime | None) -> list[UUID]:
    """Erase jobs, by the data plane's statement; returns which."""
    with connection.cursor() as cursor:
        cursor.execute(sql.ERASE, {"tenant": tenant, "user_hash": user_hash, "begun_by": begun_by})
        return [job for (job,) in cursor.fetchall()]


def _forget_summaries(names: Sequence[UUID]) -> int:
    """Have letters that are purged say nothing that an error message said, and be of the group that says nothing. A
    group goes with its last letter; one that others failed alike in keeps what it says of these. Returns how many.
    """
    told = DeadLetter.objects.filter(pk__in=names, payload_state=PayloadState.PURGED.value).exclude(summary="")
    forgotten = 0
    alike = ("kind", "name", "category", "code")
    for facts in told.order_by(*alike).values(*alike).distinct():
        fingerprint = fingerprint_of(**facts, summary="")
        forgotten += told.filter(**facts).update(summary="", fingerprint=fingerprint)
    return forgotten


def _in_steps(names: Sequence[UUID]) -> Iterator[Sequence[UUID]]:
    for first in range(0, len(names), PURGED_PER_STEP):
        yield names[first : first + PURGED_PER_STEP]
