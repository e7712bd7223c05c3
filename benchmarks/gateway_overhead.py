"""What the gateway costs: throughput on one core, and added latency against direct calls to the same upstream.

    python -m benchmarks.gateway_overhead [--upstream canned|simulator] [--seconds 8] [--stream] [--managed]

The gateway is the real one (`python -m dataplane serve`, one process) with a signed release, alone on one core; load
generator and upstream share another. Where they cannot keep it busy, the throughput that one core would give is
reckoned from the processor time per request, and the table says so.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from benchmarks.load import Result, describe_machine, pace, request_bytes, saturate, table
from dataplane.release import key_id_of, sign

KEY = "bk-benchmark"
QUESTION = "How long does a refund take after the parcel has come back to you?"
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


def write_release(directory: Path, base_url: str) -> None:
    """Write a signed release with one lane, and the key that verifies it."""
    key = Ed25519PrivateKey.generate()
    lane = {
        "provider": "openai",
        "region": "eu-west",
        "account": "main",
        "model": "gpt-4o",
        "upstream_model": "gpt-4o-instant",
        "residency": "eu",
        "capabilities": ["chat", "stream", "tools", "json_schema"],
        "input_micros_per_million_tokens": 2_500_000,
        "output_micros_per_million_tokens": 10_000_000,
        "connect_timeout_seconds": 2,
        "first_byte_timeout_seconds": 10,
        "idle_timeout_seconds": 10,
    }
    tenant = {"tier": "vip", "residency": ["eu"], "region": "eu-west", "internal": False, "log_content": False}
    stage = {"stage": "half", "audience": "all", "tenants": [], "regions": [], "weight": 5000}
    canary = {"prompt": "support", "control": 1, "candidate": 2, "unit": "user", "salt": "s", "not_after": None}
    document = {
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
                "providers": {"openai": {"wire": "openai"}},
                "accounts": {
                    "main": {"provider": "openai", "base_url": base_url, "secret": "env:UP_KEY", "api_version": None}
                },
                "lanes": {"openai/eu-west/main/gpt-4o": lane},
                "routes": {"chat": {"lanes": ["openai/eu-west/main/gpt-4o"], "deadline_ms": 30_000}},
            },
        },
    }
    (directory / "keys").mkdir()
    (directory / "release.json").write_text(sign(document, key).to_json())
    public = key.public_key()
    raw = base64.b64encode(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
    (directory / "keys" / "trusted-keys.json").write_text(json.dumps({key_id_of(public): raw}))


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


def processor_seconds(process: psutil.Process) -> float:
    """Processor time of a process so far, in seconds; several gateways would be several children."""
    times = process.cpu_times()
    return float(times.user + times.system)


async def measure(
    url: str, request: bytes, *, seconds: float, connections: int, rate: float, process: psutil.Process | None
) -> tuple[Result, Result, float, float]:
    """Saturate, then pace. Also the gateway's share of its core while saturated, and its microseconds per request."""
    before = 0.0 if process is None else processor_seconds(process)
    started = time.monotonic()
    full = await saturate(url, request, connections=connections, seconds=seconds)
    elapsed = time.monotonic() - started
    used = 0.0 if process is None else processor_seconds(process) - before
    paced = await pace(url, request, rate=rate, seconds=seconds, connections=connections)
    return full, paced, used / elapsed, used / elapsed / full.rate * 1e6 if full.rate else 0.0


