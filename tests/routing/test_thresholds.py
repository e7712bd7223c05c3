from datetime import date

import pytest

from controlplane.approvals.operations import apply_change
from controlplane.releases.operations import current_release
from controlplane.routing.errors import InvalidRouting, InvalidThreshold, SameRouting, UnknownPolicy
from controlplane.routing.models import RoutingTable
from controlplane.routing.operations import propose_thresholds
from controlplane.routing.thresholds import BREAKER, ROUTE, census, placed_thresholds, with_thresholds
from controlplane.versioned.numbers import NewValue
from dataplane.routing import RoutingTable as Routing
from tests.factories import NOW, crew, make_deployment, routing_document, sign

TODAY = NOW.date()
MEASURED = {"origin": "load_test", "note": "half of it was enough", "link": "/routing/", "review_by": date(2026, 6, 1)}


def propose(changes, *, kind=BREAKER, slug="hosted-chat"):
    return propose_thresholds(kind=kind, slug=slug, changes=changes, reason="r", actor=crew.oncall, now=NOW)


@pytest.mark.django_db
def test_other_thresholds_are_a_routing_table_like_any_other():
    """Only these numbers differ, with who said so and when; two people sign, and the release carries them."""
    make_deployment()
    before = routing_document()
    change = propose({"failure_rate": NewValue(0.4, **MEASURED), "probes": NewValue(2.0, **MEASURED)})
    proposed = RoutingTable.objects.get(number=2).document
    sign(change, crew.approver_one, crew.approver_two)
    apply_change(change=change, actor=crew.oncall, now=NOW)

    policy = proposed["breakers"]["hosted-chat"]
    assert policy["failure_rate"] == {
        "value": 0.4,
        "provenance": {
            "origin": "load_test",
            "note": "half of it was enough",
            "link": "/routing/",
            "author": "oncall",
            "on": "2026-03-04",
            "review_by": "2026-06-01",
        },
    }
    assert policy["probes"]["value"] == 2
    before["breakers"]["hosted-chat"] |= {name: policy[name] for name in ("failure_rate", "probes")}
    assert proposed == before
    assert current_release().content["sections"]["routing"] == proposed


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("changes", "where", "error", "words"),
    [
        ({"failure_rate": NewValue(1.5, **MEASURED)}, {}, InvalidRouting, "hosted-chat.*failure_rate.value"),
        ({"probes": NewValue(1.5, **MEASURED)}, {}, InvalidRouting, "probes.value: expected a whole number"),
        (
            {"probes": NewValue(2, **{**MEASURED, "link": ""})},
            {},
            InvalidRouting,
            "probes.provenance.link: must not be empty",
        ),
        ({"first_token_seconds": NewValue(2, **MEASURED)}, {}, InvalidThreshold, "is not a threshold of breaker"),
        ({"probes": NewValue(2, **MEASURED)}, {"slug": "gone"}, UnknownPolicy, "'gone' is not a breaker policy"),
        ({"probes": NewValue(2, **MEASURED)}, {"kind": ROUTE, "slug": "gone"}, UnknownPolicy, "is not a route"),
        ({}, {}, SameRouting, "exactly this content"),
    ],
)
def test_thresholds_that_make_no_table_are_refused(changes, where, error, words):
    """With the place of the mistake; no table is stored and no change is opened."""
    make_deployment()

    with pytest.raises(error, match=words):
        propose(changes, **where)

    assert RoutingTable.objects.count() == 1


@pytest.mark.django_db
def test_thresholds_cannot_be_changed_before_there_is_a_table():
    """The refusal says what comes first."""
    with pytest.raises(UnknownPolicy, match="propose one first"):
        propose({"probes": NewValue(2, **MEASURED)})


def test_document_in_force_is_left_as_it_is():
    """The edit gives a copy; what is in force may be compared with it afterwards."""
    document = routing_document()

    changed = with_thresholds(document, BREAKER, "hosted-chat", {"probes": {"value": 3, "provenance": {}}})

    assert document == routing_document()
    assert changed["breakers"]["hosted-chat"]["probes"] == {"value": 3, "provenance": {}}


def test_every_number_with_an_origin_is_counted():
    """Those of policies, of routes, shadows and fallback stacks; a review is overdue from the day after."""
    table = Routing.parse(routing_document(fallbacks=True))

    counted = census(table, today=TODAY)

    placed = placed_thresholds(table)
    assert (counted.total, len({(one.kind, one.slug, one.name) for one in placed})) == (83, 83)
    assert counted.sentence == "24 of 83 thresholds are guesses (29 %), 2 overdue for review"
    assert {one.name for one in placed if one.provenance.is_overdue(TODAY)} == {
        "drain_tokens_per_second",
        "dragging_rate",
    }
    review = next(one.provenance.review_by for one in placed if one.name == "flap_factor")
    assert census(table, today=review).overdue == 2
