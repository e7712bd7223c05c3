"""Cut, push and return to releases, and keep what workers say of them."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from django.db import connection, transaction
from django.db.models import AutoField
from kombu import Exchange

from controlplane import tracing
from controlplane.audit import operations as audit
from controlplane.celery import app as celery_app
from controlplane.releases.errors import NothingToResume, NothingToRollBack, UnservableRelease
from controlplane.releases.models import Ack, Release, Worker
from controlplane.releases.sections import all_sections, mistakes_in
from controlplane.releases.signing import signing_key
from dataplane.release import SANDBOX_REVISION, SCHEMA, ReleaseRefused, parse_document, sign
from dataplane.release import Release as Servable

logger = logging.getLogger(__name__)

PUSH_TASK = "ballast.release.push"
PUSH_EXCHANGE = Exchange("ballast.releases", type="fanout")


def current_release() -> Release | None:
    """The newest release; None before the first is cut."""
    return Release.objects.first()


@dataclass(slots=True)
class _PendingRelease:
    """The release that the operation under way will end with: why, by whom, since when."""

    actor: Any
    now: datetime
    reasons: list[str] = field(default_factory=list)

    def __call__(self) -> None:
        cut_release(reason="; ".join(self.reasons), actor=self.actor, now=self.now)


def publish_on_commit(*, reason: str, actor: Any, now: datetime) -> None:
    """Have the operation under way end with one release: cut inside its transaction, pushed once that has committed.

    Cut inside, so that no state is ever committed without its release; pushed outside, so that no worker ever serves a
    state that was rolled back. Several calls in one operation give one release with every reason.

    Args:
        now: When the act reached the console; convergence is measured from here.
    """
    pending = audit.before_commit("release", _PendingRelease(actor, now))
    if reason not in pending.reasons:
        pending.reasons.append(reason)


def cut_release(
    *, reason: str, actor: Any, now: datetime, restores: int | None = None, above: int = 0
) -> Release | None:
    """Compile, sign and store the next release inside the operation under way; it takes the place of a pending one.

    The chain's lock makes releases linear: whoever comes second compiles on top of the first.

    Args:
        above: Its revision is higher than this one, and it is cut whatever the current release carries.
    Returns:
        The release; None when the state is already exactly what the current release carries.
    Raises:
        UnservableRelease: the workers' own parser would refuse it, or it brings a mistake that a check finds; the
            message names the JSON path.
        SigningKeyMissing: and the whole operation is undone.
    """
    audit.cancel_before_commit("release")
    audit.hold_chain()
    latest = current_release()
    sections = {section.name: section.compile() for section in all_sections()}
    last = latest.revision if latest else 0
    if latest is not None and latest.content["sections"] == sections and above <= last:
        return None
    revision = max(last, above) + 1
    facts = {"reason": reason, "restores": restores}
    audit.record("release.cut", actor=actor, target=f"release:{revision}", at=now, data=facts)
    seq, head_hash = audit.head()
    document = {
        "schema": SCHEMA,
        "revision": revision,
        "cut_at": now.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "reason": reason[:300],
        "audit_head": {"seq": seq, "hash": head_hash},
        "sections": sections,
    }
    try:
        servable = parse_document(document, digest="")
    except ReleaseRefused as exc:
        raise UnservableRelease(f"this would give a release that every worker refuses: {exc}") from exc
    if restores is None:
        _refuse_new_mistakes(servable, latest)
    envelope = sign(document, signing_key())
    # What nobody's trace led to, such as the watch over a canary, begins one: every release can be followed.
    with tracing.span("cut release", facts={"ballast.release": revision, "ballast.release.digest": envelope.digest}):
        release = Release.objects.create(
            revision=revision,
            document=envelope.document,
            digest=envelope.digest,
            key_id=envelope.key_id,
            signature=envelope.signature,
            reason=reason[:300],
            actor=audit.name_of(actor),
            clicked_at=now,
            restores=restores,
            traceparent=tracing.current(),
        )
    transaction.on_commit(lambda: push(release))
    return release


# Evals are nobody's customers, in nobody's canary, on no ladder and ask no corpus, whose routes a candidate table may
# lack; what their rows rest on, they bring along.
_NOT_FOR_EVALS: Mapping[str, Any] = {
    "access": {"tenants": {}, "keys": {}},
    "canaries": {},
    "ladder": {},
    "activations": {},
    "emergency": {},
    "corpora": {},
    "trust": {},
}


def sandbox_document(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What a release cut now would carry, with some sections replaced: for evals alone. Nothing is stored.

    The same sections give the same document, whenever it is asked for, so that its digest says what was tried. Every
    request of an eval carries it, so who may call, and canaries, are left out unless they are given.

    Args:
        overrides: Whole sections by name, such as a candidate routing table, or prompts with a further version.
    Raises:
        ValueError: there is no section of a name.
        UnservableRelease: a gateway would refuse it; the message names the JSON path.
    """
    names = {section.name for section in all_sections()}
    if unknown := sorted(overrides.keys() - names):
        raise ValueError(f"no section of a release is called {', '.join(map(repr, unknown))}")
    given = {name: part for name, part in _NOT_FOR_EVALS.items() if name in names} | dict(overrides)
    sections = {one.name: given[one.name] if one.name in given else one.compile() for one in all_sections()}
    document = {
        "schema": SCHEMA,
        "revision": SANDBOX_REVISION,
        "cut_at": "1970-01-01T00:00:00Z",
        "reason": "sandbox",
        "audit_head": {"seq": 0, "hash": ""},
        "sections": sections,
    }
    try:
        parse_document(document, digest="", is_sandbox=True)
    except ReleaseRefused as exc:
        raise UnservableRelease(f"this would give a sandbox that every gateway refuses: {exc}") from exc
    return document


