"""What the evidence of idempotency keys shows, and to whom it can be shown that nobody changed it."""

import hashlib
from datetime import timedelta
from uuid import UUID, uuid4

import pgtrigger
import pytest
from django.db import InternalError, ProgrammingError, connection, transaction

from controlplane.audit.models import GENESIS
from controlplane.ledger.evidence import verify_chain
from controlplane.ledger.idempotency import IdempotencyEvidence, IdempotencyRecord
from dataplane.idempotency import Event
from tests.keyed_requests import BODY, claim, complete, expire

pytestmark = pytest.mark.django_db


@pytest.fixture
def record() -> UUID:
    """A key that was executed once: created, attached, completed, replayed, mismatch."""
    record = claim()
    claim(request="r2")
    complete(record)
    claim(request="r3")
    claim(request="r4", fingerprint="g")
    return record


@pytest.fixture
def forge():
    """Run SQL as somebody who has switched both tables' triggers off."""

    def run(statement, *parameters):
        guards = ("ledger.IdempotencyEvidence:append_only", "ledger.IdempotencyRecord:outcome_is_fixed")
        with pgtrigger.ignore(*guards), connection.cursor() as cursor:
            cursor.execute(statement, parameters)

    return run


def problems(record):
    return [(finding.seq, finding.problem) for finding in verify_chain(record).findings]


def test_whole_chain_has_no_findings_before_and_after_its_end(record):
    """Every step counted; when the key's time is over, the chain says so and is closed."""
    before = verify_chain(record)
    expire()
    after = verify_chain(record)

    assert (before.rows, before.is_closed, before.findings) == (5, False, ())
    assert (after.rows, after.is_closed, after.findings) == (6, True, ())
    assert verify_chain(uuid4()).rows == 0


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("SET status = 500 WHERE seq = 3", [(3, "its fields do not give its hash (altered)")]),
        ("SET at = at + interval '1 us' WHERE seq = 3", [(3, "its fields do not give its hash (altered)")]),
        ("SET detail = '{}' WHERE seq = 3", [(3, "its fields do not give its hash (altered)")]),
        ("SET request_id = 'r9' WHERE seq = 2", [(2, "its fields do not give its hash (altered)")]),
        (
            "SET seq = CASE seq WHEN 2 THEN 30 ELSE seq END",
            [
                (3, "row 2 is missing before this one"),
                (30, "row 6 is missing before this one"),
                (30, "its fields do not give its hash (altered)"),
                (30, "is the last one, the record knows row 5 as that (truncated or rewritten)"),
            ],
        ),
        (
            f"SET previous_hash = '{GENESIS}' WHERE seq = 4",
            [
                (4, "does not follow from the row before it (altered or reordered)"),
                (4, "its fields do not give its hash (altered)"),
            ],
        ),
        (
            "SET tenant = 'globex' WHERE seq = 5",
            [(5, "its fields do not give its hash (altered)"), (5, "is of another key than the first row")],
        ),
    ],
)
def test_row_that_was_changed_is_found(record, forge, statement, found):
    """Whatever was touched, also when it happened and for which request."""
    forge(f"UPDATE ledger_idempotencyevidence {statement}")

    assert problems(record) == found


def test_chain_that_was_cut_is_found_while_the_record_lives_and_after_its_end(record, forge):
    """The record holds its end; afterwards the row that says that it expired does."""
    forge("DELETE FROM ledger_idempotencyevidence WHERE seq = 5")
    cut = problems(record)
    forge(
        "UPDATE ledger_idempotencyrecord SET evidence_seq = 4, evidence_hash = (SELECT hash FROM"
        " ledger_idempotencyevidence WHERE seq = 4)"
    )
    mended = problems(record)
    expire()
    forge("DELETE FROM ledger_idempotencyevidence WHERE event = 'expired'")

    assert cut == [(4, "is the last one, the record knows row 5 as that (truncated or rewritten)")]
    assert mended == []  # who can write both tables leaves no trace, as the module says
    assert problems(record) == [(4, "is the last one, and neither is there a record nor did it expire (truncated)")]


