"""The first operator of a deployment, and why none stands above the rules."""

import io
import os
import pty

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction

from controlplane.accounts import operations as accounts
from controlplane.accounts.models import Operator, RoleGrant
from controlplane.accounts.roles import Role
from controlplane.audit.models import AuditEvent
from tests.accounts.door import make_person
from tests.factories import NOW, SETUP, make_operator

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("quick_hashes")]

PASSWORD = "a rather long first one"


@pytest.fixture(autouse=True)
def no_password_given(monkeypatch):
    """Neither by variable nor on stdin, unless a test gives one."""
    monkeypatch.delenv("BALLAST_NEW_PASSWORD", raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))


def create(*options, username="ada", email="ada@ballast.example"):
    out = io.StringIO()
    call_command("create_admin", *options, username=username, email=email, stdout=out)
    return out.getvalue()


def test_admin_is_made_with_a_password_from_a_pipe(monkeypatch, client):
    """May give everybody else access, is in the record as made by the system, and is no superuser."""
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))

    said = create()

    operator = Operator.objects.get()
    assert operator.check_password(PASSWORD)
    assert operator.has_perm("accounts.manage_access")
    assert not operator.is_superuser
    assert "ada may sign in at http" in said
    assert PASSWORD not in said
    events = AuditEvent.objects.order_by("seq").values_list("action", "actor", "target")
    assert list(events) == [("operator.created", "ballast", "ada"), ("role.granted", "ballast", "ada")]


def test_admin_is_made_with_a_password_from_a_variable(monkeypatch):
    """For a deployment that nobody types at."""
    monkeypatch.setenv("BALLAST_NEW_PASSWORD", PASSWORD)

    create()

    assert Operator.objects.get().check_password(PASSWORD)


@pytest.mark.parametrize(("second", "made"), [(PASSWORD, True), ("something else", False)])
def test_password_is_asked_for_twice_at_a_terminal(monkeypatch, second, made):
    typed = iter([PASSWORD, second])
    terminal, other_end = pty.openpty()
    monkeypatch.setattr("getpass.getpass", lambda prompt: next(typed))
    with os.fdopen(other_end) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        if made:
            create()
        else:
            with pytest.raises(CommandError, match="differ"):
                create()
    os.close(terminal)

    assert Operator.objects.exists() is made


@pytest.mark.parametrize(
    ("password", "complaint"),
    [("short", "12"), ("password1234", "common"), ("", "no password"), ("ada-adaadaada", "similar")],
)
def test_password_that_is_weak_or_missing_makes_nobody(monkeypatch, password, complaint):
    monkeypatch.setattr("sys.stdin", io.StringIO(password))

    with pytest.raises(CommandError, match=complaint):
        create(username="ada-adaada")

    assert not Operator.objects.exists()


@pytest.mark.parametrize(
    ("username", "email", "complaint"),
    [
        ("ada", "no address", "--email"),
        ("a b", "ada@ballast.example", "--username"),
        ("ballast", "ada@ballast.example", "exists"),
    ],
)
def test_bad_name_or_address_is_named(monkeypatch, username, email, complaint):
    monkeypatch.setenv("BALLAST_NEW_PASSWORD", PASSWORD)

    with pytest.raises(CommandError, match=complaint):
        create(username=username, email=email)

    assert not Operator.objects.exists()


def test_second_admin_is_refused_unless_forced(monkeypatch):
    """They are made at the console; force is for when everybody who could do that has left."""
    make_operator("grace", Role.ADMIN)
    monkeypatch.setenv("BALLAST_NEW_PASSWORD", PASSWORD)

    with pytest.raises(CommandError, match="'grace' can give access"):
        create()
    assert not Operator.objects.filter(username="ada").exists()
    create("--force")

    assert RoleGrant.objects.filter(role=Role.ADMIN).count() == 2


def test_admin_who_is_locked_out_does_not_count(monkeypatch):
    """They can help nobody."""
    gone = make_operator("grace", Role.ADMIN)
    Operator.objects.filter(pk=gone.pk).update(is_active=False)
    monkeypatch.setenv("BALLAST_NEW_PASSWORD", PASSWORD)

    create()

    assert Operator.objects.filter(username="ada").exists()


def test_admin_without_a_password_needs_a_provider(settings):
    """Otherwise nobody could ever come in."""
    settings.OIDC_ISSUER = ""
    with pytest.raises(CommandError, match="BALLAST_OIDC_ISSUER"):
        create("--no-password")
    settings.OIDC_ISSUER = "https://login.example"

    create("--no-password")

    assert not Operator.objects.get().has_usable_password()


def test_superusers_cannot_be_made():
    """Django would let them past every permission; the command says what to do instead, the database refuses."""
    with pytest.raises(CommandError, match="create_admin"):
        call_command("createsuperuser", username="root", email="root@ballast.example", interactive=False)
    person = make_person()

    with pytest.raises(IntegrityError, match="nobody_is_above_the_roles"), transaction.atomic():
        Operator.objects.filter(pk=person.pk).update(is_superuser=True)


def test_reset_of_somebody_who_is_not_there_says_so():
    with pytest.raises(CommandError, match="no operator 'nobody'"):
        call_command("reset_sign_in", "nobody", actor="grace")


def test_reset_can_leave_single_sign_on_only():
    person = make_person()

    accounts.reset_sign_in(operator=person, password=None, actor=SETUP, now=NOW)

    assert not Operator.objects.get().has_usable_password()
