"""What a shadow does to those who are served: nothing, measured and counted.

    python -m benchmarks.shadow [--rounds 12] [--seconds 1.5] [--rate 100] [--requests 10000]

Everything is real and runs on this one machine: two gateway processes, one without a shadow and one with a shadow of
100 %, the shadow process, Redis, PostgreSQL, and two providers: one that answers control, and one that answers shadows.

Cases: while the shadow's provider is healthy, hangs, resets connections, says 429 or sends 10 MB, both gateways are
asked by turns at the same pace, first the one, then the other, then the other way round. What is printed is each one's
median and p99 of all rounds, and the mean of the differences within rounds with its 95 % interval. Both gateways share
one core, everything else the other. The shadow's provider, which would be elsewhere, runs at the lowest priority. Then
so many answers of both are compared byte by byte, headers too, but for those that carry ids, and the date.

Side effects: so many requests, a quarter each plain, of a tenant that is pinned to the EU, streamed, and under an
idempotency key, at the gateway with the shadow, whose first candidate is in the US. What callers' requests left behind
is counted, and what should not be there.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psycopg
import redis
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.load import Result, describe_machine, pace, request_bytes, table
from benchmarks.served_release import PROVENANCE, release_document, write_keys
from benchmarks.serving import start, wait_for
from benchmarks.shadow_upstream import MARK, MODES
from dataplane.providers.base import UpstreamCall
from dataplane.release import sign
from dataplane.report_sinks import STREAM
from dataplane.timers import TimerWheel
from dataplane.transport import Http1Transport, Limits
from launcher.ports import pick_free
from tests.end_to_end.stack import Stack, make_data_dir

FREE_KEY, EU_KEY = "bk-free", "bk-eu"
PATIENT = Limits(connect_seconds=10, first_byte_seconds=60, idle_seconds=60)
QUESTION = "How long does a refund take after the parcel has come back to you?"
NOT_COMPARED = frozenset({"ballast-request-id", "ballast-resume-cursor", "ballast-stream-id", "date"})
COMPARED = 200
CALLERS = 8
# Student's t for a 95 % interval, by how many rounds there are.
STUDENT = {4: 3.18, 6: 2.57, 8: 2.36, 10: 2.26, 12: 2.20, 16: 2.13, 20: 2.09}


def number(value: float) -> dict[str, Any]:
    """A number as a release carries it."""
    return {"value": value, "provenance": PROVENANCE}


def shadow_policy(*, in_flight: int, queue: int) -> dict[str, Any]:
    """A policy that asks all there is, and is not killed or spent within a run."""
    return {
        "lanes": ["us/candidate", "eu/candidate"],
        "percent": number(100),
        "noise_lanes": [],
        "noise_percent": number(0),
        "budget": {"calls": number(10**9), "tokens": number(10**12), "cost_micros": number(10**12)},
        "kill": {"failure_rate": number(1), "minimum_calls": number(10_000), "cost_ratio": number(1000)},
        "max_in_flight": number(in_flight),
        "queue": number(queue),
        "deadline_ms": number(5000),
    }


def document(revision: int, *, control: str, shadow: str, policy: tuple[str, dict[str, Any]] | None) -> dict[str, Any]:
    """The release of `served_release.py` with two tenants, kept streams, and a shadow where there is a policy."""
    made = release_document(f"{control}/control/v1") | {"revision": revision}
    sections = made["sections"]
    tenant = sections["access"]["tenants"]["bench"]
    sections["access"] = {
        "tenants": {"free": tenant | {"residency": []}, "eu": tenant},
        "keys": {
            hashlib.sha256(key.encode()).hexdigest(): {"tenant": slug, "id": slug}
            for key, slug in ((FREE_KEY, "free"), (EU_KEY, "eu"))
        },
    }
    routing = sections["routing"]
    kept = {"retention_seconds": number(600), "abandon_seconds": number(30), "continuations": number(0)}
    routing["streams"] = {"kept": kept | {"on_cut": "end", "transcript": "digest", "refund": "undelivered"}}
    routing["routes"]["chat"]["streams"] = "kept"
    if policy is not None:
        lane = next(iter(routing["lanes"].values()))
        plain = {name: value for name, value in lane.items() if name not in ("breaker", "quota")}
        for place in ("us", "eu"):
            account = routing["accounts"]["main"] | {"base_url": f"{shadow}/{place}/v1", "secret": "env:TRIAL_KEY"}
            routing["accounts"][f"trial-{place}"] = account
            routing["lanes"][f"{place}/candidate"] = plain | {
                "account": f"trial-{place}",
                "model": "candidate",
                "residency": place,
            }
        slug, content = policy
        routing["shadows"] = {slug: content}
        routing["routes"]["chat"]["shadow"] = slug
    return made


# --- the machinery ----------------------------------------------------------------------------------------------------
@dataclass
class Gateway:
    """One gateway, where its releases are written, and what it was measured at."""

    name: str
    directory: Path
    port: int
    results: list[Result] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where it is asked."""
        return f"http://127.0.0.1:{self.port}/v1/chat/completions"


