"""Settings of the console and its workers. One file: the environment varies it, nothing exists only in production.

Every variable is listed in `.env.example`; a missing or malformed one stops start-up with its name.
"""

import os
import socket
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

from controlplane.environment import Environment, forget_blank, is_loopback
from dataplane.logs import QUIET
from dataplane.quorum import queue_settings

BASE_DIR = Path(__file__).resolve().parent.parent
env = Environment(os.environ)

# --- where things are ------------------------------------------------------------------------------------------------
DEMO = env.flag("BALLAST_DEMO", False)
DEBUG = False
BIND = env.text("BALLAST_BIND", "127.0.0.1")
CONSOLE_PORT = env.port("BALLAST_CONSOLE_PORT", 8000)
GATEWAY_PORT = env.port("BALLAST_GATEWAY_PORT", 8080)
# Where the console reaches the gateway for the page that tries a dropped connection, and evals ask.
GATEWAY_URL = env.url("BALLAST_GATEWAY_URL", f"http://127.0.0.1:{GATEWAY_PORT}", schemes={"http", "https"}).rstrip("/")
SIMULATOR_PORT = env.port("BALLAST_SIMULATOR_PORT", 8090)
EMBEDDER_PORT = env.port("BALLAST_EMBEDDER_PORT", 8070)
ENGINE_PORT = env.port("BALLAST_ENGINE_PORT", 8060)
DEMO_ENGINE = env.flag("BALLAST_DEMO_ENGINE", False)
CONSOLE_URL = env.url("BALLAST_CONSOLE_URL", f"http://127.0.0.1:{CONSOLE_PORT}", schemes={"http", "https"}).rstrip("/")
DATA_DIR = Path(env.text("BALLAST_DATA_DIR", str(BASE_DIR / "var"))).resolve()
REDIS_URL = env.url("REDIS_URL", schemes={"redis", "rediss"})
SIGNING_KEY_FILE = Path(env.text("BALLAST_SIGNING_KEY_FILE", str(DATA_DIR / "keys" / "release-signing.pem")))
# Where payloads are kept that are no table's to hold, and the keys they are encrypted with, one a line in base64.
PAYLOAD_STORE = env.store("BALLAST_PAYLOAD_STORE", (DATA_DIR / "payloads").as_uri())
PAYLOAD_KEYS_FILE = Path(env.text("BALLAST_PAYLOAD_KEYS_FILE", str(DATA_DIR / "keys" / "payload-keys")))
# Where dumps of corpora are kept, and where each is copied to: another region, or nowhere.
DUMP_STORE = env.store("BALLAST_DUMP_STORE", (DATA_DIR / "dumps").as_uri())
DUMP_COPY_STORE = env.store("BALLAST_DUMP_COPY_STORE", "")
DUMP_COPY_REGION = env.text("BALLAST_DUMP_COPY_REGION", "")
# Where the audit record is exported to, for how long it stays there at least, and where its newest head is put besides.
AUDIT_STORE = env.store("BALLAST_AUDIT_STORE", (DATA_DIR / "audit").as_uri() if DEMO else "")
AUDIT_RETAIN_DAYS = env.whole("BALLAST_AUDIT_RETAIN_DAYS", 365, most=36_500)
AUDIT_ANCHOR_STORE = env.store("BALLAST_AUDIT_ANCHOR_STORE", (DATA_DIR / "audit-anchors").as_uri() if DEMO else "")
# A Qdrant beside PostgreSQL, for namespaces whose vectors are there; the reference of its key: env:NAME or file:/path.
QDRANT_URL = env.url("BALLAST_QDRANT_URL", "", schemes={"http", "https"})
QDRANT_KEY = env.text("BALLAST_QDRANT_KEY", "")
QDRANT_PREFIX = env.text("BALLAST_QDRANT_PREFIX", "ballast")
QDRANT_ON_DISK = env.flag("BALLAST_QDRANT_ON_DISK", False)
# The public keys that dumps are verified with beside the signing key's own: those that it was before.
TRUSTED_KEYS_FILE = Path(env.text("BALLAST_TRUSTED_KEYS_FILE", str(DATA_DIR / "keys" / "trusted-keys.json")))
PAYLOAD_OVER_HTTP = env.flag("AWS_ALLOW_HTTP", False)
forget_blank(os.environ, prefix="AWS_")
# Read here only to be refused by name: S3's library dies of an address that is none.
S3_ENDPOINT = env.url("AWS_ENDPOINT_URL", "", schemes={"http", "https"})
_stores = (PAYLOAD_STORE, DUMP_STORE, DUMP_COPY_STORE, AUDIT_STORE, AUDIT_ANCHOR_STORE)
if any(one.startswith("s3:") for one in _stores) and urlsplit(S3_ENDPOINT).scheme == "http" and not PAYLOAD_OVER_HTTP:
    raise ImproperlyConfigured("AWS_ENDPOINT_URL is an http:// address: use https, or say AWS_ALLOW_HTTP=true")
