"""What the environment makes of the settings: strict about it, and hard outside the demo."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import Client

PROJECT = Path(__file__).resolve().parent.parent
DEPLOYED = {
    "DATABASE_URL": "postgresql://ballast:secret@db.internal:5432/ballast",
    "REDIS_URL": "redis://redis.internal:6379/0",
    "BALLAST_SECRET_KEY": "k3y-of-a-real-deployment-that-is-long-enough-for-anybody",
    "BALLAST_AGENT_TOKEN": "a token of the agents",
    "BALLAST_CONSOLE_URL": "https://ballast.example",
    "BALLAST_BEHIND_PROXY": "true",
}


@pytest.fixture
def read(monkeypatch):
    """Read the settings afresh under nothing but these variables."""

    def read(**variables):
        families = ("BALLAST_", "DATABASE_", "REDIS_", "CELERY_", "AWS_", "EMAIL_")
        for name in [name for name in os.environ if name.startswith(families)]:
            monkeypatch.delenv(name)
        for name, value in {**DEPLOYED, **variables}.items():
            if value is not None:
                monkeypatch.setenv(name, value)
        return runpy.run_path(str(PROJECT / "controlplane" / "settings.py"))

    return read


def run(*command, **variables):
    """Run Python with nothing but these variables, as a fresh process."""
    environment = {"PATH": os.environ["PATH"], "DJANGO_SETTINGS_MODULE": "controlplane.settings", **variables}
    return subprocess.run(
        [sys.executable, *command],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL", "BALLAST_SECRET_KEY", "BALLAST_AGENT_TOKEN"])
@pytest.mark.parametrize("value", [None, "", "  "])
def test_missing_variable_is_named(read, name, value):
    with pytest.raises(ImproperlyConfigured, match=rf"^{name} is not set"):
        read(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BALLAST_DEMO", "ture"),
        ("BALLAST_REQUIRE_MFA", "maybe"),
        ("BALLAST_BEHIND_PROXY", "2"),
        ("BALLAST_SSL_REDIRECT", "t rue"),
        ("BALLAST_CONSOLE_PORT", "eighty"),
        ("BALLAST_CONSOLE_PORT", "0"),
        ("BALLAST_CONSOLE_PORT", "65536"),
        ("BALLAST_CONSOLE_URL", "ballast.example"),
        ("BALLAST_CONSOLE_URL", "ftp://ballast.example"),
        ("DATABASE_URL", "mysql://ballast@db/ballast"),
        ("DATABASE_URL", "postgresql://db.internal:port/ballast"),
        ("DATABASE_URL", "postgresql://db.internal"),
        ("DATABASE_URL", "nonsense"),
        ("REDIS_URL", "http://redis.internal"),
        ("REDIS_URL", "redis://redis.internal:none/0"),
        ("CELERY_BROKER_URL", "sqs://"),
        ("EMAIL_URL", "mail.internal"),
        ("EMAIL_URL", "smtps://mail.internal"),  # which the parser takes for STARTTLS
        ("EMAIL_URL", "dummymail://"),
        ("EMAIL_URL", "smtp://mail.internal:port"),
        ("EMAIL_URL", "filemail:///relative"),
        ("BALLAST_ALERTS_PRIVATE_NETWORKS", "10.0.0.0/8"),
        ("BALLAST_SECRET_KEY", "short"),
        ("BALLAST_AGENT_TOKEN", "short"),
        ("BALLAST_ALLOWED_HOSTS", "*"),
        ("BALLAST_LOG_LEVEL", "loud"),
        ("BALLAST_TRANSCRIPT_DAYS", "-1"),
        ("BALLAST_TRANSCRIPT_DAYS", "a month"),
        ("BALLAST_TRANSCRIPT_DAYS", "99999999999"),
        ("BALLAST_PAYLOAD_STORE", "var/payloads"),
        ("BALLAST_PAYLOAD_STORE", "file://host/payloads"),
        ("BALLAST_PAYLOAD_STORE", "s3:///prefix"),
        ("BALLAST_DUMP_STORE", "var/dumps"),
        ("BALLAST_DUMP_COPY_STORE", "s3:///prefix"),
        ("BALLAST_QDRANT_URL", ":memory:"),
        ("BALLAST_QDRANT_ON_DISK", "sometimes"),
        ("AWS_ENDPOINT_URL", "127.0.0.1:9000"),
        ("AWS_ALLOW_HTTP", "perhaps"),
        ("BALLAST_SAMPLE_DAYS", "366"),
        ("BALLAST_OIDC_ISSUER", "http://login.example"),
        ("BALLAST_OIDC_ISSUER", "login.example"),
    ],
)
def test_bad_variable_is_named_in_one_line(read, name, value):
    """A word that is neither yes nor no is refused: taken for no, it would switch a protection off unnoticed."""
    with pytest.raises(ImproperlyConfigured) as caught:
        read(**{name: value})

    assert str(caught.value).startswith(name)
    assert "\n" not in str(caught.value)


def test_s3_without_tls_has_to_be_told(read):
    """Where payloads go there; an http address that is meant for something else stops nobody."""
    there = {"BALLAST_PAYLOAD_STORE": "s3://bucket/prefix", "AWS_ENDPOINT_URL": "HTTP://minio.internal:9000"}

    with pytest.raises(ImproperlyConfigured, match=r"^AWS_ENDPOINT_URL is an http:// address"):
        read(**there)

    assert read(**there, AWS_ALLOW_HTTP="true")["PAYLOAD_OVER_HTTP"] is True
    assert read(**{**there, "AWS_ENDPOINT_URL": "https://minio.internal"})["PAYLOAD_OVER_HTTP"] is False
    assert read(**{**there, "BALLAST_PAYLOAD_STORE": ""})["PAYLOAD_OVER_HTTP"] is False


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", ("dummy", "localhost", 25, "", False, False, False)),
        ("smtp://mail.internal", ("smtp", "mail.internal", 25, "", False, False, True)),
        ("smtp+tls://me:w%40rd@mail.internal", ("smtp", "mail.internal", 587, "w@rd", True, False, True)),
        ("smtp+ssl://me:word@mail.internal:2465", ("smtp", "mail.internal", 2465, "word", False, True, True)),
        ("filemail:////var/mail", ("filebased", "localhost", 25, "", False, False, True)),
    ],
)
def test_mail_server_is_one_address(read, url, expected):
    """The port follows from the scheme; without one nothing is sent, and that is known."""
    settings = read(EMAIL_URL=url)

    names = ("HOST", "PORT", "HOST_PASSWORD", "USE_TLS", "USE_SSL")
    backend = settings["EMAIL_BACKEND"].split(".")[-2]
    found = (backend, *(settings[f"EMAIL_{name}"] for name in names), settings["EMAIL_IS_CONFIGURED"])
    assert found == expected
    assert settings["ALERT_FROM"] == "Ballast <ballast@ballast.example>"


@pytest.mark.parametrize(
    ("variables", "reach"),
    [
        ({}, "public"),
        ({"BALLAST_DEMO": "true"}, "loopback"),
        ({"BALLAST_ALERTS_PRIVATE_NETWORKS": "true"}, "private"),
        ({"BALLAST_DEMO": "true", "BALLAST_ALERTS_PRIVATE_NETWORKS": "true"}, "private"),
    ],
)
def test_webhooks_stay_outside_unless_somebody_says_otherwise(read, variables, reach):
    """The demo's receivers are on the same machine."""
    assert read(**variables)["ALERT_REACH"] == reach


