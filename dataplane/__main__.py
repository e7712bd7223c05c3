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
from pathlib import Path

from dataplane.collector import collector_paused
from dataplane.cursors import BadCursorKeys
from dataplane.environment import (
    BadVariable,
    Environment,
    agent_settings,
    gateway_settings,
    log_format,
    log_level,
    runner_settings,
    shadow_settings,
    supervisor_settings,
)
from dataplane.health.command import BadArgument
from dataplane.health.command import add_commands as add_probe_commands
from dataplane.health.command import run_command as run_probe_command
from dataplane.ladder.errors import CommandRefused
from dataplane.logs import log_to_stderr
from dataplane.native import Native, NoBuild, activate

log = logging.getLogger("ballast")


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
    with collector_paused():
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
    with collector_paused():
        from dataplane.agent import run_agent

    run_agent(settings)


def _jobs(environment: Environment) -> None:
    settings = runner_settings(environment)
    with collector_paused():
        from dataplane.job_worker import run_jobs
        from dataplane.stores.cursor_keys import read_cursor_keys

    run_jobs(settings, keys=read_cursor_keys(settings.cursor_keys_file))


def _shadow(environment: Environment) -> None:
    with collector_paused():
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
    with collector_paused():
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
    environment = Environment(os.environ if variables is None else variables)
    try:
        log_to_stderr(log_format(environment), level=log_level(environment), service=f"ballast-{arguments.command}")
        for chatty in ("celery", "kombu"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
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