RELEASE_FILE = Path(env.text("BALLAST_RELEASE_FILE", str(DATA_DIR / "release.json")))
AGENT_TOKEN = env.text("BALLAST_AGENT_TOKEN", min_chars=16)
# What hosts still show that were not told of the new one.
OLD_AGENT_TOKENS = env.names("BALLAST_OLD_AGENT_TOKENS", [])
if any(len(token) < 16 for token in OLD_AGENT_TOKENS):
    raise ImproperlyConfigured("BALLAST_OLD_AGENT_TOKENS: a token has at least 16 characters")
REPORTS_STREAM = "ballast:reports"
# Where traces go, by OpenTelemetry's own variables; None: nowhere.
TRACING = env.tracing(socket.gethostname())
# Where people look at one; empty: pages name traces, and link to none.
TRACE_URL = env.url("BALLAST_TRACE_URL", "", schemes={"http", "https"})
if TRACE_URL and "{trace_id}" not in TRACE_URL:
    raise ImproperlyConfigured("BALLAST_TRACE_URL: {trace_id} must stand where the id of a trace belongs")
# For so long a console that is told to stop says so, and takes requests on.
DRAIN_GRACE_SECONDS = env.whole("BALLAST_DRAIN_GRACE", 0 if DEMO else 5, most=300)
# Where a process without a port of its own answers probes.
HEALTH_ADDRESS = (BIND, env.port("BALLAST_HEALTH_PORT", 1)) if env.text("BALLAST_HEALTH_PORT", "") else None

if DEMO and not is_loopback(BIND):
    # The demo's passwords are printed in the README; they must never be reachable from outside.
    raise ImproperlyConfigured(f"BALLAST_BIND is {BIND!r}: demo mode binds to loopback only; unset BALLAST_DEMO")

SECRET_KEY = env.text("BALLAST_SECRET_KEY", min_chars=0 if DEMO else 32)
# Sessions and second factors made under an older key go on working while it stands here.
SECRET_KEY_FALLBACKS = env.names("BALLAST_OLD_SECRET_KEYS", [])
_console = urlsplit(CONSOLE_URL)
ALLOWED_HOSTS = env.names("BALLAST_ALLOWED_HOSTS", sorted({"127.0.0.1", "localhost", _console.hostname or "127.0.0.1"}))
if "*" in ALLOWED_HOSTS and not DEMO:
    raise ImproperlyConfigured("BALLAST_ALLOWED_HOSTS has '*': name the hosts that the console answers to")
CSRF_TRUSTED_ORIGINS = [f"{_console.scheme}://{_console.netloc}"]

# --- applications ----------------------------------------------------------------------------------------------------
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "django.forms",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "channels",
    "csp",
    "django_htmx",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "guardian",
    "pgtrigger",
    "rest_framework",
    "controlplane.audit",
    "controlplane.work",
    "controlplane.accounts",
    "controlplane.alerts",
    "controlplane.approvals",
    "controlplane.releases",
    "controlplane.prompts",
    "controlplane.routing",
    "controlplane.rollouts",
    "controlplane.ladder",
    "controlplane.telemetry",
    "controlplane.ledger",
    "controlplane.deliveries",
    "controlplane.deadletters",
    "controlplane.trials",
    "controlplane.evals",
    "controlplane.verdicts",
    "controlplane.shadows",
    "controlplane.corpora",
    "controlplane.archive",
    "controlplane.console",
    "controlplane.api",
]
MIDDLEWARE = [
    "controlplane.request_metrics.CountRequests",
    "django.middleware.security.SecurityMiddleware",
    # These two stand outside whatever can answer by itself: static files and errors carry their headers too.
    "csp.middleware.CSPMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "controlplane.incoming.RefuseUnreadable",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    # Pages shrink to a fifth. Its random padding and Django's masked CSRF token keep lengths from telling the token.
    "django.middleware.gzip.GZipMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "controlplane.accounts.middleware.SignInNeedsRedis",
    "controlplane.accounts.middleware.RequireSecondFactor",
]
ROOT_URLCONF = "controlplane.urls"
ASGI_APPLICATION = "controlplane.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "controlplane.console.context.shell",
            ],
        },
    }
]

