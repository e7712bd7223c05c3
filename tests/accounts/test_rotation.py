"""Credentials that are rotated: the new one and the old one side by side, then the new one alone."""

from datetime import timedelta

import pytest

from controlplane.accounts import operations as accounts
from controlplane.accounts.errors import (
    AccessError,
    AlreadyRevoked,
    AlreadyRotated,
    CredentialEnded,
    OverlapOutOfBounds,
)
from controlplane.accounts.models import ApiKey, OperatorToken, Standing
from controlplane.accounts.tasks import lapse_keys
from controlplane.audit.models import AuditEvent
from controlplane.releases.operations import current_release
from dataplane.release import parse_document
from tests.factories import NOW, crew, make_tenant

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)
ROTATE = {"key": accounts.rotate_key, "token": accounts.rotate_token}


@pytest.fixture
def key():
    return accounts.issue_key(tenant=make_tenant(), name="app", actor=crew.admin, now=NOW)


def token(**facts):
    return accounts.issue_token(operator=crew.owner, name="cli", actor=crew.owner, now=NOW, **facts)


def rotate(row, *, overlap=HOUR, now=NOW):
    kind = "key" if isinstance(row, ApiKey) else "token"
    actor = crew.admin if kind == "key" else crew.owner
    return ROTATE[kind](**{kind: row}, overlap=overlap, actor=actor, now=now)


def admitted():
    """The keys of the release that workers have now, by their ids."""
    release = current_release()
    return {one.id: one for one in parse_document(release.content, digest=release.digest).access.keys.values()}


def test_both_keys_are_in_the_release_and_the_old_one_says_until_when(key):
    """A gateway needs no further release to refuse it."""
    new = rotate(key.row)

    keys = admitted()
    assert new.secret != key.secret
    assert keys[str(key.row.pk)].expires_at == (NOW + HOUR).timestamp()
    assert keys[str(new.row.pk)].expires_at == float("inf")
    assert (new.row.tenant, new.row.name, new.row.replaces_id) == (key.row.tenant, "app", key.row.pk)


def test_section_of_keys_that_were_never_rotated_is_what_it_was(key):
    """Byte for byte: a host is not told of what does not concern it."""
    [entry] = current_release().content["sections"]["access"]["keys"].values()

    assert entry == {"tenant": "acme", "id": str(key.row.pk)}


def test_key_that_ended_leaves_the_release_by_itself(key):
    """The clock takes it out, once, and the record says when it was last used."""
    new = rotate(key.row)
    early = accounts.lapse_keys(now=NOW + HOUR - timedelta(seconds=1))
    late = [accounts.lapse_keys(now=NOW + HOUR) for _ in range(2)]

    assert (early, late) == (0, [1, 0])
    assert set(admitted()) == {str(new.row.pk)}
    event = AuditEvent.objects.get(action="api_key.lapsed")
    assert (event.actor, event.target, event.data["tenant"]) == ("ballast", key.row.audit_name, "acme")


def test_clock_takes_ended_keys_out(key):
    """The task looks with the time of day, by which what was rotated in the past has ended."""
    rotate(key.row)

    assert (lapse_keys(), lapse_keys()) == (1, 0)


def test_new_key_speaks_for_the_work_of_those_before_it(key):
    """A job that was handed in with a key that ended since is run, through any number of rotations."""
    second = rotate(key.row)
    accounts.lapse_keys(now=NOW + HOUR)
    third = rotate(second.row, now=NOW + HOUR)
    accounts.lapse_keys(now=NOW + 2 * HOUR)

    [newest] = admitted().values()
    assert newest.id == str(third.row.pk)
    assert [newest.speaks_for(str(row.pk)) for row in (key.row, second.row, third.row)] == [True] * 3
    assert not newest.speaks_for("999999")


def test_revoked_key_is_spoken_for_by_nobody(key):
    """Whoever had it handed in what it handed in."""
    new = rotate(key.row)
    accounts.lapse_keys(now=NOW + HOUR)
    accounts.revoke_key(key=key.row, actor=crew.admin, now=NOW + HOUR)

    assert not admitted()[str(new.row.pk)].speaks_for(str(key.row.pk))


