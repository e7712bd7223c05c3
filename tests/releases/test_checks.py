"""What may be held against a release before it is cut, and when it is not."""

import pytest

from controlplane.accounts.operations import change_tenant
from controlplane.releases import sections
from controlplane.releases.errors import UnservableRelease
from controlplane.releases.operations import current_release, roll_back_to
from controlplane.routing.operations import routing_tables
from tests.factories import NOW, SETUP, crew, make_deployment, make_routing, make_tenant, routing_document

pytestmark = pytest.mark.django_db
HASTY = routing_document(deadline_ms=30_000)


@pytest.fixture
def suspicious():
    """From when it is called, a route of 30 s is a mistake."""

    def check(release):
        return ["$.chat: too hasty"] if release.routing.routes["chat"].deadline_ms == 30_000 else []

    yield lambda: sections.register_check(check)
    if check in sections._checks:
        sections._checks.remove(check)


def test_new_mistake_is_refused_an_old_one_stays_and_going_back_is_never_checked(suspicious):
    """Acts in an incident go through on a table that was signed before anybody knew better."""
    make_deployment()
    patient = routing_tables.active()
    hasty = make_routing(HASTY)
    with_mistake, acme = current_release(), make_tenant()
    suspicious()
    suspicious()  # registered twice, it is held against a release once

    change_tenant(tenant=acme, tier="vip", actor=SETUP, now=NOW)
    routing_tables.return_to(version=patient, actor=crew.oncall, reason="slow down", now=NOW)
    with pytest.raises(UnservableRelease, match=r"promises: \$\.chat: too hasty\Z"):
        routing_tables.return_to(version=hasty, actor=crew.oncall, reason="hurry", now=NOW)

    assert routing_tables.active() == patient
    restored = roll_back_to(release=with_mistake, actor=crew.oncall, reason="incident", now=NOW)
    assert (routing_tables.active(), restored.restores) == (hasty, with_mistake.revision)
