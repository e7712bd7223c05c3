"""One envelope for everything the API refuses: {"error": {"code", "message", …}}, with the status from one table."""

import logging
import math
import time
from typing import Any

from django.core.exceptions import PermissionDenied
from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import OperationalError
from django.http import Http404
from rest_framework import exceptions, status
from rest_framework.response import Response
from rest_framework.views import set_rollback

from controlplane.accounts.errors import AccessError, RoleDoesNotFit
from controlplane.alerts.errors import AlertError, InvalidChannel
from controlplane.api import limits
from controlplane.approvals.errors import ApprovalError, MalformedPolicy, NotAllowedToSign, NotApproved, NotPrepared
from controlplane.corpora.errors import (
    CorpusError,
    InvalidChanges,
    InvalidCorpora,
    TooManyChanges,
    UnknownCorpus,
    VaultUnavailable,
    VectorsUnavailable,
)
from controlplane.corpora.errors import InvalidThreshold as InvalidCorpusThreshold
from controlplane.corpora.listing_reconciling import InvalidListing
from controlplane.deadletters.errors import (
    BadEdit,
    BadPlan,
    BadRetention,
    DeadLetterError,
    HoldInThePast,
    NoReason,
)
from controlplane.deadletters.payloads import PayloadError, PayloadUnavailable
from controlplane.evals.errors import BadRows, EvalError, InvalidJudge, InvalidSet, InvalidStandard, UnknownSubject
from controlplane.ladder.errors import (
    CopyError,
    InvalidActivation,
    InvalidCopy,
    InvalidLadder,
    LadderError,
    UnknownSurface,
)
from controlplane.ladder.errors import InvalidThreshold as InvalidLadderThreshold
from controlplane.ledger.completions import RepairError, RepairIncomplete
from controlplane.prompts.errors import InvalidVersion, PromptError
from controlplane.releases.errors import ReleaseError, SigningKeyMissing
from controlplane.rollouts.errors import InvalidPlan, RolloutError
from controlplane.routing.errors import (
    InvalidDrill,
    InvalidHold,
    InvalidRouting,
    InvalidThreshold,
    RoutingError,
    UnknownLane,
    UnknownPolicy,
    UnknownProvider,
)
from controlplane.shadows.errors import FleetUnreachable, InvalidThresholds, ShadowError, UnknownShadow
from controlplane.shadows.errors import NoReason as NoReasonForShadow
from controlplane.trials.errors import TrialError

logger = logging.getLogger(__name__)

# The first line that fits decides. What is not listed as the caller's mistake is a conflict with the state of things.
STATUS: tuple[tuple[type[Exception], int], ...] = (
    (InvalidVersion, status.HTTP_400_BAD_REQUEST),
    (InvalidChannel, status.HTTP_400_BAD_REQUEST),
    (InvalidPlan, status.HTTP_400_BAD_REQUEST),
    (InvalidCopy, status.HTTP_400_BAD_REQUEST),
    (InvalidLadder, status.HTTP_400_BAD_REQUEST),
    (InvalidLadderThreshold, status.HTTP_400_BAD_REQUEST),
    (InvalidActivation, status.HTTP_400_BAD_REQUEST),
    (UnknownSurface, status.HTTP_404_NOT_FOUND),
    (InvalidCorpora, status.HTTP_400_BAD_REQUEST),
    (InvalidCorpusThreshold, status.HTTP_400_BAD_REQUEST),
    (UnknownCorpus, status.HTTP_404_NOT_FOUND),
    (InvalidRouting, status.HTTP_400_BAD_REQUEST),
    (InvalidHold, status.HTTP_400_BAD_REQUEST),
    (InvalidThreshold, status.HTTP_400_BAD_REQUEST),
    (InvalidDrill, status.HTTP_400_BAD_REQUEST),
    (UnknownLane, status.HTTP_404_NOT_FOUND),
    (UnknownPolicy, status.HTTP_404_NOT_FOUND),
    (UnknownProvider, status.HTTP_404_NOT_FOUND),
    (RepairIncomplete, status.HTTP_400_BAD_REQUEST),
    (MalformedPolicy, status.HTTP_400_BAD_REQUEST),
    (RoleDoesNotFit, status.HTTP_400_BAD_REQUEST),
    (BadEdit, status.HTTP_400_BAD_REQUEST),
    (BadPlan, status.HTTP_400_BAD_REQUEST),
    (BadRetention, status.HTTP_400_BAD_REQUEST),
    (HoldInThePast, status.HTTP_400_BAD_REQUEST),
    (NoReason, status.HTTP_400_BAD_REQUEST),
    (BadRows, status.HTTP_400_BAD_REQUEST),
    (InvalidSet, status.HTTP_400_BAD_REQUEST),
    (InvalidJudge, status.HTTP_400_BAD_REQUEST),
    (InvalidStandard, status.HTTP_400_BAD_REQUEST),
    (UnknownSubject, status.HTTP_404_NOT_FOUND),
    (InvalidThresholds, status.HTTP_400_BAD_REQUEST),
    (NoReasonForShadow, status.HTTP_400_BAD_REQUEST),
    (UnknownShadow, status.HTTP_404_NOT_FOUND),
    (FleetUnreachable, status.HTTP_503_SERVICE_UNAVAILABLE),
    (InvalidListing, status.HTTP_400_BAD_REQUEST),
    (InvalidChanges, status.HTTP_400_BAD_REQUEST),
    (TooManyChanges, status.HTTP_400_BAD_REQUEST),
    (NotAllowedToSign, status.HTTP_403_FORBIDDEN),
    (SigningKeyMissing, status.HTTP_503_SERVICE_UNAVAILABLE),
    (AccessError, status.HTTP_409_CONFLICT),
    (AlertError, status.HTTP_409_CONFLICT),
    (ApprovalError, status.HTTP_409_CONFLICT),
    (CopyError, status.HTTP_409_CONFLICT),
    (VaultUnavailable, status.HTTP_503_SERVICE_UNAVAILABLE),
    (VectorsUnavailable, status.HTTP_503_SERVICE_UNAVAILABLE),
    (CorpusError, status.HTTP_409_CONFLICT),
    (DeadLetterError, status.HTTP_409_CONFLICT),
    (LadderError, status.HTTP_409_CONFLICT),
    (EvalError, status.HTTP_409_CONFLICT),
    (PayloadUnavailable, status.HTTP_503_SERVICE_UNAVAILABLE),
    (PayloadError, status.HTTP_409_CONFLICT),
    (PromptError, status.HTTP_409_CONFLICT),
    (ReleaseError, status.HTTP_409_CONFLICT),
    (RepairError, status.HTTP_409_CONFLICT),
    (RolloutError, status.HTTP_409_CONFLICT),
    (RoutingError, status.HTTP_409_CONFLICT),
    (ShadowError, status.HTTP_409_CONFLICT),
    (TrialError, status.HTTP_409_CONFLICT),
)


