"""What each process is told by environment variables: read by name, checked one by one, made into its settings.

Variables come in as a mapping: only `__main__.py` knows where they are from.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from dataplane.logs import LogFormat
from dataplane.networks import LOOPBACK, Allowed, parse_networks
from dataplane.settings import (
    AgentSettings,
    GatewaySettings,
    HealthAddress,
    QdrantSettings,
    ReportSettings,
    RunnerSettings,
    ShadowSettings,
    SupervisorSettings,
    TracingSettings,
)

Choice = TypeVar("Choice", bound=StrEnum)

REDIS_SCHEMES = frozenset({"redis", "rediss", "unix"})
DATABASE_SCHEMES = frozenset({"postgresql", "postgres"})
BROKER_SCHEMES = REDIS_SCHEMES | {"amqp", "amqps", "pyamqp", "memory"}
HTTP_SCHEMES = frozenset({"http", "https"})
TRUE_WORDS = frozenset({"true", "on", "ok", "y", "yes", "1"})
FALSE_WORDS = frozenset({"false", "off", "n", "no", "0"})
# The one that is spoken by every collector, and needs no gRPC.
OTLP_PROTOCOL = "http/protobuf"
# Of the traces that begin at a gateway, those of callers who have none of their own.
GATEWAY_TRACE_RATIO = 0.1
# How long a gateway that was told to stop goes on taking requests, so that whoever sends it some has heard of it. The
# demo has no such sender.
DRAIN_GRACE_SECONDS = 5


class LogLevel(StrEnum):
    """From which on lines are logged."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class TraceSampler(StrEnum):
    """How it is chosen which traces are kept, in OpenTelemetry's words."""

    ALL = "always_on"
    NONE = "always_off"
    RATIO = "traceidratio"
    FOLLOWED_ALL = "parentbased_always_on"
    FOLLOWED_NONE = "parentbased_always_off"
    FOLLOWED_RATIO = "parentbased_traceidratio"


class BadVariable(Exception):
    """An environment variable does not hold what it should; the message names it."""

    def __init__(self, name: str, fact: str) -> None:
        super().__init__(f"{name}: {fact}")
        self.name = name


class Environment:
    """Typed reading of environment variables. An empty one counts as not set."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def snapshot(self) -> dict[str, str]:
        """All variables, for whoever resolves the names that a release mentions."""
        return dict(self._variables)

    def text(self, name: str, default: str) -> str:
        """The value, or the default."""
        return self._variables.get(name, "").strip() or default

    def integer(self, name: str, default: int, *, minimum: int, maximum: int) -> int:
        """A whole number in [minimum, maximum]."""
        text = self.text(name, str(default))
        try:
            value = int(text)
        except ValueError:
            raise BadVariable(name, f"{text!r} is not a whole number") from None
        if not minimum <= value <= maximum:
            raise BadVariable(name, f"{value} is outside {minimum}..{maximum}")
        return value

    def share(self, name: str, default: float) -> float:
        """A number in [0, 1]."""
        text = self.text(name, str(default))
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0.0 <= value <= 1.0:
            raise BadVariable(name, f"{text!r} is no number from 0 to 1")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false, in words that both planes know."""
        word = self.text(name, "true" if default else "false").lower()
        if word not in TRUE_WORDS | FALSE_WORDS:
            raise BadVariable(name, f"{word!r} is neither true nor false")
        return word in TRUE_WORDS

    def health_address(self) -> HealthAddress:
        """Where a process without a port of its own answers probes; None: nowhere."""
        if not self.text("BALLAST_HEALTH_PORT", ""):
            return None
        return self.text("BALLAST_BIND", "127.0.0.1"), self.integer("BALLAST_HEALTH_PORT", 0, minimum=1, maximum=65535)

    def url(self, name: str, *, schemes: frozenset[str]) -> str | None:
        """An address with one of the given schemes, or None when not set.

        Its text, which may hold a password, is not shown.
        """
        text = self.text(name, "")
        if not text:
            return None
        try:
            parts = urlsplit(text)
            usable = parts.scheme in schemes and bool(parts.netloc or parts.path) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise BadVariable(name, f"not a usable address; expected {', '.join(sorted(schemes))}://...")
        return text

    def choice(self, name: str, default: Choice) -> Choice:
        """One of the words of `default`'s enumeration."""
        text = self.text(name, default)
        try:
            return type(default)(text)
        except ValueError:
            raise BadVariable(name, f"{text!r} is none of {', '.join(type(default))}") from None

    def path(self, name: str, default: Path) -> Path:
        """A path; relative ones are relative to the working directory."""
        return Path(self.text(name, str(default))).expanduser()

    def host_name(self) -> str:
        """The name under which this host's workers report."""
        name = self.text("BALLAST_HOST_NAME", socket.gethostname())
        if "/" in name or not name.isprintable() or " " in name:
            raise BadVariable("BALLAST_HOST_NAME", f"{name!r} may hold neither '/' nor spaces")
        return name


