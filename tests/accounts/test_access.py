import hashlib
from threading import Thread

import pytest
from django.core.exceptions import ValidationError
from django.db import DatabaseError, connection, transaction

from controlplane.accounts.errors import AccessError, AlreadyRevoked, NameTaken
from controlplane.accounts.models import ApiKey, Operator, OperatorToken, Tenant
from controlplane.accounts.operations import (
    change_tenant,
    create_operator,
    create_tenant,
    issue_key,
    issue_token,
    revoke_key,
    revoke_token,
)
from controlplane.audit.models import AuditEvent
from controlplane.releases.models import Release
from controlplane.releases.operations import current_release
from dataplane.release import parse_document
from tests.factories import NOW, SETUP, crew, make_tenant

pytestmark = pytest.mark.django_db


def access():
    return current_release().content["sections"]["access"]


def parsed():
    release = current_release()
    return parse_document(release.content, digest=release.digest)


# --- operators -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["owner", "Owner", "OWNER", "ballast", "Ballast"])
def test_a_name_of_the_record_is_given_once(name):
    """Names tell authors from approvers, so neither two people nor a person and the system share one."""
    assert crew.owner.username == "owner"

    with pytest.raises(NameTaken, match="choose another name"):
        create_operator(username=name, password=None, email="x@ballast.example", actor=SETUP, now=NOW)


def test_no_customer_is_called_as_who_pays_for_our_own_questions():
    """Probes are billed to 'ballast'; a tenant of that name would be charged for them."""
    with pytest.raises(NameTaken, match="who pays for what Ballast asks"):
        create_tenant(slug="ballast", name="B", tier="free", residency=[], region="", actor=SETUP, now=NOW)


def test_an_operator_is_neither_renamed_nor_deleted():
    """An author under another name could sign what they wrote."""
    operator = crew.owner

    with pytest.raises(DatabaseError), transaction.atomic():
        Operator.objects.filter(pk=operator.pk).update(username="somebody-else")
    with pytest.raises(DatabaseError), transaction.atomic():
        operator.delete()


def test_nobody_is_created_with_a_role():
    """Access is given, never inherited from a form."""
    operator = create_operator(username="ada", password=None, email="a@ballast.example", actor=SETUP, now=NOW)

    assert not operator.get_all_permissions()
    assert not operator.has_usable_password()


# --- tenants ---------------------------------------------------------------------------------------------------------
def test_a_tenant_reaches_workers_with_the_release_that_its_change_cuts():
    """Pin and tier are what workers decide by."""
    tenant = make_tenant(tier="vip", residency=["eu"])
    first = current_release().revision
    change_tenant(tenant=tenant, residency=["us", "eu"], actor=crew.admin, now=NOW)

    assert current_release().revision == first + 1
    assert access()["tenants"]["acme"]["residency"] == ["eu", "us"]
    assert parsed().access.tenants["acme"].residency == {"eu", "us"}


def test_a_change_writes_only_what_was_asked():
    """Two admins with two pages open do not take each other's pin away."""
    tenant = make_tenant(residency=["eu"])
    stale = Tenant.objects.get(pk=tenant.pk)
    change_tenant(tenant=tenant, residency=["us"], actor=crew.admin, now=NOW)

    changed = change_tenant(tenant=stale, tier="vip", actor=crew.admin, now=NOW)

    assert (changed.residency, changed.tier) == (["us"], "vip")


@pytest.mark.parametrize("residency", ["eu", ["eu", "eu"], [""], [7], {"eu": 1}])
def test_a_pin_that_is_no_list_of_zones_is_refused(residency):
    """The text 'eu' is not the zones 'e' and 'u'."""
    with pytest.raises(ValidationError) as refusal:
        make_tenant(residency=residency)

    assert "residency" in refusal.value.message_dict


def test_hours_of_idempotency_keys_reach_workers_and_stay_within_their_bounds():
    """24 to 72, and in the record; where they are the usual 24, the section is what it was without them."""
    tenant = make_tenant()
    usual = dict(access()["tenants"]["acme"])
    change_tenant(tenant=tenant, idempotency_hours=72, actor=crew.admin, now=NOW)

    event = AuditEvent.objects.get(action="tenant.changed")
    assert "idempotency_hours" not in usual
    assert access()["tenants"]["acme"] == {**usual, "idempotency_hours": 72}
    assert parsed().access.tenants["acme"].idempotency_hours == 72
    assert (event.data["before"]["idempotency_hours"], event.data["after"]["idempotency_hours"]) == (24, 72)
    for hours in (23, 73, "many"):
        with pytest.raises(ValidationError) as refusal:
            change_tenant(tenant=tenant, idempotency_hours=hours, actor=crew.admin, now=NOW)
        assert list(refusal.value.message_dict) == ["idempotency_hours"]
    with pytest.raises(DatabaseError, match="idempotency_hours_in_range"), transaction.atomic():
        Tenant.objects.update(idempotency_hours=73)


