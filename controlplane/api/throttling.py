"""The API's rate limit as REST framework asks for it; apart from views, whose defaults name it."""

import time
from typing import Any

from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from controlplane.accounts.models import OperatorToken
from controlplane.api import limits


class CallerThrottle(BaseThrottle):
    """The rate limit of one caller: of a token, or of an operator's sessions. See `limits`."""

    def __init__(self) -> None:
        self.standing: limits.Standing | None = None

    def allow_request(self, request: Request, view: Any) -> bool:
        token = request.auth
        who = f"token-{token.pk}" if isinstance(token, OperatorToken) else f"operator-{request.user.pk}"
        self.standing = limits.count("caller", who, limit=limits.CALLS, now=time.time())
        request.rate_standing = self.standing  # type: ignore[attr-defined]  # for the headers of the answer
        return self.standing is None or not self.standing.is_over

    def wait(self) -> float | None:
        return None if self.standing is None else float(self.standing.reset_seconds)
