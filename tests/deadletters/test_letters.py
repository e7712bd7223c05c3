"""Letters: written once, counted with every change, moved along their table, guarded by the database."""

from __future__ import annotations

import uuid
from datetime import timedelta
from random import Random

import pytest
from django.db import IntegrityError, transaction
from django.db.utils import InternalError, ProgrammingError

from controlplane.audit.models import AuditEvent
from controlplane.deadletters import operations
from controlplane.deadletters.errors import LetterMoved, NoReason
from controlplane.deadletters.models import DeadLetter, Group, GroupTenant
from controlplane.work import handlers, runner
from controlplane.work import operations as work
from controlplane.work.deaths import Death
from controlplane.work.errors import GiveUp
from controlplane.work.handlers import Handler
from dataplane.deadletters import TRANSITIONS, Category, Event, Failure, State
from tests.deadletters.letters import ADA, make_letter, sql
from tests.factories import NOW, crew

pytestmark = pytest.mark.django_db
LATER = NOW + timedelta(hours=1)


def decide(*letters, event=Event.RESOLVED, reason="mended"):
    names = [letter.pk for letter in letters]
    return operations.decide(letters=names, event=event, actor=crew.oncall, reason=reason, now=LATER)


def test_dead_work_of_the_control_plane_leaves_a_letter():
    """Which the app's start-up has seen to; the work's arguments are its payload."""

    def refuse(arguments, attempt):
        raise GiveUp("user 17 is 'gone'", code="gone", category=Category.VALIDATION)

    handlers.register(Handler("tests.refused", refuse, work="webhook"))
    task = work.enqueue(kind="tests.refused", arguments={"a": 1}, tenant="acme", user_hash=ADA, key="k", now=NOW)
    runner.run_next(owner="w", rng=Random(1), now=lambda: NOW)
    handlers._handlers.pop("tests.refused")

    letter = DeadLetter.objects.get()
    assert (letter.kind, letter.name, letter.work_id, letter.tenant) == ("webhook", "tests.refused", task, "acme")
    assert (letter.category, letter.code, letter.summary, letter.state) == ("validation", "gone", "user * is *", "open")
    assert (bytes(letter.payload_body), letter.payload_state, letter.payload_bytes) == (b'{"a":1}', "pending", 7)
    assert (letter.user_hash, letter.key, letter.last_cause["code"]) == (ADA, "k", "gone")
    assert letter.payload_expires_at == NOW + timedelta(days=30)


def test_work_has_one_letter_however_often_it_is_buried():
    """A message that is delivered again, say."""
    letter = make_letter()
    sent = {"kind": letter.kind, "work_id": letter.work_id}

    assert operations.bury(_death(**sent), LATER) is None
    assert operations.bury(_death(kind="other", work_id=letter.work_id), LATER) is not None
    assert Group.objects.get(kind=letter.kind).total == 1


def _death(**fields):
    values = {"name": "n", "failure": Failure(Category.BUG, "c", "m"), "payload": b"", "attempts": 1, "causes": []}
    return Death(**values | fields)


def test_what_postgresql_cannot_hold_does_not_keep_work_from_being_buried():
    """A NUL in an error of somebody else's."""
    letter = make_letter(message="a\x00b", name="n\x00")

    assert (letter.summary, letter.causes[0]["message"]) == ("a\N{REPLACEMENT CHARACTER}b",) * 2


def test_groups_count_what_failed_alike_and_follow_every_move():
    """How many, how many open, since when and until when, and of whom."""
    letters = [make_letter(message=f"took {seconds} s", at=NOW + timedelta(seconds=seconds)) for seconds in range(3)]
    other = make_letter(tenant="globex", message="took 9 s", at=NOW + timedelta(seconds=9))
    make_letter(category=Category.BUG)

    [group] = Group.objects.filter(category="timeout")
    assert {letter.fingerprint for letter in [*letters, other]} == {group.fingerprint}
    assert (group.total, group.open, group.summary) == (4, 4, "took * s")
    assert (group.first_at, group.last_at) == (NOW, NOW + timedelta(seconds=9))
    decide(*letters[:2])
    decide(letters[0], event=Event.REOPENED)
    operations.mark_redriven(other, work_id=uuid.uuid4(), now=LATER)

    group.refresh_from_db()
    parts = {part.tenant: (part.total, part.open) for part in GroupTenant.objects.filter(fingerprint=group.fingerprint)}
    assert (group.total, group.open, parts) == (4, 2, {"acme": (3, 2), "globex": (1, 0)})
    assert Group.objects.get(category="bug").open == 1


def test_decisions_are_taken_for_all_or_none_and_recorded():
    """Each with its reason, by whom, and of which letters."""
    letters = [make_letter() for _ in range(3)]
    operations.mark_redriven(letters[1], work_id=uuid.uuid4(), now=NOW)

    with pytest.raises(LetterMoved, match="redriven, from where it cannot be discarded"):
        decide(*letters, event=Event.DISCARDED)
    with pytest.raises(NoReason):
        decide(letters[0], reason=" ")
    with pytest.raises(ValueError, match="purged"):
        decide(letters[0], event=Event.PURGED)
    assert DeadLetter.objects.open().count() == 2
    assert decide(*letters, event=Event.RESOLVED) == 3

    event = AuditEvent.objects.first()
    assert (event.action, event.actor, event.target) == ("dead_letters.resolved", "oncall", "dead-letters")
    assert event.data["reason"] == "mended"
    assert sorted(event.data["ids"]) == sorted(str(letter.pk) for letter in letters)
    decide(letters[0], event=Event.REOPENED)
    assert AuditEvent.objects.first().target == letters[0].audit_name
    letters[0].refresh_from_db()
    assert (letters[0].state, letters[0].closed_at) == ("open", None)


