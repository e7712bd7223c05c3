import pytest
from django.contrib.auth.models import Permission
from django.core.management.sql import emit_post_migrate_signal
from guardian.models import UserObjectPermission
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.accounts.errors import LastAdmin, RoleDoesNotFit
from controlplane.accounts.models import Operator, RoleGrant
from controlplane.accounts.operations import grant_role, revoke_role, set_operator_active
from controlplane.accounts.roles import ROLES, Role, permissions_everywhere, permissions_on
from controlplane.audit.models import AuditEvent
from tests.factories import NOW, SETUP, crew, make_operator, make_policy, make_prompt, make_routing, make_tenant

pytestmark = pytest.mark.django_db


def grant(operator, role, on=None):
    return grant_role(operator=operator, role=role, target=on, actor=SETUP, now=NOW)


def revoke(grant):
    revoke_role(grant=grant, actor=SETUP, now=NOW)


def everywhere_of(operator):
    return {
        f"{p.content_type.app_label}.{p.codename}" for p in operator.user_permissions.select_related("content_type")
    }


def on_objects_of(operator):
    rows = UserObjectPermission.objects.filter(user=operator).select_related("permission__content_type")
    return {(row.object_pk, f"{row.permission.content_type.app_label}.{row.permission.codename}") for row in rows}


@pytest.mark.parametrize("role", list(Role))
def test_every_permission_of_a_role_exists(role):
    """A misspelt one would be given to nobody and refuse everybody."""
    known = {f"{p.content_type.app_label}.{p.codename}" for p in Permission.objects.select_related("content_type")}

    assert permissions_everywhere(role) <= known


@pytest.mark.parametrize("role", list(Role))
def test_a_role_on_everything_gives_exactly_its_permissions(role):
    """Django's rows follow from the grant, and go with it."""
    operator = make_operator("ada")
    granted = grant(operator, role)

    given_everywhere = everywhere_of(operator)
    if role is Role.ADMIN:
        grant(crew.admin, Role.ADMIN)
    revoke(granted)

    assert given_everywhere == permissions_everywhere(role)
    assert everywhere_of(operator) == set()


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(st.tuples(st.sampled_from([Role.PROMPT_OWNER, Role.APPROVER, Role.LEGAL]), st.integers(0, 2))))
def test_guardians_rows_are_always_what_the_grants_say(steps):
    """Whatever was granted and revoked before, in any order: the rows are the union of what is granted now."""
    operator = make_operator(f"ada{Operator.objects.count()}")
    things = [None, *(make_prompt(f"p{operator.pk}-{number}") for number in (1, 2))]
    held = set()
    for role, where in steps:
        if (role, where) in held:
            revoke(operator.grants.get(role=role, object_id=things[where] and things[where].pk))
        else:
            grant(operator, role, things[where])
        held ^= {(role, where)}

    everywhere, on_objects = set(), set()
    for role, where in held:
        if where == 0:
            everywhere |= permissions_everywhere(role)
        else:
            on_objects |= {(str(things[where].pk), name) for name in permissions_on(role, "prompts.prompt")}
    assert everywhere_of(operator) == everywhere
    assert on_objects_of(operator) == on_objects


def test_two_roles_that_share_a_permission_keep_it_while_one_is_left():
    """Taking the one away does not take what the other gives."""
    operator, prompt = make_operator("ada"), make_prompt()
    first = grant(operator, Role.APPROVER, prompt)
    grant(operator, Role.LEGAL, prompt)

    revoke(first)

    operator = Operator.objects.get(pk=operator.pk)
    assert operator.has_perm("prompts.sign_off", prompt)
    assert not operator.has_perm("prompts.review_break_glass", prompt)


def test_a_role_on_one_prompt_says_nothing_of_another():
    """Object permissions stop at the object."""
    here, there = make_prompt("here"), make_prompt("there")
    operator = make_operator("ada", Role.APPROVER, on=here)

    assert operator.has_perm("prompts.sign_off", here)
    assert not operator.has_perm("prompts.sign_off", there)
    assert not operator.has_perm("prompts.sign_off")
    assert (operator.holds(Role.APPROVER, here), operator.holds(Role.APPROVER, there)) == (True, False)


