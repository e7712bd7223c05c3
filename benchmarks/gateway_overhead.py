"""What the gateway costs: throughput on one core, and added latency, beside a relay without policy and direct calls.

    python -m benchmarks.gateway_overhead [--stream] [--managed] [--rounds 12] [--seconds 1] [--upstream simulator]

The gateway is the real one (`python -m dataplane serve`, one process) with a signed release that has the breaker,
retry and quota policies of the demo. The relay (`benchmarks/bare_relay.py`) is the same server and the same client with
nothing in between: the limit of what this stack can give. Each has one core to itself in turn, round by round, since
shared machines change their speed by the minute; load generator and upstream have the other. Where these cannot keep a
core busy, the throughput that it would give is reckoned from the processor time per request.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import uvloop
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from benchmarks.load import Result, describe_machine, pace, request_bytes, saturate, table
from dataplane.release import key_id_of, sign

DEMO = Path(__file__).resolve().parents[1] / "fixtures" / "demo.yaml"
PROVENANCE = {
    "origin": "guess",
    "note": "as in the demo",
    "link": "",
    "author": "benchmark",
    "on": "2026-01-01",
    "review_by": "2027-01-01",
}
KEY = "bk-benchmark"
QUESTION = "How long does a refund take after the parcel has come back to you?"
AMPLE = {
    name: {"value": value}
    for name, value in {"requests": 10**9, "tokens": 10**12, "concurrency": 10**6, "fleet_workers": 1}.items()
}
VERSION = {
    "digest": "0" * 64,
    "messages": [
        {"role": "system", "content": "You help customers of {{company}}. Answer briefly and kindly."},
        {"role": "user", "content": "{{question}}"},
    ],
    "variables_schema": {
        "type": "object",
        "properties": {"company": {"type": "string"}, "question": {"type": "string"}},
        "required": ["company", "question"],
    },
    "parameters": {"temperature": 0.2, "max_tokens": 300},
}


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def release_document(base_url: str) -> dict[str, Any]:
    """A release before it is signed: one route with three lanes on two wires, under the breaker, retry and quota
    policies and the limits of the demo. The first lane answers; the others are there to be considered. What the account
    is admitted is more than a core can ask for.
    """
    demo = yaml.safe_load(DEMO.read_text())["routing"]
    lane = {
        "provider": "openai",
        "region": "eu-west",
        "account": "main",
        "model": "gpt-4o",
        "upstream_model": "gpt-4o-instant",
        "residency": "eu",
        "capabilities": ["chat", "stream", "tools", "json_schema"],
        "context_tokens": 128_000,
        "max_output_tokens": 16_384,
        "input_micros_per_million_tokens": 2_500_000,
        "output_micros_per_million_tokens": 10_000_000,
        "connect_timeout_seconds": 2,
        "first_byte_timeout_seconds": 10,
        "idle_timeout_seconds": 10,
        "breaker": "hosted-chat",
        "quota": "shared",
    }
    lanes = {
        "openai/eu-west/main/gpt-4o": lane,
        "openai/eu-north/main/gpt-4o": lane | {"region": "eu-north"},
        "anthropic/eu-west/other/claude": lane | {"provider": "anthropic", "account": "other", "model": "claude"},
    }
    limits = ("first_token_seconds", "whole_answer_seconds", "held_tokens", "latency_open_share", "retry")
    route = {"lanes": list(lanes), "deadline_ms": 30_000}
    route |= undated({name: demo["routes"]["chat"][name] for name in limits})
    account = {"base_url": base_url, "secret": "env:UP_KEY", "api_version": None}
    tenant = {"tier": "vip", "residency": ["eu"], "region": "eu-west", "internal": False, "log_content": False}
    stage = {"stage": "half", "audience": "all", "tenants": [], "regions": [], "weight": 5000}
    canary = {"prompt": "support", "control": 1, "candidate": 2, "unit": "user", "salt": "s", "not_after": None}
    return {
        "schema": 1,
        "revision": 1,
        "cut_at": "2026-01-01T00:00:00Z",
        "reason": "benchmark",
        "audit_head": {"seq": 1, "hash": "ab" * 32},
        "sections": {
            "access": {
                "tenants": {"bench": tenant},
                "keys": {hashlib.sha256(KEY.encode()).hexdigest(): {"tenant": "bench", "id": "k1"}},
            },
            "prompts": {
                "support": {"live": 1, "route": "chat", "pinnable": [1], "versions": {"1": VERSION, "2": VERSION}}
            },
            "canaries": {"support-2": canary | {"reach": [stage]}},
            "routing": {
                "providers": {"openai": {"wire": "openai"}, "anthropic": {"wire": "anthropic"}},
                "accounts": {
                    "main": account | {"provider": "openai"},
                    "other": account | {"provider": "anthropic"},
                },
                "lanes": lanes,
                "routes": {"chat": route},
                "breakers": {"hosted-chat": undated(demo["breakers"]["hosted-chat"])},
                "retries": {"patient": undated(demo["retries"]["patient"])},
                "quotas": {"shared": undated(demo["quotas"]["shared"] | AMPLE)},
            },
        },
    }


def write_release(directory: Path, base_url: str) -> None:
    """Write the release, signed, and the key that verifies it."""
    key = Ed25519PrivateKey.generate()
    write_keys(directory, key)
    (directory / "release.json").write_text(sign(release_document(base_url), key).to_json())


def write_keys(directory: Path, key: Ed25519PrivateKey) -> None:
    """Write the key that verifies what `key` signs."""
    (directory / "keys").mkdir()
    public = key.public_key()
    raw = base64.b64encode(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
    (directory / "keys" / "trusted-keys.json").write_text(json.dumps({key_id_of(public): raw}))


def undated(policy: dict[str, Any]) -> dict[str, Any]:
    """A policy of the demo with its numbers but not their provenance, whose days are counted from today."""
    return {name: one | {"provenance": PROVENANCE} if isinstance(one, dict) else one for name, one in policy.items()}


def start(command: list[str], *, cores: set[int], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Start a process, pinned to `cores`; its output goes to `log`."""
    with log.open("wb") as output:
        return subprocess.Popen(  # noqa: S603  # modules of ours
            [sys.executable, "-m", *command],
            env=os.environ | environment,
            stdout=output,
            stderr=output,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )


