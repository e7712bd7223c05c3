"""Signed copy as people read it: the words in each language, what differs, and where a piece and a version stand."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.db.models import F

from controlplane.approvals.models import ChangeRequest, Decision, RejectedDigest, SignOff
from controlplane.console.copy_rungs import RungSaid, rung_differences, said_by_rung
from controlplane.console.diffs import diff_rows
from controlplane.console.previews import Difference
from controlplane.console.templatetags.ballast import pretty_json
from controlplane.ladder.models import Copy, CopyActivation, CopyKind, CopyVersion
from controlplane.ladder.operations import KIND_NAME
from controlplane.ladder.uses import Use, uses
from dataplane.rung_words import BANNER_PLACEHOLDERS, RUNG_PLACEHOLDERS
from dataplane.signed_copy import ESCALATION_PLACEHOLDERS, FRESHNESS_PLACEHOLDERS, PLACEHOLDERS

# What a placeholder may become; readers are told that these are samples.
SAMPLES: Final[Mapping[str, str]] = {
    "as_of": "14:05 UTC",
    "corpus": "Help centre",
    "eta_seconds": "240",
    "eta_minutes": "4",
    "job": "job-3c81f0a4",
    "lag": "12 min",
    "position": "12",
    "request_id": "req-7f3a91c2",
    "route": "chat",
    "status_url": "https://status.example/web-chat",
    "surface": "Web chat",
}
_MEANINGS: Final[Mapping[str, str]] = {
    "as_of": "the time since when changes may be missing",
    "corpus": "the title of the corpus",
    "eta_seconds": "seconds until it is expected to be over",
    "eta_minutes": "minutes until it is expected to be over, rounded up",
    "job": "the id of an answer that comes later; a dash without one",
    "lag": "how old the oldest change is that is missing, in words",
    "position": "its place among those that wait; a dash without one",
    "request_id": "what support finds the request by",
    "route": "which route was asked",
    "status_url": "the address of the surface’s status page; it may be the whole of a link’s href",
    "surface": "the name of the product surface",
}


@dataclass(frozen=True, slots=True)
class Placeholder:
    """What may stand in words of a kind: as it is written, what it becomes, and as the preview shows it."""

    name: str
    meaning: str
    sample: str
    is_in_banner: bool

    @property
    def written(self) -> str:
        return f"{{{{{self.name}}}}}"


def placeholders(kind: str) -> list[Placeholder]:
    """Those of a kind of copy; an answer to a known question has none."""
    allowed = {
        CopyKind.ANSWERS: frozenset[str](),
        CopyKind.ESCALATION: ESCALATION_PLACEHOLDERS,
        CopyKind.RUNG: RUNG_PLACEHOLDERS,
        CopyKind.FRESHNESS: FRESHNESS_PLACEHOLDERS,
    }
    names = allowed.get(CopyKind(kind), PLACEHOLDERS)
    in_banner = BANNER_PLACEHOLDERS if kind == CopyKind.RUNG else names
    return [Placeholder(name, _MEANINGS[name], SAMPLES[name], name in in_banner) for name in sorted(names)]


@dataclass(frozen=True, slots=True)
class Said:
    """One text with sample values filled in, and the questions that it answers; none for words that answer any."""

    questions: tuple[str, ...]
    text: str
    json: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything that a version says in one language: in `rung` of that kind, in `said` of the others."""

    locale: str
    is_default: bool
    said: tuple[Said, ...] = ()
    rung: RungSaid | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """Who signed, in which role, when."""

    name: str
    role: str
    at: datetime


def readings(version: CopyVersion) -> list[Reading]:
    """What users would read, by the code that workers run; the default language first."""
    parsed = version.parsed()
    found = []
    for locale in parsed.locales:
        is_default = locale == parsed.default_locale
        if parsed.kind == CopyKind.RUNG:
            found.append(Reading(locale, is_default, rung=said_by_rung(parsed.rung[locale], SAMPLES)))
        elif parsed.kind == CopyKind.ANSWERS:
            said = tuple(
                Said(answer.questions, answer.words.text, answer.words.json) for answer in parsed.answers[locale]
            )
            found.append(Reading(locale, is_default, said))
        else:
            filled = parsed.words[locale].filled(SAMPLES)
            found.append(Reading(locale, is_default, (Said((), filled.text, filled.json),)))
    return found


def has_samples(version: CopyVersion) -> bool:
    """Whether anything in it is filled in when it is shown."""
    return any("{{" in str(words) for words in version.document["locales"].values())


def copy_differences(before: CopyVersion | None, after: CopyVersion) -> list[Difference]:
    """Compare two versions language by language; without a `before`, everything is new."""
    old: Mapping[str, Any] = before.document["locales"] if before else {}
    new: Mapping[str, Any] = after.document["locales"]
    of_kind = rung_differences if after.copy.kind == CopyKind.RUNG else _differences
    parts = [part for locale in sorted({*old, *new}) for part in of_kind(locale, old.get(locale), new.get(locale))]
    defaults = [version.document["default_locale"] if version else "" for version in (before, after)]
    return [*parts, Difference("Language of last resort", diff_rows(*defaults))]


