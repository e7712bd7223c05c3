"""Azure OpenAI's wire: OpenAI's bodies under a deployment path, with its own key, headers, content filter and
errors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from dataplane.simulator.conversation import Answer, Ask, Kind, Stop, Wire
from dataplane.simulator.faults import Fault
from dataplane.simulator.limits import CONCURRENCY, NEVER, Shortage
from dataplane.simulator.openai_wire import OpenAIWire
from dataplane.simulator.rate_limits import limited_headers, standing_headers, wait_headers
from dataplane.simulator.wire import Frame, FrameKind, Header, Reply, Stamp, Unauthorized, known_key

REGION = b"West Europe"
_SAFE = {"filtered": False, "severity": "safe"}
_CLEAN = {"hate": _SAFE, "self_harm": _SAFE, "sexual": _SAFE, "violence": _SAFE}
_CAUGHT = {**_CLEAN, "violence": {"filtered": True, "severity": "medium"}}
_PROMPT_RESULTS = [
    {"prompt_index": 0, "content_filter_results": {**_CLEAN, "jailbreak": {"filtered": False, "detected": False}}}
]
# status: (code, message)
_ERRORS: dict[int, tuple[str, str]] = {
    400: ("BadRequest", "The request is invalid."),
    401: (
        "401",
        "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for "
        "an active "
        "subscription and use a correct regional API endpoint for your resource.",
    ),
    403: ("403", "Access denied due to Virtual Network/Firewall rules."),
    404: ("404", "Resource not found"),
    408: ("408", "The operation was timeout."),
    409: ("Conflict", "The resource is being changed by another operation."),
    413: ("RequestEntityTooLarge", "The request body is too large."),
    422: ("UnprocessableEntity", "The request could not be processed."),
    500: ("InternalServerError", "The server had an error while processing your request. Sorry about that!"),
    503: ("ServiceUnavailable", "The service is temporarily unable to process your request. Please try again later."),
    529: ("ServiceUnavailable", "The service is overloaded. Please try again later."),
}


class AzureWire(OpenAIWire):
    """Azure OpenAI's dialect."""

    wire = Wire.AZURE

    def authenticate(self, headers: Mapping[bytes, bytes]) -> str:
        """Return the key in `api-key`, or the Entra ID token in `authorization`; raise Unauthorized for neither."""
        if key := headers.get(b"api-key"):
            return known_key(key.decode("latin-1"))
        return super().authenticate(headers)

    def give_error(
        self,
        status: int,
        stamp: Stamp,
        *,
        message: str | None = None,
        param: str | None = None,
        code: str | None = None,
    ) -> Reply:
        """Return Azure's envelope: its platform's errors are a code and a message, a rejected body reads as
        OpenAI's.
        """
        headers = self._error_headers(stamp)
        if status in (502, 504):
            return Reply.edge_page(status, headers)
        if status == 400 and message is not None:
            error: dict[str, Any] = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
        elif code == "model_not_found":
            error = {
                "code": "DeploymentNotFound",
                "message": "The API deployment for this resource does not exist. If you created the deployment "
                "within the last 5 minutes, "
                "please wait a moment and try again.",
            }
        else:
            usual_code, usual = _ERRORS.get(status, (str(status), "The request failed."))
            error = {"code": code or usual_code, "message": message or usual}
        return Reply.json(status, headers, orjson.dumps({"error": error}))

    def give_unauthorized(self, refusal: Unauthorized, stamp: Stamp) -> Reply:
        """Return Azure's one 401 for a missing and for a wrong key, or 403."""
        return self.give_error(refusal.status, stamp)

    def give_rate_limit(self, fault: Fault, stamp: Stamp, *, model: str) -> Reply:
        """Return Azure's 429."""
        what = "token rate limit" if fault.word("scope") == "tokens" else "call rate limit"
        wait = round(fault.number("retry_after_seconds"))
        return self._too_many(what, wait, limited_headers(self.wire, fault, now=stamp.now), stamp)

    def give_limited(self, shortage: Shortage, stamp: Stamp, *, model: str) -> Reply:
        """Return Azure's 429 for a limit that was reached."""
        what = "call rate limit" if shortage.dimension in ("requests", CONCURRENCY) else "token rate limit"
        wait = None if shortage.wait_seconds == NEVER else math.ceil(shortage.wait_seconds)
        return self._too_many(what, wait, wait_headers(self.wire, shortage.wait_seconds), stamp)

    def _too_many(self, what: str, wait: int | None, headers: tuple[Header, ...], stamp: Stamp) -> Reply:
        advice = "Please reduce the tokens asked for. " if wait is None else f"Please retry after {wait} seconds. "
        message = (
            "Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-10-21 have exceeded "
            f"{what} of your current OpenAI S0 pricing tier. {advice}"
            "Please go here: https://aka.ms/oai/quotaincrease if you would like to further increase the default "
            "rate limit."
        )
        body = orjson.dumps({"error": {"code": "429", "message": message}})
        return Reply.json(429, (*self._error_headers(stamp), *headers), body)

    def give_content_filter(self, stamp: Stamp) -> Reply:
        """Return the content filter's 400 with its findings."""
        error = {
            "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management "
            "policy. Please modify your "
            "prompt and retry. To learn more about our content filtering policies please read our documentation: "
            "https://go.microsoft.com/fwlink/?linkid=2198766",
            "type": None,
            "param": "prompt",
            "code": "content_filter",
            "status": 400,
            "innererror": {
                "code": "ResponsibleAIPolicyViolation",
                "content_filter_result": {**_CAUGHT, "jailbreak": {"filtered": False, "detected": False}},
            },
        }
        return Reply.json(400, self._error_headers(stamp), orjson.dumps({"error": error}))

    def _headers(self, stamp: Stamp, prompt_tokens: int, processing_ms: int) -> tuple[Header, ...]:
        return (*self._error_headers(stamp), *standing_headers(self.wire, prompt_tokens=prompt_tokens, now=stamp.now))

    def _error_headers(self, stamp: Stamp) -> tuple[Header, ...]:
        serial = stamp.serial
        # Azure's ids are UUIDs: the 28 digits of the serial, led by four of our own.
        full = f"a2e0{serial}"
        uuid = f"{full[:8]}-{full[8:12]}-{full[12:16]}-{full[16:20]}-{full[20:32]}".encode()
        return ((b"apim-request-id", uuid), (b"x-request-id", uuid), (b"x-ms-region", REGION))

    def _body_extras(self) -> dict[str, Any]:
        return {"prompt_filter_results": _PROMPT_RESULTS}

    def _choice_extras(self, answer: Answer) -> dict[str, Any]:
        if answer.stop is Stop.FILTERED:
            return {"content_filter_results": _CAUGHT}
        return {"content_filter_results": {} if answer.kind is Kind.TOOL else _CLEAN}

    def _chunk_extras(self, kind: FrameKind, answer: Answer) -> dict[str, Any]:
        if kind is FrameKind.FINISH and answer.stop is Stop.FILTERED:
            return {"content_filter_results": _CAUGHT}
        return {"content_filter_results": _CLEAN if kind is FrameKind.CONTENT and answer.kind is not Kind.TOOL else {}}

    def _chunks(self, ask: Ask, answer: Answer, stamp: Stamp) -> Iterator[Frame]:
        """Yield the prompt's filter results with no choices and blank fields, then what OpenAI sends."""
        first = {
            "choices": [],
            "created": 0,
            "id": "",
            "model": "",
            "object": "",
            "prompt_filter_results": _PROMPT_RESULTS,
        }
        yield Frame(FrameKind.OTHER, b"data: " + orjson.dumps(first) + b"\n\n")
        yield from super()._chunks(ask, answer, stamp)
