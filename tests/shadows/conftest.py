"""A deployment whose route `chat` is shadowed, Redis for its flags, and a candidate that has shown all it must."""

import pytest
import redis
from django.conf import settings

from controlplane.shadows import flags
from controlplane.shadows.operations import policy_in_force
from dataplane.shadow.switch import killed_key
from tests.factories import make_policy, make_routing, make_tenant
from tests.shadow_rows import POLICY, shadow_document
from tests.shadows.promotions import bill, pass_evals, shadow_for_days


@pytest.fixture(scope="module")
def ground(lasting):
    """The policy in force, for all tests of a module."""
    with lasting():
        make_policy()
        make_routing(shadow_document())
        return policy_in_force(POLICY)


@pytest.fixture
def shadowed(ground, monkeypatch):
    """The policy in force; its flag is taken back at the end."""
    # A Redis that pauses is not one that is away.
    monkeypatch.setattr(flags, "TIMEOUT_SECONDS", 60.0)
    yield ground
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        client.delete(killed_key(ground.digest))


@pytest.fixture
def away(monkeypatch):
    """No Redis is where it should be."""

    def refuse():
        raise redis.ConnectionError("away")

    monkeypatch.setattr(flags, "_connect", refuse)


@pytest.fixture
def shown(shadowed):
    """A candidate that has shown all that a checklist asks: on real traffic, in evals, and against every pin."""
    make_tenant("acme", residency=["eu"], log_content=True)
    shadow_for_days(shadowed.digest)
    bill()
    pass_evals()
    return shadowed