def _data_dir(environment: Environment) -> Path:
    return environment.path("BALLAST_DATA_DIR", Path("var"))


def _release_file(environment: Environment) -> Path:
    return environment.path("BALLAST_RELEASE_FILE", _data_dir(environment) / "release.json")


def _trusted_keys_file(environment: Environment) -> Path:
    return environment.path("BALLAST_TRUSTED_KEYS_FILE", _data_dir(environment) / "keys" / "trusted-keys.json")


def _cursor_keys_file(environment: Environment) -> Path:
    return environment.path("BALLAST_CURSOR_KEYS_FILE", _data_dir(environment) / "keys" / "cursor-keys")


def _shadow_socket(environment: Environment) -> Path:
    return environment.path("BALLAST_SHADOW_SOCKET", _data_dir(environment) / "shadow.sock")


def _broker_url(environment: Environment, *, who: str) -> str:
    broker_url = environment.url("CELERY_BROKER_URL", schemes=BROKER_SCHEMES)
    broker_url = broker_url or environment.url("REDIS_URL", schemes=REDIS_SCHEMES)
    if broker_url is None:
        raise BadVariable("CELERY_BROKER_URL", f"neither it nor REDIS_URL is set; {who} needs a broker")
    return broker_url


def _report_settings(environment: Environment) -> ReportSettings:
    return ReportSettings(
        redis_url=environment.url("REDIS_URL", schemes=REDIS_SCHEMES),
        spool_dir=environment.path("BALLAST_SPOOL_DIR", _data_dir(environment) / "spool"),
    )


def _allowed(environment: Environment) -> Allowed:
    """Where lanes and gauges may be: outside, in the private networks that the deployment names, and in the demo on
    this machine, where its simulator is.
    """
    text = environment.text("BALLAST_PRIVATE_NETWORKS", "")
    try:
        networks = parse_networks(text)
    except ValueError as exc:
        raise BadVariable("BALLAST_PRIVATE_NETWORKS", str(exc)) from exc
    own = LOOPBACK if environment.flag("BALLAST_DEMO", False) else ()
    return Allowed((*networks, *own), "BALLAST_PRIVATE_NETWORKS would allow it, if it named the network")


def _qdrant_settings(environment: Environment) -> QdrantSettings | None:
    url = environment.url("BALLAST_QDRANT_URL", schemes=HTTP_SCHEMES)
    if url is None:
        return None
    return QdrantSettings(
        url=url,
        key=environment.text("BALLAST_QDRANT_KEY", ""),
        prefix=environment.text("BALLAST_QDRANT_PREFIX", "ballast"),
    )


def log_format(environment: Environment) -> LogFormat:
    """What lines are logged as: JSON unless somebody reads along, as in the demo.

    Raises:
        BadVariable: it is none that there is.
    """
    is_read = environment.flag("BALLAST_DEMO", False)
    return environment.choice("BALLAST_LOG_FORMAT", LogFormat.TEXT if is_read else LogFormat.JSON)


