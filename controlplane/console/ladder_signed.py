"""The words that a ladder shows: which are signed, what waits for whom, and who has to sign."""

from collections.abc import Mapping
from dataclasses import dataclass

from controlplane.approvals.errors import PolicyMissing
from controlplane.approvals.models import ChangeRequest
from controlplane.approvals.operations import active_policy as approval_policy
from controlplane.approvals.policy import match, parse_rules
from controlplane.console.copy_content import open_changes
from controlplane.console.wording import listed
from controlplane.ladder.checks import Library
from controlplane.ladder.models import Copy, CopyActivation
from controlplane.ladder.operations import KIND_NAME as COPY_KIND
from dataplane.ladder.policy import Ladder, Rung
from dataplane.signed_copy import CopyBook


@dataclass(frozen=True, slots=True)
class SignedWords:
    """All that is signed and all that waits for it, read once for every surface."""

    library: Library
    book: CopyBook
    changes: Mapping[str, tuple[ChangeRequest, ...]]
    signers: Mapping[bool, str]


def read_signed(ladder: Ladder) -> SignedWords:
    """All words that a ladder shows; five queries."""
    names = sorted(_copies_of(ladder))
    pieces = list(Copy.objects.filter(slug__in=names))
    current = CopyActivation.objects.current().filter(version__copy__slug__in=names)
    book = CopyBook({one.version.copy.slug: one.version.parsed() for one in current})
    waiting = open_changes(pieces)
    return SignedWords(
        library=Library(
            {copy.slug: copy.kind for copy in pieces}, book.keys(), {copy.slug for copy in pieces if copy.regulated}
        ),
        book=book,
        changes={copy.slug: tuple(waiting.get(copy.audit_name, ())) for copy in pieces},
        signers=_signers(),
    )


def _copies_of(ladder: Ladder) -> set[str]:
    rungs: list[Rung] = [rung for surface in ladder.values() for rung in surface.rungs.values()]
    return {words for rung in rungs for words in rung.words}


def _signers() -> dict[bool, str]:
    """Who signs words, of regulated surfaces and of others: 'exec and legal'."""
    try:
        rules = parse_rules(approval_policy().rules)
    except PolicyMissing:
        return dict.fromkeys((True, False), "nobody yet: there is no approval policy")
    found = {}
    for regulated in (True, False):
        try:
            rule = match(rules, kind=COPY_KIND, facts={"regulated": regulated})
        except PolicyMissing:
            found[regulated] = "nobody: no rule of the approval policy speaks of it"
            continue
        roles = {need.role: need.role.label for gate in rule.gates.values() for need in gate.requirements}
        found[regulated] = listed(list(roles.values()))
    return found
