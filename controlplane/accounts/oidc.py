"""Single sign-on: an OpenID Connect provider says whose address it is, and only an operator with that address comes in.

allauth speaks the protocol; what it leaves open is closed here: the id token's signature, its nonce and issuer are
always checked, a link cannot change what is asked of the provider, and nothing is ever created or connected.
"""

import logging
import secrets
from typing import Any, Final, NoReturn

import jwt
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.core.internal.httpkit import get_client_ip
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.adapter import get_adapter as get_social_adapter
from allauth.socialaccount.helpers import render_authentication_error
from allauth.socialaccount.models import SocialApp, SocialLogin, SocialToken
from allauth.socialaccount.providers.oauth2.client import OAuth2Error
from allauth.socialaccount.providers.openid_connect.provider import OpenIDConnectProvider
from allauth.socialaccount.providers.openid_connect.views import OpenIDConnectOAuth2Adapter
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from requests import RequestException

from controlplane.accounts import operations
from controlplane.accounts.models import Operator

# Asymmetric ones only: a client secret that signs tokens could sign its own.
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
CLOCK_LEEWAY_SECONDS: Final = 60
PROVIDER_TROUBLE: Final = (OAuth2Error, RequestException, KeyError, TypeError, ValueError)

logger = logging.getLogger(__name__)


class OperatorOAuth2Adapter(OpenIDConnectOAuth2Adapter):  # type: ignore[misc]  # allauth ships no types
    """The conversation with the provider."""

    @property
    def openid_config(self) -> dict[str, Any]:
        """The provider's own description.

        Raises:
            OAuth2Error: it describes another issuer than the one that was configured.
        """
        config: dict[str, Any] = super().openid_config
        expected = self.get_provider().app.settings["server_url"].partition("/.well-known/")[0]
        if str(config["issuer"]).rstrip("/") != expected.rstrip("/"):
            raise OAuth2Error(f"the provider calls itself {config['issuer']!r}, BALLAST_OIDC_ISSUER {expected!r}")
        return config

    def complete_login(self, request: HttpRequest, app: SocialApp, token: SocialToken, **kwargs: Any) -> SocialLogin:
        """Who the provider says this is.

        Raises:
            OAuth2Error: no id token, one that does not hold, or user information about somebody else.
        """
        id_token = kwargs["response"].get("id_token")
        if not id_token:
            raise OAuth2Error("the provider gave no id token")
        data = {"id_token": self._decode_id_token(app, id_token)}
        if self.openid_config.get("userinfo_endpoint"):
            data["userinfo"] = self._fetch_user_info(token.token)
            if data["userinfo"].get("sub") != data["id_token"]["sub"]:
                raise OAuth2Error("user information and id token speak of different people")
        return self.get_provider().sociallogin_from_response(request, data)

    def _decode_id_token(self, app: SocialApp, id_token: str) -> dict[str, Any]:
        with get_social_adapter().get_requests_session() as session:
            response = session.get(self.openid_config["jwks_uri"])
            response.raise_for_status()
            keys = response.json()
        try:
            key = _key_for(jwt.get_unverified_header(id_token), jwt.PyJWKSet.from_dict(keys))
            claims: dict[str, Any] = jwt.decode(
                id_token,
                key=key,
                algorithms=list(ALGORITHMS),
                audience=app.client_id,
                issuer=self.openid_config["issuer"],
                leeway=CLOCK_LEEWAY_SECONDS,
                options={"require": ["iss", "sub", "aud", "exp", "iat"]},
            )
        except jwt.PyJWTError as exc:
            raise OAuth2Error(f"the id token does not hold: {exc}") from exc
        return claims


def _key_for(header: dict[str, Any], keys: jwt.PyJWKSet) -> jwt.PyJWK:
    """The key the token names; a provider with a single key need not name it."""
    if "kid" not in header and len(keys.keys) == 1:
        return keys.keys[0]
    try:
        return keys[header["kid"]]
    except KeyError as exc:
        raise OAuth2Error("the id token is signed with a key that the provider does not publish") from exc