def test_work_is_redriven_once():
    """Whoever comes second is told; what became of it then moves the letter on, or opens it again."""
    letter, again = make_letter(), make_letter()
    handed_in = uuid.uuid4()
    operations.mark_redriven(letter, work_id=handed_in, now=NOW)
    with pytest.raises(LetterMoved):
        operations.mark_redriven(letter, work_id=uuid.uuid4(), now=NOW)
    with pytest.raises(LetterMoved):
        operations.settle_redriven(again, is_done=True, now=NOW)

    operations.settle_redriven(letter, is_done=False, now=LATER)
    operations.mark_redriven(letter, work_id=handed_in, now=LATER)
    operations.settle_redriven(letter, is_done=True, now=LATER)

    letter.refresh_from_db()
    assert (letter.state, letter.redriven_as, letter.closed_at) == ("resolved", handed_in, LATER)


def test_depth_is_told_for_every_moment_of_a_window():
    """From what came and went since, however much there was before; of some tenants or of all."""
    early = [make_letter(at=NOW - timedelta(days=9 - number)) for number in range(3)]
    make_letter(tenant="globex", at=NOW + timedelta(minutes=10))
    decide(early[0])  # an hour after NOW

    window = {"since": NOW, "until": NOW + timedelta(minutes=90), "step_seconds": 1800}
    depths = [depth for _, depth in DeadLetter.objects.depths(**window)]
    of_acme = [depth for _, depth in DeadLetter.objects.depths(**window, tenants=["acme"])]

    assert (depths, of_acme) == ([3, 4, 3, 3], [3, 3, 2, 2])
    assert DeadLetter.objects.depths(**window, tenants=[])[0][1] == 0
    assert DeadLetter.objects.oldest_open().pk == early[1].pk


def test_letter_that_comes_at_a_moment_counts_from_it_on():
    """Also what comes after the last moment; and between two moments nothing is lost."""
    for minutes in (0, 30, 31, 59, 60, 95):
        make_letter(at=NOW + timedelta(minutes=minutes))

    window = {"since": NOW, "until": NOW + timedelta(minutes=90), "step_seconds": 1800}

    assert [depth for _, depth in DeadLetter.objects.depths(**window)] == [1, 2, 5, 5]


def test_letters_are_found_by_what_pages_filter_on():
    mine, other = make_letter(), make_letter(tenant="globex", kind="push", at=LATER)
    found = DeadLetter.objects.without_words().newest()

    assert list(found.matching(tenants=["acme"])) == [mine]
    assert list(found.matching(kind="push", state="open")) == [other]
    assert list(found.matching(fingerprint=mine.fingerprint)) == [mine]
    assert list(found.matching(tenants=[])) == []
    assert list(found.before(other.pk)) == [mine]
    assert set(found.redrivable()) == {mine, other}


def test_database_refuses_what_no_operation_does():
    """Whoever writes: what failed is not rewritten, and no letter moves where the table of moves does not lead."""
    make_letter()
    fixed = ("tenant = 'x'", "work_id = gen_random_uuid()", "category = 'bug'", "fingerprint = 'x'", "attempts = 9")
    with_words = ("causes = '[]'", "key = ''", "user_hash = ''", "payload_sha256 = ''")
    for change in (*fixed, "created_at = now()", "has_tools = true", *with_words):
        with pytest.raises((InternalError, ProgrammingError), match="Cannot update"), transaction.atomic():
            sql(f"UPDATE deadletters_deadletter SET {change}")  # noqa: S608 - ours
    with pytest.raises((InternalError, ProgrammingError), match="Cannot delete"), transaction.atomic():
        sql("DELETE FROM deadletters_deadletter")
    for change in ("payload_body = NULL", "state = 'resolved'", "hold_by = 'x'", "payload_state = 'stored'"):
        with pytest.raises(IntegrityError), transaction.atomic():
            sql(f"UPDATE deadletters_deadletter SET {change}")  # noqa: S608 - ours
    for before in State:
        for after in set(State) - {before}:
            row = make_letter()
            is_legal = any((before, event) in TRANSITIONS and TRANSITIONS[before, event] is after for event in Event)
            if before is State.PURGED or after is State.PURGED:
                continue  # those need their payload to go with them: see test_retention.py
            if before is not State.OPEN:
                sql("UPDATE deadletters_deadletter SET state = %s, closed_at = now() WHERE id = %s", before, row.pk)
            closed = None if after is State.OPEN else NOW
            try:
                with transaction.atomic():
                    DeadLetter.objects.filter(pk=row.pk).update(state=after, closed_at=closed)
                assert is_legal, (before, after)
            except (InternalError, ProgrammingError):
                assert not is_legal, (before, after)
