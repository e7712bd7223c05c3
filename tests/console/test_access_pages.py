"""The access pages over HTTP: people and roles, tenants and keys, operator tokens."""

import re
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from controlplane.accounts import operations as accounts
from controlplane.accounts.models import ApiKey, Operator, OperatorToken, RoleGrant, Tenant, hash_secret
from controlplane.accounts.roles import Role
from controlplane.audit.models import AuditEvent
from tests.console.conftest import said
from tests.factories import NOW, crew, make_operator, make_policy, make_prompt, make_routing, make_tenant

TENANT = {
    "name": "Acme",
    "tier": "vip",
    "residency": "eu, uk",
    "region": "eu-west",
    "is_internal": "",
    "log_content": "",
    "idempotency_hours": "24",
}


# --- people -----------------------------------------------------------------------------------------------------------
def test_people_are_shown_with_their_roles_on_everything_and_on_single_objects(db, signed_in):
    """A matrix: one row a person, one column a role."""
    prompt = make_prompt("refund-policy")
    make_operator("newcomer", Role.APPROVER, on=prompt)

    page = signed_in(crew.admin).get("/access/")

    cells = {row["person"].username: row["cells"] for row in page.context["rows"]}
    assert cells["newcomer"][list(Role).index(Role.APPROVER)] == ["prompt:refund-policy"]
    assert cells["admin"][list(Role).index(Role.ADMIN)] == ["everything"]


def test_who_may_not_look_at_others_sees_themselves(db, signed_in):
    """An owner finds their own roles and nobody else's; another's page does not exist for them."""
    browser = signed_in(crew.owner)
    assert crew.legal

    assert [row["person"].username for row in browser.get("/access/").context["rows"]] == ["owner"]
    assert browser.get("/access/people/owner/").status_code == 200
    assert browser.get("/access/people/legal/").status_code == 404


def test_person_page_says_in_words_what_each_role_lets_them_do(db, signed_in):
    """Permissions, not codenames."""
    html = signed_in(crew.auditor).get(f"/access/people/{crew.oncall.username}/").content.decode()

    assert "return to an earlier release" in html
    assert "Grant a role" not in html


def test_role_is_granted_on_one_object_and_taken_back(db, signed_in):
    """Granting twice is granting once; revoking leaves nothing."""
    prompt = make_prompt("refund-policy")
    make_operator("newcomer")
    browser = signed_in(crew.admin)

    for _ in range(2):
        browser.post("/access/people/newcomer/grant/", {"role": "approver", "on": prompt.audit_name})
    grant = RoleGrant.objects.get(operator__username="newcomer")
    assert (grant.role, grant.target) == ("approver", prompt)
    for _ in range(2):
        browser.post(f"/access/grants/{grant.pk}/revoke/")

    assert not RoleGrant.objects.filter(operator__username="newcomer").exists()


def test_role_that_says_nothing_about_an_object_is_refused_in_words(db, signed_in):
    """An approver of a tenant would approve nothing."""
    tenant = make_tenant("acme")
    make_operator("newcomer")

    refused = signed_in(crew.admin).post(
        "/access/people/newcomer/grant/", {"role": "approver", "on": tenant.audit_name}
    )

    assert "gives nothing on a tenant" in said(refused)[0]


def test_last_admin_cannot_be_revoked_or_locked_out(db, signed_in):
    """Somebody must be able to give access back."""
    browser = signed_in(crew.admin)
    grant = RoleGrant.objects.get(role="admin")

    for url in (f"/access/grants/{grant.pk}/revoke/", "/access/people/admin/lock/"):
        assert "grant 'admin' on everything to somebody else first" in said(browser.post(url))[-1]
    assert RoleGrant.objects.filter(pk=grant.pk).exists()
    assert Operator.objects.get(username="admin").is_active


def test_locked_out_person_is_out_at_once_and_can_be_let_in_again(db, signed_in):
    """Their open session ends with the next click."""
    theirs = signed_in(crew.owner)
    assert theirs.get("/access/").status_code == 200
    browser = signed_in(crew.admin)

    browser.post("/access/people/owner/lock/")
    assert theirs.get("/access/").status_code == 302
    browser.post("/access/people/owner/unlock/")

    assert theirs.get("/access/").status_code == 200


def test_new_operator_may_do_nothing_yet(db, signed_in):
    """Without a password they come in by single sign-on only; a weak one is refused; a name is given once."""
    browser = signed_in(crew.admin)
    form = {"username": "newcomer", "email": "newcomer@ballast.example"}

    assert browser.post("/access/new-operator/", {**form, "password": "password"}).status_code == 400
    created = browser.post("/access/new-operator/", form)
    again = browser.post("/access/new-operator/", form)

    assert created.url == "/access/people/newcomer/"
    assert not Operator.objects.get(username="newcomer").has_usable_password()
    assert again.status_code == 400
    assert "exists or existed" in again.content.decode()