def test_blank_variable_of_s3_is_none(read):
    """Its library reads the environment by itself, and would take it at its word."""
    read(AWS_ENDPOINT_URL="", AWS_ACCESS_KEY_ID=" ", AWS_REGION="eu-west-1")

    assert {name for name in os.environ if name.startswith("AWS_")} == {"AWS_REGION"}


@pytest.mark.parametrize("missing", ["BALLAST_OIDC_CLIENT_ID", "BALLAST_OIDC_CLIENT_SECRET"])
def test_provider_needs_all_of_its_variables(read, missing):
    variables = {
        "BALLAST_OIDC_ISSUER": "https://login.example",
        "BALLAST_OIDC_CLIENT_ID": "ballast",
        "BALLAST_OIDC_CLIENT_SECRET": "secret",
    }

    with pytest.raises(ImproperlyConfigured, match=f"^{missing} is not set"):
        read(**{**variables, missing: None})
    [app] = read(**variables)["SOCIALACCOUNT_PROVIDERS"]["openid_connect"]["APPS"]
    assert (app["client_id"], app["settings"]["server_url"]) == ("ballast", "https://login.example")


def test_secrets_are_never_repeated(read):
    """Start-up errors end up in logs."""
    for name in ("BALLAST_SECRET_KEY", "BALLAST_AGENT_TOKEN", "DATABASE_URL", "REDIS_URL"):
        with pytest.raises(ImproperlyConfigured) as caught:
            read(**{name: "hunter2"})
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "command", [["manage.py", "migrate"], ["manage.py", "check"], ["-c", "import controlplane.asgi"]]
)
def test_start_without_a_variable_ends_with_one_line(command):
    ended = run(*command, **{**DEPLOYED, "REDIS_URL": ""})

    assert ended.returncode == 1
    assert ended.stderr.strip() == "ballast: REDIS_URL is not set; .env.example says what it is for"


@pytest.mark.parametrize("bind", ["0.0.0.0", "::", "10.0.0.1", "ballast.example", "127.0.0.1.example"])  # noqa: S104
def test_demo_is_never_reachable_from_outside(read, bind):
    """Its passwords are in the README."""
    with pytest.raises(ImproperlyConfigured, match=r"^BALLAST_BIND"):
        read(BALLAST_DEMO="true", BALLAST_BIND=bind)
    assert read(BALLAST_BIND=bind)["BIND"] == bind