def _refuse_new_mistakes(servable: Servable, latest: Release | None) -> None:
    """Return unless the checks find what they did not find in the release before.

    What is served already stays: whoever holds a lane or turns a knob down in an incident must not have to mend first
    what a newer capability matrix finds in a table that was signed long ago. Going back to a release is never checked.
    """
    mistakes = mistakes_in(servable)
    if mistakes and latest is not None:
        known = set(mistakes_in(parse_document(latest.content, digest="")))
        mistakes = [line for line in mistakes if line not in known]
    if mistakes:
        raise UnservableRelease(f"this would give a release that cannot serve what it promises: {'; '.join(mistakes)}")


def push(release: Release) -> bool:
    """Broadcast a release to every agent; False when the broker is away, which agents make up for by asking.

    Never raises: the change is committed, and an operator must not be told otherwise.
    """
    try:
        with tracing.span("push release", parent=release.traceparent, facts={"ballast.release": release.revision}):
            celery_app.send_task(
                PUSH_TASK,
                args=[release.envelope().to_json()],
                exchange=PUSH_EXCHANGE.name,
                exchange_type=PUSH_EXCHANGE.type,  # else Celery puts the message into its own default queue
                routing_key="",
                declare=[PUSH_EXCHANGE],
                ignore_result=True,
            )
    except Exception:  # kombu raises whatever its transport raises
        logger.warning("push of r%s failed; agents will fetch it", release.revision, exc_info=True)
        return False
    return True


@audit.operation
def resume_after_restore(*, seen: Servable, actor: Any, reason: str, now: datetime) -> Release:
    """Go on after the database was restored from a backup: cut what it says now as a release that is newer than `seen`,
    the newest release that any worker has. Workers refuse every other, since a revision never comes twice.

    The record says what is gone: how far the restored one reached, and the head that `seen` carries.

    Raises:
        NothingToResume: the current release is as new as `seen`, so nothing was lost that workers know of.
    """
    latest = current_release()
    last = latest.revision if latest else 0
    if last >= seen.revision:
        raise NothingToResume(f"r{last} is current, and workers have seen r{seen.revision} at most")
    head_seq, _ = audit.head()
    audit.record(
        "release.resumed",
        actor=actor,
        target=f"release:{seen.revision}",
        at=now,
        data={
            "reason": reason,
            "digest": seen.digest,
            "restored_revision": last,
            "restored_head": head_seq,
            "lost_head": {"seq": seen.audit_seq, "hash": seen.audit_hash},
        },
    )
    release = cut_release(reason=f"resumed after a restore: {reason}", actor=actor, now=now, above=seen.revision)
    assert release is not None  # noqa: S101 - for the type checker: nothing unchanged is above what is current
    return release


def push_latest(*, now: datetime) -> bool:
    """Push the newest release again when a worker does not serve it yet; a lost broadcast costs seconds."""
    release = current_release()
    if release is None:
        return False
    lagging = Worker.objects.expected(now).exclude(digest=release.digest).exclude(refused_digest=release.digest)
    return push(release) if lagging.exists() else False


@audit.operation
def roll_back_to(*, release: Release, actor: Any, reason: str, now: datetime) -> Release:
    """Return to what an earlier release served, as a new release: one click, no sign-off (rule 2).

    Live versions, copy and routing return; canary knobs only ever turn down, and a canary that has ended stays ended,
    so a rolled-back candidate never comes back this way. Keys and tenants stay as they are now.

    Raises:
        NothingToRollBack: it is the current release, or nothing differs that could be returned.
    """
    latest = current_release()
    if latest is None or latest.revision == release.revision:
        raise NothingToRollBack(f"r{release.revision} is the current release")
    why = f"roll back to r{release.revision}: {reason}"
    sections = release.content["sections"]
    for section in all_sections():
        if section.restore is not None and section.name in sections:
            section.restore(sections[section.name], actor=actor, reason=why, now=now)
    facts = {"from": latest.revision, "reason": reason}
    audit.record("release.rolled_back", actor=actor, target=release, at=now, data=facts)
    restored = cut_release(reason=why, actor=actor, now=now, restores=release.revision)
    if restored is None:
        raise NothingToRollBack(
            f"nothing that can be returned differs between r{release.revision} and r{latest.revision}"
        )
    return restored


