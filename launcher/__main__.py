"""`python -m launcher run|stop|clean|manage|keys|chromium|rabbitmq|promtool|native`: what the Makefile calls."""

import argparse
import os
import sys
from pathlib import Path

from launcher.chromium import find_or_install_chromium
from launcher.environment import read_data_dir
from launcher.errors import LauncherError
from launcher.keys import make_keys
from launcher.manage import manage
from launcher.native import build
from launcher.places import Places
from launcher.promtool import find_or_take_promtool
from launcher.rabbitmq import find_or_install_rabbitmq
from launcher.run import run
from launcher.stop import clean, stop

PROJECT = Path(__file__).resolve().parent.parent


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; return the exit status: 0, or 1 after one line on standard error."""
    parser = argparse.ArgumentParser(prog="python -m launcher", description="Ballast on one machine.")
    parser.add_argument("--project", type=Path, default=PROJECT, help="checkout with the Procfile (default: this one)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="start everything and keep it running until Ctrl-C")
    commands.add_parser("stop", help="stop the running copy of this data directory")
    commands.add_parser("clean", help="stop the copy and remove its data directory")
    commands.add_parser("chromium", help="print the path of a Chromium for the tests, installing one if need be")
    manages = commands.add_parser("manage", help="a management command, told what the processes of this copy are told")
    manages.add_argument("arguments", nargs=argparse.REMAINDER)
    keys = commands.add_parser("keys", help="make the keys and secrets of a deployment of several hosts")
    keys.add_argument("directory", type=Path, help="where to; what is there already stays")
    commands.add_parser("native", help="compile the data plane's hot path")
    commands.add_parser("rabbitmq", help="print where RabbitMQ's scripts are, installing it if need be")
    commands.add_parser(
        "promtool", help="print the path of Prometheus' promtool, taking it out of its package if need be"
    )
    parsed = parser.parse_args(arguments)
    project = parsed.project.resolve()
    if parsed.command == "run":
        return run(project=project, environ=os.environ, out=sys.stdout, errors=sys.stderr)
    try:
        if parsed.command == "chromium":
            print(find_or_install_chromium(os.environ))
            return 0
        if parsed.command == "native":
            build(project=project, out=sys.stdout)
            return 0
        if parsed.command == "manage":
            return manage(parsed.arguments, project=project, environ=os.environ)
        if parsed.command == "keys":
            print(f"signing key {make_keys(parsed.directory)}, and the others, in {parsed.directory}")
            return 0
        if parsed.command == "promtool":
            print(find_or_take_promtool(os.environ, kept=project / "build" / "promtool"))
            return 0
        if parsed.command == "rabbitmq":
            print(find_or_install_rabbitmq(os.environ))
            return 0
        places = Places(read_data_dir(os.environ, project=project))
        if parsed.command == "stop":
            stop(places=places, out=sys.stdout)
        else:
            clean(places=places, project=project, out=sys.stdout)
    except LauncherError as exc:
        print(f"ballast: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
