import pytest
from django.utils import timezone

from controlplane.accounts import operations as accounts
from controlplane.accounts.models import ApiKey, Operator, OperatorToken, RoleGrant, hash_secret
from controlplane.accounts.roles import Role
from controlplane.releases.operations import current_release
from tests.api.conftest import Caller
from tests.factories import NOW, SETUP, crew, make_deployment, make_operator, make_prompt, make_tenant

pytestmark = pytest.mark.django_db


def test_me_says_who_i_am_and_what_i_may_do(as_operator):
    """Name, grants, and the permissions held on everything."""
    body = as_operator(crew.oncall).get("me").body

    assert body["username"] == "oncall"
    assert [(grant["role"], grant["on"]) for grant in body["grants"]] == [("on-call", "everything")]
    assert "releases.roll_back_release" in body["permissions"]


def test_operator_is_created_and_named_once(as_operator):
    """A name is never given twice."""
    admin = as_operator(crew.admin)
    body = {"username": "newcomer", "email": "new@ballast.example", "password": "correct horse battery"}

    first, second = admin.post("operators", body), admin.post("operators", body)

    assert (first.status, first.body["grants"]) == (201, [])
    assert "password" not in first.body
    assert (second.status, second.body["error"]["code"]) == (409, "name_taken")
    assert Operator.objects.get(username="newcomer").check_password(body["password"])


def test_weak_password_is_refused(as_operator):
    """The same rules as at the sign-in pages."""
    answer = as_operator(crew.admin).post("operators", {"username": "new", "email": "n@b.example", "password": "short"})

    assert (answer.status, list(answer.body["error"]["fields"])) == (400, ["password"])


def test_role_is_granted_on_one_prompt_and_taken_back(as_operator):
    """The newcomer sees that prompt from their next call on, and not any more afterwards."""
    make_prompt("mine")
    make_prompt("theirs")
    newcomer = make_operator("newcomer")
    admin, caller = as_operator(crew.admin), as_operator(newcomer)

    granted = admin.post("operators/newcomer/grants", {"role": "approver", "prompt": "mine"})
    seen = [row["slug"] for row in caller.get("prompts").body["results"]]
    revoked = admin.post(f"role-grants/{granted.body['id']}/revoke")
    again = admin.post(f"role-grants/{granted.body['id']}/revoke")

    assert (granted.status, granted.body["on"]) == (201, "prompt:mine")
    assert seen == ["mine"]
    assert (revoked.status, again.status) == (204, 404)
    assert caller.get("prompts").body["count"] == 0


def test_role_granted_twice_is_granted_once(as_operator):
    """The second answer names the same grant."""
    make_operator("newcomer")
    admin = as_operator(crew.admin)

    ids = {admin.post("operators/newcomer/grants", {"role": "auditor"}).body["id"] for _ in range(2)}

    assert len(ids) == RoleGrant.objects.filter(operator__username="newcomer").count() == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"role": "wizard"}, 400),
        ({"role": "legal", "prompt": "mine", "tenant": "acme"}, 400),
        ({"role": "exec", "tenant": "acme"}, 400),
        ({"role": "legal", "prompt": "nothing"}, 404),
    ],
)
def test_grant_that_makes_no_sense_is_refused(as_operator, body, status):
    """No such role, two objects, a role that gives nothing there, an object that is not there."""
    make_prompt("mine")
    make_tenant("acme")
    make_operator("newcomer")

    assert as_operator(crew.admin).post("operators/newcomer/grants", body).status == status


def test_last_admin_stays(as_operator):
    """Neither by role nor by lock-out can the last one go."""
    admin = as_operator(crew.admin)
    grant = RoleGrant.objects.get(operator=crew.admin)

    by_role = admin.post(f"role-grants/{grant.pk}/revoke")
    by_lock = admin.post("operators/admin/deactivate")

    assert by_role.body["error"]["code"] == by_lock.body["error"]["code"] == "last_admin"