# --- stores ----------------------------------------------------------------------------------------------------------
DATABASES = {"default": env.postgresql("DATABASE_URL")}
DATABASES["default"]["CONN_MAX_AGE"] = 60
DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
# A server that says nothing any more, because its machine or the way there is gone, holds nobody for minutes: whoever
# waits for it would look wedged, and a restart mends nothing. The address may say otherwise.
DATABASES["default"]["OPTIONS"] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
} | DATABASES["default"].get("OPTIONS", {})
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        # Signing in counts failures here: without Redis it must say so, not hang.
        "OPTIONS": {"socket_connect_timeout": 1, "socket_timeout": 2},
    }
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        # Redis knows no databases in publish and subscribe: without the number, two copies on one server would mix.
        "CONFIG": {"hosts": [REDIS_URL], "prefix": f"ballast:live:{urlsplit(REDIS_URL).path.strip('/') or 0}:"},
    }
}

# --- Celery ----------------------------------------------------------------------------------------------------------
CELERY_BROKER_URL = env.url("CELERY_BROKER_URL", REDIS_URL, schemes={"redis", "rediss", "amqp", "amqps"})
CELERY_TASK_DEFAULT_QUEUE = "ballast.control"
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TASK_TIME_LIMIT = 300
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# A click must not hang because the broker is away: agents reconcile, and the beat pushes again.
CELERY_BROKER_CONNECTION_TIMEOUT = 2
CELERY_BROKER_TRANSPORT_OPTIONS = {"socket_connect_timeout": 1, "socket_timeout": 5}
# At a RabbitMQ: kept queues are quorum queues, and the time-outs have other names.
globals().update({f"CELERY_{name.upper()}": value for name, value in queue_settings(CELERY_BROKER_URL).items()})
CELERY_TASK_PUBLISH_RETRY = False
# Durable work has workers of its own: what takes long, or kills them, keeps nobody from lapsing a bypass in time. So
# has what is urgent of it: who is to be woken does not stand behind an eval.
CELERY_TASK_ROUTES = {
    "work.run": {"queue": "ballast.work"},
    "work.run_urgent": {"queue": "ballast.urgent"},
    # Receivers may be slow.
    "deliveries.send_due": {"queue": "ballast.work"},
}
# What cannot be read becomes a dead letter instead of a line in a log.
CELERY_WORKER_CONSUMER = "controlplane.work.consumer:Consumer"
CELERY_BEAT_SCHEDULER = "controlplane.vitals:Scheduler"
CELERY_BEAT_SCHEDULE_FILENAME = str(DATA_DIR / "run" / "celerybeat-schedule")
CELERY_BEAT_SCHEDULE = {
    "sweep-work": {"task": "work.sweep", "schedule": timedelta(seconds=5)},
    "send-answers": {"task": "deliveries.send_due", "schedule": timedelta(seconds=2)},
    "store-payloads": {"task": "deadletters.store_payloads", "schedule": timedelta(seconds=10)},
    "wake-redrives": {"task": "deadletters.wake_redrives", "schedule": timedelta(seconds=15)},
    "finish-erasures": {"task": "deadletters.finish_erasures", "schedule": timedelta(seconds=60)},
    "purge-payloads": {"task": "deadletters.purge", "schedule": timedelta(hours=1)},
    "lapse-keys": {"task": "accounts.lapse_keys", "schedule": timedelta(minutes=1)},
    "push-latest": {"task": "releases.push_latest", "schedule": timedelta(seconds=10)},
    "settle-reach": {"task": "releases.settle_reach", "schedule": timedelta(minutes=1)},
    "export-audit": {"task": "archive.export_audit", "schedule": timedelta(minutes=1)},
    "lapse-break-glass": {"task": "rollouts.lapse_break_glass", "schedule": timedelta(seconds=15)},
    "watch-canaries": {"task": "verdicts.watch", "schedule": timedelta(seconds=5)},
    "replay-held-out": {"task": "verdicts.replay", "schedule": timedelta(seconds=10)},
    "forget-replays": {"task": "verdicts.forget", "schedule": timedelta(hours=6)},
    "follow-shadows": {"task": "shadows.follow", "schedule": timedelta(seconds=5)},
    "settle-checklists": {"task": "shadows.settle_checklists", "schedule": timedelta(seconds=10)},
    "compact-rollups": {"task": "telemetry.compact_rollups", "schedule": timedelta(seconds=60)},
    "audit-orders": {"task": "telemetry.audit_orders", "schedule": timedelta(seconds=10)},
    "compute-figures": {"task": "telemetry.compute_figures", "schedule": timedelta(seconds=15)},
    "forget-samples": {"task": "telemetry.forget_samples", "schedule": timedelta(seconds=60)},
    "measure-drills": {"task": "telemetry.measure_drills", "schedule": timedelta(seconds=15)},
    "decide-credits": {"task": "ledger.decide_credits", "schedule": timedelta(hours=1)},
    "forget-transcripts": {"task": "ledger.forget_transcripts", "schedule": timedelta(hours=6)},
    "dump-corpora": {"task": "corpora.dump_due", "schedule": timedelta(minutes=1)},
    "expire-dumps": {"task": "corpora.expire_dumps", "schedule": timedelta(hours=1)},
    "drill-corpora": {"task": "corpora.drill_due", "schedule": timedelta(minutes=1)},
    "watch-promises": {"task": "corpora.watch_promises", "schedule": timedelta(minutes=1)},
    "forget-repairs": {"task": "ledger.forget_repairs", "schedule": timedelta(minutes=10)},
    "collect-leftover-vectors": {"task": "corpora.collect_leftovers", "schedule": timedelta(hours=6)},
    "reconcile-corpora": {"task": "corpora.reconcile_nightly", "schedule": timedelta(hours=1)},
    "sample-corpora": {"task": "corpora.sample", "schedule": timedelta(seconds=15)},
    "sample-ghosts": {"task": "corpora.sample_ghosts", "schedule": timedelta(hours=1)},
    "collect-corpora": {"task": "corpora.collect", "schedule": timedelta(minutes=10)},
}
# What a tenant may have in the queue; whatever is handed in again counts like the rest.
JOB_LIMIT = env.whole("BALLAST_JOB_LIMIT", 10_000, most=1_000_000)
# How many new dead letters an hour, of each kind of work, are nobody's to look at.
DEAD_LETTERS_PER_HOUR = env.whole("BALLAST_DEAD_LETTERS_PER_HOUR", 10, most=1_000_000)
# What is said in streams is kept for so long; 0: until somebody deletes it.
TRANSCRIPT_DAYS = env.whole("BALLAST_TRANSCRIPT_DAYS", 0, most=36_500)
# Answers are kept for so long, the newest 1,000 of each route, to try rules on; 0: none is.
SAMPLE_DAYS = env.whole("BALLAST_SAMPLE_DAYS", 30, most=365)