def wait_for(url: str, *, seconds: float = 20.0) -> None:
    """Wait until `url` answers with success, or stop with a clear word."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=1):  # noqa: S310  # loopback, our own gateway
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise SystemExit(f"{url} did not become ready within {seconds:.0f} s")


@dataclass
class Subject:
    """What is measured: where it answers, what it is asked, and the process whose time is counted (None: nobody's)."""

    name: str
    url: str
    request: bytes
    process: psutil.Process | None = None
    full: list[Result] = field(default_factory=list)
    paced: list[Result] = field(default_factory=list)
    micros: list[float] = field(default_factory=list)

    async def saturate(self, *, seconds: float, connections: int) -> None:
        """Ask as much as it can answer, and note its processor time per request, in microseconds."""
        before = self._processor_seconds()
        full = await saturate(self.url, self.request, connections=connections, seconds=seconds)
        answered = full.rate * (full.warm_up_seconds + full.seconds)
        self.micros.append((self._processor_seconds() - before) / answered * 1e6 if answered else 0.0)
        self.full.append(full)

    async def pace(self, *, seconds: float, connections: int, rate: float) -> None:
        """Ask so many times a second."""
        self.paced.append(await pace(self.url, self.request, rate=rate, seconds=seconds, connections=connections))

    def _processor_seconds(self) -> float:
        if self.process is None:
            return 0.0
        times = self.process.cpu_times()
        return float(times.user + times.system)

    @property
    def row(self) -> tuple[str, ...]:
        """Medians over the rounds: rate, core's worth, processor time, quantiles full and paced; and all failures."""
        micros = statistics.median(self.micros)
        return (
            self.name,
            f"{statistics.median(one.rate for one in self.full):,.0f}",
            f"{1e6 / micros:,.0f}" if micros else "",
            f"{micros:.0f}" if micros else "",
            *(
                f"{statistics.median(one.quantile(q) for one in results):.2f}"
                for results in (self.full, self.paced)
                for q in (0.5, 0.99)
            ),
            str(sum(one.failures for one in (*self.full, *self.paced))),
        )


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", choices=["canned", "simulator"], default="canned")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rate", type=float, default=500.0, help="requests per second for the latency part")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--managed", action="store_true", help="ask for a managed prompt under a running canary")
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("two cores are needed: one for what is measured, one for everything else")
    mine, others = {cores[0]}, set(cores[1:])
    os.sched_setaffinity(0, others)
    machine = describe_machine()
    processes: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        upstream_port, relay_port, gateway_port = free_port(), free_port(), free_port()
        path = "/v1" if arguments.upstream == "canned" else "/openai/v1"
        base_url = f"http://127.0.0.1:{upstream_port}{path}"
        upstream_url, relay_url = f"{base_url}/chat/completions", f"http://127.0.0.1:{relay_port}/"
        upstream = {
            "canned": ["benchmarks.canned_upstream", str(upstream_port)],
            "simulator": ["dataplane", "simulator"],
        }
        write_release(directory, base_url)

        def launch(command: list[str], *, on: set[int], **environment: str) -> subprocess.Popen[bytes]:
            log = directory / f"{len(processes)}.log"
            processes.append(start(command, cores=on, log=log, **environment))
            return processes[-1]

        try:
            launch(upstream[arguments.upstream], on=others, BALLAST_SIMULATOR_PORT=str(upstream_port))
            relay = launch(["benchmarks.bare_relay", str(relay_port), upstream_url], on=mine)
            supervisor = launch(
                ["dataplane", "serve"],
                on=mine,
                BALLAST_GATEWAY_PORT=str(gateway_port),
                BALLAST_GATEWAY_PROCESSES="1",
                BALLAST_DATA_DIR=name,
                UP_KEY="sk-benchmark",
                REDIS_URL="",
            )
            wait_for(f"http://127.0.0.1:{gateway_port}/readyz")
            wait_for(relay_url)
            gateway_url = f"http://127.0.0.1:{gateway_port}/v1/chat/completions"
            direct, asked = bodies(arguments)
            to_upstream = {"authorization": "Bearer sk-benchmark"}
            to_gateway = {"authorization": f"Bearer {KEY}", "ballast-user": "ada"}
            gateway = psutil.Process(supervisor.pid).children()[0]
            subjects = [
                Subject("direct", upstream_url, request_bytes(upstream_url, direct, to_upstream)),
                Subject("relay", relay_url, request_bytes(relay_url, direct, {}), psutil.Process(relay.pid)),
                Subject("gateway", gateway_url, request_bytes(gateway_url, asked, to_gateway), gateway),
            ]
            uvloop.run(_rounds(arguments, subjects))
            print(_report(arguments, machine, subjects))
        except SystemExit:
            for log in sorted(directory.glob("*.log")):
                print(log.read_text(errors="replace")[-2000:], file=sys.stderr)
            raise
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                process.wait(timeout=30)


