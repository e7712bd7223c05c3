"""How long payloads are kept, and who may keep one longer."""

from __future__ import annotations

from datetime import timedelta

import obstore
import pytest
from django.db import transaction
from django.db.utils import InternalError, ProgrammingError

from controlplane.audit.models import AuditEvent
from controlplane.deadletters import operations, payloads, retention, tasks
from controlplane.deadletters.errors import (
    BadRetention,
    HeldAlready,
    HoldInThePast,
    LetterMoved,
    NoReason,
    NotHeld,
    PayloadPurged,
)
from controlplane.deadletters.models import DeadLetter, Group
from controlplane.work import arguments, handlers
from controlplane.work.models import Task
from dataplane.deadletters import Category, Event
from dataplane.stores.payloads import PayloadUnavailable
from tests.deadletters.letters import make_letter, sql
from tests.factories import NOW, crew, make_tenant

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)


def set_retention(days, **which):
    return retention.set_retention(days=days, actor=crew.admin, reason="the contract says so", now=NOW, **which)


def expiry(letter):
    letter.refresh_from_db()
    return (letter.payload_expires_at - letter.created_at).days


def hold(letter, *, until=None, reason="case 7"):
    retention.hold(letter=letter, actor=crew.legal, reason=reason, until=until, now=NOW)


def names_in(objects):
    return [item["path"] for chunk in obstore.list(objects) for item in chunk]


class Away:
    """A store that is away."""

    def put(self, name, data):
        raise PayloadUnavailable("away")


# --- where payloads lie ----------------------------------------------------------------------------------------------
def test_payloads_go_from_the_table_into_the_store(store, objects):
    """Encrypted, oldest first, each once; what they say is read from wherever it lies."""
    letters = [make_letter(payload=b"secret %d" % number) for number in range(3)]
    assert payloads.payload_of(letters[0], store) == b"secret 0"

    assert payloads.store_pending(store) == 3
    assert payloads.store_pending(store) == 0

    for number, letter in enumerate(letters):
        letter.refresh_from_db()
        assert (letter.payload_state, letter.payload_body) == ("stored", None)
        assert letter.payload_name in names_in(objects)
        assert payloads.payload_of(letter, store) == b"secret %d" % number


def test_payloads_stay_in_the_table_while_the_store_is_away(store):
    """It is not asked for each of a thousand; nothing of them is lost."""
    for _ in range(payloads.AWAY_AFTER + 5):
        make_letter()

    class Counting(Away):
        asked = 0

        def put(self, name, data):
            self.asked += 1
            super().put(name, data)

    away = Counting()

    assert payloads.store_pending(away) == 0
    assert away.asked == payloads.AWAY_AFTER
    assert payloads.store_pending(store) == payloads.AWAY_AFTER + 5


def test_payload_that_was_purged_while_it_was_stored_is_taken_back(store, objects):
    """Whoever comes second gives way, and leaves nothing behind."""
    letter = make_letter()

    class Slow:
        def put(self, name, data):
            key = store.put(name, data)
            assert retention.purge_expired(now=NOW + 31 * DAY) == 1
            return key

        delete = staticmethod(store.delete)

    assert payloads.store_pending(Slow()) == 0
    letter.refresh_from_db()
    assert (letter.payload_state, names_in(objects)) == ("purged", [])


def test_settings_name_the_store_and_its_keys(settings, tmp_path):
    """As a deployment is told of them; what is missing is named, and the payloads wait."""
    settings.PAYLOAD_STORE = (tmp_path / "payloads").as_uri()
    letter = make_letter()

    assert tasks.store_payloads() == 1
    assert payloads.payload_of(letter, payloads.payload_store()) == b'{"secret":1}'
    [kept] = [path for path in (tmp_path / "payloads").rglob("*") if path.is_file()]
    assert b"secret" not in kept.read_bytes()
    settings.PAYLOAD_KEYS_FILE = tmp_path / "nowhere"
    make_letter()
    with pytest.raises(PayloadUnavailable, match="BALLAST_PAYLOAD_KEYS_FILE"):
        payloads.payload_store()
    assert tasks.store_payloads() == 0


def test_reading_a_payload_is_recorded_with_its_reason(store):
    letter = make_letter()
    with pytest.raises(NoReason):
        operations.read_payload(letter=letter, store=store, actor=crew.oncall, reason="", now=NOW)

    told = operations.read_payload(letter=letter, store=store, actor=crew.oncall, reason="incident 3", now=NOW)

    event = AuditEvent.objects.first()
    assert told == b'{"secret":1}'
    assert (event.action, event.actor, event.target) == ("dead_letter.read", "oncall", letter.audit_name)
    assert event.data == {"tenant": "acme", "reason": "incident 3"}


# --- rules -----------------------------------------------------------------------------------------------------------
def test_rule_that_says_most_counts_for_what_comes_and_what_is_there():
    """Tenant and category before tenant before category before neither; without a rule it is 30 days."""
    make_tenant("acme")
    letter, other = make_letter(), make_letter(tenant="globex", category=Category.BUG)
    assert (expiry(letter), expiry(other)) == (30, 30)
    for which, days in (
        ({}, 20),
        ({"category": "timeout"}, 10),
        ({"tenant": "acme"}, 5),
        ({"tenant": "acme", "category": "timeout"}, 2),
    ):
        rule = set_retention(days, **which)
        assert (expiry(letter), expiry(make_letter()), expiry(other)) == (days, days, 20)
    retention.remove_retention(rule=rule, actor=crew.admin, reason="r", now=NOW)
    assert (expiry(letter), expiry(make_letter())) == (5, 5)

    actions = [event.action for event in AuditEvent.objects.all()[:5]]
    assert actions == ["retention.removed"] + ["retention.set"] * 4
    assert AuditEvent.objects.all()[1].data["letters"] == 4