# --- alerts -----------------------------------------------------------------------------------------------------------
# In the demo e-mail becomes files that one can read; elsewhere there is none until somebody says how.
_mail = env.mail("EMAIL_URL", f"filemail:///{DATA_DIR / 'mail'}" if DEMO else "")
EMAIL_IS_CONFIGURED = bool(_mail)
EMAIL_BACKEND = _mail.get("EMAIL_BACKEND", "django.core.mail.backends.dummy.EmailBackend")
EMAIL_HOST = _mail.get("EMAIL_HOST", "localhost")
EMAIL_PORT = _mail.get("EMAIL_PORT", 25)
EMAIL_HOST_USER = _mail.get("EMAIL_HOST_USER", "")
EMAIL_HOST_PASSWORD = _mail.get("EMAIL_HOST_PASSWORD", "")
EMAIL_USE_TLS = _mail.get("EMAIL_USE_TLS", False)
EMAIL_USE_SSL = _mail.get("EMAIL_USE_SSL", False)
EMAIL_FILE_PATH = _mail.get("EMAIL_FILE_PATH")
EMAIL_TIMEOUT = 10
_mail_host = "localhost" if is_loopback(_console.hostname or "") else _console.hostname
ALERT_FROM = env.text("BALLAST_ALERT_FROM", f"Ballast <ballast@{_mail_host}>")
# How far into one's own network webhooks may go: see controlplane/alerts/networks.py.
ALERT_REACH = "private" if env.flag("BALLAST_ALERTS_PRIVATE_NETWORKS", False) else "loopback" if DEMO else "public"