class Bench:
    """All processes of a run. `control` and `shadow` are where the two providers are."""

    def __init__(self, directory: Path, stack: Stack) -> None:
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise SystemExit("two cores are needed: one for the gateways, one for everything else")
        self._mine, self._others = {cores[0]}, set(cores[1:])
        os.sched_setaffinity(0, self._others)
        self._directory = directory
        self._stack = stack
        self._key = Ed25519PrivateKey.generate()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._revision = 0
        control, shadow = pick_free(), pick_free()
        self.control, self.shadow = (f"http://127.0.0.1:{port}" for port in (control, shadow))
        self._launch(["benchmarks.shadow_upstream", str(control)], on=self._others)
        self._launch(["benchmarks.shadow_upstream", str(shadow), "--give-way"], on=self._others)
        self.plain, self.shadowed = (self._gateway(name) for name in ("without", "with"))
        self.publish(("none", shadow_policy(in_flight=1, queue=1)))
        told = self._environment(self.shadowed)
        self._launch(["dataplane", "shadow"], on=self._others, **told)
        for gateway in (self.plain, self.shadowed):
            variables = self._environment(gateway) | {"BALLAST_GATEWAY_PORT": str(gateway.port)}
            self._launch(["dataplane", "serve"], on=self._mine, BALLAST_GATEWAY_PROCESSES="1", **variables)
        for gateway in (self.plain, self.shadowed):
            wait_for(f"http://127.0.0.1:{gateway.port}/readyz", seconds=60)
        self._wait_for_connection()

    def publish(self, policy: tuple[str, dict[str, Any]]) -> None:
        """Let both gateways serve another release, the one with the shadow and the other without, and wait for it."""
        self._revision += 1
        for gateway, given in ((self.plain, None), (self.shadowed, policy)):
            content = document(self._revision, control=self.control, shadow=self.shadow, policy=given)
            written = gateway.directory / "release.new"
            written.write_text(sign(content, self._key).to_json())
            written.rename(gateway.directory / "release.json")
        if self._revision > 1:
            time.sleep(1.0)  # they look fifty times a second

    def set_mode(self, mode: str) -> None:
        """Have the shadow's provider answer otherwise."""
        _fetch(f"{self.shadow}/admin/{mode}")

    def counts(self) -> dict[str, dict[str, int]]:
        """What the providers were asked: control's of the one, the others' of the other."""
        shadow = _fetch(f"{self.shadow}/admin")
        return {"control": _fetch(f"{self.control}/admin")["control"], "eu": shadow["eu"], "us": shadow["us"]}

    def usage(self) -> tuple[Counter[str], int, dict[str, int]]:
        """What was reported so far: usage rows by kind, rows of streams, and how many requests were asked again, or
        not, by reason; and forget it.
        """
        kinds: Counter[str] = Counter()
        shadows: Counter[str] = Counter()
        latest: dict[tuple[Any, ...], dict[str, Any]] = {}
        streams = 0
        with redis.Redis.from_url(self._stack.redis.url()) as client:
            for _, entry in client.xrange(STREAM):
                batch = orjson.loads(entry[b"batch"])
                kinds.update(row["kind"] for row in batch["usage"])
                streams += len(batch["streams"])
                for row in batch["shadow"]:
                    key = (batch["worker"], batch["boot"], row["bucket"], row["policy"], row["arm"], row["lane"])
                    latest[key] = row  # each replaces what was told of the same before
            client.delete(STREAM)
        for row in latest.values():
            shadows.update({name: row[name] for name in ("offered", "asked", "answered")})
            shadows.update({f"discarded: {reason}": count for reason, count in row["discarded"].items()})
            shadows.update({f"failed: {code}": count for code, count in row["failed"].items()})
        return kinds, streams, dict(shadows)

    def keys_kept(self) -> int:
        """How many idempotency keys there are."""
        with psycopg.connect(self._stack.postgres.url) as database:
            row = database.execute("SELECT count(*) FROM ledger_idempotencyrecord").fetchone()
        return 0 if row is None else int(row[0])

    def end(self) -> None:
        """Stop all processes."""
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            process.wait(timeout=60)

    def logs(self) -> str:
        """The last words of all of them."""
        return "\n".join(log.read_text(errors="replace")[-1500:] for log in sorted(self._directory.glob("*.log")))

    def _gateway(self, name: str) -> Gateway:
        directory = self._directory / name
        directory.mkdir()
        write_keys(directory, self._key)
        return Gateway(name, directory, pick_free())

    def _environment(self, gateway: Gateway) -> dict[str, str]:
        return {
            "BALLAST_DATA_DIR": str(gateway.directory),
            "BALLAST_PRIVATE_NETWORKS": "127.0.0.0/8",
            "BALLAST_HOST_NAME": gateway.name,
            "DATABASE_URL": self._stack.postgres.url,
            "REDIS_URL": self._stack.redis.url(),
            "UP_KEY": "sk-control",
            "TRIAL_KEY": "sk-trial",
        }

    def _launch(self, command: list[str], *, on: set[int], **environment: str) -> None:
        log = self._directory / f"{len(self._processes)}.log"
        self._processes.append(start(command, cores=on, log=log, **environment))

    def _wait_for_connection(self) -> None:
        """Ask until something is asked again."""
        deadline = time.monotonic() + 60
        while not sum(one["calls"] for place, one in self.counts().items() if place != "control"):
            if time.monotonic() > deadline:
                raise SystemExit("nothing reaches the shadow's provider")
            uvloop.run(drive(self.shadowed.url, iter([plain_request(0)])))
            time.sleep(0.2)


