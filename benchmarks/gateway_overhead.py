"""What the gateway costs: throughput on one core, and added latency, beside other gateways, and a relay without policy.

    python -m benchmarks.gateway_overhead [--peers ferrogw portkey litellm] [--stream] [--managed] [--rounds 12]

The gateway is the real one (`python -m dataplane serve`, one process, with Redis), once with all policies of the demo
(breaker, retries, quota, limits, validators, ladder) and once with none. The relay (`benchmarks/bare_relay.py`) is the
same server and the same client with nothing in between: the limit of what this stack can give. Peers are installed from
their registries (`benchmarks/peers.py`). Each has one core to itself in turn, round by round, since shared machines
change their speed by the minute; load generator and upstream have the other. Where these cannot keep a core busy, the
throughput that it would give is reckoned from the processor time per request.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import uvloop

from benchmarks.load import describe_machine, request_bytes, table
from benchmarks.peers import PEERS
from benchmarks.served_release import KEY, QUESTION, bodies, release_document, write_release
from benchmarks.serving import Processes, Subject, added_ms, shares, wait_for
from dataplane.native import Native
from launcher.ports import pick_free

AIM = 1.5  # times the rate of ferrogw, with all policies
HEADING = ("", "req/s", "a core's worth", "CPU us", "p50 ms", "p99 ms", "p50 ms paced", "p99 ms paced", "failed")


class Bench:
    """What is measured in one run, and what it needs."""

    def __init__(self, arguments: argparse.Namespace, directory: Path) -> None:
        self._arguments = arguments
        self._directory = directory
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise SystemExit("two cores are needed: one for what is measured, one for everything else")
        self._measured, self._others = {cores[0]}, set(cores[1:])
        os.sched_setaffinity(0, self._others)
        self._processes = Processes(directory)
        self._direct, self._asked = bodies(stream=arguments.stream, managed=arguments.managed)
        self._base_url = ""
        self._redis_url = ""

    def start(self) -> list[Subject]:
        """Start everything, and return the subjects: direct calls, relay, gateway with and without policies, peers."""
        if self._arguments.awake:
            for core in self._measured | self._others:
                self._processes.launch(["benchmarks.awake"], on={core})
        port = pick_free()
        path = "/v1" if self._arguments.upstream == "canned" else "/openai/v1"
        self._base_url = f"http://127.0.0.1:{port}{path}"
        upstream = {
            "canned": ["benchmarks.canned_upstream", str(port)],
            "simulator": ["dataplane", "simulator"],
        }[self._arguments.upstream]
        self._processes.launch(upstream, on=self._others, BALLAST_SIMULATOR_PORT=str(port))
        self._redis_url = self._processes.launch_redis(on=self._others)
        url = f"{self._base_url}/chat/completions"
        to_upstream = request_bytes(url, self._direct, {"authorization": "Bearer sk-benchmark"})
        return [
            Subject("direct", url, to_upstream),
            self._relay(url),
            self._gateway("gateway, all policies", has_policies=True),
            self._gateway("gateway, no policies", has_policies=False),
            *(self._peer(name) for name in self._arguments.peers),
        ]

    def stop(self) -> None:
        """Stop everything."""
        self._processes.stop()

    def tell(self) -> None:
        """Print what was logged."""
        self._processes.tell()

    def _relay(self, upstream: str) -> Subject:
        port = pick_free()
        process = self._processes.launch(["benchmarks.bare_relay", str(port), upstream], on=self._measured)
        url = f"http://127.0.0.1:{port}/"
        wait_for(url)
        return Subject("relay", url, request_bytes(url, self._direct, {}), process)

    def _gateway(self, name: str, *, has_policies: bool) -> Subject:
        home = self._directory / name.replace(" ", "-")
        home.mkdir()
        write_release(home, release_document(self._base_url, has_policies=has_policies))
        url, process = self._processes.launch_gateway(
            home, on=self._measured, redis_url=self._redis_url, native=self._arguments.native
        )
        headers = {"authorization": f"Bearer {KEY}", "ballast-user": "ada"}
        return Subject(name, url, request_bytes(url, self._asked, headers), process)

    def _peer(self, name: str) -> Subject:
        peer = PEERS[name]
        running = peer.run(peer.directory(), pick_free(), self._base_url)
        process = self._processes.launch(running.command, on=self._measured, program=(), **running.environment)
        wait_for(running.ready_url, seconds=120)
        fields = b'{"model":"%b","messages":[{"role":"user","content":"%b"}]' % (
            running.model.encode(),
            QUESTION.encode(),
        )
        body = fields + (b',"stream":true}' if self._arguments.stream else b"}")
        request = request_bytes(running.url, body, running.headers)
        return Subject(f"{peer.name} {peer.version}", running.url, request, process)


async def measure(arguments: argparse.Namespace, subjects: list[Subject]) -> None:
    """Ask all of them, round by round: side by side, since what is divided by one another should be seconds apart."""
    for _ in range(arguments.rounds):
        for subject in subjects:
            await subject.saturate(seconds=arguments.seconds, connections=arguments.connections)
        for subject in subjects:
            await subject.pace(seconds=arguments.seconds, connections=arguments.connections, rate=arguments.rate)


def report(arguments: argparse.Namespace, machine: str, subjects: list[Subject]) -> str:
    """The table, and what the gateway is beside the others."""
    direct, relay, full, bare, *peers = subjects
    kind = ("streamed" if arguments.stream else "plain") + (
        ", managed prompt under a canary" if arguments.managed else ""
    )
    lines = [
        f"machine: {machine}",
        f"upstream: {arguments.upstream}; {kind}; {arguments.connections} connections; hot path: {arguments.native}; "
        f"cores {'never halt' if arguments.awake else 'halt when idle'}; "
        f"medians of {arguments.rounds} rounds of {arguments.seconds:g} s; paced: {arguments.rate:.0f} a second",
        "",
        table([HEADING, *(subject.row for subject in subjects)]),
        "",
    ]
    for one in (full, bare):
        added = ", ".join(f"p{q * 100:.0f} {added_ms(one, direct, q):.3f} ms" for q in (0.5, 0.99))
        lines.append(f"{one.name}: adds {added} to direct calls")
    for other in (relay, bare, *peers):
        beside = shares(full, other)
        lines.append(
            f"gateway with all policies beside {other.name}: {1 / statistics.median(beside):.2f} times its rate on a "
            f"core ({1 / max(beside):.2f} to {1 / min(beside):.2f})"
        )
    lines.append(f"the aim is {AIM:g} times the rate of ferrogw, and a p99 of less than 1 ms added")
    return "\n".join(lines)


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="*", choices=[*PEERS], default=[], help="gateways to measure beside ours")
    parser.add_argument("--native", type=Native, choices=[*Native], default=Native.AUTO, help="see BALLAST_NATIVE")
    parser.add_argument("--upstream", choices=["canned", "simulator"], default="canned")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rate", type=float, default=500.0, help="requests per second for the latency part")
    parser.add_argument("--awake", action="store_true", help="let no core halt: see benchmarks/awake.py")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--managed", action="store_true", help="ask for a managed prompt under a running canary")
    return parser.parse_args()


def main() -> None:
    """Run the rounds and print the table."""
    arguments = read_arguments()
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(arguments, Path(name))
        try:
            subjects = bench.start()
            uvloop.run(measure(arguments, subjects))
            print(report(arguments, machine, subjects))
        except SystemExit:
            bench.tell()
            raise
        finally:
            bench.stop()


if __name__ == "__main__":
    main()
