"""The second factor: set up, used, lost, removed, required."""

import json
import re
from base64 import b64decode
from datetime import timedelta

import pytest
from allauth.mfa.models import Authenticator
from cryptography.fernet import InvalidToken
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from controlplane.accounts import operations as accounts
from controlplane.accounts.roles import Role
from tests.accounts.door import (
    PASSWORD,
    actions,
    code_of,
    confirm,
    enrol,
    events,
    forget,
    is_in,
    let_pass,
    make_person,
    sign_in,
)
from tests.factories import NOW, SETUP

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("doors", "quick_hashes")]


@pytest.fixture
def enrolled(browser):
    """Ada, her secret, and a browser in which nobody is signed in."""
    person = make_person()
    sign_in(browser)
    secret = enrol(browser)
    browser.post(reverse("account_logout"))
    return person, secret


def give_code(browser, code):
    return browser.post(reverse("mfa_authenticate"), {"code": code})


def recovery_codes(browser):
    confirm(browser)
    return browser.get(reverse("mfa_view_recovery_codes")).context["unused_codes"]


def test_setting_up_an_app_asks_for_the_password_and_for_a_code(browser):
    """A session left open is not enough, nor an app that was never tried. The record says what was added."""
    make_person()
    sign_in(browser)

    assert browser.get(reverse("mfa_activate_totp"))["Location"].startswith(reverse("account_reauthenticate"))
    confirm(browser)
    page = browser.get(reverse("mfa_activate_totp"))
    wrong = browser.post(reverse("mfa_activate_totp"), {"code": "000000"})
    right = browser.post(reverse("mfa_activate_totp"), {"code": code_of(page.context["form"].secret)})

    assert wrong.status_code == 200
    assert right["Location"] == reverse("mfa_view_recovery_codes")
    assert actions() == ["sign_in.succeeded", "second_factor.added", "second_factor.added"]
    assert [event.data["kind"] for event in events("second_factor.added")] == ["totp", "recovery_codes"]
    assert all(event.actor == "ada" for event in events())


def test_the_picture_needs_no_script_and_no_style(browser):
    """An image with its data inside, which the Content-Security-Policy allows, and the same key in words."""
    make_person()
    sign_in(browser)
    confirm(browser)

    page = browser.get(reverse("mfa_activate_totp"))

    text = page.content.decode()
    [picture] = re.findall(r'<img class="qr" src="data:image/svg\+xml;base64,([^"]+)" alt="[^"]+"', text)
    assert b"<svg" in b64decode(picture)
    assert page.context["form"].secret in text
    assert "no-store" in page["Cache-Control"]


def test_password_alone_no_longer_lets_in(browser, enrolled):
    """The code does; the record names both."""
    _, secret = enrolled

    answer = sign_in(browser)
    assert answer["Location"] == reverse("mfa_authenticate")
    assert not is_in(browser)
    answer = give_code(browser, code_of(secret))

    assert answer["Location"] == "/"
    assert is_in(browser)
    assert events("sign_in.succeeded")[-1].data["methods"] == ["password", "totp"]


def test_code_works_once_even_while_the_tolerance_would_take_it_again(browser, enrolled):
    """Whoever reads it over a shoulder has nothing."""
    _, secret = enrolled
    code = code_of(secret, step=1)  # of a phone that runs ahead: good for a minute yet
    sign_in(browser)
    assert give_code(browser, code).status_code == 302

    other = Client()
    sign_in(other)
    forget("allauth.mfa.totp.used")  # as Redis does after 30 s
    answer = give_code(other, code)

    assert answer.status_code == 200
    assert "used before" in answer.content.decode()
    assert events("sign_in.failed")[-1].data["why"] == "second factor"


def test_code_of_another_minute_does_not_work(browser, enrolled):
    _, secret = enrolled
    sign_in(browser)

    assert give_code(browser, code_of(secret, step=-3)).status_code == 200
    assert not is_in(browser)


def test_ten_wrong_codes_close_the_door_to_the_right_one(browser, enrolled):
    """For five minutes; each wrong one is in the record, and the closing."""
    _, secret = enrolled
    sign_in(browser)
    for _ in range(10):
        answer = give_code(browser, "000000")
    assert answer.status_code == 429

    assert give_code(browser, code_of(secret)).status_code == 429
    let_pass(timedelta(minutes=5, seconds=5))
    assert give_code(browser, code_of(secret)).status_code == 302
    assert len(events("sign_in.failed")) == 10
    assert [event.data["why"] for event in events("sign_in.locked_out")] == ["second factor"]


def test_recovery_code_lets_in_once(browser, enrolled):
    _, secret = enrolled
    sign_in(browser)
    give_code(browser, code_of(secret))
    code = recovery_codes(browser)[0]

    first, second = Client(), Client()
    sign_in(first)
    sign_in(second)

    assert give_code(first, code).status_code == 302
    assert give_code(second, code).status_code == 200
    assert events("sign_in.succeeded")[-1].data["methods"] == ["password", "recovery_codes"]