def handle(exc: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's exception handler; None lets a programming error become a 500 with its traceback in the log."""
    for kind, code in STATUS:
        if isinstance(exc, kind):
            set_rollback()
            return Response({"error": {"code": exc.code, "message": str(exc), **_details(exc)}}, status=code)  # type: ignore[attr-defined]
    if isinstance(exc, Http404):
        exc = exceptions.NotFound("there is no such thing here, or you may not see it")
    elif isinstance(exc, PermissionDenied):
        exc = exceptions.PermissionDenied(str(exc) or None)
    elif isinstance(exc, DjangoValidationError):
        if _is_taken(exc):
            set_rollback()
            return Response({"error": {"code": "name_taken", "message": " ".join(exc.messages)}}, status=409)
        exc = exceptions.ValidationError(exc.message_dict if hasattr(exc, "error_dict") else exc.messages)
    elif isinstance(exc, OperationalError):
        logger.exception("the database refused %s", context["request"].path)
        exc = Unavailable()
    if not isinstance(exc, exceptions.APIException):
        return None
    set_rollback()
    if exc.status_code == status.HTTP_401_UNAUTHORIZED:
        exc = _refused_stranger(exc, context["request"])
    headers = {"Retry-After": str(math.ceil(wait))} if (wait := getattr(exc, "wait", None)) else {}
    if header := getattr(exc, "auth_header", None):
        headers["WWW-Authenticate"] = header
    body: dict[str, Any] = {"code": exc.default_code, "message": _message(exc)}
    if isinstance(exc, exceptions.ValidationError):
        body["fields"] = exc.detail
    return Response({"error": body}, status=exc.status_code, headers=headers)


def _refused_stranger(exc: exceptions.APIException, request: Any) -> exceptions.APIException:
    """Count who shows no good token, by address: after some tries a guesser learns only that these are too many.
    Whoever shows a good one from the same address is not counted here.
    """
    standing = limits.count("strangers", limits.address_of(request), limit=limits.STRANGERS, now=time.time())
    return exceptions.Throttled(standing.reset_seconds) if standing is not None and standing.is_over else exc


class Unavailable(exceptions.APIException):
    """PostgreSQL is away, or another operation held the audit chain for too long; nothing was changed."""

    status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    default_code = "unavailable"
    default_detail = "the database is away or busy; nothing was changed, try again in a moment"
    wait = 2


def _is_taken(exc: DjangoValidationError) -> bool:
    """Whether the only thing wrong is a name that somebody has already: a conflict, not a malformed body."""
    return hasattr(exc, "error_dict") and all(
        error.code == "unique" for errors in exc.error_dict.values() for error in errors
    )


def _message(exc: exceptions.APIException) -> str:
    if isinstance(exc, exceptions.ValidationError):
        return "some fields are not as they must be"
    return str(exc.detail)


def _details(exc: Exception) -> dict[str, Any]:
    if isinstance(exc, InvalidVersion):
        return {"problems": [{"path": path, "message": message} for path, message in exc.problems]}
    if isinstance(exc, BadRows):
        return {"problems": [{"path": f"line {line}", "message": message} for line, message in exc.problems]}
    if isinstance(exc, InvalidChanges):
        return {
            "problems": [
                {"path": f"changes[{at}].{member}".rstrip("."), "message": what} for at, member, what in exc.problems
            ]
        }
    if isinstance(exc, InvalidChannel):
        return {"fields": {exc.field: [str(exc)]}}
    if isinstance(exc, NotApproved):
        return {"missing": exc.missing}
    if isinstance(exc, NotPrepared):
        return {"unmet": list(exc.unmet)}
    return {}
