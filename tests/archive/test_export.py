"""The audit record is exported by the clock, once, to where nobody can change it; when it is not, people are told."""

import shutil
from datetime import timedelta
from pathlib import Path
from threading import Barrier, Thread

import pytest
from django.conf import settings as configured
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from controlplane.alerts.models import Alert
from controlplane.archive import operations
from controlplane.archive.models import AuditSegment
from controlplane.archive.operations import BEHIND, EVERY, LATE, export_due, newest_anchor, standing
from controlplane.audit import operations as audit
from controlplane.audit.models import AuditEvent
from controlplane.corpora.errors import VaultUnavailable
from controlplane.corpora.vault import open_vault
from dataplane.audit_trail import EVENTS, MANIFEST, folder_of, read_anchor, verify_folder
from dataplane.release import parse_trusted_keys
from tests.factories import NOW

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def places(settings, tmp_path):
    """A store and a second place, of this test's own."""
    settings.AUDIT_STORE, settings.AUDIT_ANCHOR_STORE = ((tmp_path / name).as_uri() for name in ("store", "second"))
    yield tmp_path
    for path in (*tmp_path.rglob("*"), tmp_path):  # what was locked is removed with the rest
        if path.is_dir():
            path.chmod(0o755)


@audit.operation
def happen(count, *, at=NOW):
    for _ in range(count):
        audit.record("thing.happened", actor="ada", target="thing:x", at=at, data={"n": [1, 2.5, "é"]})


def later(minutes=0):
    return NOW + EVERY + timedelta(minutes=minutes)


def found(places, *, anchors=()):
    trusted = parse_trusted_keys(configured.TRUSTED_KEYS_FILE.read_bytes())
    return verify_folder(places / "store", trusted=trusted, anchors=anchors)


def anchor():
    trusted = parse_trusted_keys(configured.TRUSTED_KEYS_FILE.read_bytes())
    return read_anchor(newest_anchor(), trusted=trusted, source="anchor")


def test_what_is_exported_is_proved_without_us(places):
    """Segment after segment, each following from the one before, up to the anchor."""
    happen(3)
    first = export_due(now=later())
    happen(2, at=later())
    early, second = export_due(now=later(1)), export_due(now=later() + EVERY)

    whole = found(places, anchors=[anchor()])
    assert (first, early, second) == (1, 0, 1)
    assert whole.findings == ()
    assert (whole.segments, whole.events, whole.head_seq) == (2, 5, 5)
    assert whole.head_hash == AuditEvent.objects.first().hash


def test_quiet_record_waits_and_a_full_segment_does_not(places, monkeypatch):
    """Not event by event; and not later because there is much."""
    monkeypatch.setattr(operations, "MAX_EVENTS", 4)
    happen(9)

    at_once = export_due(now=NOW)

    assert at_once == 2
    assert [row.last for row in AuditSegment.objects.order_by("number")] == [4, 8]
    assert export_due(now=later()) == 1
    assert found(places).findings == ()


def test_nothing_is_exported_twice_and_nothing_where_nothing_happened(places):
    """Exporting is no event: an idle record stays as long as it is."""
    happen(1)

    assert [export_due(now=later(minutes)) for minutes in (0, 1, 600)] == [1, 0, 0]
    assert AuditEvent.objects.count() == 1


@pytest.mark.parametrize("died_after", ["events", "manifest", "anchor"])
def test_export_goes_on_from_where_somebody_died(places, died_after):
    """Objects that are there already are held against the record and taken up, under the same name, with the same
    bytes; what happened meanwhile goes into the next segment.
    """
    happen(3)
    export_due(now=later())
    segment = places / "store" / folder_of(1)
    kept = {file.name: file.read_bytes() for file in segment.iterdir()}
    forget_segments()
    segment.chmod(0o755)
    if died_after == "events":
        (segment / MANIFEST).unlink()
    if died_after in ("events", "manifest"):
        (places / "second" / "anchors" / "0000000001.json").unlink()
    happen(2)

    again = export_due(now=later(1))

    assert again == 2
    assert (segment / EVENTS).read_bytes() == kept[EVENTS]
    if died_after != "events":
        assert (segment / MANIFEST).read_bytes() == kept[MANIFEST]
    assert [row.last for row in AuditSegment.objects.order_by("number")] == [3, 5]
    assert found(places, anchors=[anchor()]).findings == ()