def _differences(locale: str, before: Any, after: Any) -> list[Difference]:
    return [Difference(f"Words in {locale}", diff_rows(_as_text(before), _as_text(after)))]


def _as_text(words: Any) -> str:
    if words is None:
        return ""
    if isinstance(words, list):
        return "\n\n".join(
            "\n".join([*(f"? {question}" for question in answer["questions"]), _as_text(answer)]) for answer in words
        )
    shown = "" if words["json"] is None else f"\n{pretty_json(words['json'])}"
    return f"{words['text']}{shown}"


# --- where it stands -------------------------------------------------------------------------------------------------
def copy_rows(pieces: Sequence[Copy]) -> list[dict[str, Any]]:
    """Each piece with where it stands; five queries however many.

    Shape: {"copy", "state": see `_state`, "live": CopyActivation or None, "signatures": [Signature], "locales": [str],
            "uses": [Use], "changes": [open ChangeRequest]}.
    """
    live = {one.version.copy_id: one for one in CopyActivation.objects.current().filter(version__copy__in=pieces)}
    signed = signatures([one.version for one in live.values()])
    waiting = open_changes(pieces)
    used: Mapping[str, list[Use]] = uses()
    rows = []
    for copy in pieces:
        activation, changes = live.get(copy.pk), waiting.get(copy.audit_name, [])
        rows.append(
            {
                "copy": copy,
                "state": _state(activation, changes),
                "live": activation,
                "signatures": signed.get(activation.version_id, []) if activation else [],
                "locales": activation.version.parsed().locales if activation else (),
                "uses": used.get(copy.slug, []),
                "changes": changes,
            }
        )
    return rows


def _state(live: CopyActivation | None, changes: Sequence[ChangeRequest]) -> str:
    """signed (and live), proposed (nothing is live, people are asked) or unsigned."""
    if live is not None:
        return "signed"
    return "proposed" if changes else "unsigned"


def open_changes(pieces: Iterable[Copy]) -> dict[str, list[ChangeRequest]]:
    """The open changes of each piece by its audit name, newest first."""
    found: dict[str, list[ChangeRequest]] = {}
    names = [copy.audit_name for copy in pieces]
    for change in ChangeRequest.objects.open().filter(kind=KIND_NAME, target__in=names).order_by("-id"):
        found.setdefault(change.target, []).append(change)
    return found


def signatures(versions: Iterable[CopyVersion]) -> dict[int, list[Signature]]:
    """Who signed what made each version live, by its key; who came back to it had nothing to sign. Two queries."""
    activations = CopyActivation.objects.filter(version__in=list(versions), change__isnull=False)
    change_of = dict(activations.order_by("id").values_list("version_id", "change_id"))
    last: dict[int, dict[str, SignOff]] = {}
    words = SignOff.objects.filter(change__in=change_of.values(), digest=F("change__digest")).order_by("id")
    for word in words:
        last.setdefault(word.change_id, {})[word.operator_name] = word
    return {
        version: [
            Signature(word.operator_name, word.get_role_display(), word.signed_at)
            for word in last.get(change or 0, {}).values()
            if word.decision == Decision.APPROVE
        ]
        for version, change in change_of.items()
    }


def version_rows(copy: Copy, versions: Sequence[CopyVersion]) -> list[dict[str, Any]]:
    """Each version with where it stands; three queries however many.

    Shape: {"version", "state": live | rejected | proposed | was live | submitted, "last": CopyActivation or None,
            "change": the open ChangeRequest or None, "rejected": RejectedDigest or None, "may_come_back": bool}.
    """
    last: dict[int, CopyActivation] = {}
    newest: CopyActivation | None = None
    for newest in CopyActivation.objects.filter(version__copy=copy).order_by("id"):
        last[newest.version_id] = newest
    digests = [version.digest for version in versions]
    rejected = {row.content_digest: row for row in RejectedDigest.objects.filter(content_digest__in=digests)}
    waiting = {change.content["version"]["number"]: change for change in open_changes([copy]).get(copy.audit_name, [])}
    rows = []
    for version in versions:
        is_live = newest is not None and newest.version_id == version.pk
        if is_live:
            state = "live"
        elif version.digest in rejected:
            state = "rejected"
        elif version.number in waiting:
            state = "proposed"
        else:
            state = "was live" if version.pk in last else "submitted"
        rows.append(
            {
                "version": version,
                "state": state,
                "last": last.get(version.pk),
                "change": waiting.get(version.number),
                "rejected": rejected.get(version.digest),
                "may_come_back": version.pk in last and not is_live and version.digest not in rejected,
            }
        )
    return rows