def _fetch(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310  # loopback, our own
        return json.loads(answer.read())


# --- cases ------------------------------------------------------------------------------------------------------------
def run_case(bench: Bench, mode: str, arguments: argparse.Namespace) -> tuple[str, ...]:
    """Measure both gateways by turns while the shadow's provider answers like that; a row of the table."""
    bench.set_mode(mode)
    bench.publish((mode, shadow_policy(in_flight=4, queue=50)))
    for gateway in (bench.plain, bench.shadowed):
        gateway.results = []
    bench.usage()
    uvloop.run(_rounds(bench, arguments))
    time.sleep(2.5)  # reports go out once a second
    _, _, shadows = bench.usage()
    without, with_ = bench.plain.results, bench.shadowed.results
    cells = []
    for q in (0.5, 0.99):
        cells += [f"{statistics.median(one.quantile(q) for one in results):.3f}" for results in (without, with_)]
        differences = [b.quantile(q) - a.quantile(q) for a, b in zip(without, with_, strict=True)]
        cells.append(interval(differences))
    equal = uvloop.run(_compare(bench))
    failures = sum(one.failures for one in (*without, *with_))
    asked = f"{shadows.get('asked', 0):,} of {shadows.get('offered', 0):,}"
    return (mode, *cells, str(failures), asked, equal)


async def _rounds(bench: Bench, arguments: argparse.Namespace) -> None:
    body = orjson.dumps({"model": "chat", "messages": [{"role": "user", "content": QUESTION}]})
    headers = {"authorization": f"Bearer {FREE_KEY}"}
    requests = {one.name: request_bytes(one.url, body, headers) for one in (bench.plain, bench.shadowed)}
    for turn in range(arguments.rounds + 1):
        pair = [bench.plain, bench.shadowed]
        for gateway in pair if turn % 2 else reversed(pair):
            result = await pace(
                gateway.url, requests[gateway.name], rate=arguments.rate, seconds=arguments.seconds, connections=32
            )
            if turn:  # the first pair warms everything up
                gateway.results.append(result)


async def _compare(bench: Bench) -> str:
    """Whether so many answers of both gateways are the same bytes, plain and streamed."""
    seen = []
    for gateway in (bench.plain, bench.shadowed):
        digest = hashlib.sha256()
        for request in (plain_request(0), plain_request(0, stream=True)):
            answers = await drive(gateway.url, iter([request] * (COMPARED // 2)), callers=1)
            for headers, body in answers:
                kept = {name: value for name, value in headers.items() if name not in NOT_COMPARED}
                digest.update(orjson.dumps(kept, option=orjson.OPT_SORT_KEYS) + body)
        seen.append(digest.hexdigest())
    return "equal" if seen[0] == seen[1] else "DIFFERENT"


def interval(differences: list[float]) -> str:
    """The mean of the differences, and half of its 95 % interval."""
    mean, spread = statistics.mean(differences), statistics.stdev(differences)
    student = next((t for rounds, t in STUDENT.items() if rounds >= len(differences)), 2.0)
    return f"{mean:+.3f} ±{student * spread / len(differences) ** 0.5:.3f}"


# --- side effects -----------------------------------------------------------------------------------------------------
Request = tuple[dict[str, str], bytes]


def plain_request(
    place: int, *, key: str = FREE_KEY, mark: str = "", idempotency: str = "", stream: bool = False
) -> Request:
    """One request, which differs from others by `place`."""
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    if idempotency:
        headers["idempotency-key"] = idempotency
    content = {"role": "user", "content": f"{QUESTION} {mark} {place}"}
    return headers, orjson.dumps({"model": "chat", "messages": [content]} | ({"stream": True} if stream else {}))


def mixed(requests: int) -> Iterator[Request]:
    """Requests of the four kinds, by turns."""
    for place in range(requests):
        match place % 4:
            case 0:
                yield plain_request(place)
            case 1:
                yield plain_request(place, key=EU_KEY, mark=MARK.decode())
            case 2:
                yield plain_request(place, stream=True)
            case _:
                yield plain_request(place, idempotency=f"key-{place}")


async def drive(url: str, requests: Iterator[Request], *, callers: int = CALLERS) -> list[tuple[dict[str, str], bytes]]:
    """Have callers make the requests, each its next as soon as it was answered; returns headers and bodies."""
    transport = Http1Transport(timers=TimerWheel())
    answers: list[tuple[dict[str, str], bytes]] = []

    async def call_on_and_on() -> None:
        for headers, body in requests:
            call = UpstreamCall(url, tuple(headers.items()), body)
            exchange = await transport.send(call, lane="gateway", limits=PATIENT)
            try:
                content = await exchange.read()
                if exchange.status != 200:
                    raise SystemExit(f"the gateway answered {exchange.status}: {content[:300]!r}")
                answers.append((dict(exchange.headers()), content))
            finally:
                exchange.close()

    await asyncio.gather(*(call_on_and_on() for _ in range(callers)))
    await transport.close()
    return answers


def run_side_effects(bench: Bench, requests: int) -> str:
    """Make the requests, and count what they left behind."""
    bench.set_mode("healthy")
    bench.publish(("effects", shadow_policy(in_flight=64, queue=1000)))
    time.sleep(6.5)  # what is under way from before may take its deadline, and is reported a second later
    bench.usage()
    before, kept_before = bench.counts(), bench.keys_kept()
    uvloop.run(drive(bench.shadowed.url, mixed(requests)))
    time.sleep(8)
    after, kept = bench.counts(), bench.keys_kept() - kept_before
    kinds, streams, shadows = bench.usage()
    calls = {place: after[place]["calls"] - before[place]["calls"] for place in after}
    eu = after["eu"]["marked"] - before["eu"]["marked"]
    elsewhere = after["us"]["marked"] - before["us"]["marked"]
    asked = calls["eu"] + calls["us"]
    others = sum(count for kind, count in kinds.items() if kind not in ("primary", "shadow"))
    quarter = requests // 4
    effects = [
        ("calls at control's provider beyond one each", calls["control"] - requests),
        ("usage rows of kind primary beyond one each", kinds["primary"] - requests),
        ("usage rows of other kinds than primary and shadow", others),
        ("usage rows of kind shadow beyond one each call", kinds["shadow"] - asked),
        ("idempotency records beyond one for each key", kept - quarter),
        ("rows of streams beyond one for each", streams - quarter),
    ]
    lines = [f"{requests:,} requests, {asked:,} asked again: {shadows}"]
    lines += [f"  {name}: {count}" for name, count in effects]
    bound = 3 / (eu + elsewhere) if eu + elsewhere else float("nan")
    lines.append(
        f"  requests pinned to the EU at lanes elsewhere: {elsewhere} of {eu + elsewhere:,} asked again "
        f"(95 % upper bound {bound:.2%}); the US lane, first in order, was asked {calls['us']:,} others"
    )
    return "\n".join(lines)


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--rate", type=float, default=100.0, help="requests per second")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--cases", nargs="*", choices=MODES, default=MODES)
    arguments = parser.parse_args()
    machine = describe_machine()
    home = make_data_dir()
    try:
        with (
            tempfile.TemporaryDirectory() as directory,
            Stack(home, processes=(), seeded=False) as stack,
        ):
            bench = Bench(Path(directory), stack)
            try:
                print(f"machine: {machine}")
                print(
                    f"{arguments.rounds} rounds of {arguments.seconds:g} s for each gateway and case, by turns, at "
                    f"{arguments.rate:g} requests/s; milliseconds; differences: mean and 95 % interval",
                    flush=True,
                )
                heading = (
                    "shadow's provider",
                    "p50 without",
                    "with",
                    "difference",
                    "p99 without",
                    "with",
                    "difference",
                )
                heading += ("failed", "asked of offered", f"{COMPARED} answers")
                rows = [heading, *(run_case(bench, mode, arguments) for mode in arguments.cases)]
                print("\n" + table(rows), flush=True)
                print("\n" + run_side_effects(bench, arguments.requests))
            except BaseException:
                print(bench.logs(), file=sys.stderr)
                raise
            finally:
                bench.end()
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