def test_recovery_codes_can_be_taken_away_as_text_and_made_anew(browser):
    make_person()
    sign_in(browser)
    enrol(browser)
    codes = recovery_codes(browser)

    text = browser.get(reverse("mfa_download_recovery_codes"))
    browser.post(reverse("mfa_generate_recovery_codes"))

    assert text["Content-Type"].startswith("text/plain")
    assert all(code in text.content.decode() for code in codes)
    assert not set(recovery_codes(browser)) & set(codes)
    assert actions()[-2:] == ["second_factor.removed", "second_factor.added"]


def test_removing_the_app_asks_who_it_is_and_is_recorded(browser, enrolled):
    """A session that somebody left open removes nothing."""
    _, secret = enrolled
    sign_in(browser)
    give_code(browser, code_of(secret))

    stopped = browser.post(reverse("mfa_deactivate_totp"))
    assert Authenticator.objects.count() == 2
    confirm(browser)
    browser.post(reverse("mfa_deactivate_totp"))

    assert reverse("account_reauthenticate") in stopped["Location"]
    assert not Authenticator.objects.exists()
    assert {event.data["kind"] for event in events("second_factor.removed")} == {"totp", "recovery_codes"}
    assert sign_in(Client())["Location"] == "/"


def test_secrets_lie_encrypted_in_the_database_and_survive_another_key(browser, enrolled, settings):
    """A stolen copy of the table gives no codes; the old key keeps working while it is named, and not after."""
    person, secret = enrolled
    stored = json.dumps(list(Authenticator.objects.values_list("data", flat=True)))
    assert secret not in stored
    totp = Authenticator.objects.get(user=person, type="totp")

    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "a new secret key", [settings.SECRET_KEY]
    assert totp.wrap().validate_code(code_of(secret))
    settings.SECRET_KEY_FALLBACKS = []
    with pytest.raises(InvalidToken):
        totp.wrap().validate_code(code_of(secret, step=1))


def test_deployment_that_asks_for_a_second_factor_shows_nothing_before_it(browser, settings):
    """Pages lead to setting one up, the API and the parts of pages refuse; after it all is as ever."""
    settings.REQUIRE_MFA = True
    person = make_person()
    accounts.grant_role(operator=person, role=Role.ADMIN, target=None, actor=SETUP, now=NOW)
    sign_in(browser)
    wanted = reverse("mfa_activate_totp")

    for url in ("/", "/prompts/", "/access/", "/status.json", reverse("mfa_index"), reverse("account_change_password")):
        assert browser.get(url)["Location"] == wanted, url
    assert browser.post("/access/new-operator/", {})["Location"] == wanted
    part = browser.get("/prompts/", headers={"hx-request": "true"})
    api = browser.get("/api/v1/me", headers={"authorization": "Bearer nonsense"})

    assert part["HX-Redirect"] == wanted
    assert api.status_code == 403
    assert api.json()["error"]["code"] == "second_factor_required"
    enrol(browser)
    assert browser.get("/").status_code == 200
    assert browser.get("/api/v1/me").status_code == 200


def test_removing_the_app_where_one_is_asked_for_leads_to_the_next(browser, settings):
    """That is how a phone is replaced."""
    make_person()
    sign_in(browser)
    enrol(browser)
    settings.REQUIRE_MFA = True

    confirm(browser)
    browser.post(reverse("mfa_deactivate_totp"))

    assert browser.get("/")["Location"] == reverse("mfa_activate_totp")


def test_operator_token_is_not_asked_for_a_second_factor(settings):
    """It is one of its own: 256 random bits that its operator made while signed in."""
    settings.REQUIRE_MFA = True
    token = accounts.issue_token(operator=make_person(), name="ci", actor=SETUP, now=NOW)

    answer = Client().get("/api/v1/me", headers={"authorization": f"Bearer {token.secret}"})

    assert answer.status_code == 200


def test_lost_phone_is_mended_by_a_command(browser, enrolled, monkeypatch):
    """Another password, no second factor, no session, and one event that says who decided it."""
    _, secret = enrolled
    sign_in(browser)
    give_code(browser, code_of(secret))
    for _ in range(10):
        sign_in(Client(), "ada", "wrong")
    monkeypatch.setenv("BALLAST_NEW_PASSWORD", "entirely different staple")

    call_command("reset_sign_in", "ada", actor="grace")

    assert not is_in(browser)
    assert sign_in(Client(), "ada", PASSWORD).status_code == 200
    assert sign_in(Client(), "ada", "entirely different staple")["Location"] == "/"
    [event] = events("sign_in.reset")
    assert (event.actor, event.target) == ("grace", "ada")
    assert event.data == {"second_factors_removed": 2, "password": "set"}
    assert "second_factor.removed" not in actions()