def forget_segments():
    """As if the transaction that noted them had never committed."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE archive_auditsegment DISABLE TRIGGER ALL")
        cursor.execute("DELETE FROM archive_auditsegment")
        cursor.execute("ALTER TABLE archive_auditsegment ENABLE TRIGGER ALL")


def test_store_that_holds_something_else_is_never_written_over(places, caplog):
    """Somebody who wrote there first, or a record that was changed since, stops the export, loudly."""
    happen(3)
    segment = places / "store" / folder_of(1)
    segment.mkdir(parents=True)
    (segment / EVENTS).write_bytes(b'{"seq":1}\n')

    assert export_due(now=later()) == 0
    assert "holds other events than the record" in caplog.text
    assert (segment / EVENTS).read_bytes() == b'{"seq":1}\n'
    assert not AuditSegment.objects.exists()


def test_exported_files_refuse_to_be_changed(places):
    """Their modes say so; and the store refuses the same name with other bytes."""
    happen(1)
    export_due(now=later())
    segment = places / "store" / folder_of(1)

    assert {file.stat().st_mode & 0o777 for file in segment.iterdir()} == {0o444}
    assert segment.stat().st_mode & 0o777 == 0o555
    with pytest.raises(Exception, match=r"nothing is overwritten|cannot be stored"):
        open_vault(configured.AUDIT_STORE).put(folder_of(1), EVENTS, b"x", retain_until=NOW)


def test_segment_is_locked_for_as_long_as_the_settings_say(places, settings):
    """Whatever store it is, the date goes with each object; on S3 it is Object Lock's, see tests of locked puts."""
    settings.AUDIT_RETAIN_DAYS = 30
    kept = []

    class Recording:
        url = "recording"

        def put(self, folder, name, data, *, retain_until):
            kept.append((folder, name, retain_until))

        def names(self, folder):
            return set()

        def finish(self, folder):
            pass

    happen(1)
    export_due(now=later(), vault=Recording(), second=Recording())

    until = later() + timedelta(days=30)
    assert kept == [
        (folder_of(1), EVENTS, until),
        (folder_of(1), MANIFEST, until),
        ("anchors", "0000000001.json", until),
    ]
    assert AuditSegment.objects.get().locked_until == until


def test_segments_are_noted_for_ever():
    """A note that was removed would be a segment that was."""
    happen(1)
    export_due(now=later())

    for write in (lambda: AuditSegment.objects.update(last=9), lambda: AuditSegment.objects.all().delete()):
        with pytest.raises(DatabaseError), transaction.atomic():
            write()


def test_people_are_told_once_when_the_export_is_behind(places):
    """A store that is away for three quarters of an hour is somebody's business, until it is back."""
    happen(1)

    class Away:
        url = "away"

        def names(self, folder):
            raise VaultUnavailable("the store is away")

    for minutes in (15, 30, 44, 46, 47):
        export_due(now=NOW + timedelta(minutes=minutes), vault=Away())

    alert = Alert.objects.get(kind=BEHIND)
    assert (alert.facts["waiting"], alert.facts["segment"]) == (1, 1)
    assert standing(now=NOW + LATE + timedelta(minutes=1)).behind_since == NOW
    assert export_due(now=NOW + LATE + timedelta(minutes=2)) == 1
    assert standing(now=NOW + LATE + timedelta(minutes=2)).behind_since is None


def test_nothing_is_exported_where_nobody_said_where_to(settings):
    """And nobody is told each minute; the page says so."""
    settings.AUDIT_STORE = ""
    happen(1)

    assert export_due(now=NOW + timedelta(days=1)) == 0
    assert not Alert.objects.exists()
    assert not standing(now=NOW).is_configured


def test_record_that_was_rewritten_in_the_database_is_told_by_what_was_exported(places):
    """Whoever owns the database can change it and its chain; what lies elsewhere is what it was."""
    happen(3)
    export_due(now=later())
    kept = anchor()
    shutil.rmtree(places / "second")
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE audit_auditevent DISABLE TRIGGER ALL")
        cursor.execute("DELETE FROM audit_auditevent WHERE seq = 3")
        cursor.execute("ALTER TABLE audit_auditevent ENABLE TRIGGER ALL")
    happen(1, at=later())

    assert found(places, anchors=[kept]).findings == ()
    assert AuditEvent.objects.get(seq=3).hash != kept.hash
    assert [one.problem for one in audit.verify([audit.Anchor(kept.seq, kept.hash, "anchor")]).findings] == [
        "anchor knows this event with another hash (history rewritten)"
    ]


@pytest.mark.django_db(transaction=True)
def test_two_workers_at_once_write_one_segment(places):
    """The second comes back without having done anything."""
    happen(5)
    done, start = [], Barrier(2)

    def work():
        start.wait(30)
        try:
            done.append(export_due(now=later()))
        finally:
            connection.close()

    threads = [Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(done) == [0, 1]
    assert AuditSegment.objects.count() == 1
    assert found(places).findings == ()
    assert len(list((places / "second" / "anchors").iterdir())) == 1


def test_second_place_that_is_away_stops_the_segment(places, caplog):
    """A head that is nowhere else proves nothing; what was put is taken up when it is back."""
    happen(1)

    class Away:
        url = "away"

        def put(self, *args, **kwargs):
            raise VaultUnavailable("the second place is away")

    assert export_due(now=later(), second=Away()) == 0
    assert not AuditSegment.objects.exists()
    assert export_due(now=later(1)) == 1
    assert Path(places / "second" / "anchors" / "0000000001.json").read_bytes() == newest_anchor()


def test_demo_is_exported_as_soon_as_it_is_there(settings, django_capture_on_commit_callbacks):
    """Its events are days old, and nobody is late who has not begun."""
    settings.DEMO = True

    with django_capture_on_commit_callbacks(execute=True):
        call_command("seed_demo", verbosity=0)

    found = standing(now=timezone.now())
    assert (found.newest is not None, found.behind_since) == (True, None)
