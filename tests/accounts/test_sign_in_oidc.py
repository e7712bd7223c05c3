"""Coming in through a provider: against a real one over HTTP, in what it says truly and falsely."""

import re
from html import unescape
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from allauth.account.models import EmailAddress
from allauth.socialaccount.models import SocialAccount, SocialToken
from django.test import Client
from django.urls import reverse

from controlplane.accounts import operations as accounts
from controlplane.accounts.models import Operator
from tests.accounts.door import (
    PASSWORD,
    PATIENCE_SECONDS,
    actions,
    code_of,
    enrol,
    events,
    is_in,
    make_person,
    sign_in,
)
from tests.accounts.openid_provider import CLIENT_ID, CLIENT_SECRET, STRANGERS_KEY, OpenIDProvider
from tests.factories import NOW, SETUP

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("doors", "quick_hashes")]


@pytest.fixture
def provider(settings):
    """A provider that knows Ada, and a console that trusts it."""
    with OpenIDProvider() as running:
        trust(settings, running.issuer)
        yield running


def trust(settings, issuer):
    entry = {
        "provider_id": "oidc",
        "name": "Acme SSO",
        "client_id": CLIENT_ID,
        "secret": CLIENT_SECRET,
        "settings": {"server_url": issuer},
    }
    ours = settings.SOCIALACCOUNT_PROVIDERS["openid_connect"]
    settings.SOCIALACCOUNT_PROVIDERS = {"openid_connect": {**ours, "APPS": [entry]}}
    settings.SOCIALACCOUNT_REQUESTS_TIMEOUT = PATIENCE_SECONDS
    settings.OIDC_ISSUER = issuer


def leave(browser, **data):
    """Press the button, and return where the page that answers takes the browser."""
    page = browser.post(reverse("openid_connect_login"), data)
    assert page.status_code == 200, page.content
    [address] = re.findall(r'<meta http-equiv="refresh" content="0;url=([^"]+)">', page.content.decode())
    return unescape(address)


def come_back(browser, address):
    """Go there, be sent back, and return what the console answers."""
    sent = httpx.get(address, trust_env=False, timeout=PATIENCE_SECONDS)
    assert sent.status_code == 302, sent.text
    back = urlsplit(sent.headers["Location"])
    assert f"{back.scheme}://{back.netloc}" == "http://testserver"
    return browser.get(f"{back.path}?{back.query}")


def walk(browser, **data):
    return come_back(browser, leave(browser, **data))


def words(answer):
    return " ".join(answer.content.decode().split())


@pytest.mark.usefixtures("provider")
def test_sign_in_page_offers_the_provider_by_its_name_and_passwords_beside_it(browser):
    text = words(browser.get(reverse("account_login")))

    assert "Continue with Acme SSO" in text
    assert f'action="{reverse("openid_connect_login")}"' in text
    assert 'name="password"' in text


def test_without_a_provider_nothing_of_it_exists(browser):
    assert "Continue with" not in words(browser.get(reverse("account_login")))
    assert browser.get(reverse("openid_connect_login")).status_code == 404
    assert browser.get(reverse("openid_connect_callback")).status_code == 404


def test_operator_comes_in_by_their_verified_address_and_keeps_their_password(browser, provider):
    """allauth by itself would wipe it. Nothing is connected or stored; the record names the way."""
    make_person()
    provider.claims["email"] = "Ada@Ballast.example"

    answer = walk(browser, next="/prompts/")

    assert (answer.status_code, answer["Location"]) == (302, "/prompts/")
    assert is_in(browser)
    [event] = events()
    assert (event.action, event.actor, event.data["methods"]) == ("sign_in.succeeded", "ada", ["socialaccount"])
    assert not SocialAccount.objects.exists()
    assert not SocialToken.objects.exists()
    assert not EmailAddress.objects.exists()
    assert sign_in(Client()).status_code == 302


def test_operator_without_a_password_comes_in_too(browser, provider):
    make_person(password=None)

    assert walk(browser).status_code == 302
    assert is_in(browser)


