"""People at several consoles at once: real connections, real threads; the chain's lock makes them take turns."""

from threading import Barrier, Thread

import pytest
from django.db import connection

from controlplane.accounts.operations import issue_key
from controlplane.approvals.models import SignOff
from controlplane.approvals.operations import standing
from controlplane.audit.operations import verify
from controlplane.releases.models import Release
from controlplane.releases.operations import current_release
from controlplane.rollouts.errors import CanaryNotRunning
from controlplane.rollouts.models import CanaryState
from controlplane.rollouts.operations import roll_back_canary, turn_knob
from tests.factories import (
    FIVE_PERCENT,
    HALF,
    INTERNAL,
    NOW,
    ONE_PERCENT,
    SETUP,
    crew,
    make_canary,
    make_tenant,
    run_canary,
    sign,
)

pytestmark = pytest.mark.django_db(transaction=True)


def patiently(execute, sql, params, many, context):
    """Run it; people wait ten seconds for each other, but where the machine pauses their turns may take longer."""
    return execute(sql.replace("lock_timeout = '10s'", "lock_timeout = '120s'"), params, many, context)


def at_once(*acts):
    """Start every act at the same moment on a connection of its own; return what each gave or raised."""
    barrier, results = Barrier(len(acts)), [None] * len(acts)

    def run(index, act):
        try:
            barrier.wait(60)
            with connection.execute_wrapper(patiently):
                results[index] = act()
        except Exception as exc:  # noqa: BLE001 - looked at by the test
            results[index] = exc
        finally:
            connection.close()

    threads = [Thread(target=run, args=(index, act)) for index, act in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return results


def assert_releases_are_linear():
    """Revisions without a gap, the newest what the database says, the record whole."""
    revisions = list(Release.objects.order_by("revision").values_list("revision", flat=True))
    assert revisions == list(range(1, len(revisions) + 1))
    assert verify().findings == ()


def test_two_knob_turns_are_two_releases_in_a_row():
    """Whoever comes second compiles on top of the first."""
    canary = run_canary(HALF)
    before = current_release().revision
    owner = crew.owner

    results = at_once(
        lambda: turn_knob(canary=canary, position=FIVE_PERCENT, actor=owner, now=NOW),
        lambda: turn_knob(canary=canary, position=ONE_PERCENT, actor=owner, now=NOW),
    )

    canary.refresh_from_db()
    reach = current_release().content["sections"]["canaries"][canary.slug]["reach"]
    assert not any(isinstance(result, Exception) for result in results)
    assert current_release().revision == before + 2
    assert len(reach) == canary.position + 1
    assert_releases_are_linear()


def test_a_roll_back_wins_against_every_knob():
    """In whatever order they come, the canary has ended and the candidate is served to nobody."""
    canary = run_canary(ONE_PERCENT)
    owner, oncall = crew.owner, crew.oncall

    results = at_once(
        *(
            lambda position=position: turn_knob(canary=canary, position=position, actor=owner, now=NOW)
            for position in range(2, 5)
        ),
        lambda: roll_back_canary(canary=canary, reason="bad", actor=oncall, now=NOW),
    )

    canary.refresh_from_db()
    assert canary.state == CanaryState.ROLLED_BACK
    assert not isinstance(results[-1], Exception)
    assert all(isinstance(result, CanaryNotRunning) for result in results[:-1] if isinstance(result, Exception))
    assert current_release().content["sections"]["canaries"] == {}
    assert_releases_are_linear()


def test_two_sign_offs_at_once_both_count():
    """Neither hides the other."""
    canary = make_canary()
    change, first, second = canary.change, crew.approver_one, crew.approver_two

    at_once(lambda: sign(change, first), lambda: sign(change, second))

    assert SignOff.objects.filter(change=change).count() == 2
    assert standing(change, gate="public", now=NOW).is_open
    assert_releases_are_linear()


def test_one_person_on_two_devices_counts_once():
    """Two words at the same moment are still one hand."""
    canary = make_canary()
    change, approver = canary.change, crew.approver_one

    at_once(lambda: sign(change, approver), lambda: sign(change, approver))

    assert not standing(change, gate="public", now=NOW).is_open


def test_releases_cut_at_once_for_different_reasons_follow_each_other():
    """A knob and six keys: each operation has its release, none carries less than the one before it."""
    canary = run_canary(INTERNAL)
    tenant, before, owner = make_tenant(), current_release().revision, crew.owner

    results = at_once(
        *(lambda name=name: issue_key(tenant=tenant, name=name, actor=SETUP, now=NOW) for name in "abcdef"),
        lambda: roll_back_canary(canary=canary, reason="bad", actor=owner, now=NOW),
    )

    assert not any(isinstance(result, Exception) for result in results)
    assert current_release().revision == before + 7
    counts = [
        len(release.content["sections"]["access"]["keys"])
        for release in Release.objects.filter(revision__gt=before).order_by("revision")
    ]
    assert counts == sorted(counts)
    assert counts[-1] == 6
    assert_releases_are_linear()
