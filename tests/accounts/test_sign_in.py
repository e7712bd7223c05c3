"""Coming in with a password, and the door that closes."""

from datetime import timedelta

import pytest
from django.conf import settings as django_settings
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.hashers import identify_hasher
from django.contrib.sessions.models import Session
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from controlplane import settings as ours
from controlplane.accounts import lockout
from controlplane.accounts import operations as accounts
from controlplane.audit import operations as audit
from tests.accounts.door import PASSWORD, actions, events, is_in, let_pass, make_person, sign_in
from tests.factories import NOW, SETUP

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("doors", "quick_hashes")]


def fail(browser, times, name="ada"):
    for _ in range(times):
        answer = sign_in(browser, name, "wrong")
    return answer


def test_name_and_password_let_an_operator_in_and_the_record_says_so(browser):
    """One event with method and address; the page after it is the overview."""
    make_person()

    answer = sign_in(browser)

    assert answer.status_code == 302
    assert answer["Location"] == "/"
    assert is_in(browser)
    [event] = events()
    assert (event.action, event.actor, event.target) == ("sign_in.succeeded", "ada", "ada")
    assert event.data == {"methods": ["password"], "address": "127.0.0.1"}


def test_session_key_changes_when_somebody_comes_in(browser):
    """Who planted a session id in a browser before has nothing afterwards."""
    make_person()
    browser.get(reverse("account_login"))
    browser.session.save()
    planted = browser.session.session_key
    browser.cookies[django_settings.SESSION_COOKIE_NAME] = planted

    sign_in(browser)

    assert browser.session.session_key != planted
    assert not Session.objects.filter(session_key=planted).exists()
    assert is_in(browser)


def test_session_ends_at_the_server_after_twelve_hours(browser):
    """The cookie of a browser left open is worth nothing then."""
    make_person()
    sign_in(browser)
    session = Session.objects.get(session_key=browser.session.session_key)
    left = session.expire_date - timezone.now()

    Session.objects.filter(pk=session.pk).update(expire_date=timezone.now() - timedelta(seconds=1))

    assert timedelta(hours=11, minutes=59) < left <= timedelta(hours=12)
    assert not is_in(browser)