@pytest.mark.parametrize(
    "bad", [{"days": -1}, {"days": 3651}, {"days": 1, "category": "x"}, {"days": 1, "tenant": "x"}]
)
def test_rules_that_are_none_are_refused(bad):
    with pytest.raises(BadRetention):
        set_retention(**bad)
    with pytest.raises(NoReason):
        retention.set_retention(days=1, actor=crew.admin, reason="", now=NOW)


# --- going -----------------------------------------------------------------------------------------------------------
def test_payload_whose_time_is_over_is_gone_and_the_row_stays(store, objects):
    """In the store and in the table; what an open letter asked for can then be done by nobody, which its state says."""
    letters = [make_letter(), make_letter(), make_letter(at=NOW + 5 * DAY)]
    operations.decide(letters=[letters[1].pk], event=Event.DISCARDED, actor="x", reason="r", now=NOW)
    payloads.store_pending(store)
    pending = make_letter(at=NOW - DAY)

    assert retention.purge_expired(now=NOW + 31 * DAY) == 3
    assert retention.purge_expired(now=NOW + 31 * DAY) == 0

    for letter in [*letters, pending]:
        letter.refresh_from_db()
    assert [letter.state for letter in [*letters, pending]] == ["purged", "discarded", "open", "purged"]
    gone = letters[0]
    assert (gone.payload_state, gone.payload_key, gone.payload_name, gone.causes) == ("purged", "", "", [])
    assert (gone.key, gone.user_hash, gone.payload_sha256, gone.payload_bytes) == ("", "", "", 12)
    assert (gone.tenant, gone.category, gone.closed_at) == ("acme", "timeout", NOW + 31 * DAY)
    assert Group.objects.get().open == 1
    with pytest.raises(PayloadPurged):
        payloads.payload_of(gone, store)
    with pytest.raises(LetterMoved, match="purged"):
        operations.decide(letters=[letters[1].pk], event=Event.REOPENED, actor="x", reason="r", now=NOW)
    # What lies in the store goes by work that is done for sure; it is noise already.
    [task] = Task.objects.all()
    assert task.kind == payloads.DELETE
    assert AuditEvent.objects.filter(action="dead_letters.purged").count() == 1


def test_objects_go_by_durable_work(settings, tmp_path):
    """And those of others stay."""
    settings.PAYLOAD_STORE = (tmp_path / "payloads").as_uri()
    make_letter()
    kept = make_letter(at=NOW + 5 * DAY)
    tasks.store_payloads()

    assert tasks.retention.purge_expired(now=NOW + 31 * DAY) == 1
    [task] = Task.objects.all()
    handler = handlers.find(task.kind)
    handler.run(arguments.read(bytes(task.arguments)), handlers.Attempt(task.pk, task.kind, 1, ""))

    left = [path for path in (tmp_path / "payloads").rglob("*") if path.is_file()]
    assert len(left) == 1
    assert payloads.payload_of(kept, payloads.payload_store()) == b'{"secret":1}'


def test_held_payload_stays_until_it_is_released():
    """By the purge as by an erasure, and the database knows nothing else; who holds it, and why, is recorded."""
    letter = make_letter()
    with pytest.raises(NoReason):
        hold(letter, reason=" ")
    with pytest.raises(HoldInThePast):
        hold(letter, until=NOW)
    with pytest.raises(NotHeld):
        retention.release_hold(letter=letter, actor=crew.legal, reason="r", now=NOW)
    hold(letter)
    assert letter.is_held
    with pytest.raises(HeldAlready, match="'legal'"):
        hold(letter)

    assert retention.purge_expired(now=NOW + 400 * DAY) == 0
    with pytest.raises((InternalError, ProgrammingError), match="Cannot update"), transaction.atomic():
        sql(
            "UPDATE deadletters_deadletter SET payload_state = 'purged', payload_body = NULL, payload_sha256 = '',"
            " user_hash = '', key = '', causes = '[]', state = 'purged', closed_at = now()"
        )
    retention.release_hold(letter=letter, actor=crew.legal, reason="case 7 is closed", now=NOW)
    assert not letter.is_held
    assert retention.purge_expired(now=NOW + 400 * DAY) == 1
    with pytest.raises(PayloadPurged):
        hold(letter)

    told = [(event.action, event.actor) for event in AuditEvent.objects.filter(action__startswith="dead_letter")]
    assert told == [
        ("dead_letters.purged", "retention"),
        ("dead_letter.released", "legal"),
        ("dead_letter.held", "legal"),
    ]


def test_hold_ends_by_itself_at_its_hour():
    letter = make_letter()
    hold(letter, until=NOW + 60 * DAY)

    assert retention.lapse_holds(now=NOW + 59 * DAY) == 0
    assert retention.lapse_holds(now=NOW + 60 * DAY) == 1

    letter.refresh_from_db()
    assert (letter.is_held, letter.hold_until) == (False, None)
    assert retention.purge_expired(now=NOW + 60 * DAY) == 1


def test_purging_goes_on_until_nothing_is_left(settings):
    """However much there is; one step holds the record for a bounded time."""
    for _ in range(3):
        make_letter(at=NOW - 9 * 365 * DAY)
    letter = make_letter(at=NOW - 9 * 365 * DAY)
    hold(letter, until=NOW + DAY)

    assert tasks.purge() >= 3
    assert DeadLetter.objects.exclude(payload_state="purged").filter(hold_by="").count() == 0
