import pytest
from django.db import DatabaseError, transaction

from controlplane.approvals.errors import DigestRejected, NotApproved
from controlplane.approvals.operations import apply_change, reject_change
from controlplane.releases.errors import UnservableRelease
from controlplane.releases.operations import current_release
from controlplane.routing.errors import AlteredTable, InvalidRouting, NeverInForce, SameRouting
from controlplane.routing.models import RoutingTable
from controlplane.routing.operations import activate, active_table, propose_table, return_to, submit_table
from dataplane.release import canonical, digest_of
from tests.factories import NOW, crew, routing_document, sign

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]


def submit(document):
    return submit_table(document=document, rationale="r", actor=crew.oncall, now=NOW)


def propose(deadline_ms):
    table = submit(routing_document(deadline_ms=deadline_ms))
    return table, propose_table(table=table, reason="r", actor=crew.oncall, now=NOW)


def put_in_force(deadline_ms):
    table, change = propose(deadline_ms)
    sign(change, crew.approver_one, crew.approver_two)
    apply_change(change=change, actor=crew.oncall, now=NOW)
    return table


def deadline():
    return current_release().content["sections"]["routing"]["routes"]["chat"]["deadline_ms"]


def test_a_table_is_in_force_once_it_is_signed_and_applied():
    """And not before."""
    before = deadline()
    _, change = propose(1000)
    with pytest.raises(NotApproved, match="2 more from approver"):
        apply_change(change=change, actor=crew.oncall, now=NOW)
    unsigned = deadline()
    sign(change, crew.approver_one, crew.approver_two)
    apply_change(change=change, actor=crew.oncall, now=NOW)

    assert (before, unsigned, deadline()) == (60_000, 60_000, 1000)


def test_a_signature_is_void_once_another_table_is_in_force():
    """It was given on top of what was in force then."""
    _, change = propose(1000)
    sign(change, crew.approver_one, crew.approver_two)
    put_in_force(2000)

    with pytest.raises(NotApproved):
        apply_change(change=change, actor=crew.oncall, now=NOW)


def test_an_invalid_table_is_refused_with_its_path():
    """By the parser that every worker runs."""
    document = routing_document()
    document["routes"]["chat"] = {**document["routes"]["chat"], "lanes": ["nowhere"]}

    with pytest.raises(InvalidRouting, match=r"\$\.sections\.routing\.routes\.chat\.lanes\[0\]"):
        submit(document)


def test_a_table_that_cannot_be_stored_is_refused():
    """PostgreSQL keeps no NUL character, and an operator who pasted one is told so."""
    document = routing_document()
    lane = next(iter(document["lanes"]))
    document["lanes"] = {**document["lanes"], lane: {**document["lanes"][lane], "upstream_model": "gpt\x004"}}

    with pytest.raises(InvalidRouting, match="cannot be stored"):
        submit(document)


def test_the_table_in_force_is_not_submitted_again():
    """There is nothing to sign."""
    with pytest.raises(SameRouting):
        submit(routing_document())


def test_a_table_without_the_route_of_a_live_prompt_is_never_released():
    """Workers would refuse it; the whole operation is undone, sign-offs or not."""
    document = routing_document()
    del document["routes"]["chat"]
    change = propose_table(table=submit(document), reason="r", actor=crew.oncall, now=NOW)
    sign(change, crew.approver_one, crew.approver_two)
    before = current_release()

    with pytest.raises(UnservableRelease, match="'chat' is not a route"):
        apply_change(change=change, actor=crew.oncall, now=NOW)

    change.refresh_from_db()
    assert (current_release(), change.state) == (before, "open")


def test_returning_takes_one_click_and_goes_to_approved_tables_only():
    """Back to what was in force with its sign-offs; never to what was only proposed, nor to what was rejected."""
    first = active_table()
    put_in_force(1000)
    return_to(table=first, actor=crew.oncall, reason="bad", now=NOW)
    proposed, change = propose(3000)

    assert deadline() == 60_000
    with pytest.raises(NeverInForce):
        return_to(table=proposed, actor=crew.oncall, reason="try", now=NOW)
    reject_change(change=change, actor=crew.approver_one, reason="no", now=NOW)
    with pytest.raises(DigestRejected):
        submit(routing_document(deadline_ms=3000))


def test_returning_to_what_is_in_force_does_nothing():
    """No second entry, no release."""
    before = current_release()

    return_to(table=active_table(), actor=crew.oncall, reason="again", now=NOW)

    assert current_release() == before
    assert active_table().activations.count() == 1


def test_an_altered_table_is_never_in_force():
    """A row written by hand under another digest is found out when it would be served."""
    document = routing_document(deadline_ms=5)
    table = RoutingTable.objects.create(
        number=9, document=document, digest="f" * 64, author="mallory", rationale="r", created_at=NOW
    )
    change = propose_table(table=table, reason="r", actor=crew.oncall, now=NOW)
    sign(change, crew.approver_one, crew.approver_two)

    with pytest.raises(AlteredTable):
        apply_change(change=change, actor=crew.oncall, now=NOW)
    assert digest_of(canonical(document)) != table.digest


def test_a_table_is_immutable():
    """For the ORM as for SQL."""
    table = active_table()
    table.document = {}

    with pytest.raises(DatabaseError, match="Cannot update"), transaction.atomic():
        table.save()
    with pytest.raises(DatabaseError, match="Cannot update"), transaction.atomic():
        RoutingTable.objects.update(rationale="x")


def test_a_step_of_an_operation_is_not_taken_by_itself():
    """Called from a shell in autocommit it would leave a table in force that no event speaks of."""
    with pytest.raises(RuntimeError, match="call the operation"):
        activate(active_table(), actor="mallory", reason="x", now=NOW)
