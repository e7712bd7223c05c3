"""Redis is away: nobody could count failures, so nobody new comes in, and the page says so."""

import socket

import pytest
from django.core.cache import cache
from django.test import Client
from django.urls import reverse

from tests.accounts.door import actions, code_of, confirm, enrol, is_in, make_person, sign_in

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("quick_hashes", "doors")]


@pytest.fixture
def take_redis_away(settings):
    """Called, it leads us to a port at which nobody listens, nor can anybody while the test lasts."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{nobody.getsockname()[1]}/0"

        def take_away():
            settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": url}}

        yield take_away


def test_passwords_are_refused_with_words(browser, take_redis_away):
    """Closed on purpose, even to the right one, with a time to come back."""
    make_person()
    take_redis_away()

    answer = sign_in(browser)

    assert answer.status_code == 503
    assert int(answer["Retry-After"]) > 0
    words = " ".join(answer.content.decode().split())
    assert "Signing in is closed for the moment" in words
    assert "Who is signed in already stays so" in words
    assert not is_in(browser)
    assert actions() == []


def test_who_is_in_stays_in_and_can_leave(browser, take_redis_away):
    """Sessions lie in PostgreSQL."""
    make_person()
    sign_in(browser)
    take_redis_away()

    assert is_in(browser)
    assert browser.get("/").status_code == 200
    assert browser.post(reverse("account_logout")).status_code == 302
    assert not is_in(browser)


def test_second_factors_are_refused_too(browser, take_redis_away):
    """Neither counting nor a code's single use would hold."""
    make_person()
    sign_in(browser)
    secret = enrol(browser)
    other = Client()
    sign_in(other)
    take_redis_away()

    assert other.post(reverse("mfa_authenticate"), {"code": code_of(secret)}).status_code == 503
    assert not is_in(other)


def test_confirming_who_it_is_is_refused_too(browser, take_redis_away):
    make_person()
    sign_in(browser)
    take_redis_away()

    confirm(browser)

    assert browser.get(reverse("mfa_activate_totp")).status_code == 302


def test_sign_in_page_itself_is_shown(browser, take_redis_away):
    take_redis_away()

    assert browser.get(reverse("account_login")).status_code == 200


def test_doors_open_again_with_redis(browser, settings, take_redis_away):
    """Nothing has to be restarted."""
    make_person()
    caches = settings.CACHES
    take_redis_away()
    assert sign_in(browser).status_code == 503

    settings.CACHES = caches
    cache.clear()

    assert sign_in(browser).status_code == 302
