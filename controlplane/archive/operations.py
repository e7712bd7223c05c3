"""Export the audit record, segment by segment, to where nobody can change it: see `dataplane.audit_trail`.

A segment is put (events, then manifest), its head is put in a second place, and only then is it noted here. Whoever
dies in between leaves objects that the next run finds: it holds them against the record and goes on from them, so that
no name is ever written twice with different bytes. A lock of the database keeps it to one writer at a time.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Final

from django.conf import settings
from django.db import connection, transaction
from django.urls import reverse

from controlplane.alerts.models import Severity
from controlplane.alerts.operations import raise_alert
from controlplane.archive.errors import ArchiveConflict
from controlplane.archive.models import AuditSegment
from controlplane.audit.models import AuditEvent
from controlplane.corpora.errors import VaultTaken, VaultUnavailable
from controlplane.corpora.vault import Vault, open_vault
from controlplane.releases.errors import SigningKeyMissing
from controlplane.releases.signing import signing_key
from controlplane.releases.trust import keys_of_the_past
from dataplane.audit_trail import (
    EVENTS,
    GENESIS,
    MANIFEST,
    Manifest,
    folder_of,
    line_of,
    read_manifest,
    sign_anchor,
    sign_manifest,
    write_json,
)
from dataplane.release import Envelope, ReleaseRefused

logger = logging.getLogger(__name__)

BEHIND: Final = "audit.export_behind"
# Any constant would do; the same in every process of this deployment, and another than the chain's.
ARCHIVE_LOCK: Final = 0x0BA11A58
MAX_EVENTS: Final = 10_000
# A quiet record is exported in stretches, not event by event; a busy one as soon as a segment is full.
EVERY: Final = timedelta(minutes=15)
LATE: Final = 3 * EVERY
ANCHORS: Final = "anchors"


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the export is. `newest` None: nothing was exported yet; `behind_since`: of the oldest event that should
    be exported by now, None when none is. `is_configured` False: nobody said where to.
    """

    is_configured: bool
    newest: AuditSegment | None
    waiting: int
    behind_since: datetime | None


def standing(*, now: datetime) -> Standing:
    """How far the export is; three queries. Events are numbered without a gap, so that none need be counted."""
    newest = AuditSegment.objects.first()
    waiting = AuditEvent.objects.filter(seq__gt=newest.last if newest else 0)
    first = waiting.order_by("seq").values_list("seq", "at").first()
    last = waiting.order_by("-seq").values_list("seq", flat=True).first()
    if first is None or last is None:
        return Standing(bool(settings.AUDIT_STORE), newest, 0, None)
    seq, oldest = first
    return Standing(bool(settings.AUDIT_STORE), newest, last - seq + 1, oldest if now - oldest > LATE else None)


def export_due(*, now: datetime, vault: Vault | None = None, second: Vault | None = None) -> int:
    """Export every segment that is due; how many there were. Raises nothing: who is told is told by an alert.

    Args:
        vault, second: Where segments and anchors go; None: where the settings say.
    """
    done = 0
    if vault is not None or settings.AUDIT_STORE:
        try:
            while _export_next(vault or _store(settings.AUDIT_STORE), second or _anchors(), now=now):
                done += 1
        except (VaultUnavailable, VaultTaken, ArchiveConflict, SigningKeyMissing):
            logger.exception("the audit record could not be exported")
    _tell(now=now)
    return done