def main() -> None:
    """Run both measurements and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", choices=["canned", "simulator"], default="canned")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rate", type=float, default=500.0, help="requests per second for the latency part")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--managed", action="store_true", help="ask for a managed prompt under a running canary")
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("two cores are needed: one for the gateway, one for everything else")
    gateway_core, other_cores = {cores[0]}, set(cores[1:])
    os.sched_setaffinity(0, other_cores)
    machine = describe_machine()
    processes: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        upstream_port, gateway_port = free_port(), free_port()
        try:
            if arguments.upstream == "canned":
                command = ["benchmarks.canned_upstream", str(upstream_port)]
                base_url = f"http://127.0.0.1:{upstream_port}/v1"
            else:
                command = ["dataplane", "simulator"]
                base_url = f"http://127.0.0.1:{upstream_port}/openai/v1"
            write_release(directory, base_url)
            processes.append(
                start(
                    command,
                    cores=other_cores,
                    log=directory / "upstream.log",
                    BALLAST_SIMULATOR_PORT=str(upstream_port),
                )
            )
            processes.append(
                start(
                    ["dataplane", "serve"],
                    cores=gateway_core,
                    log=directory / "gateway.log",
                    BALLAST_GATEWAY_PORT=str(gateway_port),
                    BALLAST_GATEWAY_PROCESSES="1",
                    BALLAST_DATA_DIR=name,
                    UP_KEY="sk-benchmark",
                    REDIS_URL="",
                )
            )
            wait_for(f"http://127.0.0.1:{gateway_port}/readyz")
            gateway = psutil.Process(processes[1].pid).children()[0]
            print(uvloop.run(_compare(arguments, machine, base_url, gateway_port, gateway)))
        except SystemExit:
            print((directory / "gateway.log").read_text(errors="replace")[-2000:], file=sys.stderr)
            raise
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                process.wait(timeout=30)


async def _compare(
    arguments: argparse.Namespace, machine: str, base_url: str, gateway_port: int, gateway: psutil.Process
) -> str:
    fields: dict[str, Any] = {"model": "gpt-4o-instant", "messages": [{"role": "user", "content": QUESTION}]}
    if arguments.stream:
        fields["stream"] = True
    asked: dict[str, Any] = fields | {"model": "chat"}
    if arguments.managed:
        asked = {"prompt": {"id": "support", "variables": {"company": "Globex", "question": QUESTION}}}
        asked |= {"stream": True} if arguments.stream else {}
    direct_url = f"{base_url}/chat/completions"
    gateway_url = f"http://127.0.0.1:{gateway_port}/v1/chat/completions"
    compact = {"separators": (",", ":")}
    direct = request_bytes(direct_url, json.dumps(fields, **compact).encode(), {"authorization": "Bearer sk-benchmark"})
    through = request_bytes(
        gateway_url, json.dumps(asked, **compact).encode(), {"authorization": f"Bearer {KEY}", "ballast-user": "ada"}
    )
    options = {"seconds": arguments.seconds, "connections": arguments.connections, "rate": arguments.rate}
    full_d, paced_d, _, _ = await measure(direct_url, direct, process=None, **options)
    full_g, paced_g, busy, micros = await measure(gateway_url, through, process=gateway, **options)
    kind = ("streamed" if arguments.stream else "plain") + (
        ", managed prompt under a canary" if arguments.managed else ""
    )
    rows = [
        ("", "req/s", "p50 ms", "p99 ms", f"p50 ms at {arguments.rate:.0f}/s", "p99 ms", "failed"),
        *(
            (
                label,
                f"{full.rate:,.0f}",
                f"{full.quantile(0.5):.2f}",
                f"{full.quantile(0.99):.2f}",
                f"{paced.quantile(0.5):.3f}",
                f"{paced.quantile(0.99):.3f}",
                str(full.failures + paced.failures),
            )
            for label, full, paced in (("direct", full_d, paced_d), ("gateway", full_g, paced_g))
        ),
    ]
    added_50 = paced_g.quantile(0.5) - paced_d.quantile(0.5)
    added_99 = paced_g.quantile(0.99) - paced_d.quantile(0.99)
    return "\n".join(
        [
            f"machine: {machine}",
            f"upstream: {arguments.upstream}; {kind}; {arguments.connections} connections; gateway alone on one core",
            "",
            table(rows),
            "",
            f"added at {arguments.rate:.0f}/s: p50 {added_50:.3f} ms, p99 {added_99:.3f} ms",
            f"gateway: {busy:.0%} of its core, {micros:.0f} us of processor per request = "
            f"{1e6 / micros if micros else 0:,.0f} req/s on a full core (aim: 10,000)",
        ]
    )


if __name__ == "__main__":
    main()