@pytest.mark.parametrize("bind", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_demo_binds_to_this_machine(read, bind):
    assert read(BALLAST_DEMO="true", BALLAST_BIND=bind)["DEMO"] is True


def test_outside_the_demo_cookies_and_transport_are_secure(read):
    """And nobody has to say so."""
    settings = read()

    assert settings["SESSION_COOKIE_SECURE"] is True
    assert settings["CSRF_COOKIE_SECURE"] is True
    assert settings["SESSION_COOKIE_HTTPONLY"] is True
    assert settings["SECURE_HSTS_SECONDS"] == 31_536_000
    assert settings["SECURE_SSL_REDIRECT"] is True
    assert settings["REQUIRE_MFA"] is True
    assert settings["DEBUG"] is False
    assert settings["ALLOWED_HOSTS"] == ["127.0.0.1", "ballast.example", "localhost"]
    assert settings["CSRF_TRUSTED_ORIGINS"] == ["https://ballast.example"]
    assert settings["SOCIALACCOUNT_PROVIDERS"]["openid_connect"]["APPS"] == []


def test_forwarded_headers_count_only_behind_a_proxy(read):
    """Otherwise anybody could claim https, or another address for the rate limits."""
    bare, behind = read(BALLAST_BEHIND_PROXY="false"), read()

    assert (bare["SECURE_PROXY_SSL_HEADER"], bare["ALLAUTH_TRUSTED_PROXY_COUNT"]) == (None, 0)
    assert behind["SECURE_PROXY_SSL_HEADER"] == ("HTTP_X_FORWARDED_PROTO", "https")
    assert behind["ALLAUTH_TRUSTED_PROXY_COUNT"] == 1


def test_deployment_check_of_django_has_nothing_to_say():
    ended = run("manage.py", "check", "--deploy", "--fail-level", "WARNING", **DEPLOYED)

    assert ended.returncode == 0, ended.stderr
    assert "no issues" in ended.stdout


def test_every_variable_that_is_read_is_in_the_example():
    """`.env.example` is the one list."""
    read = set()
    for path in (PROJECT / "controlplane" / "settings.py", PROJECT / "controlplane" / "accounts" / "passwords.py"):
        read |= {part for part in path.read_text().replace('"', " ").split() if part.startswith("BALLAST_")}
    listed = {line.split("=")[0] for line in (PROJECT / ".env.example").read_text().splitlines() if "=" in line}

    assert {name.rstrip(",):;") for name in read if name.rstrip(",):;").isupper()} - listed == set()


HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/accounts/login/", 200),
        ("/", 302),
        ("/nowhere/", 404),
        ("/api/v1/me", 401),
        ("/livez", 200),
        ("/static/css/tokens.css", 200),
        ("/static/nothing.css", 404),
    ],
)
def test_every_answer_carries_the_security_headers(path, status):
    """Errors and static files too."""
    answer = Client().get(path)

    assert answer.status_code == status
    assert_hard(answer)


@pytest.mark.django_db
def test_refusals_and_faults_carry_them_as_well(monkeypatch):
    """A host name of somebody else's, a forged form, and a fault of our own."""
    browser = Client(enforce_csrf_checks=True, raise_request_exception=False)
    monkeypatch.setattr("controlplane.api.health.JsonResponse", lambda *a, **k: 1 / 0)

    host = browser.get("/accounts/login/", headers={"host": "evil.example"})
    forged = browser.post("/accounts/login/", {})
    fault = browser.get("/livez")

    assert (host.status_code, forged.status_code, fault.status_code) == (400, 403, 500)
    for answer in (host, forged, fault):
        assert_hard(answer)
        assert "Ballast" in answer.content.decode()


def assert_hard(answer):
    for name, value in HEADERS.items():
        assert answer.headers.get(name) == value
    policy = answer.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    for directive in (
        "default-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "object-src 'none'",
        "base-uri 'self'",
    ):
        assert directive in policy


@pytest.mark.django_db
def test_https_is_remembered_by_browsers_outside_the_demo(settings):
    settings.SECURE_HSTS_SECONDS = 31_536_000

    answer = Client().get("/accounts/login/", secure=True)

    assert answer["Strict-Transport-Security"] == "max-age=31536000"


@pytest.mark.django_db
def test_plain_http_is_sent_to_https_but_for_probes(settings):
    settings.SECURE_SSL_REDIRECT = True
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

    assert Client().get("/prompts/")["Location"] == "https://testserver/prompts/"
    assert Client().get("/livez").status_code == 200
    assert Client().get("/accounts/login/", headers={"x-forwarded-proto": "https"}).status_code == 200


@pytest.mark.django_db
def test_outside_the_demo_there_is_no_style_guide_and_no_word_of_demo_people(settings):
    settings.DEMO = False

    assert Client().get("/styleguide/").status_code == 404
    page = Client().get("/accounts/login/").content.decode()
    assert "ballast-demo" not in page
    assert "approver-one" not in page
