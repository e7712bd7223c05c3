"""Other gateways that can be installed from a package registry, to be measured beside ours in the same run.

Each is installed once into a directory of its own under `var/peers`, apart from our environment, and started as its own
documentation says for one process, with logging of requests and limits of rates switched off.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HOME = Path(__file__).resolve().parents[1] / "var" / "peers"
LITELLM = "1.108.7"
PORTKEY = "1.15.2"
FERROGW = "1.5.10"
SECRET = "sk-peer"  # noqa: S105  # of an upstream that asks for none


@dataclass(frozen=True, slots=True)
class Running:
    """How a peer is started, and how it is asked. `url` is its address for chat completions."""

    command: list[str]
    environment: dict[str, str]
    ready_url: str
    url: str
    headers: dict[str, str]
    model: str


@dataclass(frozen=True, slots=True)
class Peer:
    """A gateway that is not ours. `install` puts it into a directory, `run` says how it is started there.

    `run` is given the directory, a port of 127.0.0.1, and the base URL of an upstream that speaks OpenAI's API.
    """

    name: str
    version: str
    install: Callable[[Path], None]
    run: Callable[[Path, int, str], Running]

    def directory(self) -> Path:
        """Where it is, installed now if it was not.

        Raises:
            SystemExit: it cannot be installed; says what the installer said.
        """
        home = HOME / f"{self.name}-{self.version}"
        done = home / ".installed"
        if not done.exists():
            print(f"installing {self.name} {self.version} into {home}", file=sys.stderr, flush=True)
            home.mkdir(parents=True, exist_ok=True)
            try:
                self.install(home)
            except (OSError, subprocess.CalledProcessError) as exc:
                said = getattr(exc, "stderr", "") or exc
                raise SystemExit(f"{self.name} {self.version} cannot be installed: {said}") from exc
            done.touch()
        return home


def _with_pip(*requirements: str) -> Callable[[Path], None]:
    def install(home: Path) -> None:
        _quietly([sys.executable, "-m", "venv", str(home / "venv")], home)
        _quietly([str(home / "venv" / "bin" / "python"), "-m", "pip", "install", "--quiet", *requirements], home)

    return install


def _with_npm(requirement: str) -> Callable[[Path], None]:
    def install(home: Path) -> None:
        (home / "package.json").write_text(json.dumps({"name": "peer", "private": True}))
        _quietly(["npm", "install", "--silent", "--no-audit", "--no-fund", requirement], home)

    return install


def _quietly(command: list[str], home: Path) -> None:
    subprocess.run(command, cwd=home, check=True, capture_output=True, text=True)  # noqa: S603  # commands of ours


def _run_ferrogw(home: Path, port: int, upstream: str) -> Running:
    config = home / "config.yaml"
    config.write_text("strategy:\n  mode: fallback\ntargets:\n  - virtual_key: openai\n")
    return Running(
        command=[str(home / "venv" / "bin" / "ferrogw"), "serve"],
        environment={
            "OPENAI_API_KEY": SECRET,
            "OPENAI_BASE_URL": upstream,
            "GATEWAY_CONFIG": str(config),
            "MASTER_KEY": SECRET,
            "PORT": str(port),
            "RATE_LIMIT_RPS": "0",
            "LOG_LEVEL": "error",
            "GOMAXPROCS": "1",
        },
        ready_url=f"http://127.0.0.1:{port}/livez",
        url=f"http://127.0.0.1:{port}/v1/chat/completions",
        headers={"authorization": f"Bearer {SECRET}"},
        model="gpt-4o",
    )


def _run_litellm(home: Path, port: int, upstream: str) -> Running:
    params = {"model": "openai/gpt-4o", "api_base": upstream, "api_key": SECRET}
    config = {
        "model_list": [{"model_name": "chat", "litellm_params": params}],
        "litellm_settings": {"telemetry": False, "set_verbose": False},
        "general_settings": {"master_key": SECRET, "disable_error_logs": True},
    }
    (home / "config.yaml").write_text(json.dumps(config))  # which is YAML too
    return Running(
        command=[
            str(home / "venv" / "bin" / "litellm"),
            *("--config", str(home / "config.yaml"), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"),
        ],
        environment={
            "LITELLM_LOG": "ERROR",
            "LITELLM_TELEMETRY": "False",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "PATH": f"{home / 'venv' / 'bin'}:{os.environ['PATH']}",
        },
        ready_url=f"http://127.0.0.1:{port}/health/liveliness",
        url=f"http://127.0.0.1:{port}/v1/chat/completions",
        headers={"authorization": f"Bearer {SECRET}"},
        model="chat",
    )


def _run_portkey(home: Path, port: int, upstream: str) -> Running:
    start = home / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    return Running(
        command=["node", str(start), f"--port={port}", "--headless"],
        environment={"NODE_ENV": "production"},
        ready_url=f"http://127.0.0.1:{port}/",
        url=f"http://127.0.0.1:{port}/v1/chat/completions",
        headers={
            "authorization": f"Bearer {SECRET}",
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": upstream,
        },
        model="gpt-4o",
    )


PEERS = {
    peer.name: peer
    for peer in (
        Peer("ferrogw", FERROGW, _with_pip(f"ferrogw=={FERROGW}"), _run_ferrogw),
        Peer("portkey", PORTKEY, _with_npm(f"@portkey-ai/gateway@{PORTKEY}"), _run_portkey),
        Peer("litellm", LITELLM, _with_pip(f"litellm[proxy]=={LITELLM}"), _run_litellm),
    )
}
