"""Corpus policies: the versions that there are, which one is in force, and single numbers that are to be others."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from controlplane.accounts.models import Operator
from controlplane.approvals.kinds import Kind
from controlplane.approvals.models import ChangeRequest
from controlplane.audit import operations as audit
from controlplane.corpora.errors import AlteredCorpora, InvalidCorpora, NeverInForce, SameCorpora, UnknownCorpus
from controlplane.corpora.models import Corpus, CorpusPolicy, CorpusPolicyActivation
from controlplane.corpora.thresholds import with_thresholds
from controlplane.versioned.numbers import NewValue
from controlplane.versioned.operations import Refusals, Versions
from dataplane.release import MalformedRelease
from dataplane.retrieval.policy import Corpora
from dataplane.retrieval.policy import Corpus as Promised

KIND_NAME: Final = "corpora.policy"
# What stands beside corpora in the addresses of pages and API.
RESERVED: Final = frozenset({"drills", "dumps", "policies"})


def _parse(document: Any) -> Corpora:
    corpora = Corpora.parse(document, path="$")
    for slug in corpora:
        if slug in RESERVED:
            raise MalformedRelease("$", f"no corpus is called {slug!r}: pages of all corpora have that address")
    return corpora


def _make_rows(policy: CorpusPolicy, now: datetime) -> None:
    """Make the rows of corpora that a policy names for the first time; nothing that stands is in its way."""
    for slug in policy.parsed():
        Corpus.objects.get_or_create(slug=slug, defaults={"created_at": now})


corpus_policies: Final = Versions(
    model=CorpusPolicy,
    log=CorpusPolicyActivation,
    kind=KIND_NAME,
    section="corpora",
    empty={},
    parse=_parse,
    refusals=Refusals(
        invalid=InvalidCorpora,
        same=SameCorpora,
        none_in_force=UnknownCorpus,
        never_in_force=NeverInForce,
        altered=AlteredCorpora,
    ),
    guard=_make_rows,
)


def promises() -> Corpora:
    """What is promised of each corpus now; empty before the first policy. One query."""
    active = corpus_policies.active()
    return Corpora() if active is None else active.parsed()


def promised(slug: str) -> Promised:
    """What is promised of one corpus now.

    Raises:
        UnknownCorpus: nothing is.
    """
    found = promises().get(slug)
    if found is None:
        raise UnknownCorpus(f"the corpus policy in force names no corpus {slug!r}")
    return found


@audit.operation
def propose_thresholds(
    *, slug: str, changes: Mapping[str, NewValue | None], reason: str, actor: Operator | str, now: datetime
) -> ChangeRequest:
    """Propose the policy in force with other thresholds of one corpus.

    Args:
        changes: By the thresholds' names, such as 'recovery.rto_seconds'.
    Raises:
        UnknownCorpus, InvalidThreshold: as `thresholds.with_thresholds`; UnknownCorpus also when no policy is in force.
        InvalidCorpora, SameCorpora, DigestRejected: as `Versions.submit`.
    """
    return corpus_policies.propose_numbers(
        lambda document, values: with_thresholds(document, slug, values), changes, reason=reason, actor=actor, now=now
    )


KIND = Kind(
    name=KIND_NAME,
    label="Corpus policy",
    survey=corpus_policies.survey,
    facts=lambda content: {},
    view_permission="corpora.view_corpuspolicy",
    sign_off_permission="corpora.sign_off_corpora",
    break_glass_permission="corpora.break_glass_corpora",
    review_permission="corpora.review_break_glass_corpora",
    apply=corpus_policies.apply,
    lapse=corpus_policies.lapse,
)