@pytest.mark.parametrize(
    "url",
    [
        "/access/new-operator/",
        "/access/people/auditor/grant/",
        "/access/people/auditor/lock/",
        "/access/people/auditor/unlock/",
        "/access/new-tenant/",
        "/access/tenants/acme/",
        "/access/tenants/acme/keys/",
    ],
)
def test_auditor_reads_and_changes_nothing(db, signed_in, url):
    """Every act is refused with the role that it takes, and nothing is recorded."""
    make_tenant("acme")
    browser = signed_in(crew.auditor)
    before = AuditEvent.objects.count()

    refused = browser.post(url, {**TENANT, "role": "admin", "on": "everything", "username": "x", "slug": "x"})

    assert refused.status_code == 403
    assert "Admin" in refused.content.decode()
    assert AuditEvent.objects.count() == before


# --- tenants and keys -------------------------------------------------------------------------------------------------
def test_tenant_is_created_and_changed(db, signed_in):
    """Zones are typed between commas; a slug is taken once; what is wrong stands beside its field."""
    browser = signed_in(crew.admin)

    created = browser.post("/access/new-tenant/", {**TENANT, "slug": "acme"})
    again = browser.post("/access/new-tenant/", {**TENANT, "slug": "acme"})
    wrong = browser.post("/access/tenants/acme/", {**TENANT, "tier": "gold"})
    long = browser.post("/access/tenants/acme/", {**TENANT, "idempotency_hours": "100"})
    browser.post("/access/tenants/acme/", {**TENANT, "tier": "free", "log_content": "on", "idempotency_hours": "72"})

    tenant = Tenant.objects.get(slug="acme")
    assert created.url == "/access/tenants/acme/"
    assert (again.status_code, wrong.status_code, long.status_code) == (400, 400, 400)
    assert "less than or equal to 72" in long.content.decode()
    assert (tenant.residency, tenant.tier, tenant.log_content) == (["eu", "uk"], "free", True)
    assert tenant.idempotency_hours == 72
    assert "remembered for 72 h" in signed_in(crew.auditor).get("/access/tenants/acme/").content.decode()


def test_tenant_page_shows_the_lanes_its_bytes_may_reach(db, signed_in):
    """The same rule as the workers'."""
    make_policy()
    make_routing()
    make_tenant("acme", residency=["eu"])

    page = signed_in(crew.auditor).get("/access/tenants/acme/")

    assert {one.route for one in page.context["reaches"]} == {"chat", "summaries", "embed"}
    assert all("eu-west" in lane for one in page.context["reaches"] for lane in one.lanes)
    assert "Issue a key" not in page.content.decode()


def test_secret_of_a_key_is_shown_once_on_a_page_that_nobody_keeps(db, signed_in):
    """It is in the answer to the POST alone: not stored, not cached, not on any later page."""
    make_tenant("acme")
    browser = signed_in(crew.admin)

    issued = browser.post("/access/tenants/acme/keys/", {"name": "web shop"})

    secret = re.search(r'id="secret"[^>]*>([^<]+)<', issued.content.decode())[1]
    assert "no-store" in issued.headers["Cache-Control"]
    assert ApiKey.objects.get().secret_hash == hash_secret(secret)
    assert secret not in browser.get("/access/tenants/acme/").content.decode()
    assert secret not in str(list(AuditEvent.objects.values_list("data", "target")))
    assert browser.get("/access/tenants/acme/keys/").status_code == 405


def test_key_is_revoked_once_and_the_second_time_says_so(db, signed_in):
    """Gateways refuse it with the release that this cuts."""
    tenant = make_tenant("acme")
    key = accounts.issue_key(tenant=tenant, name="k", actor="setup", now=NOW).row
    browser = signed_in(crew.admin)

    first = browser.post(f"/access/keys/{key.pk}/revoke/")
    second = browser.post(f"/access/keys/{key.pk}/revoke/")

    assert "is revoked" in said(first)[0]
    assert "was revoked before" in said(second)[-1]


def test_key_is_rotated_and_the_page_tells_the_two_apart(db, signed_in):
    """The secret of the new one is shown once; the old one says what took its place, and each when it was last used."""
    tenant = make_tenant("acme")
    old = accounts.issue_key(tenant=tenant, name="web shop", actor="setup", now=NOW).row
    browser = signed_in(crew.admin)

    rotated = browser.post(f"/access/keys/{old.pk}/rotate/", {"hours": "24"})
    accounts.record_key_use({str(old.pk): timezone.now().timestamp()})
    page = browser.get("/access/tenants/acme/")
    again = browser.post(f"/access/keys/{old.pk}/rotate/", {"hours": "24"})
    forever = browser.post(f"/access/keys/{old.pk}/rotate/", {"hours": "876000"})

    new = ApiKey.objects.get(replaces=old)
    secret = re.search(r'id="secret"[^>]*>([^<]+)<', rotated.content.decode())[1]
    rows = {row["key"].pk: row for row in page.context["keys"]}
    assert (new.secret_hash, new.name) == (hash_secret(secret), "web shop")
    assert "no-store" in rotated.headers["Cache-Control"]
    assert (rows[old.pk]["standing"], rows[new.pk]["standing"]) == ("ending", "active")
    assert rows[old.pk]["key"].last_used_at
    assert not rows[new.pk]["key"].last_used_at
    assert f"{new.prefix}…" in page.content.decode()
    assert secret not in page.content.decode()
    assert "rotate the one that took its place" in said(again)[0]
    assert "for how long" in said(forever)[-1]