def test_what_is_asked_of_the_provider_cannot_be_changed_by_a_link(browser, provider):
    """Scopes, PKCE, state and nonce are ours; the page forms may lead to is still only ours."""
    make_person()
    evil = urlencode({"scope": "admin", "auth_params": "redirect_uri=https://evil.example/&prompt=none"})

    page = browser.post(f"{reverse('openid_connect_login')}?{evil}&process=connect", {})
    come_back(browser, leave(browser))

    address = unescape(re.search(r'content="0;url=([^"]+)"', page.content.decode())[1])
    asked = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
    assert set(asked["scope"].split()) == {"openid", "profile", "email"}
    assert asked["redirect_uri"] == f"http://testserver{reverse('openid_connect_callback')}"
    assert asked["code_challenge_method"] == "S256"
    assert len(asked["nonce"]) >= 32
    assert "prompt" not in asked
    assert "form-action 'self'" in page["Content-Security-Policy"]
    assert is_in(browser)


def test_a_link_alone_starts_nothing(browser, provider):
    """GET asks first: nobody is signed in as somebody by a picture on another site."""
    answer = browser.get(reverse("openid_connect_login"))

    assert answer.status_code == 200
    assert "Continue with Acme SSO?" in words(answer)
    assert provider.asked == []


def test_address_that_nobody_has_gets_a_page_that_says_whom_to_ask(browser, provider):
    """And no operator is made."""
    provider.claims["email"] = "eve@ballast.example"

    answer = walk(browser)

    assert answer.status_code == 403
    assert "No operator has this address" in words(answer)
    assert "eve@ballast.example" in words(answer)
    assert "ask an administrator" in words(answer)
    assert not Operator.objects.exists()
    assert actions() == []
    assert not is_in(browser)


@pytest.mark.parametrize("verified", [False, None, "false", "yes", 1.5, "absent"])
def test_address_that_is_not_verified_takes_nobody_over(browser, provider, verified):
    """Anything but a plain yes is a no; 'false' as a word is true in Python."""
    make_person()
    provider.claims["email_verified"] = verified
    if verified == "absent":
        del provider.claims["email_verified"]

    answer = walk(browser)

    assert answer.status_code == 403
    assert "not verified" in words(answer)
    assert not is_in(browser)


def test_verified_there_and_address_here_are_not_put_together(browser, provider):
    """An address in the id token is not made good by user information about another one."""
    make_person()
    provider.userinfo = {"sub": "u-1", "email": "eve@ballast.example", "email_verified": True}
    provider.claims["email_verified"] = False

    assert "not verified" in words(walk(browser))


def test_address_only_in_the_user_information_counts(browser, provider):
    """Some providers keep the id token small."""
    make_person()
    provider.userinfo = provider.claims
    provider.claims = {"sub": "u-1"}

    assert walk(browser).status_code == 302


@pytest.mark.parametrize("address", ["ada@ballast.example ", "ADA@BALLAST.EXAMPLE"])
def test_case_and_blanks_of_an_address_do_not_matter(browser, provider, address):
    make_person()
    provider.claims["email"] = address

    assert walk(browser).status_code == 302


@pytest.mark.parametrize(
    "address", ["ada@ballast.ex\u0131mple", "ad\u0251@ballast.example", "\u212aim@ballast.example"]
)
def test_look_alike_letters_match_nobody(browser, provider, address):
    """The database takes a dotless i for I and the Kelvin sign for K when it ignores case."""
    make_person()
    make_person("kim")
    make_person("imp", email="ada@ballast.eximple")
    provider.claims["email"] = address

    assert "No operator has this address" in words(walk(browser))


def test_two_operators_with_one_address_are_told_apart_by_nobody(browser, provider):
    make_person("ada")
    make_person("grace", email="ada@ballast.example")

    answer = walk(browser)

    assert answer.status_code == 403
    assert "Two operators have this address" in words(answer)


def test_deactivated_operator_is_refused_and_recorded(browser, provider):
    person = make_person()
    accounts.set_operator_active(operator=person, active=False, actor=SETUP, now=NOW)

    answer = walk(browser)

    assert answer.status_code == 403
    assert "locked out" in words(answer)
    assert not is_in(browser)
    assert events("sign_in.failed")[0].data["why"] == "deactivated, by single sign-on"


def test_answer_of_another_browser_is_worth_nothing(browser, provider):
    """The state is kept in the session that asked."""
    make_person()
    address = leave(browser)

    answer = come_back(Client(), address)

    assert answer.status_code == 401
    assert "did not work" in words(answer)


