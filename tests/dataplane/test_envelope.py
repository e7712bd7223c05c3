"""The one table from error codes to HTTP."""

from __future__ import annotations

import json

import pytest

from dataplane import credentials, envelope, errors
from dataplane.envelope import FACES, BodyTooLarge, MethodNotAllowed, error_body, error_headers
from dataplane.errors import GatewayError
from dataplane.errors.admission import NoRelease
from dataplane.errors.requests import InvalidRequest
from dataplane.errors.upstream import UpstreamRateLimited


def every_error(root: type[GatewayError]) -> list[type[GatewayError]]:
    return [root, *(found for child in root.__subclasses__() for found in every_error(child))]


@pytest.mark.parametrize("module", [errors, envelope, credentials])
def test_every_code_has_a_face(module):
    """No error of the data plane falls through to a bare 500 by being forgotten."""
    codes = {kind.code for kind in every_error(GatewayError) if kind.__module__.startswith(module.__name__)}

    assert codes <= FACES.keys()


def test_retry_after_is_rounded_up():
    """Whole seconds, at least one, and only where a retry is right."""
    assert dict(error_headers(UpstreamRateLimited(lane="l", retry_after_seconds=2.1)))[b"retry-after"] == b"3"
    assert dict(error_headers(NoRelease()))[b"retry-after"] == b"1"
    refused = dict(error_headers(InvalidRequest("x")))
    assert b"retry-after" not in refused
    assert refused[b"x-should-retry"] == b"false"


def test_extra_headers_go_out():
    """405 names what is allowed, 413 ends the connection."""
    assert dict(error_headers(MethodNotAllowed("GET", "/x", allowed="POST")))[b"allow"] == b"POST"
    assert dict(error_headers(BodyTooLarge(limit_bytes=5)))[b"connection"] == b"close"


def test_overridden_code_keeps_the_reason():
    """In a stream the code is one for all upstream failures; what happened stays readable."""
    error = json.loads(error_body(UpstreamRateLimited(lane="l"), request_id="r", code="upstream_interrupted"))["error"]

    assert (error["code"], error["reason"], error["request_id"]) == (
        "upstream_interrupted",
        "upstream_rate_limited",
        "r",
    )
