"""How the deployment stands, in figures that are computed once and scraped by everybody."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.conf import settings as configured
from django.core.cache import cache
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from controlplane import figures
from controlplane.approvals import operations as approvals
from controlplane.figures import KNOWN, Figure
from controlplane.releases.operations import current_release, record_reports
from controlplane.telemetry.deployment import compute
from controlplane.telemetry.tasks import compute_figures
from controlplane.work import operations as work
from tests.deadletters.letters import make_letter
from tests.factories import NOW, crew, make_canary, run_canary
from tests.worker_reports import report

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def none_kept(settings, tmp_path):
    """Nobody has computed any yet, and the audit record has a store."""
    settings.AUDIT_STORE = (tmp_path / "store").as_uri()
    cache.delete(figures.KEY)
    yield
    cache.delete(figures.KEY)


def found(at):
    return {(one.name, one.label): one.value for one in compute(now=at)}


def test_what_is_open_is_counted_with_the_age_of_its_oldest():
    """Fleet, work, dead letters, canaries, bypasses, changes and the record's export, an hour later."""
    change = make_canary().change
    approvals.break_glass(
        change=change, actor=crew.oncall, reason="outage", incident="INC-7", lasts=timedelta(minutes=30), now=NOW
    )
    make_letter(kind="errand")
    make_letter(kind="errand", at=NOW + HOUR / 2)
    make_letter(kind="push")
    newest = current_release()
    record_reports(
        [
            report(worker="a", revision=newest.revision, digest=newest.digest, sent_at=NOW + HOUR),
            report(worker="b", revision=1, digest="e" * 64, sent_at=NOW + HOUR),
        ],
        now=NOW + HOUR,
    )

    told = found(NOW + HOUR)

    assert {label: told["ballast_dead_letters_open", label] for label in ("errand", "push")} == {"errand": 2, "push": 1}
    assert told["ballast_dead_letters_oldest_seconds", ""] == 3600
    assert (told["ballast_fleet_workers", "in_sync"], told["ballast_fleet_workers", "behind"]) == (1, 1)
    assert told["ballast_fleet_release_revision", ""] == newest.revision
    assert told["ballast_fleet_telemetry_age_seconds", ""] == 0
    assert (told["ballast_break_glass_unpaid", "due"], told["ballast_break_glass_unpaid", "overdue"]) == (1, 0)
    assert told["ballast_audit_export_waiting", ""] > 0
    assert told["ballast_audit_export_behind_seconds", ""] == 3600


def test_running_canaries_are_told_by_what_is_said_of_them():
    """One that nobody has looked at yet counts, too."""
    run_canary()

    assert found(NOW)["ballast_canaries_running", "none"] == 1


def test_work_is_told_by_whether_it_is_due():
    """What is to be done later waits for nobody, however long it has been there."""
    now = timezone.now()
    work.enqueue(kind="alerts.deliver", arguments={"delivery": "a"}, now=now)
    work.enqueue(kind="alerts.deliver", arguments={"delivery": "b"}, delay_seconds=7200, now=now)

    told = found(now + HOUR)

    states = {label: told["ballast_work_tasks", label] for label in ("due", "later", "running")}
    assert states == {"due": 1, "later": 1, "running": 0}
    assert told["ballast_work_oldest_due_seconds", ""] == pytest.approx(3600, abs=60)


def test_number_of_queries_does_not_grow():
    """Forty letters more, and no query more."""
    make_letter()
    with CaptureQueriesContext(
        connection,
    ) as few:
        compute(now=NOW)
    for number in range(40):
        make_letter(kind=f"kind-{number % 4}")
    with CaptureQueriesContext(connection) as many:
        compute(now=NOW)

    assert len(many) == len(few) <= 20


def test_scrape_asks_the_database_nothing(django_assert_num_queries):
    """It shows what the task has kept, and when that was; nothing before, and whatever is not known is not there."""
    assert list(figures.families()) == []
    compute_figures()

    with django_assert_num_queries(0):
        families = {family.name: family for family in figures.families()}

    shown = set(families) - {figures.COMPUTED_AT}
    assert shown <= set(KNOWN)
    assert {"ballast_fleet_workers", "ballast_work_tasks", "ballast_reports_waiting"} <= shown
    assert "ballast_fleet_telemetry_age_seconds" not in shown  # nobody was ever heard of
    [at] = families[figures.COMPUTED_AT].samples
    assert timezone.now().timestamp() - at.value < 600


def test_every_figure_is_computed_or_has_a_reason():
    """None is named that nothing computes; all labels are those that stand there."""
    run_canary()
    record_reports([report(worker="a", sent_at=NOW)], now=NOW)
    make_letter()

    computed = compute(now=NOW)

    assert {one.name for one in computed} == set(KNOWN)
    assert all(bool(one.label) == bool(KNOWN[one.name][1]) for one in computed)


def test_record_without_a_store_is_not_counted(settings):
    """All of it waits, and is counted by nobody."""
    settings.AUDIT_STORE = ""

    assert not any(one.name.startswith("ballast_audit") for one in compute(now=NOW))
    assert configured.AUDIT_STORE == ""


def test_redis_that_is_away_shows_nothing_and_fails_nothing(settings):
    """A scrape of the beat still says how the beat is."""
    figures.keep([Figure("ballast_reports_waiting", 3)], now=NOW)
    as_it_is = settings.CACHES
    settings.CACHES = {"default": as_it_is["default"] | {"LOCATION": "redis://127.0.0.1:1/0"}}

    shown = list(figures.families())
    settings.CACHES = as_it_is

    assert shown == []
    assert list(figures.families()) != []
