"""Shadows that a release holds: gone for whoever serves it, and back when nobody holds them any more."""

import pytest

from dataplane.release import MalformedRelease, digest_of, parse_document
from dataplane.routing import RoutingTable
from tests.dataplane.shadow.shadow_world import shadow_policy, shadow_routing


def digest_in(routing):
    return RoutingTable.parse(routing).shadows["trial"].digest


def hold(routing):
    return {digest_in(routing): {"policy": "trial", "reason": "too dear", "by": "oncall"}}


@pytest.fixture
def parsed(make_document):
    """Parses a release with this routing table, and these holds."""

    def parse(routing, holds=None, *, revision=1, current=None):
        sections = {"routing": routing} | ({} if holds is None else {"shadow_holds": holds})
        content = make_document(revision, **sections)
        return parse_document(content, digest=digest_of(str(revision).encode()), current=current)

    return parse


def test_held_shadow_is_none_of_the_release(parsed):
    """Gateways have nothing to offer it, and shadow processes nothing to ask."""
    routing = shadow_routing()

    release = parsed(routing, hold(routing))

    assert release.routing.shadows == {}
    assert release.routing.routes["chat"].shadow is None
    assert parsed(routing).routing.routes["chat"].shadow.slug == "trial"


def test_hold_is_of_what_the_policy_decided(parsed):
    """Another policy under the same name was reviewed since, and goes on."""
    routing = shadow_routing()

    release = parsed(shadow_routing(shadow_policy(percent=5)), hold(routing))

    assert release.routing.routes["chat"].shadow is not None


def test_hold_and_its_end_take_effect_where_nothing_else_changed(parsed):
    """Sections that did not change are taken over from the release before, but never what is held of them."""
    routing = shadow_routing()
    first = parsed(routing)
    second = parsed(routing, hold(routing), revision=2, current=first)
    third = parsed(routing, {}, revision=3, current=second)

    assert second.routing.shadows == {}
    assert set(third.routing.shadows) == {"trial"}


def test_malformed_hold_is_refused(parsed):
    """As in every other section."""
    with pytest.raises(MalformedRelease, match="shadow_holds"):
        parsed(shadow_routing(), {"d": {"policy": "trial"}})
