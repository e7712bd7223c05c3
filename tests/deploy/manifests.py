"""The manifests as `kubectl apply -k` would send them, and what a network policy says of two ends."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).resolve().parents[2]
KUBERNETES = PROJECT / "deploy" / "kubernetes"
OVERLAYS = ("one-node", "production")
COMPONENT = "app.kubernetes.io/component"
WORKLOADS = frozenset({"Deployment", "StatefulSet", "Job", "CronJob"})


@cache
def render(directory: Path) -> tuple[dict[str, Any], ...]:
    """What a kustomization comes to."""
    done = subprocess.run(
        [Path(sys.executable).with_name("kubectl"), "kustomize", directory],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return tuple(one for one in yaml.safe_load_all(done.stdout) if one)


def overlay(name: str) -> tuple[dict[str, Any], ...]:
    """What an overlay comes to."""
    return render(KUBERNETES / "overlays" / name)


def of_kind(manifests: tuple[dict[str, Any], ...], kind: str) -> dict[str, dict[str, Any]]:
    """The objects of a kind, by name."""
    return {one["metadata"]["name"]: one for one in manifests if one["kind"] == kind}


def pods(manifests: tuple[dict[str, Any], ...], *, ours: bool = True) -> dict[str, dict[str, Any]]:
    """The pod templates, by component; `ours` leaves servers out that run other images."""
    found = {}
    for one in manifests:
        if one["kind"] not in WORKLOADS:
            continue
        spec = one["spec"]["jobTemplate"]["spec"] if one["kind"] == "CronJob" else one["spec"]
        template = spec["template"]
        if not ours or any("ballast" in each["image"] for each in template["spec"]["containers"]):
            found[template["metadata"]["labels"][COMPONENT]] = template
    return found


def containers(pod: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every container of a pod, those that run before it included."""
    yield from pod["spec"].get("initContainers", [])
    yield from pod["spec"]["containers"]


@dataclass(frozen=True, slots=True)
class Address:
    """Somewhere outside: a host and a TCP port."""

    host: str
    port: int


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    if any(labels.get(name) != value for name, value in selector.get("matchLabels", {}).items()):
        return False
    for one in selector.get("matchExpressions", []):
        assert one["operator"] == "In"
        if labels.get(one["key"]) not in one["values"]:
            return False
    return True


def _peer_is(peer: Mapping[str, Any], other: Address | Mapping[str, str]) -> bool:
    if isinstance(other, Address):
        block = peer.get("ipBlock")
        if block is None:
            return False
        host = ipaddress.ip_address(other.host)
        return host in ipaddress.ip_network(block["cidr"]) and not any(
            host in ipaddress.ip_network(hole) for hole in block.get("except", [])
        )
    return "podSelector" in peer and "namespaceSelector" not in peer and _selects(peer["podSelector"], other)


def allows(
    policies: Mapping[str, Mapping[str, Any]],
    labels: Mapping[str, str],
    other: Address | Mapping[str, str],
    port: int,
    *,
    direction: str,
) -> bool:
    """Whether a pod with `labels` may open (`egress`), or is let have (`ingress`), a connection with `other`."""
    kind, ends = ("Egress", "to") if direction == "egress" else ("Ingress", "from")
    mine = [
        one["spec"]
        for one in policies.values()
        if kind in one["spec"]["policyTypes"] and _selects(one["spec"]["podSelector"], labels)
    ]
    if not mine:
        return True
    return any(
        any(each["port"] == port for each in rule["ports"]) and any(_peer_is(peer, other) for peer in rule[ends])
        for spec in mine
        for rule in spec.get(direction, [])
    )
