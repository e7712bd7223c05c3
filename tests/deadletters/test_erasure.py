"""One user of one tenant is erased, wherever something of theirs is kept, and it is done when nothing is left."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from django.db.utils import IntegrityError, InternalError, ProgrammingError

from controlplane.audit import operations as audit
from controlplane.audit.models import AuditEvent
from controlplane.deadletters import operations, payloads, retention, subjects, tasks
from controlplane.deadletters.erasures import Erasure
from controlplane.deadletters.errors import NoReason, NoSubject
from controlplane.deadletters.models import DeadLetter, Group, GroupTenant
from controlplane.ledger.idempotency import IdempotencyRecord
from controlplane.ledger.jobs import Job
from controlplane.ledger.operations import record_usage
from controlplane.ledger.repairs import Repair
from controlplane.ledger.stream_rows import StreamRow, StreamTranscript
from controlplane.ledger.streams import record_streams
from controlplane.telemetry.samples import AnswerSample, record_samples
from controlplane.telemetry.shadows import ShadowSample, record_shadows
from controlplane.work.models import Task
from dataplane.deadletters import Event, fingerprint_of
from dataplane.idempotency import Scope, full_user_hash
from dataplane.stores.payloads import PayloadUnavailable
from tests.deadletters.letters import ADA, make_letter, sql
from tests.factories import NOW, crew, make_tenant
from tests.job_rows import make_job
from tests.keyed_requests import claim, complete, forsake
from tests.repair_rows import make_repair
from tests.shadow_rows import shadow_sample
from tests.worker_reports import FRAMES, report, sample, stream_row, usage_row

pytestmark = pytest.mark.django_db
LATER = NOW + subjects.AGAIN_AFTER
DAY = timedelta(days=1)
QUOTED = "the model says Ada Lovelace may not be served"


class Away:
    """A payload store that is away until `is_back`."""

    def __init__(self, store):
        self.store, self.is_back = store, False

    def delete(self, name):
        if not self.is_back:
            raise PayloadUnavailable("away")
        self.store.delete(name)


def erase(user_hash=ADA, tenant="acme", *, now=NOW):
    return subjects.erase_subject(tenant=tenant, user_hash=user_hash, reason="asked for", actor=crew.admin, now=now)


def finish(erasure, store, *, now=LATER):
    erasure.refresh_from_db()
    return subjects.finish(erasure=erasure, store=store, now=now)


def hold(letter):
    retention.hold(letter=letter, actor=crew.legal, reason="case 7", now=NOW)


def events():
    return [event.action for event in AuditEvent.objects.filter(action__startswith="subject.").order_by("seq")]


# --- dead letters ----------------------------------------------------------------------------------------------------
def test_one_data_subject_is_erased_and_nobody_else(store):
    """Every letter of that user of that tenant, whatever became of it; held ones stay and are named."""
    mine = [make_letter() for _ in range(3)]
    others = [make_letter(user_hash="b" * 64), make_letter(tenant="globex"), make_letter(user_hash="")]
    payloads.store_pending(store)
    operations.decide(letters=[mine[1].pk], event=Event.RESOLVED, actor="x", reason="r", now=NOW)
    hold(mine[2])

    done, again = erase(), erase()

    assert (done.erased, done.held, again.erased) == (2, [str(mine[2].pk)], 0)
    for letter in [*mine, *others]:
        letter.refresh_from_db()
    assert [letter.payload_state for letter in mine] == ["purged", "purged", "stored"]
    assert [letter.state for letter in mine] == ["purged", "resolved", "open"]
    assert [letter.user_hash for letter in mine] == ["", "", ADA]
    assert {letter.payload_state for letter in others} == {"stored"}
    event = AuditEvent.objects.filter(action="subject.erased").last()
    assert (event.target, event.data["letters"], event.data["held"]) == ("tenant:acme", 2, [str(mine[2].pk)])
    assert ADA not in str(event.data)
    assert audit.verify().findings == ()


@pytest.mark.parametrize(("tenant", "user_hash"), [("", ADA), ("acme", "")])
def test_nobody_is_erased_who_is_not_named(tenant, user_hash):
    """An empty hash is everybody without one, not somebody; and it is not done without a reason."""
    with pytest.raises(NoSubject):
        erase(user_hash, tenant)
    with pytest.raises(NoReason):
        subjects.erase_subject(tenant="acme", user_hash=ADA, reason=" ", actor="x", now=NOW)
    assert Erasure.objects.count() == 0


def test_group_says_no_more_what_only_the_erased_letters_said():
    """They move to the group that says nothing, and are counted there; the one that they leave goes with the last."""
    mine = [make_letter(message=QUOTED) for _ in range(2)]
    operations.decide(letters=[mine[0].pk], event=Event.DISCARDED, actor="x", reason="r", now=NOW)
    assert Group.objects.get().summary == QUOTED

    erasure = erase()

    facts = {"kind": "errand", "name": "tests.errand", "category": "timeout", "code": "upstream_timeout"}
    group = Group.objects.get()
    assert (group.pk, group.summary, group.total, group.open) == (fingerprint_of(**facts, summary=""), "", 2, 0)
    assert (group.first_at, group.last_at) == (NOW, NOW)
    assert GroupTenant.objects.values_list("fingerprint", "tenant", "total", "open").get() == (group.pk, "acme", 2, 0)
    assert set(DeadLetter.objects.values_list("summary", "fingerprint")) == {("", group.pk)}
    assert erasure.counts["summaries"] == 2


def test_group_keeps_what_others_failed_with_and_counts_them_alone():
    """What others said too is not one user's; theirs stay where they were, and so does a letter on legal hold."""
    make_letter(message=QUOTED, tenant="globex")
    make_letter(message=QUOTED, user_hash="b" * 64)
    make_letter(message=QUOTED)
    held = make_letter(message=QUOTED)
    hold(held)

    erase()

    held.refresh_from_db()
    assert held.summary == QUOTED
    groups = {group.summary: (group.total, group.open) for group in Group.objects.all()}
    assert groups == {QUOTED: (3, 3), "": (1, 0)}
    parts = set(GroupTenant.objects.values_list("tenant", "total", "open"))
    assert parts == {("globex", 1, 1), ("acme", 2, 2), ("acme", 1, 0)}