class OperatorProvider(OpenIDConnectProvider):  # type: ignore[misc]  # allauth ships no types
    """The provider of BALLAST_OIDC_ISSUER."""

    oauth2_adapter_class = OperatorOAuth2Adapter

    def get_redirect_from_request_kwargs(self, request: HttpRequest) -> dict[str, Any]:
        # Scopes and parameters come from the settings alone; allauth would also take them from the link.
        kwargs: dict[str, Any] = super().get_redirect_from_request_kwargs(request)
        return {"process": "login", "next_url": kwargs.get("next_url")}

    def redirect(
        self, request: HttpRequest, process: str, next_url: str | None = None, data: Any = None, **kwargs: Any
    ) -> HttpResponse:
        """A page that takes the browser to the provider.

        A page, not a redirect: the Content-Security-Policy lets forms lead nowhere else, and browsers hold every
        redirect that follows a form to that, those between a provider and the ones behind it too.
        """
        nonce = secrets.token_urlsafe(32)
        auth_params = {**self.get_auth_params(), "nonce": nonce}
        response: HttpResponse
        try:
            response = super().redirect(
                request, process, next_url=next_url, data=data, auth_params=auth_params, nonce=nonce
            )
        except PROVIDER_TROUBLE as exc:
            response = render_authentication_error(request, self, exception=exc)
        if response.has_header("Location"):
            response = render(request, "socialaccount/leaving.html", {"provider": self, "url": response["Location"]})
        response["Cache-Control"] = "no-store"
        return response


class OperatorSocialAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]  # allauth ships no types
    """Who an identity at the provider is to us: the one active operator with that address, or nobody."""

    def is_open_for_signup(self, request: HttpRequest, sociallogin: SocialLogin) -> bool:
        return False

    def authenticate_by_email(self, sociallogin: SocialLogin) -> None:
        """Leave it to `pre_social_login`: allauth's way would wipe the operator's password on the first sign-in."""
        return

    def pre_social_login(self, request: HttpRequest, sociallogin: SocialLogin) -> None:
        """Find the operator.

        Raises:
            ImmediateHttpResponse: a page that says why this is nobody who may come in.
        """
        sociallogin.user = None
        data = sociallogin.account.extra_data
        nonce = sociallogin.state.get("nonce") or ""
        if not nonce or not constant_time_compare(str(data["id_token"].get("nonce", "")), nonce):
            _refuse(request, "replayed")
        # The address and whether it is verified come from the same place, the signed one first.
        sources: list[dict[str, Any]] = [data["id_token"], data.get("userinfo") or {}]
        claims = next((source for source in sources if "email" in source), {})
        address = str(claims.get("email") or "").strip()
        if not address:
            _refuse(request, "no-address")
        if claims.get("email_verified") not in (True, "true"):
            _refuse(request, "unverified", address)
        operators = operators_with(address)
        if len(operators) != 1:
            _refuse(request, "several" if operators else "unknown", address)
        operator = operators[0]
        if not operator.is_active:
            operations.record_failed_sign_in(
                operator=operator,
                why="deactivated, by single sign-on",
                address=get_client_ip(request) or "",
                locked_until=None,
                now=timezone.now(),
            )
            _refuse(request, "deactivated", address)
        sociallogin.user = operator

    def on_authentication_error(self, request: HttpRequest, provider: Any, **kwargs: Any) -> None:
        """Leave a line for whoever set this up; the page says less."""
        logger.warning("single sign-on failed (%s): %s", kwargs.get("error"), kwargs.get("exception"))


def operators_with(address: str) -> list[Operator]:
    """The operators with this address, whatever its case.

    Letters beyond ASCII match nobody: the database takes some of them for others (a Turkish dotless i, the Kelvin
    sign), and whoever owns such a look-alike of an operator's domain could verify it.
    """
    if not address.isascii():
        return []
    found = Operator.objects.filter(email__iexact=address)
    return [operator for operator in found if operator.email.lower() == address.lower()]


def _refuse(request: HttpRequest, why: str, address: str = "") -> NoReturn:
    response = render(request, "socialaccount/refused.html", {"why": why, "address": address}, status=403)
    response["Cache-Control"] = "no-store"
    raise ImmediateHttpResponse(response)