@pytest.mark.parametrize("slug", ["Acme", "acme--x", "-acme", "acme corp", ""])
def test_a_name_that_no_release_can_carry_is_refused_at_once(slug):
    """Not later, when the release is cut."""
    with pytest.raises(ValidationError):
        create_tenant(slug=slug, name="x", actor=SETUP, now=NOW)

    assert current_release() is None


@pytest.mark.parametrize("field", ["slug", "id", "pk", "api_keys", "nonsense"])
def test_what_never_changes_is_not_changed(field):
    """A tenant keeps its name; its keys have operations of their own."""
    tenant = make_tenant()

    with pytest.raises(AccessError, match="cannot be set"):
        change_tenant(tenant=tenant, actor=crew.admin, now=NOW, **{field: 7})


def test_a_change_that_changes_nothing_cuts_no_release():
    """It is in the record; workers have nothing to do."""
    tenant = make_tenant()
    before = current_release()

    change_tenant(tenant=tenant, tier=tenant.tier, actor=crew.admin, now=NOW)

    assert current_release() == before


def test_making_a_tenant_internal_is_in_the_record():
    """Internal tenants meet unsigned words, so who made one internal is never a secret."""
    change_tenant(tenant=make_tenant(), is_internal=True, actor=crew.admin, now=NOW)

    event = AuditEvent.objects.get(action="tenant.changed")
    assert (event.actor, event.data["before"]["is_internal"], event.data["after"]["is_internal"]) == (
        "admin",
        False,
        True,
    )


# --- keys and tokens -------------------------------------------------------------------------------------------------
def test_a_key_is_shown_once_and_kept_as_a_hash():
    """The secret is nowhere: not in the row, not in the record, not in the release."""
    issued = issue_key(tenant=make_tenant(), name="app", actor=crew.admin, now=NOW)
    tail = issued.secret[12:]

    assert issued.row.secret_hash == hashlib.sha256(issued.secret.encode()).hexdigest()
    assert len(issued.secret) > 40
    assert not any(tail in str(value) for value in ApiKey.objects.values().get().values())
    assert not any(tail in str(row) for row in AuditEvent.objects.values())
    assert not any(tail in document for document in Release.objects.values_list("document", flat=True))


def test_a_key_is_admitted_by_hash_until_it_is_revoked():
    """A revoked key leaves the release that its revocation cuts."""
    issued = issue_key(tenant=make_tenant(), name="app", actor=crew.admin, now=NOW)
    admitted = parsed().tenant_for_key(issued.row.secret_hash)
    revoke_key(key=issued.row, actor=crew.admin, now=NOW)

    assert admitted is not None
    assert parsed().tenant_for_key(issued.row.secret_hash) is None
    with pytest.raises(AlreadyRevoked):
        revoke_key(key=issued.row, actor=crew.admin, now=NOW)


def test_two_keys_of_a_tenant_live_side_by_side():
    """Rotation: the new one works before the old one goes."""
    tenant = make_tenant()
    old, new = (issue_key(tenant=tenant, name=name, actor=crew.admin, now=NOW) for name in ("old", "new"))
    revoke_key(key=old.row, actor=crew.admin, now=NOW)

    assert list(access()["keys"]) == [new.row.secret_hash]


def test_an_operator_token_is_kept_as_a_hash_and_revoked_once():
    """As API keys, but nothing of it reaches a release."""
    issued = issue_token(operator=crew.owner, name="cli", actor=crew.owner, now=NOW)
    revoke_token(token=issued.row, actor=crew.owner, now=NOW)

    assert not any(issued.secret[12:] in str(value) for value in OperatorToken.objects.values().get().values())
    assert current_release() is None
    with pytest.raises(AlreadyRevoked):
        revoke_token(token=issued.row, actor=crew.owner, now=NOW)


@pytest.mark.django_db(transaction=True)
def test_a_key_revoked_by_two_people_at_once_is_revoked_once():
    """One of them is told that it was."""
    key = issue_key(tenant=make_tenant(), name="app", actor=SETUP, now=NOW).row
    outcomes = []

    def revoke():
        try:
            revoke_key(key=key, actor=SETUP, now=NOW)
            outcomes.append("revoked")
        except AlreadyRevoked:
            outcomes.append("was revoked")
        finally:
            connection.close()

    threads = [Thread(target=revoke) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(outcomes) == ["revoked", "was revoked"]
    assert AuditEvent.objects.filter(action="api_key.revoked").count() == 1