def test_letter_whose_time_was_over_is_found_by_its_job():
    """It says no more whose it was; the job does, until it is erased."""
    job = make_job(state="failed", user_hash=ADA)
    letter = make_letter(kind="job", work_id=job.pk, message=QUOTED)
    retention.purge_expired(now=NOW + 31 * DAY)
    letter.refresh_from_db()
    assert (letter.user_hash, letter.summary) == ("", QUOTED)

    erase(now=NOW + 32 * DAY)

    letter.refresh_from_db()
    assert letter.summary == ""


def test_database_lets_nobody_rewrite_what_a_letter_says():
    """A summary only goes, and only with the payload."""
    make_letter(message=QUOTED)
    gone = make_letter(message=QUOTED, tenant="globex")
    retention.wipe([gone.pk], now=NOW)
    for change, where in (
        ("summary = ''", "tenant = 'acme'"),
        ("summary = 'x'", "tenant = 'globex'"),
        ("fingerprint = 'x'", "tenant = 'globex'"),
    ):
        with pytest.raises((InternalError, ProgrammingError), match="Cannot update"), transaction.atomic():
            sql(f"UPDATE deadletters_deadletter SET {change} WHERE {where}")  # noqa: S608 - ours


# --- what else is kept -----------------------------------------------------------------------------------------------
def make_all(user, tenant):
    """One of everything that is kept of a user of a tenant."""
    whole, short = full_user_hash(user), full_user_hash(user)[:16]
    name = f"{tenant}-{user}"
    make_letter(tenant=tenant, user_hash=whole)
    make_job(tenant=tenant, state="completed", user_hash=whole)
    complete(claim(name, tenant=tenant, user=user))
    make_repair(tenant=tenant, user_hash=short)
    record_streams(
        streams=[stream_row(f"{name:0>32}", tenant=tenant, user=short, at=NOW, transcript=FRAMES)], deliveries=[]
    )
    record_usage([usage_row(name, request_id=name, tenant=tenant, user=short)])
    record_samples([report(samples=(sample(name, tenant=tenant),))])
    record_shadows([report(shadow_samples=(shadow_sample(name, tenant=tenant),))], now=NOW)


