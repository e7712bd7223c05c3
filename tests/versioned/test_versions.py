"""Routing tables, ladder and corpus policies by the one mechanism that they share; what is their own is tested beside
them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, transaction

from controlplane.approvals.errors import DigestRejected, NotApproved
from controlplane.approvals.operations import apply_change, lapse_due, reject_change
from controlplane.audit.models import AuditEvent
from controlplane.corpora.policies import corpus_policies
from controlplane.ladder.policies import ladder_policies
from controlplane.releases.operations import current_release, roll_back_to
from controlplane.routing.operations import routing_tables
from controlplane.versioned.operations import Versions
from dataplane.release import canonical, digest_of
from tests.corpora.kept_corpora import make_policy as make_corpora
from tests.corpora.kept_corpora import policy_document
from tests.dataplane.conftest import threshold
from tests.factories import NOW, break_glass, crew, make_routing, routing_document, sign
from tests.ladder.ladder_policies import ladder_document, make_ladder

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

HALF_HOUR = timedelta(minutes=30)


@dataclass(frozen=True)
class Kept:
    """A document: its versions, how to write another for each number, and how the first comes to be in force."""

    versions: Versions[Any, Any]
    write: Callable[[int], Any]
    begin: Callable[[], Any]

    def submit(self, document):
        return self.versions.submit(document=document, rationale="r", actor=crew.oncall, now=NOW)

    def propose(self, number):
        version = self.submit(self.write(number))
        return version, self.versions.propose(version=version, reason="r", actor=crew.oncall, now=NOW)

    def put_in_force(self, number, *, signed=True):
        """Another version, on two signatures or on broken glass."""
        version, change = self.propose(number)
        if signed:
            sign(change, crew.approver_one, crew.approver_two)
        else:
            break_glass(change)
        apply_change(change=change, actor=crew.oncall, now=NOW)
        return version

    def return_to(self, version):
        self.versions.return_to(version=version, actor=crew.oncall, reason="bad", now=NOW)

    def served(self):
        return current_release().content["sections"][self.versions.section]


ROUTING = Kept(
    routing_tables, lambda number: routing_document(deadline_ms=1000 * number), lambda: routing_tables.active()
)
LADDER = Kept(ladder_policies, lambda number: ladder_document(eta_seconds=threshold(60 * number)), make_ladder)
CORPORA = Kept(
    corpus_policies, lambda number: policy_document(freshness={"max_lag_seconds": threshold(60 * number)}), make_corpora
)
EACH = [pytest.param(kept, id=kept.versions.section) for kept in (ROUTING, LADDER, CORPORA)]


@pytest.fixture(params=EACH)
def kept(request):
    """Each document in turn, its first version in force."""
    request.param.begin()
    return request.param


def unkept():
    """A routing table with a NUL character, which PostgreSQL cannot keep."""
    document = routing_document()
    next(iter(document["lanes"].values()))["upstream_model"] = "gpt\x004"
    return document


def deep():
    document: Any = []
    for _ in range(100_000):
        document = [document]
    return document


def test_version_is_in_force_once_it_is_signed_and_applied(kept):
    """And not before; the record tells of both."""
    before = kept.served()
    version, change = kept.propose(1)
    with pytest.raises(NotApproved, match="2 more from approver"):
        apply_change(change=change, actor=crew.oncall, now=NOW)
    unsigned = kept.served()
    sign(change, crew.approver_one, crew.approver_two)
    apply_change(change=change, actor=crew.oncall, now=NOW)

    assert unsigned == before
    assert (kept.served(), kept.versions.active()) == (version.document, version)
    actions = AuditEvent.objects.filter(target=version.audit_name).order_by("seq").values_list("action", flat=True)
    section = kept.versions.section
    assert list(actions) == [f"{section}.submitted", f"{section}.activated"]


def test_signature_is_void_once_another_version_is_in_force(kept):
    """It was given on top of what was in force then."""
    _, change = kept.propose(1)
    sign(change, crew.approver_one, crew.approver_two)
    other = kept.put_in_force(2)

    with pytest.raises(NotApproved):
        apply_change(change=change, actor=crew.oncall, now=NOW)

    assert kept.versions.active() == other


@pytest.mark.parametrize(
    ("kept", "document", "fact"),
    [
        *(
            (kept, document, fact)
            for kept in (ROUTING, LADDER, CORPORA)
            for document, fact in (
                ("words", "expected an object"),
                ({1: 2}, "cannot be written as canonical JSON"),
                (deep(), "nested too deep"),
            )
        ),
        (ROUTING, unkept(), "cannot be stored"),
        (LADDER, ladder_document(title="a\x00b"), "cannot be stored"),
        (CORPORA, policy_document(title="a\x00b"), "cannot be stored"),
    ],
    ids=lambda value: value.versions.section if isinstance(value, Kept) else value if isinstance(value, str) else "",
)
def test_document_that_could_not_be_kept_or_read_is_refused_with_its_path(kept, document, fact):
    """As a mistake of whoever wrote it, before anything is stored."""
    before = kept.versions.model.objects.count()

    with pytest.raises(kept.versions.refusals.invalid, match=rf"\$: {fact}"):
        kept.submit(document)

    assert kept.versions.model.objects.count() == before


def test_document_whose_numbers_come_back_as_others_is_refused(kept):
    """Whatever a parser takes: what people sign is what the database gives back."""
    lenient = replace(kept.versions, parse=lambda document: document)

    with pytest.raises(kept.versions.refusals.invalid, match=r"\$: holds a number that cannot be kept exactly"):
        lenient.submit(document={"limit": 1e22}, rationale="r", actor=crew.oncall, now=NOW)


def test_version_in_force_is_not_submitted_again_nor_one_that_was_rejected(kept):
    """There is nothing to sign."""
    version = kept.put_in_force(1)
    _, change = kept.propose(2)
    reject_change(change=change, actor=crew.approver_one, reason="no", now=NOW)

    with pytest.raises(kept.versions.refusals.same, match=f"{version} is in force and has exactly this content"):
        kept.submit(kept.write(1))
    with pytest.raises(DigestRejected):
        kept.submit(kept.write(2))


def test_returning_takes_one_click_and_goes_to_approved_versions_only(kept):
    """Back to what was in force with its sign-offs; never to what was only proposed, nor to what was rejected since."""
    first = kept.versions.active()
    second = kept.put_in_force(1)
    kept.return_to(first)
    proposed, _ = kept.propose(2)
    again = kept.versions.propose(version=second, reason="r", actor=crew.oncall, now=NOW)
    reject_change(change=again, actor=crew.approver_one, reason="no", now=NOW)

    assert kept.served() == first.document
    with pytest.raises(kept.versions.refusals.never_in_force, match="open a change request for it instead"):
        kept.return_to(proposed)
    with pytest.raises(DigestRejected):
        kept.return_to(second)


def test_returning_to_what_is_in_force_does_nothing(kept):
    """No second entry, no release."""
    before, active = current_release(), kept.versions.active()

    kept.return_to(active)

    assert (current_release(), active.activations.count()) == (before, 1)


def test_release_brings_its_version_back(kept):
    """What workers were sent then is in force again."""
    first, old = kept.versions.active(), current_release()
    kept.put_in_force(1)

    roll_back_to(release=old, actor=crew.oncall, reason="bad", now=NOW)

    assert (kept.versions.active(), kept.served()) == (first, first.document)


def test_release_from_before_the_first_version_leaves_what_is_in_force():
    """Going back there would take away what nobody spoke of."""
    before = current_release()
    policy = make_ladder()
    make_routing(routing_document(deadline_ms=9000))

    roll_back_to(release=before, actor=crew.oncall, reason="bad", now=NOW)

    assert ladder_policies.active() == policy


def test_section_that_nobody_knows_is_not_restored(kept):
    """It was never a version here."""
    with pytest.raises(kept.versions.refusals.never_in_force, match=f"carries a {kept.versions.model.noun} that"):
        kept.versions.restore(kept.write(9), actor=crew.oncall, reason="bad", now=NOW)


def test_altered_version_is_never_in_force(kept):
    """A row written by hand under another digest is found out when it would be served."""
    document = kept.write(1)
    version = kept.versions.model.objects.create(
        number=9, document=document, digest="f" * 64, author="mallory", rationale="r", created_at=NOW
    )
    change = kept.versions.propose(version=version, reason="r", actor=crew.oncall, now=NOW)
    sign(change, crew.approver_one, crew.approver_two)

    with pytest.raises(kept.versions.refusals.altered, match="does not give its digest ffffffff"):
        apply_change(change=change, actor=crew.oncall, now=NOW)
    assert digest_of(canonical(document)) != version.digest


def test_versions_and_their_log_are_immutable(kept):
    """For the ORM as for SQL."""
    version, log = kept.versions.active(), kept.versions.log
    version.document = {}

    for edit in (
        version.save,
        lambda: type(version).objects.update(rationale="x"),
        lambda: log.objects.update(reason="x"),
        lambda: log.objects.all().delete(),
    ):
        with pytest.raises(DatabaseError, match="Cannot"), transaction.atomic():
            edit()


def test_step_of_an_operation_is_not_taken_by_itself(kept):
    """Called from a shell in autocommit it would leave a version in force that no event speaks of."""
    with pytest.raises(RuntimeError, match="call the operation"):
        kept.versions.activate(kept.versions.active(), actor="mallory", reason="x", now=NOW)


def test_section_takes_one_query(kept, django_assert_num_queries):
    """However many versions there are."""
    kept.put_in_force(1)

    with django_assert_num_queries(1):
        section = kept.versions.compile()

    assert section == kept.write(1)


@pytest.mark.parametrize("kept", [LADDER, CORPORA], ids=lambda kept: kept.versions.section)
def test_before_the_first_version_the_section_is_empty(kept, django_assert_num_queries):
    """And there is nothing in force whose numbers could be others."""
    versions = kept.versions

    with django_assert_num_queries(1):
        assert versions.compile() == {}
    with pytest.raises(versions.refusals.none_in_force, match=f"no {versions.model.noun} is in force; propose one"):
        versions.propose_numbers(lambda document, values: document, {}, reason="r", actor=crew.oncall, now=NOW)


# --- on broken glass -------------------------------------------------------------------------------------------------
def test_lapse_restores_the_version_that_was_in_force(kept):
    """Not the one that the change was written against, if another came between."""
    bypassed, change = kept.propose(1)
    between = kept.put_in_force(2)
    break_glass(change)
    apply_change(change=change, actor=crew.oncall, now=NOW)
    while_broken = kept.versions.active()

    lapse_due(now=NOW + HALF_HOUR)

    assert (while_broken, kept.versions.active()) == (bypassed, between)


def test_lapse_leaves_a_version_that_was_put_in_force_since(kept):
    """What people signed meanwhile is not the bypass's to undo."""
    kept.put_in_force(1, signed=False)
    since = kept.put_in_force(2)

    lapse_due(now=NOW + HALF_HOUR)

    assert kept.versions.active() == since


def test_bypassed_version_stays_once_its_second_change_is_signed(kept):
    """Whoever wants to keep it has it signed while it lasts."""
    version = kept.put_in_force(1, signed=False)
    change = kept.versions.propose(version=version, reason="keep it", actor=crew.oncall, now=NOW)
    sign(change, crew.approver_one, crew.approver_two)
    apply_change(change=change, actor=crew.oncall, now=NOW)

    lapse_due(now=NOW + HALF_HOUR)

    assert kept.versions.active() == version


def test_nothing_returns_to_a_version_that_was_in_force_on_broken_glass_only(kept):
    """It never had its sign-offs, so one click does not bring it back, nor does a release roll-back."""
    first = kept.versions.active()
    version = kept.put_in_force(1, signed=False)
    broken = current_release()
    lapse_due(now=NOW + HALF_HOUR)

    with pytest.raises(kept.versions.refusals.never_in_force, match="with its sign-offs"):
        kept.return_to(version)
    with pytest.raises(kept.versions.refusals.never_in_force):
        roll_back_to(release=broken, actor=crew.oncall, reason="back", now=NOW)
    assert kept.versions.active() == first
