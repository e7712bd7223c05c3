"""A sample of what `make fuzz` does for longer: see `api`."""

import os

import pytest

from tests.fuzz.api import MARK, explore, plant
from tests.permissions.visitor import Visitor
from tests.permissions.world import World, make_world

pytestmark = pytest.mark.django_db

# `make fuzz` asks for more, and anew each time.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "8"))
SEED = int(os.environ.get("FUZZ_SEED", "7"))


@pytest.fixture
def world(db: None) -> World:
    return make_world()


def test_every_operation_keeps_its_schema_and_tells_nothing_of_others(world: World) -> None:
    """As every role, everywhere and on one prompt and tenant, as somebody without a role and as nobody: no 5xx, no
    status or body that the schema does not know, and no word of another tenant's.
    """
    found = explore(world, examples=EXAMPLES, chosen=SEED)

    print(f"seed {SEED}: {found.requests} requests, {dict(sorted(found.statuses.items()))}")
    assert found.findings == {}
    assert found.requests > EXAMPLES * 100
    assert {200, 400, 401, 403, 404} <= found.statuses.keys()


def test_what_is_planted_is_found_by_who_may_see_it(world: World) -> None:
    """Or a leak would be looked for in vain."""
    known = plant(world.theirs)
    auditor = Visitor(world.operators["auditor", "everywhere"])  # type: ignore[index]

    answer = auditor.generic("GET", "/api/v1/tenants")

    assert MARK in answer.content.decode()  # type: ignore[attr-defined]
    assert len(set(known)) > 8