def test_beginning_that_was_taken_away_is_found_though_the_rest_was_rehashed(record, forge):
    """A thorough forger numbers and hashes anew; what begins with a replay was no execution."""
    forge("DELETE FROM ledger_idempotencyevidence WHERE seq = 1")
    previous = GENESIS
    for row in IdempotencyEvidence.objects.of_record(record):
        row.seq, row.previous_hash = row.seq - 1, previous
        row.hash = previous = row.computed_hash()
        with pgtrigger.ignore("ledger.IdempotencyEvidence:append_only"):
            row.save()

    assert problems(record)[0] == (1, "says 'attached'; a chain begins with 'created', and nothing else does")


def test_answer_that_was_exchanged_is_found(record, forge):
    """What is given to duplicates is what was given first."""
    forge("UPDATE ledger_idempotencyrecord SET body = 'another answer'")

    ((seq, problem),) = problems(record)

    assert seq == 3
    assert problem.startswith("tells of another body than the record keeps")


@pytest.mark.parametrize(
    ("statement", "refusal"),
    [
        ("UPDATE ledger_idempotencyevidence SET status = 0", "Cannot update or delete"),
        ("DELETE FROM ledger_idempotencyevidence", "Cannot update or delete"),
        ("UPDATE ledger_idempotencyrecord SET body_sha256 = 'x'", "Cannot update"),
        ("UPDATE ledger_idempotencyrecord SET state = 'running', status = 0", "Cannot update"),
        ("UPDATE ledger_idempotencyrecord SET fingerprint = 'x'", "Cannot update"),
        ("UPDATE ledger_idempotencyrecord SET epoch = 0", "Cannot update"),
    ],
)
def test_database_refuses_to_rewrite_what_happened(record, statement, refusal):
    """Not even SQL changes evidence, replaces an outcome or lets an earlier owner back in."""
    with (
        pytest.raises((InternalError, ProgrammingError), match=refusal),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)


def test_evidence_is_found_by_everything_that_a_dispute_names(record):
    """By key, request, tenant, user and time; each narrows, and pages follow each other without a gap."""
    other = claim("other", request="r9", user="bob", tenant="globex")
    rows = IdempotencyEvidence.objects
    first, last = rows.of_record(record).first(), rows.newest().first()

    def seen(found):
        return [(row.record, row.seq) for row in found.newest()]

    chain = [(record, seq) for seq in range(5, 0, -1)]
    assert seen(rows.matching(key="k")) == seen(rows.matching(user="zoe")) == chain
    assert seen(rows.matching(tenants=["acme"])) == chain
    assert seen(rows.matching(tenants=[])) == []
    assert seen(rows.matching(tenants=["acme", "globex"], key="other")) == [(other, 1)]
    assert seen(rows.matching(request_id="r3")) == [(record, 4)]
    assert seen(rows.matching(key="k", event=Event.MISMATCH)) == [(record, 5)]
    assert seen(rows.between(first.at, last.at + timedelta(seconds=1))) == [(other, 1), *chain]
    assert seen(rows.between(last.at + timedelta(seconds=1), last.at + timedelta(seconds=2))) == []
    assert seen(rows.before(last.pk)) == chain
    assert rows.get(record=record, event=Event.REPLAYED).body_sha256 == hashlib.sha256(BODY).hexdigest()
    assert rows.get(record=record, event=Event.COMPLETED).detail == '{"total_tokens":3}'
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM ledger_idempotencyevidence e WHERE e::text LIKE '%zoe%'")
        assert cursor.fetchone() == (0,)


def test_records_are_read_without_their_answers(record):
    """A page about keys has no need of what was said."""
    (found,) = IdempotencyRecord.objects.without_answers()

    assert {"body", "headers", "fields"} <= found.get_deferred_fields()
    assert str(found) == "acme k done"
