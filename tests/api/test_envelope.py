"""What the API does at its edge: who calls, forged forms, errors, limits."""

import json
from datetime import timedelta

import pytest
from django.core.cache import cache
from django.db import OperationalError
from django.test import Client
from django.utils import timezone
from redis import ConnectionError as RedisAway

from controlplane.accounts import operations as accounts
from controlplane.releases import operations as releases
from tests.api.conftest import Caller
from tests.factories import SETUP, crew, make_deployment

pytestmark = pytest.mark.django_db


def signed_in(operator, **options):
    client = Client(**options)
    client.force_login(operator, backend="django.contrib.auth.backends.ModelBackend")
    return client


def test_unknown_token_is_refused_with_the_scheme():
    """401, with the header that says how to call, in the envelope of every error."""
    answer = Caller("op-nobody").get("me")

    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert answer.body == {
        "error": {"code": "authentication_failed", "message": "this operator token is unknown or revoked"}
    }


def test_revoked_token_is_refused():
    """From the next call on."""
    issued = accounts.issue_token(operator=crew.owner, name="t", actor=SETUP, now=timezone.now())
    accounts.revoke_token(token=issued.row, actor=SETUP, now=timezone.now())

    assert Caller(issued.secret).get("me").status == 401


def test_token_remembers_its_last_use_at_most_once_a_minute(queries):
    """One query to know the caller; a write only when the last was over a minute ago."""
    issued = accounts.issue_token(operator=crew.owner, name="t", actor=SETUP, now=timezone.now())
    caller = Caller(issued.secret)
    first = queries(lambda: caller.get("roles"))

    second = queries(lambda: caller.get("roles"))

    issued.row.refresh_from_db()
    assert timezone.now() - issued.row.last_used_at < timedelta(minutes=1)
    assert (first - second, second) == (1, 1)


def test_session_needs_a_csrf_token_to_change_anything():
    """A form on another site cannot act for a signed-in operator; reading is free."""
    make_deployment()
    client = signed_in(crew.oncall, enforce_csrf_checks=True)

    read = client.get("/api/v1/prompts")
    forged = client.post(
        "/api/v1/prompts/support-answer/versions/1/return-to", '{"reason": "x"}', content_type="application/json"
    )

    assert read.status_code == 200
    assert forged.status_code == 403
    assert "CSRF" in forged.json()["error"]["message"]


def test_only_json_is_taken(as_operator):
    """What a plain HTML form could send is refused by its type."""
    make_deployment()
    client = signed_in(crew.oncall)

    answer = client.post("/api/v1/prompts/support-answer/versions/1/return-to", {"reason": "x"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("text", ["{", "[]", '"text"', "null", "7"])
def test_body_that_is_no_object_is_refused(text):
    """In words, never with a traceback."""
    make_deployment()

    answer = signed_in(crew.oncall).post(
        "/api/v1/prompts/support-answer/versions/1/return-to", text, content_type="application/json"
    )

    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_unsupported_method_is_refused_in_the_envelope(as_operator):
    """405, for a program to read."""
    answer = as_operator(crew.owner).send("DELETE", "prompts")

    assert (answer.status, answer.body["error"]["code"]) == (405, "method_not_allowed")


def test_database_that_is_busy_says_so(as_operator, monkeypatch):
    """503 with Retry-After and nothing of the database's own words."""
    make_deployment()
    before = releases.current_release().pk

    def held(*args, **kwargs):
        raise OperationalError("canceling statement due to lock timeout at postgresql://user:secret@host")

    monkeypatch.setattr(releases, "roll_back_to", held)
    answer = as_operator(crew.oncall).post(f"releases/{before}/roll-back", {"reason": "x"})

    assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
    assert "secret" not in json.dumps(answer.body)


def test_missing_signing_key_changes_nothing(as_operator, settings, tmp_path):
    """503, and the prompt is what it was."""
    prompt = make_deployment()
    settings.SIGNING_KEY_FILE = tmp_path / "absent.pem"

    answer = as_operator(crew.admin).post("tenants", {"slug": "acme", "name": "Acme"})

    assert (answer.status, answer.body["error"]["code"]) == (503, "signing_key_missing")
    prompt.refresh_from_db()
    assert as_operator(crew.admin).get("tenants").body["count"] == 0


def test_roll_back_works_while_redis_is_away(as_operator, monkeypatch):
    """The counters of the rate limit are no reason to keep an operator out."""
    make_deployment()

    def away(*args, **kwargs):
        raise RedisAway("connection refused")

    monkeypatch.setattr(cache, "incr", away, raising=False)

    assert as_operator(crew.owner).get("prompts").status == 200