@transaction.atomic
def _export_next(vault: Vault, second: Vault | None, *, now: datetime) -> bool:
    """Export one segment, if one is due and nobody else is at it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [ARCHIVE_LOCK])
        if not cursor.fetchone()[0]:
            return False
    before = AuditSegment.objects.first()
    number, last = (before.number + 1, before.last) if before else (1, 0)
    events = list(AuditEvent.objects.filter(seq__gt=last).order_by("seq")[:MAX_EVENTS])
    folder = folder_of(number)
    begun = vault.names(folder)
    if not begun and not _is_due(events, now=now):
        return False
    if begun:
        events = _taken_up(vault, folder, events, begun)
    locked_until = now + timedelta(days=settings.AUDIT_RETAIN_DAYS)
    data = b"".join(line_of(event.to_json()) for event in events)
    vault.put(folder, EVENTS, data, retain_until=locked_until)
    if MANIFEST in begun:
        manifest, digest = _believed(vault, folder)
    else:
        manifest = Manifest(
            segment=number,
            first=events[0].seq,
            last=events[-1].seq,
            events=len(events),
            previous_hash=before.head_hash if before else GENESIS,
            head_hash=events[-1].hash,
            events_sha256=sha256(data).hexdigest(),
            previous_manifest=before.manifest_digest if before else "",
            exported_at=now.astimezone(UTC).isoformat(timespec="seconds"),
        )
        envelope = sign_manifest(manifest, signing_key())
        digest = envelope.digest
        vault.put(folder, MANIFEST, write_json(envelope), retain_until=locked_until)
    if (manifest.events_sha256, manifest.head_hash) != (sha256(data).hexdigest(), events[-1].hash):
        raise ArchiveConflict(f"{folder} in {vault.url} has a manifest of other events than the record's")
    vault.finish(folder)
    anchor = _anchor(second, manifest, retain_until=locked_until)
    AuditSegment.objects.create(
        number=number,
        first=manifest.first,
        last=manifest.last,
        head_hash=manifest.head_hash,
        last_at=events[-1].at,
        manifest_digest=digest,
        store=vault.url,
        anchor=anchor,
        exported_at=now,
        locked_until=locked_until,
    )
    return True


def _is_due(events: Sequence[AuditEvent], *, now: datetime) -> bool:
    return len(events) == MAX_EVENTS or bool(events and now - events[0].at >= EVERY)


def _taken_up(vault: Vault, folder: str, events: Sequence[AuditEvent], names: set[str]) -> list[AuditEvent]:
    """The events of a segment that somebody began to put and did not note, held against the record.

    Raises:
        ArchiveConflict: it is not a stretch of the record that begins where the last segment ended.
    """
    if EVENTS not in names:
        raise ArchiveConflict(f"{folder} in {vault.url} has {', '.join(sorted(names))}, which no export began with")
    data = vault.read(folder, EVENTS)
    count = data.count(b"\n")
    kept = list(events[:count])
    if not kept or len(kept) < count or b"".join(line_of(event.to_json()) for event in kept) != data:
        raise ArchiveConflict(f"{folder} in {vault.url} holds other events than the record from there on")
    return kept


def _believed(vault: Vault, folder: str) -> tuple[Manifest, str]:
    try:
        return read_manifest(vault.read(folder, MANIFEST), trusted=keys_of_the_past())
    except (ReleaseRefused, ValueError) as exc:
        raise ArchiveConflict(f"{folder} in {vault.url} has a manifest that cannot be believed: {exc}") from exc


def _anchor(second: Vault | None, manifest: Manifest, *, retain_until: datetime) -> str:
    """Put the head in the second place; what was put, also when it was before. The same segment gives the same bytes
    for as long as the same key signs.
    """
    envelope = sign_anchor(
        segment=manifest.segment,
        seq=manifest.last,
        head_hash=manifest.head_hash,
        at=manifest.exported_at,
        key=signing_key(),
    )
    text = write_json(envelope)
    if second is not None:
        name = f"{manifest.segment:010d}.json"
        try:
            second.put(ANCHORS, name, text, retain_until=retain_until)
        except VaultTaken:
            # Another key signed it before somebody died, or somebody else wrote there.
            if Envelope.from_json(second.read(ANCHORS, name)).document != envelope.document:
                raise
    return text.decode()


def newest_anchor() -> bytes | None:
    """The signed head of what was exported last; None before anything was."""
    newest = AuditSegment.objects.first()
    return None if newest is None else newest.anchor.encode()


def _tell(*, now: datetime) -> None:
    """Tell people once for each segment that should be there by now and is not."""
    state = standing(now=now)
    if not state.is_configured or state.behind_since is None:
        return
    number = state.newest.number + 1 if state.newest else 1
    with transaction.atomic():
        raise_alert(
            kind=BEHIND,
            severity=Severity.WARN,
            title="The audit record is not exported",
            sentence="Events wait for too long to be where nobody can change them. See the worker's log: the store may "
            "be away or refuse, or hold something that the record does not.",
            facts={"waiting": state.waiting, "since": state.behind_since.isoformat(), "segment": number},
            link=reverse("audit"),
            target="audit:export",
            dedupe=f"segment-{number}",
            now=now,
        )


def _anchors() -> Vault | None:
    return _store(settings.AUDIT_ANCHOR_STORE) if settings.AUDIT_ANCHOR_STORE else None


@lru_cache(maxsize=4)
def _store(url: str) -> Vault:
    return open_vault(url)