def log_level(environment: Environment) -> str:
    """From which level on lines are logged.

    Raises:
        BadVariable: it is none that there is.
    """
    return environment.choice("BALLAST_LOG_LEVEL", LogLevel.INFO).value


def tracing_settings(
    environment: Environment, *, service: str, worker: str, ratio: float = 1.0
) -> TracingSettings | None:
    """Whether and where this process traces, by OpenTelemetry's own variables; None: nothing.

    Args:
        service: What it is called unless a variable says otherwise.
        ratio: How many of the traces that begin here are kept unless a variable says otherwise.
    Raises:
        BadVariable: naming the first variable that is wrong.
    """
    endpoint = environment.url("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", schemes=HTTP_SCHEMES)
    base = environment.url("OTEL_EXPORTER_OTLP_ENDPOINT", schemes=HTTP_SCHEMES)
    if endpoint is None and base is not None:
        endpoint = base.rstrip("/") + "/v1/traces"
    is_off = environment.flag("OTEL_SDK_DISABLED", False) or environment.text("OTEL_TRACES_EXPORTER", "otlp") == "none"
    if endpoint is None or is_off:
        return None
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if (protocol := environment.text(name, OTLP_PROTOCOL)) != OTLP_PROTOCOL:
            raise BadVariable(name, f"{protocol!r} is not spoken here; point the endpoint at one of {OTLP_PROTOCOL}")
    sampler = environment.choice("OTEL_TRACES_SAMPLER", TraceSampler.FOLLOWED_RATIO)
    ratio = environment.share("OTEL_TRACES_SAMPLER_ARG", ratio)
    match sampler:
        case TraceSampler.ALL | TraceSampler.FOLLOWED_ALL:
            ratio = 1.0
        case TraceSampler.NONE | TraceSampler.FOLLOWED_NONE:
            ratio = 0.0
    return TracingSettings(
        endpoint=endpoint,
        service=environment.text("OTEL_SERVICE_NAME", service),
        worker=worker,
        ratio=ratio,
        follows_callers=sampler.startswith("parentbased_"),
        most_waiting=environment.integer("OTEL_BSP_MAX_QUEUE_SIZE", 2048, minimum=1, maximum=1_000_000),
    )


def _scraped_at(environment: Environment, *, slot: int) -> HealthAddress:
    """Each process has a port of its own, counted from the one that is named."""
    if not environment.text("BALLAST_METRICS_PORT", ""):
        return None
    port = environment.integer("BALLAST_METRICS_PORT", 0, minimum=1, maximum=65535 - 256)
    return environment.text("BALLAST_BIND", "127.0.0.1"), port + slot


def gateway_settings(environment: Environment, *, slot: int) -> GatewaySettings:
    """Settings of the gateway process in `slot`.

    Raises:
        BadVariable: naming the first variable that is wrong.
    """
    return GatewaySettings(
        host=environment.text("BALLAST_BIND", "127.0.0.1"),
        port=environment.integer("BALLAST_GATEWAY_PORT", 8080, minimum=1, maximum=65535),
        region=environment.text("BALLAST_REGION", "eu-west"),
        host_name=environment.host_name(),
        slot=slot,
        release_file=_release_file(environment),
        trusted_keys_file=_trusted_keys_file(environment),
        cursor_keys_file=_cursor_keys_file(environment),
        database_url=environment.url("DATABASE_URL", schemes=DATABASE_SCHEMES),
        reports=_report_settings(environment),
        shadow_socket=_shadow_socket(environment),
        job_limit=environment.integer("BALLAST_JOB_LIMIT", 10_000, minimum=1, maximum=1_000_000),
        public_url=(environment.url("BALLAST_GATEWAY_PUBLIC_URL", schemes=HTTP_SCHEMES) or "").rstrip("/"),
        fairness_url=environment.url("BALLAST_FAIRNESS_URL", schemes=HTTP_SCHEMES) or "",
        qdrant=_qdrant_settings(environment),
        allowed=_allowed(environment),
        drain_grace_seconds=environment.integer(
            "BALLAST_DRAIN_GRACE",
            0 if environment.flag("BALLAST_DEMO", False) else DRAIN_GRACE_SECONDS,
            minimum=0,
            maximum=300,
        ),
        tracing=tracing_settings(
            environment,
            service="ballast-gateway",
            worker=f"{environment.host_name()}/gateway-{slot}",
            ratio=GATEWAY_TRACE_RATIO,
        ),
        scraped_at=_scraped_at(environment, slot=slot),
    )