def kept(tenant, user):
    """How much is kept of what `make_all` made."""
    whole = full_user_hash(user)
    name = f"{tenant}-{user}"
    return {
        "letters": DeadLetter.objects.filter(tenant=tenant, user_hash=whole).count(),
        "jobs": Job.objects.filter(tenant=tenant, user_hash=whole, request__isnull=False).count(),
        "replays": IdempotencyRecord.objects.filter(tenant=tenant, key=name, body__isnull=False).count(),
        "repairs": Repair.objects.filter(tenant=tenant, user_hash=whole[:16], payload__isnull=False).count(),
        "transcripts": StreamTranscript.objects.filter(stream_id=f"{name:0>32}").count(),
        "samples": AnswerSample.objects.filter(request_id=name).count(),
        "shadows": ShadowSample.objects.filter(request_id=name).count(),
    }


def test_all_that_is_kept_of_a_user_goes_and_nothing_of_anybody_else():
    """A user of the same name of another tenant is somebody else. What it cost, and that it was, stays."""
    everybody = [("acme", "ada"), ("globex", "ada"), ("acme", "bob")]
    for tenant in ("acme", "globex"):
        make_tenant(tenant, log_content=True)
    for tenant, user in everybody:
        make_all(user, tenant)
    one = dict.fromkeys(kept("acme", "ada"), 1)
    assert [kept(*who) for who in everybody] == [one] * 3

    erasure = erase(full_user_hash("ada"))

    assert [kept(*who) for who in everybody] == [dict.fromkeys(one, 0), one, one]
    assert erasure.counts == one | {"summaries": 1, "work": 0}
    event = AuditEvent.objects.filter(action="subject.erased").get()
    assert {kind: event.data[kind] for kind in erasure.counts} == erasure.counts
    assert (StreamRow.objects.count(), IdempotencyRecord.objects.filter(status=200).count()) == (3, 3)
    assert Repair.objects.filter(state="expired", why="", missing=[]).count() == 1
    job = Job.objects.get(erased_at__isnull=False)
    assert (job.tenant, job.state, job.status, job.response, job.user) == ("acme", "completed", 200, None, "")


# --- done, or not ----------------------------------------------------------------------------------------------------
def test_erasure_is_done_when_the_store_says_so_and_what_was_under_way_has_gone(store, objects):
    """With the store away it is tried again, and never says that it is done; afterwards nothing says whose it was."""
    make_letter()
    payloads.store_pending(store)
    away = Away(store)
    erasure = erase()
    assert (len(erasure.objects_left), Task.objects.count()) == (1, 0)

    assert [finish(erasure, away) for _ in range(3)] == [False] * 3
    erasure.refresh_from_db()
    assert (erasure.is_done, erasure.user_hash, erasure.problem) == (False, ADA, "the payload store is away: away")
    assert events() == ["subject.erased"]
    away.is_back = True
    assert not finish(erasure, away, now=NOW)
    erasure.refresh_from_db()
    assert (erasure.objects_left, erasure.problem, objects.list().collect()) == ([], "", [])
    assert finish(erasure, away)
    assert finish(erasure, away)

    erasure.refresh_from_db()
    assert (erasure.is_done, erasure.user_hash, erasure.finished_at, erasure.erased) == (True, "", LATER, 1)
    assert events() == ["subject.erased", "subject.erasure_done"]
    assert audit.verify().findings == ()


