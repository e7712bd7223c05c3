"""`python -m dataplane serve | agent | jobs | shadow | simulator | probe | probe-yaml`, and `engage | stand-down |
orders` for whoever is on a host that the control plane does not reach: the only place that reads the environment.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from dataplane.cursors import BadCursorKeys
from dataplane.health.command import BadArgument
from dataplane.health.command import add_commands as add_probe_commands
from dataplane.health.command import run_command as run_probe_command
from dataplane.ladder.errors import CommandRefused
from dataplane.native import Native, NoBuild, activate
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
)

Choice = TypeVar("Choice", bound=StrEnum)

log = logging.getLogger("ballast")

REDIS_SCHEMES = frozenset({"redis", "rediss", "unix"})
DATABASE_SCHEMES = frozenset({"postgresql", "postgres"})
BROKER_SCHEMES = REDIS_SCHEMES | {"amqp", "amqps", "pyamqp", "memory"}
HTTP_SCHEMES = frozenset({"http", "https"})
TRUE_WORDS = frozenset({"true", "on", "ok", "y", "yes", "1"})
FALSE_WORDS = frozenset({"false", "off", "n", "no", "0"})
# How long a gateway that was told to stop goes on taking requests, so that whoever sends it some has heard of it. The
# demo has no such sender.
DRAIN_GRACE_SECONDS = 5


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
    own = LOOPBACK if environment.text("BALLAST_DEMO", "").lower() in TRUE_WORDS else ()
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
    )


def _serve(environment: Environment) -> None:
    from dataplane.supervisor import supervise

    settings = supervisor_settings(environment)
    supervise(
        host=settings.gateway.host,
        port=settings.gateway.port,
        processes=settings.processes,
        drain_seconds=settings.gateway.drain_grace_seconds + settings.gateway.drain_seconds,
        restart_seconds=settings.restart_seconds,
    )


def _gateway_process(environment: Environment, arguments: argparse.Namespace) -> None:
    is_native = activate(environment.choice("BALLAST_NATIVE", Native.AUTO))  # before anything that may have a build
    log.info("the hot path runs as %s", "machine code" if is_native else "Python; `make native` compiles it")
    from dataplane.credentials import SecretStore
    from dataplane.process import run_gateway

    listener = socket.socket(fileno=arguments.listener)
    run_gateway(
        gateway_settings(environment, slot=arguments.slot),
        secrets=SecretStore(environment.snapshot()),
        listener=listener,
        lifeline=arguments.lifeline,
        pulse=arguments.pulse,
    )


def _agent(environment: Environment) -> None:
    settings = agent_settings(environment)
    from dataplane.agent import run_agent

    run_agent(settings)


def _jobs(environment: Environment) -> None:
    settings = runner_settings(environment)
    from dataplane.job_worker import run_jobs
    from dataplane.stores.cursor_keys import read_cursor_keys

    run_jobs(settings, keys=read_cursor_keys(settings.cursor_keys_file))


def _shadow(environment: Environment) -> None:
    from dataplane.credentials import SecretStore
    from dataplane.shadow.process import run_shadow

    run_shadow(shadow_settings(environment), secrets=SecretStore(environment.snapshot()))


def _keep(environment: Environment, arguments: argparse.Namespace) -> None:
    from dataplane.keeper import keep

    health = environment.health_address()
    if health is None:
        raise BadVariable("BALLAST_HEALTH_PORT", "not set; a process that is kept is asked there whether it turns")
    keep(arguments.kept, health=health)


def _simulator(environment: Environment) -> None:
    from dataplane.simulator.server import SimulatorSettings, serve

    host = environment.text("BALLAST_BIND", "127.0.0.1")
    serve(
        SimulatorSettings(host=host, port=environment.integer("BALLAST_SIMULATOR_PORT", 8090, minimum=1, maximum=65535))
    )


def _emergency(environment: Environment, arguments: argparse.Namespace) -> None:
    from dataplane.ladder.emergency_command import Host, engage, list_orders, stand_down

    # The same release and keys as the gateways of this host have.
    settings, now = gateway_settings(environment, slot=0), datetime.now(UTC)
    host = Host(settings.release_file, settings.trusted_keys_file, f"http://{settings.host}:{settings.port}")
    match arguments.command:
        case "engage":
            # Whoever became root to do it is who did it.
            user = environment.text("SUDO_USER", environment.text("USER", "somebody on this host"))
            words = engage(
                host,
                arguments.surface,
                arguments.rung,
                minutes=arguments.minutes,
                reason=arguments.reason,
                by=arguments.by or user,
                now=now,
            )
        case "stand-down":
            words = stand_down(host, arguments.surface, now=now)
        case _:
            words = list_orders(host, now=now)
    print(words)


def _verify_audit(arguments: argparse.Namespace) -> None:
    from dataplane import audit_trail

    lines, is_whole = audit_trail.main(arguments.folder, trusted_keys=arguments.trusted_keys, anchors=arguments.anchor)
    print("\n".join(lines))
    if not is_whole:
        sys.exit(1)


def _add_verify_audit(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verifies = commands.add_parser("verify-audit", help="prove that nobody touched an exported audit record")
    verifies.add_argument("folder", type=Path, help="a copy of the store of segments")
    verifies.add_argument("--trusted-keys", type=Path, required=True, help="trusted-keys.json, from a place you trust")
    verifies.add_argument(
        "--anchor",
        type=Path,
        action="append",
        default=[],
        help="an anchor, or a release as a worker keeps it; what shows that the newest segments were taken away",
    )


def _add_emergency_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    engages = commands.add_parser("engage", help="engage a rung on this host alone, with an order signed beforehand")
    engages.add_argument("surface", help="such as web-chat; see `orders`")
    engages.add_argument("rung", type=int, help="1 to 6")
    engages.add_argument("--minutes", type=int, required=True, help="it ends by itself then")
    engages.add_argument("--reason", required=True, help="why; it is shown beside the rung")
    engages.add_argument("--by", default="", help="your name; else the user's of this host")
    stands_down = commands.add_parser("stand-down", help="take back what was engaged on this host alone")
    stands_down.add_argument("surface")
    commands.add_parser("orders", help="what can be engaged on this host alone, and what is")


def main(argv: Sequence[str] | None = None, variables: Mapping[str, str] | None = None) -> int:
    """Run one subcommand; a bad variable or an address that cannot be bound is one line and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m dataplane", description="The processes of Ballast's data plane.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="the gateway: BALLAST_GATEWAY_PROCESSES processes on one port")
    commands.add_parser("agent", help="takes releases for this host, one per host")
    commands.add_parser("jobs", help="runs jobs, one or more per fleet")
    commands.add_parser("shadow", help="asks candidate lanes again what callers asked, one per host")
    commands.add_parser("simulator", help="the provider simulator, for demo and tests")
    keeps = commands.add_parser(
        "keep", help="runs agent or shadow, again and again, where a gateway must not miss them"
    )
    keeps.add_argument("kept", choices=("agent", "shadow"))
    _add_emergency_commands(commands)
    add_probe_commands(commands)
    _add_verify_audit(commands)
    process = commands.add_parser("gateway-process", help="one gateway process; `serve` starts these")
    process.add_argument("--slot", type=int, required=True)
    process.add_argument("--listener", type=int, required=True, help="descriptor of the listening socket")
    process.add_argument("--lifeline", type=int, help="descriptor that ends with the supervisor")
    process.add_argument("--pulse", type=int, help="descriptor that the supervisor counts turns of the event loop by")
    arguments = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for chatty in ("httpx", "httpcore", "celery", "kombu"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    environment = Environment(os.environ if variables is None else variables)
    try:
        match arguments.command:
            case "serve":
                _serve(environment)
            case "agent":
                _agent(environment)
            case "jobs":
                _jobs(environment)
            case "shadow":
                _shadow(environment)
            case "simulator":
                _simulator(environment)
            case "verify-audit":
                _verify_audit(arguments)
            case "keep":
                _keep(environment, arguments)
            case "engage" | "stand-down" | "orders":
                _emergency(environment, arguments)
            case "probe" | "probe-yaml":
                run_probe_command(arguments, environment.snapshot())
            case _:
                _gateway_process(environment, arguments)
    except (BadVariable, BadArgument, BadCursorKeys, CommandRefused, NoBuild, OSError, ValueError) as exc:
        print(f"ballast {arguments.command}: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # SIGABRT, which whoever keeps a process sends it when it is wedged, says where it was.
    faulthandler.enable()
    sys.exit(main())