# --- who may come in -------------------------------------------------------------------------------------------------
AUTH_USER_MODEL = "accounts.Operator"
AUTHENTICATION_BACKENDS = [
    "controlplane.accounts.backends.OperatorBackend",
    "django.contrib.auth.backends.ModelBackend",
    "controlplane.accounts.backends.ObjectPermissions",
]
ANONYMOUS_USER_NAME = None  # guardian: nobody signed out has a permission
GUARDIAN_RAISE_403 = True
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.ScryptPasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/"
ACCOUNT_ADAPTER = "controlplane.accounts.adapter.OperatorAdapter"
ACCOUNT_FORMS = {
    "login": "controlplane.accounts.forms.SignInForm",
    "change_password": "controlplane.accounts.forms.NewPasswordForm",
}
ACCOUNT_LOGIN_METHODS = {"username"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "password1*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_LOGOUT_ON_GET = False
ACCOUNT_SESSION_REMEMBER = False
ACCOUNT_REAUTHENTICATION_TIMEOUT = 300
# Ten failures for one name within five minutes close the door to it for five; thirty from one address to that address.
SIGN_IN_NAME_RATE = "10/5m/key"
SIGN_IN_LOCK = timedelta(minutes=5)
ACCOUNT_RATE_LIMITS = {"login": "100/m/ip", "login_failed": f"{SIGN_IN_NAME_RATE},30/5m/ip"}
MFA_ADAPTER = "controlplane.accounts.second_factor.OperatorMFAAdapter"
MFA_FORMS = {
    "authenticate": "controlplane.accounts.second_factor.SecondFactorForm",
    "reauthenticate": "controlplane.accounts.second_factor.ConfirmFactorForm",
}
MFA_SUPPORTED_TYPES = ["totp", "recovery_codes"]
MFA_TOTP_ISSUER = "Ballast"
MFA_TOTP_TOLERANCE = 1  # a phone's clock may be 30 s off
MFA_ALLOW_UNVERIFIED_EMAIL = True  # addresses are given by an admin, nobody confirms them by mail
# Outside the demo an operator without a second factor gets no further than setting one up.
REQUIRE_MFA = env.flag("BALLAST_REQUIRE_MFA", not DEMO)
SOCIALACCOUNT_ADAPTER = "controlplane.accounts.oidc.OperatorSocialAdapter"
SOCIALACCOUNT_ONLY = False
SOCIALACCOUNT_STORE_TOKENS = False
OIDC_ISSUER = env.url("BALLAST_OIDC_ISSUER", "", schemes={"http", "https"})
if urlsplit(OIDC_ISSUER).scheme == "http" and not is_loopback(urlsplit(OIDC_ISSUER).hostname or ""):
    raise ImproperlyConfigured("BALLAST_OIDC_ISSUER must be https: what it says decides who comes in")
SOCIALACCOUNT_PROVIDERS = {
    "openid_connect": {
        "provider_class": "controlplane.accounts.oidc.OperatorProvider",
        "OAUTH_PKCE_ENABLED": True,
        "APPS": [
            {
                "provider_id": "oidc",
                "name": env.text("BALLAST_OIDC_NAME", "Single sign-on"),
                "client_id": env.text("BALLAST_OIDC_CLIENT_ID"),
                "secret": env.text("BALLAST_OIDC_CLIENT_SECRET"),
                "settings": {"server_url": OIDC_ISSUER},
            }
        ]
        if OIDC_ISSUER
        else [],
    }
}

SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = not DEMO
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_ENGINE = "controlplane.accounts.sessions"
SESSION_COOKIE_AGE = 12 * 3600
SESSION_EXPIRE_AT_BROWSER_CLOSE = True
# Two copies on one host share the cookie jar of "127.0.0.1"; the port in the name keeps them apart.
SESSION_COOKIE_NAME = f"ballast_session_{CONSOLE_PORT}"
CSRF_COOKIE_NAME = f"ballast_csrf_{CONSOLE_PORT}"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_HSTS_SECONDS = 0 if DEMO else 31_536_000
BEHIND_PROXY = env.flag("BALLAST_BEHIND_PROXY", False)
SECURE_SSL_REDIRECT = env.flag("BALLAST_SSL_REDIRECT", BEHIND_PROXY)
SECURE_REDIRECT_EXEMPT = [r"^livez$", r"^readyz$", r"^startupz$"]  # probes come straight to the process
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if BEHIND_PROXY else None
ALLAUTH_TRUSTED_PROXY_COUNT = 1 if BEHIND_PROXY else 0
SILENCED_SYSTEM_CHECKS = [
    "guardian.W001",  # its backend stands in AUTHENTICATION_BACKENDS as a subclass
    "security.W005",  # HSTS for subdomains: the names below the console's own are not ours to bind
    "security.W021",  # HSTS preload: whoever owns the domain signs it up
]
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "font-src": ["'self'"],
        "connect-src": ["'self'"],
        "object-src": ["'none'"],
        "base-uri": ["'self'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
    }
}
# Of forms and JSON; files may be larger: see controlplane/evals/importing.py and, for all there is, incoming.py.
DATA_UPLOAD_MAX_MEMORY_SIZE = 2_000_000
DATA_UPLOAD_MAX_NUMBER_FIELDS = 1000
DATA_UPLOAD_MAX_NUMBER_FILES = 5

