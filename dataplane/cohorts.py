"""Who is in a canary: sticky, matched, and the same on every worker without a word between them.

A unit (one user, tenant or region) falls into one of 10,000 buckets by a salted hash. The canary arm is [0, weight),
the matched control arm is [5000, 5000 + weight) up to weight 5000. A unit is in the canary when ANY stage that the
canary has reached admits it, so moving to a further stage can only add members. `fixtures/cohort_vectors.json`
publishes examples for other implementations. Other bytes of the same hash give a unit the name under which it is told
of, and one of GROUPS groups, whose sums tell how much figures vary from unit to unit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from dataplane.documents import Node
from dataplane.records import record

BUCKETS: Final = 10_000
CONTROL_START: Final = 5_000
# Of each arm. Few enough to be reported every few seconds, and as many as a variance wants to be read from.
GROUPS: Final = 64
UNITS: Final = frozenset({"user", "tenant", "region"})
AUDIENCES: Final = frozenset({"internal", "all"})


class Arm(StrEnum):
    """Which side of the comparison serves a request. The value is what the `ballast-cohort` header says."""

    CANARY = "canary"
    CONTROL = "control"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage that a canary has reached.

    Empty `tenants` or `regions` means any; `weight` counts buckets, 0..10000.
    """

    name: str
    audience: str
    tenants: frozenset[str]
    regions: frozenset[str]
    weight: int

    def admits(self, *, tenant: str, internal: bool, region: str) -> bool:
        """Whether the stage's audience holds this caller, whatever its bucket."""
        return (
            (internal or self.audience == "all")
            and (not self.tenants or tenant in self.tenants)
            and (not self.regions or region in self.regions)
        )


@dataclass(frozen=True, slots=True)
class CanaryPlan:
    """A running canary as the release states it: `candidate` against `control`, both versions of `prompt`."""

    slug: str
    prompt: str
    control: int
    candidate: int
    unit: str
    salt: str
    not_after: datetime | None
    reach: tuple[Stage, ...]

    @classmethod
    def parse(cls, slug: str, value: object, *, path: str = "$") -> CanaryPlan:
        """Read one member of the section `canaries`.

        Shape: {"prompt": slug, "control": int, "candidate": int, "unit": "user|tenant|region", "salt": str,
                "not_after": ISO-8601 or null, "reach": [{"stage", "audience": "internal|all", "tenants", "regions",
                "weight"}]}.
        Raises:
            MalformedRelease: anything else, naming the JSON path.
        """
        node = Node(value, path)
        members = node.members("prompt", "control", "candidate", "unit", "salt", "not_after", "reach")
        control = members["control"].integer(minimum=1)
        candidate = members["candidate"].integer(minimum=1)
        if control == candidate:
            members["candidate"].refuse(f"candidate and control are the same version {control}")
        not_after = None if members["not_after"].value is None else members["not_after"].moment()
        reach: list[Stage] = []
        for item in members["reach"].items(minimum=1):
            stage = _parse_stage(item)
            if any(stage.name == reached.name for reached in reach):
                item.refuse(f"stage {stage.name!r} is given twice")
            reach.append(stage)
        return cls(
            slug=slug,
            prompt=members["prompt"].text(),
            control=control,
            candidate=candidate,
            unit=members["unit"].one_of(UNITS),
            salt=members["salt"].text(),
            not_after=not_after,
            reach=tuple(reach),
        )


def _parse_stage(node: Node) -> Stage:
    members = node.members("stage", "audience", "tenants", "regions", "weight")
    return Stage(
        name=members["stage"].text(),
        audience=members["audience"].one_of(AUDIENCES),
        tenants=frozenset(members["tenants"].texts()),
        regions=frozenset(members["regions"].texts()),
        weight=members["weight"].integer(minimum=0, maximum=BUCKETS),
    )


@record
class Assignment:
    """The decision for one request.

    `version` is the prompt version to serve; None means the prompt's live version (arm NONE). `bucket` is None when no
    hash was needed. `unkeyed`: the caller gave no unit, so it is served control but kept out of the matched arm. Of a
    unit in an arm, `unit` are 16 hex digits that stand for it and `group` is 0..GROUPS - 1, neither of which tells the
    bucket, and `weight` is that of the widest stage that admits the caller.
    """

    arm: Arm
    version: int | None
    bucket: int | None
    reason: str
    unkeyed: bool = False
    unit: str | None = None
    group: int | None = None
    weight: int = 0

    @property
    def cohort(self) -> str:
        """The cohort under which telemetry counts the request: canary, control, none or unkeyed."""
        return "unkeyed" if self.unkeyed else self.arm.value


def bucket(salt: str, unit: str) -> int:
    """The bucket of a unit, 0..9999: the first 8 bytes of SHA-256(salt ":" unit), big-endian, modulo 10000."""
    return _bucket_of(_hash(salt, unit))


def _bucket_of(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big") % BUCKETS


def _hash(salt: str, unit: str) -> bytes:
    # A caller's JSON may hold half a surrogate pair; it is a strange name, but it is one.
    return hashlib.sha256(f"{salt}:{unit}".encode("utf-8", "surrogatepass")).digest()


def assign(
    plan: CanaryPlan, *, unit_values: Mapping[str, str | None], tenant: str, internal: bool, region: str, now: datetime
) -> Assignment:
    """Decide which arm of `plan` serves this caller.

    Args:
        unit_values: What the request knows of each unit, as {"user": ..., "tenant": ..., "region": ...}; an absent,
            None or empty value of the plan's unit means that there is no key.
        tenant, internal, region: Of the caller, for the audience test of each stage.
        now: Aware; after `plan.not_after` the plan is inert.
    """
    if plan.not_after is not None and now > plan.not_after:
        return Assignment(Arm.NONE, None, None, "the canary has lapsed")
    weight = -1
    for stage in plan.reach:
        if stage.weight > weight and stage.admits(tenant=tenant, internal=internal, region=region):
            weight = stage.weight
    if weight < 0:
        return Assignment(Arm.NONE, None, None, "outside the audience of every stage reached")
    unit = unit_values.get(plan.unit)
    if not unit:
        return Assignment(Arm.CONTROL, plan.control, None, f"the request names no {plan.unit}", unkeyed=True)
    digest = _hash(plan.salt, unit)
    position = _bucket_of(digest)
    # The canary is the union of [0, weight) over the stages that admit the caller: [0, the largest weight).
    if position < weight:
        arm, version, reason = Arm.CANARY, plan.candidate, "bucket inside the canary arm"
    elif CONTROL_START <= position < CONTROL_START + min(weight, CONTROL_START):
        arm, version, reason = Arm.CONTROL, plan.control, "bucket inside the matched control arm"
    else:
        return Assignment(Arm.NONE, None, position, "bucket outside both arms")
    group = int.from_bytes(digest[16:18], "big") % GROUPS
    return Assignment(arm, version, position, reason, unit=digest[8:16].hex(), group=group, weight=weight)