def bodies(arguments: argparse.Namespace) -> tuple[bytes, bytes]:
    """What the upstream is asked directly, and what the gateway is asked."""
    fields: dict[str, Any] = {"model": "gpt-4o-instant", "messages": [{"role": "user", "content": QUESTION}]}
    fields |= {"stream": True} if arguments.stream else {}
    asked = fields | {"model": "chat"}
    if arguments.managed:
        asked = {"prompt": {"id": "support", "variables": {"company": "Globex", "question": QUESTION}}}
        asked |= {"stream": True} if arguments.stream else {}
    direct, through = (json.dumps(one, separators=(",", ":")).encode() for one in (fields, asked))
    return direct, through


async def _rounds(arguments: argparse.Namespace, subjects: list[Subject]) -> None:
    for _ in range(arguments.rounds):
        # Side by side, since what is divided by one another should be seconds apart at most.
        for subject in subjects:
            await subject.saturate(seconds=arguments.seconds, connections=arguments.connections)
        for subject in subjects:
            await subject.pace(seconds=arguments.seconds, connections=arguments.connections, rate=arguments.rate)


def _report(arguments: argparse.Namespace, machine: str, subjects: list[Subject]) -> str:
    direct, relay, gateway = subjects
    kind = ("streamed" if arguments.stream else "plain") + (
        ", managed prompt under a canary" if arguments.managed else ""
    )
    at_rate = f"at {arguments.rate:.0f}/s"
    heading = ("", "req/s", "a core's worth", "CPU us", "p50 ms", "p99 ms", f"p50 ms {at_rate}", "p99 ms", "failed")
    added = [
        statistics.median(a.quantile(q) - b.quantile(q) for a, b in zip(gateway.paced, direct.paced, strict=True))
        for q in (0.5, 0.99)
    ]
    shares = [a / b for a, b in zip(gateway.micros, relay.micros, strict=True)]
    return "\n".join(
        [
            f"machine: {machine}",
            f"upstream: {arguments.upstream}; {kind}; {arguments.connections} connections; "
            f"medians of {arguments.rounds} rounds of {arguments.seconds:g} s",
            "",
            table([heading, *(subject.row for subject in subjects)]),
            "",
            f"gateway added {at_rate}: p50 {added[0]:.3f} ms, p99 {added[1]:.3f} ms",
            f"gateway beside relay, processor time per request: {statistics.median(shares):.2f} times "
            f"({min(shares):.2f} to {max(shares):.2f}); the aim is 10,000 req/s on a core",
        ]
    )


if __name__ == "__main__":
    main()