# --- words, time, files ----------------------------------------------------------------------------------------------
LANGUAGE_CODE = "en"
# One language, so that nothing looks for the words of another: at every number, address and label on a page.
USE_I18N = False
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT = Path(env.text("BALLAST_STATIC_DIR", str(DATA_DIR / "static"))).resolve()
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "controlplane.static_files.CollectedFiles"},
}
WHITENOISE_KEEP_ONLY_HASHED_FILES = True
WHITENOISE_USE_FINDERS = DEMO and not (STATIC_ROOT / "staticfiles.json").exists()
WHITENOISE_AUTOREFRESH = WHITENOISE_USE_FINDERS  # each is looked up when it is asked for, not all of them at start
FORM_RENDERER = "controlplane.console.widgets.DrawnWidgets"

# --- REST API --------------------------------------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "controlplane.api.authentication.OperatorTokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["controlplane.api.parsers.BoundedJson"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.LimitOffsetPagination",
    "PAGE_SIZE": 50,
    "EXCEPTION_HANDLER": "controlplane.api.errors.handle",
    "DEFAULT_THROTTLE_CLASSES": ["controlplane.api.throttling.CallerThrottle"],
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Ballast console API",
    "DESCRIPTION": "Every operation a console page offers, for operator tokens and sessions.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "ENUM_NAME_OVERRIDES": {
        "ChangeStateEnum": "controlplane.approvals.models.ChangeState.choices",
        "CanaryStateEnum": "controlplane.rollouts.models.CanaryState.choices",
        "RepairStatusEnum": "dataplane.repair.kept.STATES",
        "LetterStateEnum": "controlplane.deadletters.models.STATES",
        "TrialStateEnum": "controlplane.trials.models.TrialState.choices",
        "EvalRunStateEnum": "controlplane.evals.runs.RunState.choices",
        "EvalRunPurposeEnum": "controlplane.evals.runs.RunPurpose.choices",
        "EvalSetPurposeEnum": "controlplane.evals.models.Purpose.choices",
        "CopyKindEnum": "controlplane.ladder.models.CopyKind.choices",
        "NamespaceStateEnum": "controlplane.corpora.models.NamespaceState.choices",
        "DumpStateEnum": "controlplane.corpora.records.DumpState.choices",
        "RecoveryDrillStateEnum": "controlplane.corpora.records.DrillState.choices",
        "RungModeEnum": "controlplane.ladder.models.RungMode.choices",
        "TierEnum": "controlplane.accounts.models.Tier.choices",
        "AlertChannelKindEnum": "controlplane.alerts.models.ChannelKind.choices",
        "AlertSeverityEnum": "controlplane.alerts.models.Severity.choices",
        "DeliveryStateEnum": "controlplane.alerts.models.DeliveryState.choices",
    },
}

LOG_FORMAT = env.word("BALLAST_LOG_FORMAT", "text" if DEMO else "json", among={"text", "json"})
LOG_LEVEL = env.word("BALLAST_LOG_LEVEL", "INFO", among={"DEBUG", "INFO", "WARNING", "ERROR"})
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": "dataplane.logs.formatter", "form": LOG_FORMAT, "service": "ballast-console"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {name: {"level": level} for name, level in QUIET.items()},
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
}