def test_state_works_once(browser, provider):
    make_person()
    address = leave(browser)
    come_back(browser, address)
    browser.post(reverse("account_logout"))

    assert come_back(browser, address).status_code == 401
    assert not is_in(browser)


@pytest.mark.parametrize("nonce", ["another", "", None])
def test_id_token_of_another_sign_in_is_refused(browser, provider, nonce):
    make_person()
    provider.token_changes["nonce"] = nonce

    answer = walk(browser)

    assert answer.status_code == 403
    assert "not for this sign-in" in words(answer)
    assert not is_in(browser)


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "another client"},
        {"iss": "http://evil.example"},
        {"exp": 1},
        {"exp": None},
        {"sub": "somebody else"},
    ],
    ids=str,
)
def test_id_token_that_does_not_hold_is_refused(browser, provider, changes):
    """For another client, of another issuer, too old, without an end, about somebody else than the user information."""
    make_person()
    provider.userinfo = dict(provider.claims)
    provider.token_changes.update(changes)

    answer = walk(browser)

    assert answer.status_code == 401
    assert not is_in(browser)


def test_id_token_signed_by_a_stranger_is_refused(browser, provider):
    """allauth trusts the connection instead; here the signature is checked."""
    make_person()
    provider.key = STRANGERS_KEY

    assert walk(browser).status_code == 401
    assert not is_in(browser)


def test_provider_without_an_id_token_lets_nobody_in(browser, provider):
    make_person()
    provider.gives_id_token = False

    assert walk(browser).status_code == 401


def test_provider_that_calls_itself_something_else_is_not_trusted(browser, provider):
    provider.config_changes["issuer"] = "https://evil.example"

    answer = browser.post(reverse("openid_connect_login"))

    assert answer.status_code == 401
    assert "did not work" in words(answer)


def test_provider_that_is_away_gets_a_page_and_passwords_go_on(browser, provider):
    """Before leaving, and between leaving and coming back."""
    make_person()
    address = leave(browser)
    sent = urlsplit(httpx.get(address, trust_env=False, timeout=PATIENCE_SECONDS).headers["Location"])
    provider.stop()

    assert browser.post(reverse("openid_connect_login")).status_code == 401
    assert browser.get(f"{sent.path}?{sent.query}").status_code == 401
    assert sign_in(browser).status_code == 302


def test_person_who_turns_back_at_the_provider_is_told_so(browser, provider):
    state = parse_qs(urlsplit(leave(browser)).query)["state"][0]

    answer = browser.get(reverse("openid_connect_callback"), {"error": "access_denied", "state": state}, follow=True)

    assert "You are not signed in" in words(answer)


def test_second_factor_is_asked_after_the_provider_too(browser, provider):
    make_person()
    sign_in(browser)
    secret = enrol(browser)
    browser.post(reverse("account_logout"))

    answer = walk(browser)

    assert answer["Location"] == reverse("mfa_authenticate")
    assert not is_in(browser)
    browser.post(reverse("mfa_authenticate"), {"code": code_of(secret)})
    assert is_in(browser)
    assert events("sign_in.succeeded")[-1].data["methods"] == ["socialaccount", "totp"]


def test_coming_in_as_somebody_else_ends_the_first_session(browser, provider):
    """And a sign-in that is refused leaves it as it was."""
    make_person("grace")
    sign_in(browser, "grace", PASSWORD)

    walk(browser)  # nobody is called ada here yet
    assert is_in(browser)
    make_person("ada")
    walk(browser)

    assert browser.get(reverse("mfa_index")).context["user"].username == "ada"
    assert actions()[-2:] == ["sign_out", "sign_in.succeeded"]


def test_password_is_not_asked_of_who_has_none(browser, provider, settings):
    """Who came through the provider sets up a second factor without one."""
    settings.REQUIRE_MFA = True
    make_person(password=None)
    walk(browser)

    assert browser.get("/")["Location"] == reverse("mfa_activate_totp")
    page = browser.get(reverse("mfa_activate_totp"))
    browser.post(reverse("mfa_activate_totp"), {"code": code_of(page.context["form"].secret)})

    assert browser.get("/").status_code == 200