def test_locked_out_operator_is_refused_at_once(as_operator):
    """Their token stops working with the next call, and works again when they are let in again."""
    admin, oncall = as_operator(crew.admin), as_operator(crew.oncall)

    admin.post("operators/oncall/deactivate")
    refused = oncall.get("me").status
    admin.post("operators/oncall/activate")

    assert (refused, oncall.get("me").status) == (401, 200)


def test_tenant_changes_only_what_was_given(as_operator):
    """What is given changes, the release carries it, the others stay."""
    make_deployment()
    make_tenant("acme", residency=["eu"])

    admin = as_operator(crew.admin)
    answer = admin.patch("tenants/acme", {"tier": "vip", "idempotency_hours": 48})
    refused = admin.patch("tenants/acme", {"idempotency_hours": 12})

    assert (answer.status, answer.body["tier"], answer.body["residency"]) == (200, "vip", ["eu"])
    tenant = current_release().content["sections"]["access"]["tenants"]["acme"]
    assert (tenant["tier"], tenant["idempotency_hours"]) == ("vip", 48)
    assert (refused.status, list(refused.body["error"]["fields"])) == (400, ["idempotency_hours"])


def test_tenant_is_named_once(as_operator):
    """The second of a name is a conflict."""
    make_deployment()
    admin = as_operator(crew.admin)

    first, second = (admin.post("tenants", {"slug": "acme", "name": "Acme"}) for _ in range(2))

    assert (first.status, first.body["tier"]) == (201, "standard")
    assert (second.status, second.body["error"]["code"]) == (409, "name_taken")


def test_key_is_shown_once_and_revoked_once(as_operator):
    """The secret is in the answer that issues it and in no other; the release knows its hash until it is revoked."""
    make_deployment()
    make_tenant("acme")
    admin = as_operator(crew.admin)

    issued = admin.post("tenants/acme/keys", {"name": "production"})
    secret = issued.body["secret"]
    in_release = hash_secret(secret) in current_release().content["sections"]["access"]["keys"]
    listed = admin.get("tenants/acme/keys").body["results"][0]
    revoked, again = (admin.post(f"keys/{issued.body['id']}/revoke") for _ in range(2))

    assert (issued.status, issued.headers["Cache-Control"]) == (201, "no-store")
    assert in_release
    assert "secret" not in listed
    assert secret not in str(listed)
    assert (revoked.status, again.status, again.body["error"]["code"]) == (200, 409, "already_revoked")
    assert hash_secret(secret) not in current_release().content["sections"]["access"]["keys"]
    assert not ApiKey.objects.filter(secret_hash=secret).exists()


def test_key_is_rotated_and_both_are_good_for_as_long_as_was_said(as_operator):
    """The answer has the new one's secret; the old one has an end; the second time is a conflict; bounds are said."""
    make_deployment()
    make_tenant("acme")
    admin = as_operator(crew.admin)
    issued = admin.post("tenants/acme/keys", {"name": "production"}).body

    rotated = admin.post(f"keys/{issued['id']}/rotate", {"overlap_seconds": 3600})
    again = admin.post(f"keys/{issued['id']}/rotate")
    long = admin.post(f"keys/{rotated.body['id']}/rotate", {"overlap_seconds": 2_592_001})

    rows = {row["id"]: row for row in admin.get("tenants/acme/keys").body["results"]}
    keys = current_release().content["sections"]["access"]["keys"]
    assert (rotated.status, rotated.headers["Cache-Control"]) == (201, "no-store")
    assert {hash_secret(issued["secret"]), hash_secret(rotated.body["secret"])} <= keys.keys()
    assert (rows[issued["id"]]["expires_at"] is None, rows[rotated.body["id"]]["expires_at"]) == (False, None)
    assert rows[rotated.body["id"]]["replaces"] == issued["id"]
    assert (again.status, again.body["error"]["code"]) == (409, "already_rotated")
    assert (long.status, list(long.body["error"]["fields"])) == (400, ["overlap_seconds"])