def test_session_cookie_ends_with_the_browser_and_scripts_cannot_read_it(browser):
    make_person()

    cookie = sign_in(browser).cookies[django_settings.SESSION_COOKIE_NAME]

    assert not cookie["max-age"]
    assert not cookie["expires"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"


def test_wrong_password_is_recorded_without_the_password(browser):
    """The event is the system's, about the operator: nobody knows who typed."""
    make_person()

    answer = sign_in(browser, "ADA", "hunter2 hunter2")

    assert answer.status_code == 200
    assert "do not go together" in answer.content.decode()
    [event] = events()
    assert (event.action, event.actor, event.target) == ("sign_in.failed", "ballast", "ada")
    assert event.data == {"why": "password", "address": "127.0.0.1"}
    assert "hunter2" not in str(audit.AuditEvent.objects.values_list())


def test_unknown_name_gets_the_same_answer_and_leaves_no_trace(browser):
    """Otherwise anybody could fill the record, and learn who works here."""
    make_person()

    unknown, known = sign_in(browser, "nobody", "wrong"), sign_in(browser, "ada", "wrong")

    assert unknown.status_code == known.status_code == 200
    assert unknown.context["form"].non_field_errors() == known.context["form"].non_field_errors()
    assert actions() == ["sign_in.failed"]


def test_deactivated_operator_gets_the_answer_of_a_wrong_password(browser):
    """And it counts as one, so it cannot be repeated without end."""
    person = make_person()
    accounts.set_operator_active(operator=person, active=False, actor=SETUP, now=NOW)

    answer = sign_in(browser)

    assert answer.status_code == 200
    assert "do not go together" in answer.content.decode()
    assert actions() == ["operator.deactivated", "sign_in.failed"]


def test_ten_failures_close_the_door_to_the_right_password_too(browser):
    """The page says until when, in words and in a header; the record has ten failures and one closing."""
    make_person()
    began = timezone.now()

    tenth = fail(browser, 10)
    answer = sign_in(browser)

    left = timedelta(minutes=5) - (timezone.now() - began)
    assert tenth.status_code == answer.status_code == 429
    assert not is_in(browser)
    assert left.total_seconds() <= int(answer["Retry-After"]) <= 301
    words = " ".join(answer.content.decode().split())
    until = lockout.locked_until(lockout.name_key("ada"), now=timezone.now())
    assert f"{until:%H:%M} UTC" in words
    assert "5 minutes" in words
    assert actions() == ["sign_in.failed"] * 10 + ["sign_in.locked_out"]
    assert events("sign_in.locked_out")[0].data == {"why": "password", "until": until.isoformat(timespec="seconds")}


def test_door_opens_five_minutes_after_it_closed(browser):
    """Not when the first failure is five minutes old: a slow guesser waits as long as a quick one."""
    make_person()
    fail(browser, 1)
    let_pass(timedelta(minutes=4, seconds=30))
    fail(browser, 9)

    let_pass(timedelta(minutes=4, seconds=30))
    assert sign_in(browser).status_code == 429
    let_pass(timedelta(seconds=35))
    assert sign_in(browser).status_code == 302
    assert is_in(browser)


def test_nine_failures_and_the_right_password_let_in(browser):
    make_person()
    fail(browser, 9)

    assert sign_in(browser).status_code == 302


def test_closed_door_looks_at_no_password_and_writes_nothing(browser, monkeypatch):
    """What a stranger goes on sending costs neither a hash nor a row."""
    make_person()
    fail(browser, 10)
    before = len(events())
    hashed = []
    monkeypatch.setattr("controlplane.accounts.backends.OperatorBackend.authenticate", lambda *a, **k: hashed.append(k))

    for _ in range(5):
        assert sign_in(browser).status_code == 429

    assert hashed == []
    assert len(events()) == before


def test_door_is_one_for_every_spelling_and_every_host_name_of_ours(browser):
    """allauth's own count would start anew at each host name."""
    make_person()
    for host in ("127.0.0.1", "localhost"):
        for spelling in ("ada", "ADA", " Ada ", "aDa", "adA"):
            answer = sign_in(browser, spelling, "wrong", headers={"host": host})

    assert answer.status_code == 429


def test_failures_of_one_name_close_no_other_door(browser):
    """Nor the sessions that are open."""
    make_person("ada")
    make_person("grace")
    inside = Client()
    sign_in(inside, "ada")

    fail(browser, 10)

    assert is_in(inside)
    assert sign_in(Client(), "grace").status_code == 302


def test_thirty_failures_from_one_address_close_the_door_to_it(browser):
    """Names that do not exist count as well; the record stays empty."""
    make_person()
    for number in range(30):
        sign_in(browser, f"guess-{number}", "wrong")

    answer = sign_in(browser)

    assert answer.status_code == 429
    assert "your address" in answer.content.decode()
    assert events() == []
    assert sign_in(browser, REMOTE_ADDR="192.0.2.7").status_code == 302


def test_record_takes_ten_failures_in_five_minutes_whatever_the_counts_forgot():
    """A Redis that was emptied does not open the record to a flood."""
    person = make_person()

    for second in range(40):
        at = NOW + timedelta(seconds=second)
        accounts.record_failed_sign_in(operator=person, why="password", address="", locked_until=None, now=at)
    later = NOW + timedelta(minutes=6)
    accounts.record_failed_sign_in(operator=person, why="password", address="", locked_until=None, now=later)

    assert actions() == ["sign_in.failed"] * 11


def test_leaving_ends_the_session_and_is_recorded(browser):
    make_person()
    sign_in(browser)

    answer = browser.post(reverse("account_logout"))

    assert answer.status_code == 302
    assert not is_in(browser)
    assert actions() == ["sign_in.succeeded", "sign_out"]
    assert SESSION_KEY not in browser.session


def test_a_link_signs_nobody_out(browser):
    """GET asks."""
    make_person()
    sign_in(browser)

    browser.get(reverse("account_logout"))

    assert is_in(browser)


def test_lock_out_ends_every_session_at_the_next_request(browser):
    """Nothing has to be clicked by the person, and the session's row is worth nothing."""
    person = make_person()
    sign_in(browser)

    accounts.set_operator_active(operator=person, active=False, actor=SETUP, now=NOW)

    assert browser.get("/").status_code == 302
    assert not is_in(browser)


def test_another_password_ends_the_other_sessions(browser):
    """The one in which it was changed stays; old and new are not in the record."""
    make_person()
    other = Client()
    sign_in(browser)
    sign_in(other)
    new = "a much better staple"

    answer = browser.post(
        reverse("account_change_password"), {"oldpassword": PASSWORD, "password1": new, "password2": new}
    )

    assert answer.status_code == 302
    assert is_in(browser)
    assert not is_in(other)
    assert events("password.changed")[0].actor == "ada"
    assert new not in str([event.data for event in events()])


def test_weak_password_is_refused(browser):
    make_person()
    sign_in(browser)

    answer = browser.post(
        reverse("account_change_password"), {"oldpassword": PASSWORD, "password1": "short", "password2": "short"}
    )

    assert answer.status_code == 200
    assert actions() == ["sign_in.succeeded"]


def test_operator_without_password_cannot_give_themselves_one(browser):
    """They come through the provider; a password would be a second way in that nobody decided."""
    person = make_person(password=None)
    browser.force_login(person)

    answer = browser.get(reverse("account_change_password"))

    assert answer.status_code == 200
    assert "no password here" in answer.content.decode()


def test_demo_password_is_worth_nothing_outside_the_demo(browser, settings):
    """A copy of the demo's database may end up anywhere."""
    make_person(password="ballast-demo")
    settings.DEMO = False
    settings.REQUIRE_MFA = False

    assert sign_in(browser, password="ballast-demo").status_code == 200
    settings.DEMO = True
    assert sign_in(browser, password="ballast-demo").status_code == 302


def test_next_page_is_ours_or_the_overview(browser):
    """A link to the sign-in page leads to no other site."""
    make_person()

    answer = browser.post(
        reverse("account_login"), {"login": "ada", "password": PASSWORD, "next": "https://evil.example/"}
    )

    assert answer["Location"] == "/"


def test_every_form_of_signing_in_wants_a_csrf_token():
    make_person()
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(make_person("grace"))

    for name in (
        "account_login",
        "account_logout",
        "account_reauthenticate",
        "account_change_password",
        "mfa_reauthenticate",
        "mfa_activate_totp",
        "mfa_deactivate_totp",
        "mfa_generate_recovery_codes",
        "openid_connect_login",
    ):
        assert browser.post(reverse(name)).status_code == 403, name


def test_passwords_are_hashed_with_scrypt(settings):
    settings.PASSWORD_HASHERS = ours.PASSWORD_HASHERS

    assert identify_hasher(make_person("grace").password).algorithm == "scrypt"
