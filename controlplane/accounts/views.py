"""The pages of signing in that are not allauth's as they stand."""

from allauth.account.views import PasswordChangeView
from allauth.socialaccount.adapter import get_adapter as get_social_adapter
from allauth.socialaccount.helpers import render_authentication_error
from allauth.socialaccount.models import SocialApp
from allauth.socialaccount.providers.openid_connect.views import OAuth2CallbackView, OAuth2LoginView
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponseBase
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from controlplane.accounts.models import Operator
from controlplane.accounts.oidc import PROVIDER_TROUBLE, OperatorOAuth2Adapter

_change = PasswordChangeView.as_view()


@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def change_password(request: HttpRequest) -> HttpResponseBase:
    """Change one's own password. Who signs in through the provider has none, and cannot give themselves one."""
    if isinstance(request.user, Operator) and not request.user.has_usable_password():
        return render(request, "account/password_none.html")
    response: HttpResponseBase = _change(request)
    return response


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def oidc_sign_in(request: HttpRequest, provider_id: str) -> HttpResponseBase:
    """Ask (GET), then leave for the provider (POST)."""
    return _with_provider(request, provider_id, OAuth2LoginView)


@never_cache
@require_safe
def oidc_return(request: HttpRequest, provider_id: str) -> HttpResponseBase:
    """Where the provider sends the browser back to."""
    return _with_provider(request, provider_id, OAuth2CallbackView)


def _with_provider(request: HttpRequest, provider_id: str, view: type) -> HttpResponseBase:
    try:
        provider = get_social_adapter(request).get_provider(request, provider_id)
    except SocialApp.DoesNotExist:
        raise Http404("single sign-on is not set up here") from None
    response: HttpResponseBase
    try:
        conversation = view.adapter_view(OperatorOAuth2Adapter(request, provider_id))  # type: ignore[attr-defined]  # untyped
        response = conversation(request)
    except PROVIDER_TROUBLE as exc:
        # Discovery happens outside allauth's own handling: a provider that is away would be our 500.
        response = render_authentication_error(request, provider, exception=exc)
    return response
