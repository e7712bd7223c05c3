"""API keys that have an end, and what was handed in with those that had."""

from types import SimpleNamespace
from uuid import UUID

import pytest

from dataplane.access import AccessTable, key_digest
from dataplane.authentication import Authentication
from dataplane.cursors import CursorKeys
from dataplane.errors.requests import Unauthorized
from dataplane.job_tokens import JobToken, sign_token

TENANT = {"tier": "vip", "residency": [], "region": "eu-west", "internal": False, "log_content": False}
ENDS = 1_772_629_200.0  # 2026-03-04T13:00:00Z
JOB = UUID(int=7)
KEYS = {
    key_digest("bk-old"): {"tenant": "acme", "id": "1", "expires_at": "2026-03-04T13:00:00Z"},
    key_digest("bk-new"): {"tenant": "acme", "id": "2"},
}
AFTERWARDS = {key_digest("bk-new"): {"tenant": "acme", "id": "2", "stands_for": ["1"]}}
RUNNER = CursorKeys((b"k" * 32,))


def door(keys=KEYS, *, now=ENDS - 1):
    table = AccessTable.parse({"tenants": {"acme": TENANT, "globex": TENANT}, "keys": keys})
    release = SimpleNamespace(access=table, api_key=table.keys.get)
    return Authentication(releases=SimpleNamespace(current=release), job_keys=RUNNER, sandboxes=None, wall=lambda: now)


def shown_by_runner(*, key_id="1", tenant="acme"):
    token = sign_token(RUNNER, JobToken(JOB, tenant, key_id, int(ENDS) + 7200))
    return {"authorization": f"Bearer {token}", "job": str(JOB)}


def test_old_key_and_new_key_are_both_good_until_the_end_of_the_old_one():
    """Applications change theirs one by one, and none of them is refused meanwhile."""
    both = [door().authenticate(f"Bearer {key}")[1].id for key in ("bk-old", "bk-new")]

    assert both == ["1", "2"]


@pytest.mark.parametrize("late", [0, 0.001, 86_400])
def test_old_key_is_refused_from_its_end_on_by_the_same_release(late):
    """The release said when; no other one had to come."""
    with pytest.raises(Unauthorized, match="ended at 2026-03-04 13:00:00 UTC; use the one that took its place"):
        door(now=ENDS + late).authenticate("Bearer bk-old")

    assert door(now=ENDS + late).authenticate("Bearer bk-new")[1].id == "2"


@pytest.mark.parametrize("keys", [KEYS, AFTERWARDS], ids=["while the release has the old key", "afterwards"])
def test_job_that_waits_is_run_when_its_key_has_ended(keys):
    """It was handed in with a good key; what took that key's place speaks for it."""
    _, key = door(keys, now=ENDS + 60).authenticate(**shown_by_runner())

    assert (key.tenant.slug, key.speaks_for("1")) == ("acme", True)


@pytest.mark.parametrize("shown", [{"key_id": "3"}, {"tenant": "globex"}])
def test_key_speaks_for_its_own_tenant_and_its_own_predecessors_only(shown):
    """A job of another tenant, or of a key that was revoked, stays refused."""
    with pytest.raises(Unauthorized, match="unknown or revoked"):
        door(AFTERWARDS, now=ENDS + 60).authenticate(**shown_by_runner(**shown))


def test_key_that_is_revoked_between_two_looks_at_one_request_is_refused():
    """The first look is before its body is read, and that may take a while."""
    access = AccessTable.parse({"tenants": {"acme": TENANT}, "keys": KEYS})
    releases = SimpleNamespace(current=SimpleNamespace(access=access, api_key=access.keys.get))
    at_the_door = Authentication(releases=releases, job_keys=RUNNER, sandboxes=None, wall=lambda: ENDS - 1)
    shown = "Bearer bk-new"

    at_the_door.refuse_stranger(shown, job=None)
    releases.current = SimpleNamespace(access=access, api_key={}.get)

    with pytest.raises(Unauthorized, match="unknown or revoked"):
        at_the_door.authenticate(shown)
