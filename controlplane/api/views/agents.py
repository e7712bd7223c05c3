"""What the data plane asks of the control plane: the current release, over and over."""

from hmac import compare_digest

from django.conf import settings
from django.http import Http404, HttpResponse
from django.utils.cache import patch_vary_headers
from django.utils.http import parse_etags
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.authentication import BaseAuthentication, SessionAuthentication, get_authorization_header
from rest_framework.request import Request
from rest_framework.views import APIView

from controlplane.accounts.models import Operator
from controlplane.api.authentication import OperatorTokenAuthentication
from controlplane.api.base import ErrorEnvelope
from controlplane.api.views.releases import EnvelopeRow
from controlplane.releases.access import require_viewer
from controlplane.releases.models import Release


class Agent:
    """Whoever holds BALLAST_AGENT_TOKEN: a host of the data plane. No operator, and nothing but this URL."""

    is_authenticated = True
    is_active = True


class AgentTokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer <BALLAST_AGENT_TOKEN>`; any other token is for the next authenticator to judge."""

    def authenticate(self, request: Request) -> tuple[Agent, None] | None:
        scheme, _, secret = get_authorization_header(request).decode("latin-1").partition(" ")
        expected = settings.AGENT_TOKEN
        if scheme.lower() != "bearer" or not expected:
            return None
        # In constant time, and over bytes: a text with other letters than ASCII would raise instead of being wrong.
        if not compare_digest(secret.strip().encode(), expected.encode()):
            return None
        return Agent(), None

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class CurrentRelease(APIView):
    authentication_classes = [AgentTokenAuthentication, OperatorTokenAuthentication, SessionAuthentication]
    throttle_classes = []  # a thousand hosts share one token

    @extend_schema(
        operation_id="releases_current",
        summary="The current release as it was signed: what agents fetch",
        tags=["releases"],
        parameters=[OpenApiParameter("If-None-Match", location=OpenApiParameter.HEADER, description='"<digest>"')],
        responses={
            200: EnvelopeRow,
            304: OpenApiResponse(description="You have it"),
            401: ErrorEnvelope,
            403: ErrorEnvelope,
            404: OpenApiResponse(ErrorEnvelope, description="No release was cut yet"),
        },
    )
    def get(self, request: Request) -> HttpResponse:
        if isinstance(request.user, Operator):
            require_viewer(request.user)
        newest = Release.objects.values_list("revision", "digest").first()
        if newest is None:
            raise Http404("no release was cut yet")
        revision, digest = newest
        etag = f'"{digest}"'
        asked = {tag.removeprefix("W/") for tag in parse_etags(request.headers.get("If-None-Match", ""))}
        if etag in asked or "*" in asked:
            response = HttpResponse(status=304)
        else:
            envelope = Release.objects.get(revision=revision).envelope()
            response = HttpResponse(envelope.to_json(), content_type="application/json")
        response["ETag"] = etag
        response["Cache-Control"] = "private, no-cache"
        patch_vary_headers(response, ["Authorization", "Cookie"])
        return response
