"""What gateways count of canaries, as the control plane keeps it and adds it up."""

from datetime import timedelta

import pytest

from controlplane.telemetry.evidence import (
    KEEP_EVIDENCE,
    CanaryCells,
    Exposed,
    ExposedUnit,
    exposure_of,
    live_sums,
    record_evidence,
)
from controlplane.telemetry.operations import compact_rollups
from dataplane.evidence import CELL
from tests.worker_reports import NOON, cell, cells, exposure, report

pytestmark = pytest.mark.django_db

CANARY = "support-answer-v13"
NOBODY = Exposed(0, 0, 0, frozenset())


def take(*reports, now=NOON):
    return record_evidence(reports, now=now)


def sums(group, requests, **more):
    """One group as `live_sums` gives it."""
    return {group: tuple(cell(group, requests, **more)[1:])}


def test_sums_are_those_of_all_workers_and_boots():
    """A process that began anew counts from zero, beside what the one before it had counted."""
    take(
        report(evidence=(cells(cell(3, 10), cell(9, 1)), cells(cell(3, 20), arm="control"))),
        report(evidence=(cells(cell(3, 5, log2_ms=15.25)),), boot="b2"),
        report(evidence=(cells(cell(3, 100)),), worker="host-b/gateway-0"),
        report(evidence=(cells(cell(3, 7), canary="another"),), worker="host-b/gateway-1"),
    )

    found = live_sums(CANARY)

    assert found == {"canary": sums(3, 115, log2_ms=345.25) | sums(9, 1), "control": sums(3, 20)}
    assert {name: type(value) for name, value in zip(CELL, found["canary"][3], strict=True)} == dict.fromkeys(
        CELL, int
    ) | {"log2_ms": float}


@pytest.mark.parametrize("together", [True, False])
def test_newest_report_of_a_boot_is_what_counts(together):
    """Cells are cumulative: delivered twice, late or out of order, they come to the same."""
    reports = [report(evidence=(cells(cell(3, 10 * seq)),), seq=seq) for seq in (2, 3, 1, 3)]

    if together:
        take(*reports)
    else:
        for one in reports:
            take(one)

    assert live_sums(CANARY) == {"canary": sums(3, 30), "control": {}}
    assert CanaryCells.objects.get().seq == 3


def test_a_unit_has_seen_whatever_any_worker_served_it():
    """Told by two workers, in one batch or in two, it is one unit that saw both."""
    take(report(exposures=(exposure(1), exposure(2), exposure(70, "control", arm="control"))))
    take(report(exposures=(exposure(1, "control"), exposure(1)), worker="host-b/gateway-0"))
    take(report(exposures=(exposure(2),), seq=2), report(exposures=(exposure(3, "control"), exposure(3))))

    assert exposure_of(CANARY) == Exposed(3, 1, 2, frozenset({1, 3}))
    assert ExposedUnit.objects.count() == 4


def test_unit_that_saw_only_the_other_version_is_no_part_of_the_ratio():
    """All of those are told of and others by a sample, so that they would tip it; their group is contaminated."""
    take(report(exposures=(exposure(1, "control"), exposure(2, "candidate", arm="control"), exposure(3))))

    assert exposure_of(CANARY) == Exposed(1, 0, 0, frozenset({1, 2}))


def test_what_is_known_of_a_unit_does_not_change_without_news():
    """Most of what is told is told by every process, and costs no write."""
    take(report(exposures=(exposure(1),)))

    take(report(exposures=(exposure(1),), worker="host-b/gateway-0"), now=NOON + timedelta(hours=1))

    assert ExposedUnit.objects.get().changed_at == NOON


def test_a_batch_takes_two_statements_however_much_it_tells(django_assert_num_queries):
    """And none where it tells of no canary, as most do."""
    batch = [
        report(
            evidence=(cells(cell(1)), cells(cell(2), arm="control")),
            exposures=tuple(exposure(unit) for unit in range(50)),
            worker=f"host-{number}/gateway-0",
        )
        for number in range(20)
    ]

    with django_assert_num_queries(2):
        told = take(*batch)
    with django_assert_num_queries(0):
        assert take(report(), report(seq=2)) == set()

    assert told == {CANARY}


def test_reading_takes_as_many_queries_with_many_workers(django_assert_num_queries):
    """One for the sums, two for who saw what."""
    take(*(report(evidence=(cells(cell(1)),), worker=f"w{number}") for number in range(30)))
    take(report(exposures=tuple(exposure(unit) for unit in range(300))))

    with django_assert_num_queries(1):
        assert live_sums(CANARY)["canary"] == sums(1, 300)
    with django_assert_num_queries(2):
        assert exposure_of(CANARY).canary_units == 300


def test_canary_that_nobody_told_of_has_nothing():
    """Neither sums nor units."""
    assert live_sums(CANARY) == {"canary": {}, "control": {}}
    assert exposure_of(CANARY) == NOBODY


def test_evidence_is_forgotten_when_its_canary_has_been_over_for_long():
    """What a worker counted that is gone counts for as long as its canary goes on; with it, all of it goes."""
    gone, still = "gone-v2", "still-v2"
    first = report(
        evidence=tuple(cells(cell(1), canary=slug) for slug in (gone, still)),
        exposures=tuple(exposure(1, canary=slug) for slug in (gone, still)),
    )
    take(first)
    later = NOON + KEEP_EVIDENCE
    take(report(evidence=(cells(cell(2), canary=still),), worker="host-b/gateway-0", sent_at=later), now=later)

    done = compact_rollups(now=later + timedelta(seconds=1))

    assert done.deleted_rows == 2
    assert (live_sums(gone), exposure_of(gone)) == ({"canary": {}, "control": {}}, NOBODY)
    assert live_sums(still)["canary"] == sums(1, 10) | sums(2, 10)
    assert exposure_of(still).canary_units == 1


def test_what_was_sent_long_ago_does_not_come_back():
    """A spool that is found after a month tells of canaries that are forgotten."""
    old = report(evidence=(cells(cell(1)),), exposures=(exposure(1),), sent_at=NOON - KEEP_EVIDENCE - timedelta(1))

    assert take(old) == set()
    assert (live_sums(CANARY)["canary"], exposure_of(CANARY)) == ({}, NOBODY)