def test_what_was_under_way_is_erased_when_it_has_ended(store):
    """An answer that was being given, and a repair that was kept meanwhile; a key of a dead process holds nobody up."""
    running, dead = claim("k", user="ada"), claim("d", user="ada")
    IdempotencyRecord.objects.update(created_at=NOW)
    forsake(dead)
    erasure = erase(full_user_hash("ada"))
    IdempotencyRecord.objects.filter(pk=running).update(lease_until=LATER + DAY)

    assert not finish(erasure, store)
    erasure.refresh_from_db()
    assert erasure.problem == "a request of theirs is still being answered"
    complete(running)
    make_repair(user_hash=full_user_hash("ada")[:16])
    assert finish(erasure, store)

    erasure.refresh_from_db()
    assert (erasure.counts["replays"], erasure.counts["repairs"], erasure.problem) == (1, 1, "")
    assert IdempotencyRecord.objects.get(pk=running).body is None


def test_what_they_ask_for_afterwards_is_theirs_anew(store):
    """A user who comes back within the quarter of an hour keeps what is made for them then."""
    erasure = erase(full_user_hash("ada"))
    after = NOW + timedelta(minutes=5)
    job = make_job(user_hash=full_user_hash("ada"), at=after)
    letter = make_letter(user_hash=full_user_hash("ada"), kind="job", work_id=job.pk, at=after)
    complete(claim("k", user="ada"))  # by the database's clock, which is long after
    repair = make_repair(user_hash=full_user_hash("ada")[:16], at=LATER + DAY)

    assert finish(erasure, store, now=LATER + 2 * DAY)  # it could not be gone over again earlier

    job.refresh_from_db()
    letter.refresh_from_db()
    assert (job.state, job.erased_at, letter.payload_state) == ("queued", None, "pending")
    assert IdempotencyRecord.objects.get().body is not None
    repair.refresh_from_db()
    assert repair.payload is not None


def test_record_of_erasures_is_not_rewritten(store):
    """What is done stays so, and no row goes; and nothing brings the words of an erased job back."""
    job = make_job(state="completed", user_hash=ADA)
    erasure = erase()
    assert finish(erasure, store)

    for statement in (
        "UPDATE deadletters_erasure SET reason = 'x'",
        "DELETE FROM deadletters_erasure",
        f"UPDATE ledger_job SET response = 'x' WHERE id = '{job.pk}'",  # noqa: S608 - ours
    ):
        with pytest.raises((InternalError, ProgrammingError, IntegrityError)), transaction.atomic():
            sql(statement)


def test_beat_finishes_erasures_each_apart(settings, tmp_path):
    """One that cannot be finished keeps no other from being done."""
    settings.PAYLOAD_STORE = (tmp_path / "payloads").as_uri()
    make_letter()
    tasks.store_payloads()
    first, second = erase(), erase("b" * 64)
    settings.PAYLOAD_KEYS_FILE = tmp_path / "nowhere"

    assert tasks.finish_erasures() == 1

    assert [one.pk for one in Erasure.objects.under_way()] == [first.pk]
    second.refresh_from_db()
    assert second.is_done


def test_command_erases_a_user_by_the_id_that_the_application_sent():
    """It says how many of what, and ends with an error where something is held."""
    user_hash = Scope("acme", "ada").user_hash
    make_letter(user_hash=user_hash)
    told = StringIO()
    asked = ("erase_subject", "acme", "--user", "ada", "--actor", "dpo", "--reason", "request 12")

    call_command(*asked, stdout=told)
    assert told.getvalue().startswith("erased: letters 1, summaries 1; under way until ")
    held = make_letter(user_hash=user_hash)
    hold(held)
    with pytest.raises(CommandError, match=str(held.pk)):
        call_command(*asked, stdout=told)
