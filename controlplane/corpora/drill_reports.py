"""What a drill showed, as evidence: one canonical JSON document, signed, that can be verified without any of this."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from controlplane.corpora.models import Namespace, RecoveryDrill
from controlplane.corpora.policies import corpus_policies
from controlplane.corpora.scenarios import Scenario
from controlplane.releases.operations import current_release
from controlplane.releases.signing import signing_key
from dataplane.documents import ReleaseRefused, parse_json
from dataplane.release import Envelope, sign_under, verified_digest
from dataplane.retrieval.policy import Corpus as Promised

FORMAT: Final = 1
_SIGNED_PREFIX: Final = b"ballast.recovery-drill.v1\n"


class ReportRefused(Exception):
    """The file is not a report as it was signed; the message says why."""

    code = "report_refused"


def write_report(
    drill: RecoveryDrill, *, scenario: Scenario, promised: Promised, way: str, rows: int
) -> dict[str, Any]:
    """Everything that a drill showed, when it is over.

    Args:
        way: How it came back: restore, rebuild or replicate; empty: that was not decided.
        rows: Chunks that were lost.

    Shape: {"format": FORMAT, "drill": int, "corpus", "scenario", "title", "loss", "detection", "state", "error": str,
    "targets_live": bool, "people": {"asked_by", "confirmed_by", "reason": str}, "times": {"asked_at", "confirmed_at",
    "began_at", "ended_at": ISO-8601 or null}, "promised": {"tier", "strategy": str, "rto_seconds", "rpo_seconds",
    "reembed_minutes": number}, "way": str, "policy": {"number": int, "digest": str} or null, "release": int or null,
    "namespace": {"number", "dimensions": int, "model", "store": str} or null, "rows": int, "dump": {"name",
    "root_sha256", "as_of": str} or null, "steps": [as `RecoveryDrill.steps`], "seconds": {phase: number},
    "predicted_seconds", "rto_seconds", "rpo_seconds": number or null, "keeps_rto", "keeps_rpo": bool or null, "tokens",
    "cost_micros": int, "acceptance": [{"name": str, "passed": bool, "words": str}]}.
    """
    recovery, dump, policy, release = promised.recovery, drill.dump, corpus_policies.active(), current_release()
    rto, rpo = recovery.rto_seconds.value, recovery.rpo_seconds.value
    return {
        "format": FORMAT,
        "drill": drill.pk,
        "corpus": drill.corpus.slug,
        "scenario": scenario.slug,
        "title": scenario.title,
        "loss": scenario.loss,
        "detection": scenario.detection,
        "state": drill.state,
        "error": drill.error,
        "targets_live": drill.targets_live,
        "people": {"asked_by": drill.actor, "confirmed_by": drill.confirmed_by, "reason": drill.reason},
        "times": {
            "asked_at": _iso(drill.asked_at),
            "confirmed_at": _iso(drill.confirmed_at),
            "began_at": _iso(drill.began_at),
            "ended_at": _iso(drill.ended_at),
        },
        "promised": {
            "tier": recovery.tier,
            "strategy": recovery.strategy,
            "rto_seconds": rto,
            "rpo_seconds": rpo,
            "reembed_minutes": recovery.reembed_minutes.value,
        },
        "way": way,
        "policy": None if policy is None else {"number": policy.number, "digest": policy.digest},
        "release": None if release is None else release.revision,
        "namespace": None if drill.namespace is None else _namespace(drill.namespace),
        "rows": rows,
        "dump": None
        if dump is None
        else {"name": dump.name, "root_sha256": dump.root_sha256, "as_of": _iso(dump.as_of)},
        "steps": drill.steps,
        "seconds": drill.seconds,
        "predicted_seconds": drill.predicted_seconds,
        "rto_seconds": drill.rto_seconds,
        "rpo_seconds": drill.rpo_seconds,
        "keeps_rto": None if drill.rto_seconds is None else drill.rto_seconds <= rto,
        "keeps_rpo": None if drill.rpo_seconds is None else drill.rpo_seconds <= rpo,
        "tokens": drill.tokens,
        "cost_micros": drill.cost_micros,
        "acceptance": drill.acceptance.get("checks", []),
    }


def sign_report(report: Mapping[str, Any]) -> Envelope:
    """Sign a report with the key of releases.

    Raises:
        SigningKeyMissing: as `signing_key`.
    """
    return sign_under(report, signing_key(), prefix=_SIGNED_PREFIX)


def read_report(data: str | bytes, *, trusted: Mapping[str, Ed25519PublicKey]) -> tuple[dict[str, Any], str]:
    """The report in an envelope, and its digest, once its signature holds. Needs no database.

    Raises:
        ReportRefused: it is no envelope, or not what was signed, or by a key that nobody trusts.
    """
    try:
        envelope = Envelope.from_json(data)
        digest = verified_digest(envelope, trusted, prefix=_SIGNED_PREFIX)
        report = parse_json(envelope.document)
    except ReleaseRefused as exc:
        raise ReportRefused(str(exc)) from exc
    return dict(report), digest


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat()


def _namespace(namespace: Namespace) -> dict[str, Any]:
    return {
        "number": namespace.number,
        "dimensions": namespace.dimensions,
        "model": namespace.model,
        "store": namespace.store,
    }