def test_token_rotates_itself_and_nobody_elses(as_operator):
    """A script may change its own token; an admin sees another's and is refused."""
    token = accounts.issue_token(operator=crew.oncall, name="t", actor=SETUP, now=timezone.now())

    refused = as_operator(crew.admin).post(f"tokens/{token.row.pk}/rotate")
    rotated = Caller(token.secret).post(f"tokens/{token.row.pk}/rotate", {"overlap_seconds": 300})

    assert (refused.status, rotated.status) == (403, 201)
    assert [Caller(one).get("me").status for one in (token.secret, rotated.body["secret"])] == [200, 200]
    OperatorToken.objects.filter(pk=token.row.pk).update(expires_at=NOW)
    assert [Caller(one).get("me").status for one in (token.secret, rotated.body["secret"])] == [401, 200]


def test_token_is_issued_for_oneself_only(as_operator):
    """There is no field to name somebody else: with another's token one could sign off in their name."""
    make_operator("approver-x", Role.APPROVER)
    admin = as_operator(crew.admin)

    issued = admin.post("tokens", {"name": "laptop"})
    for_another = admin.post("tokens", {"name": "laptop", "operator": "approver-x"})

    assert (issued.status, issued.body["operator"]) == (201, "admin")
    assert Caller(issued.body["secret"]).get("me").body["username"] == "admin"
    assert for_another.status == 400
    assert not OperatorToken.objects.filter(operator__username="approver-x").exists()


def test_token_is_revoked_by_its_owner_or_who_manages_access(as_operator):
    """Others do not even learn that it exists; the second time it is gone already."""
    token = accounts.issue_token(operator=crew.oncall, name="t", actor=SETUP, now=NOW).row
    path = f"tokens/{token.pk}/revoke"

    assert as_operator(crew.owner).post(path).status == 404
    assert as_operator(crew.auditor).post(path).status == 403
    assert as_operator(crew.admin).post(path).status == 200
    assert as_operator(crew.oncall).post(path).status == 409


def test_tokens_of_others_are_listed_for_who_manages_access_only(as_operator):
    """One's own, or everybody's."""
    accounts.issue_token(operator=crew.oncall, name="t", actor=SETUP, now=NOW)
    owner, admin = as_operator(crew.owner), as_operator(crew.admin)

    assert {row["operator"] for row in owner.get("tokens").body["results"]} == {"owner"}
    assert {row["operator"] for row in admin.get("tokens").body["results"]} == {"owner", "admin", "oncall"}


def test_expired_token_says_so():
    """The message names the time."""
    token = accounts.issue_token(operator=crew.owner, name="t", actor=SETUP, now=NOW, expires_at=NOW.replace(year=2020))

    answer = Caller(token.secret).get("me")

    assert answer.status == 401
    assert "expired at 2020-03-04" in answer.body["error"]["message"]


@pytest.mark.parametrize("path", ["operators", "tenants", "tokens"])
def test_lists_take_a_fixed_number_of_queries(as_operator, queries, path):
    """However many rows, and grants on them, there are."""
    prompt = make_prompt("mine")
    make_operator("first", Role.APPROVER, on=prompt)
    make_tenant("first")
    admin = as_operator(crew.admin)
    admin.get(path)
    before = queries(lambda: admin.get(path))
    for number in range(4):
        somebody = make_operator(f"somebody-{number}", Role.APPROVER, Role.LEGAL, on=prompt)
        accounts.issue_token(operator=somebody, name="t", actor=SETUP, now=timezone.now())
        make_tenant(f"tenant-{number}")

    assert queries(lambda: admin.get(path)) == before


def test_roles_are_described(as_operator):
    """Each role with what it gives."""
    rows = {row["role"]: row for row in as_operator(crew.owner).get("roles").body}

    assert set(rows) == {role.value for role in Role}
    assert "sign_off" in rows["approver"]["on_object"]["prompts.prompt"]
