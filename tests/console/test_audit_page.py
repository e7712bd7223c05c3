"""The audit page over HTTP: find, read, verify, export."""

import csv
import io
import json
import re

import pytest
from django.conf import settings
from django.db import connection

from controlplane.archive.models import AuditSegment
from controlplane.archive.operations import EVERY, export_due
from controlplane.audit.models import AuditEvent
from controlplane.audit.operations import head
from controlplane.console.timeline import WORDS
from dataplane.audit_trail import line_of, read_anchor
from dataplane.release import parse_trusted_keys
from tests.factories import NOW, crew, make_operator, make_policy, make_routing, make_tenant


@pytest.fixture
def record(db):
    make_policy()
    make_routing()
    make_tenant("acme")
    return AuditEvent.objects.all()


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("actor=setup", {"actor": "setup"}),
        ("action=tenant.", {"action": "tenant.created"}),
        ("target=tenant:acme", {"target": "tenant:acme"}),
        ("action=routing&actor=setup", {"actor": "setup", "action__startswith": "routing"}),
        (f"since={NOW:%Y-%m-%d}&until={NOW:%Y-%m-%d}&action=tenant", {"action": "tenant.created"}),
        (f"until={NOW.year - 1}-01-01", {"seq__lt": 0}),
    ],
)
def test_events_are_found_by_who_what_and_when(record, signed_in, query, wanted):
    """Everything given must fit."""
    rows = signed_in(crew.auditor).get(f"/audit/?{query}").context["rows"]

    expected = list(AuditEvent.objects.filter(**wanted).values_list("seq", flat=True))
    assert [row["event"].seq for row in rows] == expected[:50]


def test_older_events_follow_without_a_gap(record, signed_in):
    """Pages go by sequence number; an event is on exactly one of them."""
    for number in range(60):
        make_tenant(f"tenant-{number}")
    browser = signed_in(crew.auditor)

    first = browser.get("/audit/")
    second = browser.get(f"/audit/{first.context['older']}")

    seqs = [row["event"].seq for page in (first, second) for row in page.context["rows"]]
    assert seqs == list(range(seqs[0], seqs[-1] - 1, -1))
    for nonsense in ("²", "9" * 5000, "-1"):
        assert browser.get("/audit/", {"before": nonsense}).status_code == 200


def test_verification_says_how_far_the_chain_holds(record, signed_in):
    """Events counted, releases as anchors, the head's hash."""
    html = signed_in(crew.auditor).post("/audit/verify/").content.decode()

    assert head()[1][:8] in html


def test_verification_names_an_event_that_somebody_edited(record, signed_in):
    """What no page can do, a database administrator can; the chain shows it."""
    crew.auditor  # noqa: B018 - made now, so that the last event is not theirs
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE audit_auditevent DISABLE TRIGGER USER")
        cursor.execute("UPDATE audit_auditevent SET actor = 'nobody' WHERE seq = 2")
        cursor.execute("ALTER TABLE audit_auditevent ENABLE TRIGGER USER")

    html = signed_in(crew.auditor).post("/audit/verify/").content.decode()

    assert "its fields do not give its hash" in html


def test_export_gives_every_event_that_fits_with_its_hash(record, signed_in):
    """JSON lines, oldest first: what a verifier elsewhere needs."""
    answer = signed_in(crew.auditor).get("/audit/export/?action=tenant")

    lines = [json.loads(line) for line in answer.getvalue().decode().splitlines()]
    assert [line["action"] for line in lines] == ["tenant.created"]
    assert lines[0]["hash"] == AuditEvent.objects.get(action="tenant.created").hash


def test_csv_export_never_becomes_a_formula(record, signed_in):
    """A name that begins with an equals sign stays a name on the auditor's desk."""
    make_operator("=cmd|calc")

    answer = signed_in(crew.auditor).get("/audit/export/?format=csv&action=operator.created")

    rows = list(csv.DictReader(io.StringIO(answer.getvalue().decode())))
    assert "'=cmd|calc" in {row["target"] for row in rows}