# --- what workers say ------------------------------------------------------------------------------------------------
def record_reports(reports: Iterable[Mapping[str, Any]], *, now: datetime) -> list[str]:
    """Take in a batch of workers' reports: each worker's state if newer than what is known, each verdict once.

    Args:
        reports: Each with `worker`, `boot`, `seq`, `sent_at`, `state` and `acks`, as workers send them.
        now: When they were received.
    Returns:
        The names of the workers it heard from. The number of statements does not depend on how many there are.
    """
    newest: dict[str, Mapping[str, Any]] = {}
    started: dict[str, datetime] = {}
    acks: list[Ack] = []
    for report in reports:
        known = newest.get(report["worker"])
        if known is None or _age(report) > _age(known):
            newest[report["worker"]] = report
        acks.extend(_acks_of(report))
        started[report["boot"]] = datetime.fromtimestamp(report["state"]["started_at"], UTC)
    rows = Release.objects.filter(revision__in={ack.revision for ack in acks})
    clicked = {(revision, digest): at for revision, digest, at in rows.values_list("revision", "digest", "clicked_at")}
    for ack in acks:
        clicked_at = clicked.get((ack.revision, ack.digest))
        if clicked_at is not None and started.get(ack.boot, clicked_at) <= clicked_at:
            ack.latency_ms = (ack.at - clicked_at).total_seconds() * 1000
    with transaction.atomic():
        existing = {
            worker.name: worker for worker in Worker.objects.select_for_update().filter(name__in=sorted(newest))
        }
        workers = [_worker_row(report, existing.get(name), acks, now) for name, report in sorted(newest.items())]
        _insert(workers, f"ON CONFLICT (name) DO UPDATE SET {_WORKER_UPDATE}")
        _insert(acks, "ON CONFLICT DO NOTHING")
    return sorted(newest)


_WORKER_UPDATE = ", ".join(
    f"{f.column} = EXCLUDED.{f.column}" for f in Worker._meta.concrete_fields if f.name != "name"
)


def _insert(rows: Sequence[Worker] | Sequence[Ack], conflict: str) -> None:
    """Insert rows, one array per column: a hundred workers acknowledge at once, and every page waits for the last.

    `bulk_create` prepares each value of each row by itself, which takes several times as long.
    """
    if not rows:
        return
    model = type(rows[0])
    fields = [field for field in model._meta.concrete_fields if not isinstance(field, AutoField)]
    columns = ", ".join(str(field.column) for field in fields)
    arrays = ", ".join(f"%s::{field.db_type(connection)!s}[]" for field in fields)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {model._meta.db_table} ({columns}) SELECT * FROM unnest({arrays}) {conflict}",  # noqa: S608 - names of our own columns
            [[getattr(row, field.attname) for row in rows] for field in fields],
        )


def _age(report: Mapping[str, Any]) -> tuple[float, int]:
    """Orders the reports of one worker: a later boot after an earlier one, whatever its count says."""
    return report["state"]["started_at"], report["seq"]


def _worker_row(report: Mapping[str, Any], known: Worker | None, acks: list[Ack], now: datetime) -> Worker:
    """The worker's row after this report; as it was, but for refusals, if the report is older (a replayed spool)."""
    state = report["state"]
    started_at = datetime.fromtimestamp(state["started_at"], UTC)
    if known is not None:
        same_boot = known.boot == report["boot"]
        if (same_boot and report["seq"] <= known.sequence) or (not same_boot and started_at < known.started_at):
            return _with_refusals(known, acks)
    row = Worker(
        name=report["worker"],
        kind=state["kind"],
        host=state["host"],
        region=state.get("region", ""),
        pid=state["pid"],
        boot=report["boot"],
        sequence=report["seq"],
        status=state["status"],
        revision=state["revision"],
        digest=state["digest"] or "",
        in_flight=state["in_flight"],
        started_at=started_at,
        # A spool replayed after an outage must not make a worker look alive at a time when nobody heard of it.
        last_seen_at=min(now, datetime.fromtimestamp(report["sent_at"], UTC)),
    )
    if known is not None:
        row.refused_revision, row.refused_digest = known.refused_revision, known.refused_digest
        row.refused_reason = known.refused_reason
    return _with_refusals(row, acks)


def _with_refusals(row: Worker, acks: list[Ack]) -> Worker:
    """The row with the newest release that the worker refused, whatever order its words came in."""
    for ack in acks:
        if ack.worker == row.name and ack.verdict == "nack" and ack.revision >= (row.refused_revision or 0):
            row.refused_revision, row.refused_digest, row.refused_reason = ack.revision, ack.digest, ack.reason
    return row


def _acks_of(report: Mapping[str, Any]) -> list[Ack]:
    return [
        Ack(
            worker=report["worker"],
            boot=report["boot"],
            revision=ack["revision"] or 0,
            digest=ack["digest"] or "",
            verdict=ack["verdict"],
            reason=ack.get("reason", ""),
            at=datetime.fromtimestamp(ack["at"], UTC),
            latency_ms=None,
        )
        for ack in report.get("acks", ())
    ]