def test_granting_twice_is_granting_once():
    """One row, one event."""
    operator = make_operator("ada")
    grant(operator, Role.APPROVER)
    grant(operator, Role.APPROVER)

    assert operator.grants.count() == 1
    assert AuditEvent.objects.filter(action="role.granted", actor=SETUP, target="ada").count() == 1


def test_revoking_what_is_gone_records_nothing():
    """A second click is no second event."""
    granted = grant(make_operator("ada"), Role.APPROVER)
    revoke(granted)
    revoke(RoleGrant(pk=granted.pk or 10**9, operator=granted.operator, role=granted.role))

    assert AuditEvent.objects.filter(action="role.revoked").count() == 1


def test_a_role_is_not_granted_where_it_means_nothing():
    """A grant on an object that the role says nothing about would still count as holding the role there."""
    make_policy()
    operator, table, tenant = make_operator("ada"), make_routing(), make_tenant()

    for role, target in ((Role.APPROVER, table), (Role.APPROVER, tenant), (Role.LEGAL, operator)):
        with pytest.raises(RoleDoesNotFit, match=f"'{role.value}' gives nothing on"):
            grant(operator, role, target)
    assert operator.grants.count() == 0


# --- the last admin --------------------------------------------------------------------------------------------------
def test_the_last_admin_is_neither_revoked_nor_locked_out():
    """Somebody must be able to give access."""
    admin = crew.admin

    with pytest.raises(LastAdmin):
        revoke(admin.grants.get())
    with pytest.raises(LastAdmin):
        set_operator_active(operator=admin, active=False, actor=SETUP, now=NOW)

    assert Operator.objects.get(pk=admin.pk).is_active


def test_an_admin_of_one_tenant_is_not_the_second_admin():
    """Giving access needs the role on everything."""
    admin = crew.admin
    make_operator("local", Role.ADMIN, on=make_tenant())

    with pytest.raises(LastAdmin):
        revoke(admin.grants.get())


def test_a_locked_out_admin_is_not_the_second_admin():
    """Who cannot come in cannot give access."""
    other = make_operator("other", Role.ADMIN)
    admin = crew.admin
    set_operator_active(operator=other, active=False, actor=SETUP, now=NOW)

    with pytest.raises(LastAdmin):
        revoke(admin.grants.get())


def test_one_of_two_admins_may_go():
    """And then the other is the last."""
    other = make_operator("other", Role.ADMIN)
    revoke(crew.admin.grants.get())

    with pytest.raises(LastAdmin):
        set_operator_active(operator=other, active=False, actor=SETUP, now=NOW)


def test_only_people_who_approve_hold_the_right_to_sign():
    """Separation of duties, as the table of roles has it: authors, on-call, auditors and admins sign no prompt."""
    signers = {role for role in Role if "prompts.sign_off" in permissions_everywhere(role)}

    assert signers == {Role.APPROVER, Role.EXEC, Role.LEGAL}
    assert not ROLES[Role.AUDITOR].on_object["prompts.prompt"] - {"view_prompt"}


def test_operators_of_an_older_version_get_what_their_roles_give_now():
    """After a migration everybody may do what the role says, and nothing that it does not say any more."""
    tenant, oncall, auditor = make_tenant(), make_operator("oncall"), make_operator("auditor")
    grant(oncall, Role.ON_CALL, tenant)
    grant(auditor, Role.AUDITOR)
    before = on_objects_of(oncall), everywhere_of(auditor)
    UserObjectPermission.objects.filter(user=oncall, permission__codename="complete_repair").delete()
    auditor.user_permissions.add(Permission.objects.get(codename="complete_repair"))
    assert (on_objects_of(oncall), everywhere_of(auditor)) != before

    emit_post_migrate_signal(verbosity=0, interactive=False, db="default")

    assert (on_objects_of(oncall), everywhere_of(auditor)) == before