def test_record_is_for_auditors_and_admins_and_leaves_the_house_only_with_auditors(record, signed_in):
    """Others are refused by name of the roles; an admin reads and verifies, and does not export."""
    assert signed_in(crew.oncall).get("/audit/").status_code == 403
    admin = signed_in(crew.admin)
    assert admin.get("/audit/").status_code == admin.post("/audit/verify/").status_code == 200
    assert admin.get("/audit/export/").status_code == 403
    assert "format=csv" not in admin.get("/audit/").content.decode()


def test_audit_page_takes_as_many_queries_for_a_long_record_as_for_a_short_one(record, signed_in, queries):
    """One page of events is one query."""
    browser = signed_in(crew.auditor)
    browser.get("/audit/")
    few = queries(lambda: browser.get("/audit/"))
    for number in range(60):
        make_tenant(f"tenant-{number}")

    assert queries(lambda: browser.get("/audit/")) == few


def test_every_action_is_told_in_words():
    """What the code records is what the timeline knows; an action that shows its own name was forgotten."""
    source = "\n".join(path.read_text() for path in sorted((settings.BASE_DIR / "controlplane").rglob("*.py")))

    recorded = set(re.findall(r'audit\.record\(\s*"([a-z_.]+)"', source))

    assert {"sign_out", "release.cut", "canary.planned"} < recorded
    assert recorded - WORDS.keys() == set()


# --- the export -------------------------------------------------------------------------------------------------------
@pytest.fixture
def store(settings, tmp_path):
    """Where the record is exported to, of this test's own."""
    settings.AUDIT_STORE, settings.AUDIT_ANCHOR_STORE = (tmp_path / "store").as_uri(), ""
    yield tmp_path / "store"
    for path in tmp_path.rglob("*"):  # what was locked is removed with the rest
        if path.is_dir():
            path.chmod(0o755)


def words(browser):
    return " ".join(browser.get("/audit/").content.decode().split())


def test_page_says_how_far_the_record_is_exported_and_for_how_long_it_is_locked(db, signed_in, store):
    """Nothing yet, then until which event; who may export gets the signed head of it to keep elsewhere."""
    make_tenant("acme")
    auditor = signed_in(crew.auditor)
    now = AuditEvent.objects.earliest("seq").at + EVERY

    before, none = words(auditor), auditor.get("/audit/anchor/")
    export_due(now=now)
    after, anchor = words(auditor), auditor.get("/audit/anchor/")

    assert "Nothing is exported yet" in before or "The export is behind" in before
    assert none.status_code == 404
    assert "Exported until event" in after
    assert "locked until" in after
    trusted = parse_trusted_keys(settings.TRUSTED_KEYS_FILE.read_bytes())
    assert read_anchor(anchor.content, trusted=trusted, source="a").seq == AuditSegment.objects.get().last
    assert signed_in(crew.owner).get("/audit/anchor/").status_code == 403


def test_page_says_when_the_export_is_behind_or_nobody_said_where_to(db, signed_in, store, settings):
    """In words, at the top: what waits, since when, and what to do."""
    make_tenant("acme")
    auditor = signed_in(crew.auditor)

    behind = words(auditor)
    settings.AUDIT_STORE = ""
    nowhere = words(auditor)

    assert "The export is behind" in behind
    assert "events wait, the oldest from" in behind
    assert "BALLAST_AUDIT_STORE" in nowhere


def test_exported_lines_are_those_of_the_archive(db, signed_in):
    """A download can be held against the segments, byte for byte."""
    make_tenant("acme")

    lines = b"".join(signed_in(crew.auditor).get("/audit/export/")).splitlines(keepends=True)

    assert lines == [line_of(event.to_json()) for event in AuditEvent.objects.order_by("seq")]
