"""Submit versions of a document, and move which one is in force: through sign-offs forward, by one click back."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, Protocol, TypeVar

from django.db import DataError
from django.db.models import Max, QuerySet

from controlplane.accounts.models import Operator
from controlplane.approvals import operations as approvals
from controlplane.approvals.kinds import Surveyed
from controlplane.approvals.models import BreakGlass, ChangeRequest
from controlplane.audit import operations as audit
from controlplane.compiled import compiled
from controlplane.releases import operations as releases
from controlplane.versioned.models import DocumentActivation, DocumentVersion
from controlplane.versioned.numbers import NewValue, written
from dataplane.release import MalformedRelease, canonical, digest_of

V = TypeVar("V", bound=DocumentVersion)
P_co = TypeVar("P_co", covariant=True)


@compiled()
def _newest_of(log: type[DocumentActivation]) -> QuerySet[Any, DocumentActivation]:
    entries: QuerySet[Any] = log._default_manager.all()
    return entries.select_related("version")[:1]


@compiled()
def _newest_version(model: type[DocumentVersion]) -> QuerySet[Any, DocumentVersion]:
    versions: QuerySet[Any] = model._default_manager.all()
    return versions.defer("document").order_by("-number")[:1]


class ProposeNumbers(Protocol):
    """Open the change request for a document in which these numbers of one entry are others."""

    def __call__(
        self, *, slug: str, changes: Mapping[str, NewValue | None], reason: str, actor: Operator, now: datetime
    ) -> ChangeRequest: ...


@dataclass(frozen=True, slots=True)
class Refusals:
    """The errors of the app whose document it is; each is raised with one sentence.

    Attributes:
        invalid: The document is none; the sentence names the JSON path.
        same: It is what is in force.
        none_in_force: There is nothing yet whose numbers could be others.
        never_in_force: The version never was, or only on broken glass, so going back to it is no roll-back.
        altered: The version's document is not what its digest says: somebody wrote to the table by hand.
    """

    invalid: type[Exception]
    same: type[Exception]
    none_in_force: type[Exception]
    never_in_force: type[Exception]
    altered: type[Exception]


def _no_facts(version: DocumentVersion) -> Mapping[str, Any]:
    return {}


def _allow(version: DocumentVersion, now: datetime) -> None:
    """Nothing stands beside the document that a version could not carry."""


def _end_nothing(version: DocumentVersion, reason: str, now: datetime) -> None:
    """Nor is there anything to end then."""


@dataclass(frozen=True, slots=True)
class Versions(Generic[V, P_co]):
    """All versions of one document, which workers read as a P_co.

    Attributes:
        kind: Of the changes that put another version in force.
        section: Of the release that carries the document; changes have it as their target, and the audit record's
            actions begin with it.
        empty: The section before the first version is in force.
        parse: Reads a document as workers do; raises MalformedRelease with the path in the document, '$' its root.
        facts: What a change says of its version, beside which it is, for the conditions of approval policies.
        guard: Refuses a version that could not carry what stands now beside the document, with an error of the app.
        make_way: Ends what a version could not carry, for this reason, as a bypass lapses to it: an effect that nobody
            approved ends.
    """

    model: type[V]
    log: type[DocumentActivation]
    kind: str
    section: str
    empty: Mapping[str, Any]
    parse: Callable[[Any], P_co]
    refusals: Refusals
    facts: Callable[[V], Mapping[str, Any]] = _no_facts
    guard: Callable[[V, datetime], None] = _allow
    make_way: Callable[[V, str, datetime], None] = _end_nothing

    # --- reading ------------------------------------------------------------------------------------------------------
    def entries(self) -> QuerySet[Any]:
        """The log, the newest entry first. Of Any, since the foreign key `version` is each subclass's own."""
        return self.log._default_manager.all()

    def activation(self) -> DocumentActivation | None:
        """The log's newest entry, with its version; None before the first. One query."""
        return _newest_of.first(self.log)

    def active(self) -> V | None:
        """The version in force; None before the first was activated. One query."""
        activation = self.activation()
        return activation.version if activation else None

    def check(self, document: Any) -> str:
        """Return the digest of a document that could be a version.

        Raises:
            refusals.invalid: naming the JSON path.
        """
        try:
            # Before the parser, which takes JSON for granted: a form's YAML may hold dates and keys that are numbers.
            digest = digest_of(canonical(document))
            self.parse(document)
        except MalformedRelease as exc:
            raise self.refusals.invalid(str(exc)) from exc
        except ValueError as exc:
            raise self.refusals.invalid(f"$: cannot be written as canonical JSON: {exc}") from exc
        except RecursionError as exc:
            raise self.refusals.invalid("$: nested too deep") from exc
        return digest

    # --- forward ------------------------------------------------------------------------------------------------------
    @audit.operation
    def submit(self, *, document: Any, rationale: str, actor: Operator | str, now: datetime) -> V:
        """Store an immutable version; it moves nothing until its change request is applied.

        Raises:
            refusals.invalid: naming the JSON path.
            refusals.same: it is what is in force.
            DigestRejected: this document was rejected before.
        """
        digest = self.check(document)
        approvals.refuse_rejected(digest)
        active = self.active()
        if active is not None and active.digest == digest:
            raise self.refusals.same(f"{active} is in force and has exactly this content")
        versions = self.model._default_manager
        newest = versions.aggregate(newest=Max("number"))["newest"] or 0
        try:
            version = versions.create(
                number=newest + 1,
                document=document,
                digest=digest,
                author=audit.name_of(actor),
                rationale=rationale,
                created_at=now,
            )
            version.refresh_from_db()
        except (DataError, ValueError) as exc:  # a NUL character, which PostgreSQL cannot keep
            raise self.refusals.invalid(f"$: cannot be stored: {exc}") from exc
        if not version.is_intact():  # a number such as 1e22 comes back from the database as another
            raise self.refusals.invalid("$: holds a number that cannot be kept exactly")
        data = {"digest": digest, "rationale": rationale}
        audit.record(f"{self.section}.submitted", actor=actor, target=version, at=now, data=data)
        return version

    @audit.operation
    def propose(self, *, version: V, reason: str, actor: Operator | str, now: datetime) -> ChangeRequest:
        """Open the change request that would put `version` in force.

        Raises:
            DigestRejected, AlreadyOpen, PolicyMissing: from the approvals.
        """
        return approvals.open_change(
            kind=self.kind,
            target=self.section,
            title=f"Put {version.noun} {version.number} in force",
            content={**version.reference, **self.facts(version)},
            content_digest=version.digest,
            reason=reason,
            actor=actor,
            contributors=[version.author],
            now=now,
        )

    @audit.operation
    def propose_document(self, *, document: Any, reason: str, actor: Operator | str, now: datetime) -> ChangeRequest:
        """Submit a version and open its change request, both for the same reason.

        Raises:
            As `submit` and `propose`.
        """
        version = self.submit(document=document, rationale=reason, actor=actor, now=now)
        return self.propose(version=version, reason=reason, actor=actor, now=now)

    @audit.operation
    def propose_numbers(
        self,
        write: Callable[[Mapping[str, Any], Mapping[str, Any]], Any],
        changes: Mapping[str, NewValue | None],
        *,
        reason: str,
        actor: Operator | str,
        now: datetime,
    ) -> ChangeRequest:
        """Propose the document in force with other numbers.

        Args:
            write: From the document, and the new numbers as documents have them, to the whole with these instead; what
                it raises goes through.
        Raises:
            refusals.none_in_force: there is none.
            As `propose_document`.
        """
        active = self.active()
        if active is None:
            raise self.refusals.none_in_force(f"no {self.model.noun} is in force; propose one first")
        values = written(changes, author=audit.name_of(actor), on=now.astimezone(UTC).date())
        return self.propose_document(document=write(active.document, values), reason=reason, actor=actor, now=now)

    def activate(
        self,
        version: V,
        *,
        actor: Operator | str,
        reason: str,
        now: datetime,
        change: ChangeRequest | None = None,
        lapses_at: datetime | None = None,
    ) -> None:
        """Write the log entry that puts `version` in force, and cut the release.

        Only for operations that have just passed a gate, that return to an earlier version, or that set a deployment
        up.

        Args:
            lapses_at: Set when glass was broken for it.
        Raises:
            refusals.altered: its document is not what was approved under its digest.
            Whatever `guard` raises.
        """
        audit.require_operation()
        version.refresh_from_db()
        if not version.is_intact():
            raise self.refusals.altered(
                f"the document of {version} does not give its digest {version.digest[:8]}; look at the log"
            )
        self.guard(version, now)
        before = self.active()
        self.entries().create(
            version=version, change=change, actor=audit.name_of(actor), reason=reason, at=now, lapses_at=lapses_at
        )
        data = {"before": before.reference if before else None, "after": version.reference, "reason": reason}
        audit.record(f"{self.section}.activated", actor=actor, target=version, at=now, data=data)
        releases.publish_on_commit(reason=f"{version.noun} {version.number}: {reason}", actor=actor, now=now)

    # --- back ---------------------------------------------------------------------------------------------------------
    @audit.operation
    def return_to(self, *, version: V, actor: Operator | str, reason: str, now: datetime) -> None:
        """Put a version in force again that was before: one click, no sign-off, since it was approved then.

        Nothing happens when it is in force.

        Raises:
            refusals.never_in_force: it never was, or only on broken glass.
            DigestRejected: it was rejected since.
            As `activate`.
        """
        active = self.active()
        if active is not None and active.pk == version.pk:
            return
        if not self.entries().filter(version=version, lapses_at__isnull=True).exists():
            raise self.refusals.never_in_force(
                f"{version} was never in force with its sign-offs; open a change request for it instead"
            )
        approvals.refuse_rejected(version.digest)
        self.activate(version, actor=actor, reason=reason, now=now)

    # --- the section of the release -----------------------------------------------------------------------------------
    def compile(self) -> dict[str, Any]:
        """The section; one query."""
        active = self.active()
        return dict(active.document if active else self.empty)

    def restore(self, section: Mapping[str, Any], *, actor: Operator | str, reason: str, now: datetime) -> None:
        """Return to the version that an older release carried; one from before the first leaves it alone."""
        if section == self.empty:
            return
        digest = digest_of(canonical(section))
        active = self.active()
        if active is not None and active.digest == digest:
            return
        known = self.model._default_manager.filter(digest=digest, activations__isnull=False).distinct()
        version = known.filter(activations__lapses_at__isnull=True).first() or known.first()
        if version is None:
            raise self.refusals.never_in_force(
                f"the release carries a {self.model.noun} that this control plane does not know"
            )
        self.return_to(version=version, actor=actor, reason=reason, now=now)

    # --- the kind of change -------------------------------------------------------------------------------------------
    def survey(self, targets: Iterable[str]) -> dict[str, Surveyed]:
        """There is one target, the whole document. Permissions on it are held everywhere; the newest version stands
        for it.
        """
        active = self.active()
        newest = _newest_version.first(self.model)
        if newest is None:
            raise self.model.DoesNotExist(f"there is no {self.model.noun} yet")
        return dict.fromkeys(targets, Surveyed(active.reference if active else None, newest))

    def apply(
        self, change: ChangeRequest, *, authorisation: approvals.Authorisation, actor: Any, now: datetime
    ) -> None:
        """Put the version of a change in force."""
        version = self.model._default_manager.get(number=change.content["number"], digest=change.content["digest"])
        approvals.refuse_rejected(version.digest)
        self.activate(
            version, actor=actor, reason=f"CR-{change.pk}", change=change, now=now, lapses_at=authorisation.lapses_at
        )

    def lapse(self, change: ChangeRequest, *, debt: BreakGlass, now: datetime) -> None:
        """Go back to the approved version that was in force before, unless something else was put in force since.

        Whoever wants to keep it opens a second change request for the same version while the bypass lasts; once that is
        signed and applied, the lapse finds nothing of its own to undo.
        """
        latest = self.activation()
        if latest is None or latest.change_id != change.pk or latest.lapses_at is None:
            return
        approved = self.entries().filter(lapses_at__isnull=True, pk__lt=latest.pk).select_related("version")
        before = next((one.version for one in approved if not approvals.is_rejected(one.version.digest)), None)
        if before is None:
            raise self.refusals.never_in_force(
                f"no approved {self.model.short_noun} was in force before {latest.version}; propose one"
            )
        reason = f"break-glass on CR-{change.pk} lapsed"
        self.make_way(before, reason, now)
        self.return_to(version=before, actor="ballast", reason=reason, now=now)