def test_admin_of_one_tenant_meets_no_other(db, signed_in):
    """Another tenant's page and keys do not exist for them, and lists leave it out."""
    acme, globex = make_tenant("acme"), make_tenant("globex")
    foreign = accounts.issue_key(tenant=globex, name="k", actor="setup", now=NOW).row
    browser = signed_in(make_operator("keeper", Role.ADMIN, on=acme))

    assert [tenant.slug for tenant in browser.get("/access/tenants/").context["rows"]] == ["acme"]
    assert browser.get("/access/tenants/acme/").status_code == 200
    assert browser.get("/access/tenants/globex/").status_code == 404
    assert browser.post("/access/tenants/globex/keys/", {"name": "x"}).status_code == 404
    assert browser.post(f"/access/keys/{foreign.pk}/revoke/").status_code == 404
    assert browser.post("/access/new-tenant/", {**TENANT, "slug": "mine"}).status_code == 403


# --- operator tokens --------------------------------------------------------------------------------------------------
def test_operator_issues_a_token_for_themselves_and_revokes_it(db, signed_in):
    """Its secret is shown once; it ends by itself; the list shows neither."""
    browser = signed_in(crew.exec)

    issued = browser.post("/access/tokens/issue/", {"name": "script", "days": "30"})
    token = OperatorToken.objects.get()
    browser.post(f"/access/tokens/{token.pk}/revoke/")

    secret = re.search(r'id="secret"[^>]*>([^<]+)<', issued.content.decode())[1]
    assert token.secret_hash == hash_secret(secret)
    assert (token.operator, token.expires_at > timezone.now()) == (crew.exec, True)
    assert secret not in browser.get("/access/tokens/").content.decode()
    assert OperatorToken.objects.get().revoked_at is not None


def test_token_is_rotated_by_its_operator_alone(db, signed_in):
    """Both work until the old one's end; an admin may revoke it, and gets nobody's secret."""
    issued = accounts.issue_token(operator=crew.exec, name="script", actor=crew.exec, now=timezone.now())

    refused = signed_in(crew.admin).post(f"/access/tokens/{issued.row.pk}/rotate/", {"hours": "1"})
    rotated = signed_in(crew.exec).post(f"/access/tokens/{issued.row.pk}/rotate/", {"hours": "1"})

    secret = re.search(r'id="secret"[^>]*>([^<]+)<', rotated.content.decode())[1]
    answers = [
        Client().get("/api/v1/me", headers={"Authorization": f"Bearer {one}"}).status_code
        for one in (issued.secret, secret)
    ]
    page = signed_in(crew.exec).get("/access/tokens/")
    assert refused.status_code == 403
    assert answers == [200, 200]
    assert {row["standing"] for row in page.context["rows"]} == {"active", "ending"}
    assert OperatorToken.objects.get(pk=issued.row.pk).expires_at < timezone.now() + timedelta(hours=1, seconds=1)


def test_tokens_of_others_are_for_who_manages_access(db, signed_in):
    """An admin sees and revokes them; to others they do not exist."""
    token = accounts.issue_token(operator=crew.owner, name="t", actor=crew.owner, now=NOW).row

    stranger = signed_in(crew.exec)
    assert list(stranger.get("/access/tokens/").context["rows"]) == []
    assert stranger.post(f"/access/tokens/{token.pk}/revoke/").status_code == 404
    admin = signed_in(crew.admin)
    assert [row["token"].pk for row in admin.get("/access/tokens/").context["rows"]] == [token.pk]
    admin.post(f"/access/tokens/{token.pk}/revoke/")

    assert OperatorToken.objects.get().revoked_at is not None


@pytest.mark.parametrize("url", ["/access/", "/access/tenants/", "/access/tokens/", "/access/people/admin/"])
def test_access_pages_take_as_many_queries_for_many_as_for_one(db, signed_in, queries, url):
    """Not one for each person, grant, tenant, key or token."""
    prompt = make_prompt()
    browser = signed_in(crew.admin)
    make_operator("zero", Role.APPROVER, on=prompt)
    make_tenant("zero")
    browser.get(url)
    few = queries(lambda: browser.get(url))
    for number in range(3):
        person = make_operator(f"person-{number}", Role.APPROVER, Role.PROMPT_OWNER, on=prompt)
        accounts.issue_token(operator=person, name="t", actor=person, now=NOW)
        tenant = make_tenant(f"tenant-{number}")
        accounts.issue_key(tenant=tenant, name="k", actor="setup", now=NOW)

    assert queries(lambda: browser.get(url)) == few