def supervisor_settings(environment: Environment) -> SupervisorSettings:
    """Settings of `serve`.

    Raises:
        BadVariable: naming the first variable that is wrong.
    """
    return SupervisorSettings(
        processes=environment.integer("BALLAST_GATEWAY_PROCESSES", 2, minimum=1, maximum=256),
        gateway=gateway_settings(environment, slot=0),
    )


def agent_settings(environment: Environment) -> AgentSettings:
    """Settings of the agent.

    Raises:
        BadVariable: naming the first variable that is wrong.
    """
    reports = _report_settings(environment)
    broker_url = _broker_url(environment, who="the agent")
    console_port = environment.integer("BALLAST_CONSOLE_PORT", 8000, minimum=1, maximum=65535)
    console_url = environment.url("BALLAST_CONSOLE_URL", schemes=HTTP_SCHEMES)
    token = environment.text("BALLAST_AGENT_TOKEN", "")
    if not token:
        raise BadVariable("BALLAST_AGENT_TOKEN", "not set; the agent asks the control plane with it")
    return AgentSettings(
        host_name=environment.host_name(),
        broker_url=broker_url,
        console_url=console_url or f"http://127.0.0.1:{console_port}",
        token=token,
        release_file=_release_file(environment),
        trusted_keys_file=_trusted_keys_file(environment),
        reports=reports,
        health=environment.health_address(),
        tracing=tracing_settings(environment, service="ballast-agent", worker=f"{environment.host_name()}/agent"),
    )


def shadow_settings(environment: Environment) -> ShadowSettings:
    """Settings of the shadow process.

    Raises:
        BadVariable: naming the first variable that is wrong.
    """
    return ShadowSettings(
        host_name=environment.host_name(),
        socket=_shadow_socket(environment),
        release_file=_release_file(environment),
        trusted_keys_file=_trusted_keys_file(environment),
        reports=_report_settings(environment),
        allowed=_allowed(environment),
        health=environment.health_address(),
        tracing=tracing_settings(environment, service="ballast-shadow", worker=f"{environment.host_name()}/shadow"),
    )


def runner_settings(environment: Environment) -> RunnerSettings:
    """Settings of a runner of jobs.

    Raises:
        BadVariable: naming the first variable that is wrong.
    """
    broker_url = _broker_url(environment, who="a runner of jobs")
    database_url = environment.url("DATABASE_URL", schemes=DATABASE_SCHEMES)
    if database_url is None:
        raise BadVariable("DATABASE_URL", "not set; jobs are kept there")
    gateway_port = environment.integer("BALLAST_GATEWAY_PORT", 8080, minimum=1, maximum=65535)
    gateway_url = environment.url("BALLAST_GATEWAY_URL", schemes=HTTP_SCHEMES)
    return RunnerSettings(
        host_name=environment.host_name(),
        broker_url=broker_url,
        database_url=database_url,
        gateway_url=gateway_url or f"http://127.0.0.1:{gateway_port}",
        cursor_keys_file=_cursor_keys_file(environment),
        concurrency=environment.integer("BALLAST_JOB_CONCURRENCY", 8, minimum=1, maximum=1000),
        keep_seconds=environment.integer("BALLAST_JOB_KEEP_HOURS", 24, minimum=1, maximum=24 * 365) * 3600.0,
        health=environment.health_address(),
        tracing=tracing_settings(environment, service="ballast-jobs", worker=f"{environment.host_name()}/jobs"),
    )
