"""What a flood of bad keys costs a gateway, and callers with good keys behind the same address.

    python -m benchmarks.bad_keys [--seconds 5] [--rate 200] [--flood 16]

One gateway process (`python -m dataplane serve`) on one core, as in `gateway_overhead`. Good callers ask at a steady
rate, at first alone, then while a flooder on the other core asks with a bad key as fast as it is answered, from the
same address: by connections that are kept, as long as the gateway keeps them. Printed are the good callers' latencies
in both, and the gateway's processor time for a refused request beside that for a good one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil
import uvloop

from benchmarks.load import Result, describe_machine, pace, request_bytes, table
from benchmarks.served_release import KEY, QUESTION, release_document, write_release
from benchmarks.serving import Processes
from dataplane.native import Native
from launcher.ports import pick_free

BODY = json.dumps({"model": "chat", "messages": [{"role": "user", "content": QUESTION}]}).encode()
BAD = {"authorization": "Bearer bk-nobody"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=200.0, help="good requests a second")
    parser.add_argument("--flood", type=int, default=16, help="connections of the flooder")
    parser.add_argument("--flooder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.flooder:
        uvloop.run(_flood(arguments.flooder, arguments.flood))
        return
    cores = sorted(os.sched_getaffinity(0))
    mine, others = {cores[0]}, set(cores[1:]) or {cores[0]}
    with tempfile.TemporaryDirectory() as name:
        directory, upstream = Path(name), pick_free()
        write_release(directory, release_document(f"http://127.0.0.1:{upstream}/v1"))
        processes = Processes(directory)
        try:
            processes.launch(["benchmarks.canned_upstream", str(upstream)], on=others)
            url, gateway = processes.launch_gateway(directory, on=mine, redis_url="", native=Native.AUTO)
            good = request_bytes(url, BODY, {"authorization": f"Bearer {KEY}"})
            os.sched_setaffinity(0, others)

            alone, alone_cpu, _ = _measure(gateway, url, good, arguments)
            processes.launch(["benchmarks.bad_keys", "--flooder", url, "--flood", str(arguments.flood)], on=others)
            time.sleep(1)
            flooded, flooded_cpu, refused = _measure(gateway, url, good, arguments)
        finally:
            processes.stop()
    served = len(alone.latencies_ms)
    rows: list[tuple[str, ...]] = [("good callers", "answered", "failed", "p50 ms", "p99 ms")]
    for label, one in (("alone", alone), ("flooded", flooded)):
        counts = (str(len(one.latencies_ms)), str(one.failures))
        rows.append((label, *counts, f"{one.quantile(0.5):.2f}", f"{one.quantile(0.99):.2f}"))
    print(describe_machine())
    print(table(rows))
    per_refused = (flooded_cpu - alone_cpu) / max(refused, 1) * 1e6
    print(f"{refused / arguments.seconds:,.0f} bad keys a second refused, {per_refused:.0f} µs of processor time each;")
    print(f"a good request takes {alone_cpu / max(served, 1) * 1e6:.0f} µs")


def _measure(
    gateway: psutil.Process, url: str, good: bytes, arguments: argparse.Namespace
) -> tuple[Result, float, int]:
    """What good callers saw, the gateway's processor seconds, and how many bad keys it refused meanwhile."""
    cpu, refused = _processor_seconds(gateway), _refused(url)
    result = uvloop.run(pace(url, good, rate=arguments.rate, seconds=arguments.seconds, connections=32))
    return result, _processor_seconds(gateway) - cpu, _refused(url) - refused


def _processor_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _refused(url: str) -> int:
    """How many requests the gateway has counted as refused for their key."""
    with urllib.request.urlopen(url.replace("/v1/chat/completions", "/metrics")) as answer:  # noqa: S310 - loopback, ours
        lines = answer.read().decode().splitlines()
    wanted = ('"unauthorized"', '"too_many_bad_keys"')
    found = (
        line
        for line in lines
        if line.startswith("ballast_gateway_requests_total") and any(one in line for one in wanted)
    )
    return sum(int(float(line.rpartition(" ")[2])) for line in found)


async def _flood(url: str, connections: int) -> None:
    """Ask with a bad key over and over, anew where the connection was closed, until ended."""
    host, _, port = url.split("/")[2].partition(":")
    request = request_bytes(url, BODY, BAD)

    async def ask_on() -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection(host, int(port))
                while True:
                    writer.write(request)
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                    await reader.readexactly(length)
                    if b"connection: close" in head.lower():
                        break
                writer.close()
            except (OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(ask_on())


if __name__ == "__main__":
    sys.exit(main())
