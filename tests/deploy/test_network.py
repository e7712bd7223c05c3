"""Who may talk to whom: every process reaches what it needs, and nothing else."""

from __future__ import annotations

import pytest

from tests.deploy.manifests import COMPONENT, OVERLAYS, Address, allows, of_kind, overlay, pods

POSTGRESQL, REDIS = Address("10.20.0.5", 5432), Address("10.20.0.6", 6379)
RABBITMQ, QDRANT = Address("10.20.0.7", 5671), Address("10.20.0.8", 6333)
SOURCE = Address("10.20.0.9", 5432)
INTERNET, MAIL = Address("203.0.113.10", 443), Address("203.0.113.11", 587)
# The cloud's own word for who a machine is: nobody's business.
METADATA = Address("169.254.169.254", 80)
OUTSIDE = {
    "postgresql": POSTGRESQL,
    "redis": REDIS,
    "rabbitmq": RABBITMQ,
    "qdrant": QDRANT,
    "internet": INTERNET,
    "mail": MAIL,
    "metadata": METADATA,
}
SERVERS = {"gateway": 8080, "console": 8000}
# What each pod needs. Redis is among what whoever needs a broker may reach: it may be the broker.
NEEDS = {
    "gateway": {"postgresql", "redis", "rabbitmq", "qdrant", "internet", "console"},
    "console": {"postgresql", "redis", "rabbitmq", "qdrant", "internet", "mail", "gateway"},
    "jobs": {"postgresql", "redis", "rabbitmq", "gateway"},
    "ingest": {"postgresql", "redis", "rabbitmq"},
    "capture": {"postgresql", "redis", "rabbitmq"},
    "indexer": {"postgresql", "redis", "rabbitmq", "qdrant", "gateway"},
    "worker": {"postgresql", "redis", "rabbitmq", "qdrant", "internet", "mail", "gateway"},
    "work": {"postgresql", "redis", "rabbitmq", "qdrant", "internet", "mail", "gateway"},
    "urgent": {"postgresql", "redis", "rabbitmq", "internet", "mail"},
    "beat": {"redis", "rabbitmq"},
    "migrate": {"postgresql"},
    "clear-sessions": {"postgresql"},
    "verify-audit": {"postgresql"},
}
each_overlay = pytest.mark.parametrize("name", OVERLAYS)


def labels_of(component):
    return {COMPONENT: component}


@each_overlay
def test_every_pod_is_in_the_table(name):
    """A process that is added says here what it needs."""
    assert set(pods(overlay(name))) == set(NEEDS)


@each_overlay
@pytest.mark.parametrize("component", sorted(NEEDS))
def test_pod_reaches_what_it_needs_and_nothing_else(name, component):
    """Both ends agree: whoever may go out is let in, and whoever may not is not."""
    policies = of_kind(overlay(name), "NetworkPolicy")
    mine = labels_of(component)

    reached = {key for key, one in OUTSIDE.items() if allows(policies, mine, one, one.port, direction="egress")}
    reached |= {
        key
        for key, port in SERVERS.items()
        if key != component
        and allows(policies, mine, labels_of(key), port, direction="egress")
        and allows(policies, labels_of(key), mine, port, direction="ingress")
    }

    assert reached == NEEDS[component]


@each_overlay
@pytest.mark.parametrize("component", sorted(NEEDS))
def test_pods_that_serve_nobody_are_reached_by_nobody(name, component):
    """Probes come from the node, which no policy holds up."""
    policies = of_kind(overlay(name), "NetworkPolicy")
    ports = {8000, 8080, 9100, 9101, 9102}

    callers = {
        (other, port)
        for other in NEEDS
        for port in ports
        if other != component and allows(policies, labels_of(component), labels_of(other), port, direction="ingress")
    }

    served = {other for other, needs in NEEDS.items() if component in needs}
    assert callers == {(other, SERVERS[component]) for other in served}


def test_providers_are_asked_by_gateways_alone():
    """The rule that lets them out is no other pod's; what others are let out for is named apart."""
    policies = of_kind(overlay("production"), "NetworkPolicy")

    [expression] = policies["to-providers"]["spec"]["podSelector"]["matchExpressions"]
    assert expression["values"] == ["gateway"]


def test_servers_of_one_node_let_our_pods_in():
    """PostgreSQL and Redis are pods there, which are let in by what all of ours are labelled with."""
    policies = of_kind(overlay("one-node"), "NetworkPolicy")
    ours = {COMPONENT: "ingest", "app.kubernetes.io/part-of": "ballast"}

    for component, port in (("postgresql", 5432), ("redis", 6379)):
        server = {COMPONENT: component}
        assert allows(policies, ours, server, port, direction="egress")
        assert allows(policies, server, ours, port, direction="ingress")
        assert not allows(policies, server, {COMPONENT: "stranger"}, port, direction="ingress")
