"""What the data plane asks of the control plane: the current release, over and over."""

from hmac import compare_digest
from typing import Any

from django.conf import settings
from django.http import Http404, HttpResponse
from django.utils.cache import patch_vary_headers
from django.utils.http import parse_etags
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.authentication import BaseAuthentication, SessionAuthentication, get_authorization_header
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from controlplane.accounts.models import Operator
from controlplane.api.authentication import OperatorTokenAuthentication
from controlplane.api.base import ErrorEnvelope
from controlplane.api.views.releases import EnvelopeRow
from controlplane.releases.access import require_viewer
from controlplane.releases.models import Release
from controlplane.releases.trust import compile_trust


class Agent:
    """Whoever holds BALLAST_AGENT_TOKEN: a host of the data plane. No operator, and nothing but these two URLs."""

    is_authenticated = True
    is_active = True


class AgentTokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer <BALLAST_AGENT_TOKEN>`; any other token is for the next authenticator to judge."""

    def authenticate(self, request: Request) -> tuple[Agent, None] | None:
        scheme, _, secret = get_authorization_header(request).decode("latin-1").partition(" ")
        expected = [token for token in (settings.AGENT_TOKEN, *settings.OLD_AGENT_TOKENS) if token]
        if scheme.lower() != "bearer":
            return None
        # In constant time, each of them, and over bytes: a text with other letters than ASCII would raise instead of
        # being wrong.
        shown = secret.strip().encode()
        fits = [compare_digest(shown, token.encode()) for token in expected]
        return (Agent(), None) if any(fits) else None

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class TrustRow(serializers.Serializer[Any]):
    signing = serializers.CharField(help_text="The key that signs releases now")
    statements = EnvelopeRow(many=True)


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
            release = Release.objects.get(revision=revision)
            response = HttpResponse(release.envelope().to_json(), content_type="application/json")
            if release.traceparent:
                response["traceparent"] = release.traceparent  # whoever fetches it goes on with its trace
        response["ETag"] = etag
        response["Cache-Control"] = "private, no-cache"
        patch_vary_headers(response, ["Authorization", "Cookie"])
        return response


class SigningKeys(APIView):
    """For a host that was away while signing keys changed, and is offered a release that none of its keys signed."""

    authentication_classes = [AgentTokenAuthentication, OperatorTokenAuthentication, SessionAuthentication]
    throttle_classes = []  # as above

    @extend_schema(
        operation_id="releases_trust",
        summary="Every statement about signing keys, each signed with a key that was believed before it",
        tags=["releases"],
        responses={200: TrustRow, 401: ErrorEnvelope, 403: ErrorEnvelope, 503: ErrorEnvelope},
    )
    def get(self, request: Request) -> Response:
        if isinstance(request.user, Operator):
            require_viewer(request.user)
        return Response(compile_trust(), headers={"Cache-Control": "private, no-cache"})
