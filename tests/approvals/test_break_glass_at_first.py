"""Break-glass in a deployment that has nothing in force yet."""

import pytest

from controlplane.approvals.errors import BreakGlassRefused
from controlplane.routing.operations import routing_tables
from tests.factories import NOW, break_glass, crew, make_policy, routing_document

pytestmark = pytest.mark.django_db


def test_a_first_routing_table_is_never_broken_into():
    """There is nothing to lapse back to."""
    make_policy()
    table = routing_tables.submit(document=routing_document(), rationale="first", actor=crew.oncall, now=NOW)
    change = routing_tables.propose(version=table, reason="first", actor=crew.oncall, now=NOW)

    with pytest.raises(BreakGlassRefused, match="nothing is in force"):
        break_glass(change)
