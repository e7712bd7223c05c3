from datetime import timedelta

import pgtrigger
import pytest
from django.db import connection, transaction

from controlplane.audit.models import GENESIS, AuditEvent, event_hash
from controlplane.audit.operations import Anchor, head, operation, record, verify
from tests.factories import NOW

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def chain():
    """Six events, seq 1 to 6."""

    @operation
    def write():
        for number in range(1, 7):
            record(f"thing.{number}", actor="ada", target=f"thing:{number}", at=NOW + timedelta(seconds=number))

    write()


@pytest.fixture
def forge():
    """Run SQL as somebody who has switched the table's trigger off."""

    def run(sql, *params):
        with pgtrigger.ignore("audit.AuditEvent:append_only"), connection.cursor() as cursor:
            cursor.execute(sql, params)

    return run


def found(*anchors):
    return [(finding.seq, finding.problem) for finding in verify(anchors).findings]


def rehash(start):
    """What a thorough forger does: compute every hash from `start` on anew."""
    previous = AuditEvent.objects.filter(seq__lt=start).order_by("-seq").first()
    previous_hash = previous.hash if previous else GENESIS
    for event in AuditEvent.objects.filter(seq__gte=start).order_by("seq"):
        event.previous_hash = previous_hash
        event.hash = previous_hash = event.computed_hash()
        with pgtrigger.ignore("audit.AuditEvent:append_only"):
            event.save()


def test_an_honest_chain_has_no_findings():
    """Every event counted, the head named, anchors counted."""
    seq, head_hash = head()

    verification = verify([Anchor(seq, head_hash, "r1")])

    assert verification.findings == ()
    assert (verification.events, verification.head_seq, verification.head_hash) == (6, 6, head_hash)
    assert verification.anchors == 1


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("actor", "mallory"),
        ("action", "thing.other"),
        ("target", "thing:9"),
        ("at", "2026-03-04T11:00:00Z"),
        ("data", '{"a": 1}'),
        ("data", '{"a": 100000000000000000000}'),
    ],
)
def test_an_altered_field_is_found_in_its_event(forge, column, value):
    """Whatever field was touched, even with a value that no operation could have written."""
    forge(f"UPDATE audit_auditevent SET {column} = %s WHERE seq = 3", value)  # noqa: S608

    assert found() == [(3, "its fields do not give its hash (altered)")]


def test_an_altered_event_with_a_fitting_hash_breaks_the_one_after_it(forge):
    """Its hash is what the next event remembers."""
    forge("UPDATE audit_auditevent SET actor = 'mallory' WHERE seq = 3")
    event = AuditEvent.objects.get(seq=3)
    forge("UPDATE audit_auditevent SET hash = %s WHERE seq = 3", event.computed_hash())

    assert found() == [(4, "does not follow from the event before it (altered or reordered)")]


def test_deleted_events_are_named(forge):
    """The gap says which are missing."""
    forge("DELETE FROM audit_auditevent WHERE seq IN (2, 4, 5)")

    assert found() == [(3, "event 2 is missing before this one"), (6, "event 4..5 is missing before this one")]


def test_exchanged_events_are_found(forge):
    """Two events that changed places do not follow from their neighbours any more."""
    forge("UPDATE audit_auditevent SET seq = 99 WHERE seq = 3")
    forge("UPDATE audit_auditevent SET seq = 3 WHERE seq = 4")
    forge("UPDATE audit_auditevent SET seq = 4 WHERE seq = 99")

    assert {seq for seq, _ in found()} == {3, 4, 5}


def test_an_inserted_event_is_found(forge):
    """There is no number between two events, and room that was made shows."""
    forge("UPDATE audit_auditevent SET seq = seq + 100 WHERE seq > 3")
    forge("UPDATE audit_auditevent SET seq = seq - 99 WHERE seq > 100")
    fields = {"seq": 4, "at": NOW, "actor": "mallory", "action": "x", "target": "y", "data": {}}
    fields["previous_hash"] = AuditEvent.objects.get(seq=3).hash
    AuditEvent.objects.create(**fields, hash=event_hash(**fields))

    assert found()[0] == (5, "does not follow from the event before it (altered or reordered)")


def test_a_truncated_tail_is_found_by_an_anchor_only(forge):
    """A chain cannot miss its own end; a release that carries the head can."""
    anchor = Anchor(*head(), "release r9")
    forge("DELETE FROM audit_auditevent WHERE seq > 4")

    assert found() == []
    assert found(anchor) == [(6, "release r9 knows this event, the table does not (truncated)")]


def test_a_rewritten_history_is_found_by_an_anchor_only(forge):
    """Whoever can compute hashes can forge a whole chain, but not what workers keep on their disks."""
    anchor = Anchor(*head(), "release r9")
    forge("UPDATE audit_auditevent SET actor = 'mallory' WHERE seq = 2")
    rehash(2)

    assert found() == []
    assert found(anchor) == [(6, "release r9 knows this event with another hash (history rewritten)")]


def test_an_emptied_record_is_found(forge):
    """Nothing left is nothing found, unless somebody remembers."""
    anchor = Anchor(*head(), "release r9")
    forge("DELETE FROM audit_auditevent")

    assert verify().events == 0
    assert found(anchor) == [(6, "release r9 knows this event, the table does not (truncated)")]


@pytest.mark.parametrize("sql", ["UPDATE audit_auditevent SET actor = 'm'", "DELETE FROM audit_auditevent"])
def test_the_database_refuses_to_touch_the_record(sql):
    """No UPDATE and no DELETE, from whatever client."""
    with pytest.raises(Exception, match="Cannot update or delete"), transaction.atomic():
        connection.cursor().execute(sql)


def test_saving_an_event_again_is_refused():
    """The ORM has no way around the trigger."""
    event = AuditEvent.objects.first()
    event.actor = "mallory"

    with pytest.raises(Exception, match="Cannot update or delete"), transaction.atomic():
        event.save()