def test_old_key_can_be_revoked_before_its_end(key):
    """One that leaked does not wait."""
    new = rotate(key.row)
    accounts.revoke_key(key=key.row, actor=crew.admin, now=NOW)

    assert set(admitted()) == {str(new.row.pk)}
    assert accounts.lapse_keys(now=NOW + HOUR) == 0


@pytest.mark.parametrize("overlap", [timedelta(0), timedelta(seconds=299), timedelta(days=30, seconds=1), -HOUR])
@pytest.mark.parametrize("kind", ["key", "token"])
def test_two_stand_side_by_side_for_minutes_to_a_month(request, kind, overlap):
    """At once is revoking; for ever is no rotation."""
    row = request.getfixturevalue("key").row if kind == "key" else token().row

    with pytest.raises(OverlapOutOfBounds, match="5 minutes to 30 days"):
        rotate(row, overlap=overlap)

    assert type(row).objects.filter(name=row.name).count() == 1


@pytest.mark.parametrize("kind", ["key", "token"])
def test_what_was_rotated_is_not_rotated_again(request, kind):
    """Nor what was revoked or has ended; and nothing is changed by trying."""
    row = request.getfixturevalue("key").row if kind == "key" else token().row
    new = rotate(row)

    with pytest.raises(AlreadyRotated, match="rotate the one that took its place"):
        rotate(row)
    with pytest.raises(CredentialEnded, match="has ended"):
        rotate(row, now=NOW + HOUR)
    revoke = accounts.revoke_key if kind == "key" else accounts.revoke_token
    revoke(**{kind: new.row}, actor=crew.admin, now=NOW)
    with pytest.raises(AlreadyRevoked, match="issue another"):
        rotate(new.row)
    assert type(row).objects.filter(name=row.name).count() == 2


def test_token_that_is_rotated_lasts_as_long_as_it_was_to():
    """A month's token gives a month's; one without an end gives one without; the old one never lasts longer."""
    month, endless = token(expires_at=NOW + timedelta(days=30)), token()

    later = NOW + timedelta(days=29)
    new, also = rotate(month.row, overlap=timedelta(days=7), now=later), rotate(endless.row)

    assert (new.row.expires_at, also.row.expires_at) == (later + timedelta(days=30), None)
    assert OperatorToken.objects.get(pk=month.row.pk).expires_at == NOW + timedelta(days=30)
    assert OperatorToken.objects.get(pk=endless.row.pk).expires_at == NOW + HOUR


def test_nobody_rotates_the_token_of_another():
    """They would be shown a secret with which to sign off in another's name."""
    issued = token()

    with pytest.raises(AccessError, match="rotated by owner alone"):
        accounts.rotate_token(token=issued.row, overlap=HOUR, actor=crew.admin, now=NOW)

    assert OperatorToken.objects.count() == 1


@pytest.mark.parametrize(
    ("at", "standing"),
    [(timedelta(0), Standing.ENDING), (HOUR - timedelta(seconds=1), Standing.ENDING), (HOUR, Standing.ENDED)],
)
def test_standing_follows_the_clock(key, at, standing):
    """Active, ending, ended; revoked whatever the clock says."""
    new = rotate(key.row)

    old = ApiKey.objects.select_related("successor").get(pk=key.row.pk)
    assert (old.standing(NOW + at), new.row.standing(NOW + at)) == (standing, Standing.ACTIVE)
    accounts.revoke_key(key=old, actor=crew.admin, now=NOW)
    assert ApiKey.objects.select_related("successor").get(pk=old.pk).standing(NOW + at) == Standing.REVOKED


def test_rotation_is_in_the_record_without_any_secret(key):
    """Which key, whose, what took its place, until when."""
    new = rotate(key.row)

    event = AuditEvent.objects.get(action="api_key.rotated")
    assert (event.actor, event.target) == ("admin", key.row.audit_name)
    assert event.data == {"tenant": "acme", "successor": new.row.prefix, "until": "2026-03-04T13:00:00.000000Z"}
    assert new.secret[12:] not in str(event.data)
