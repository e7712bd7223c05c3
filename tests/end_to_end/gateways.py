"""A few gateway processes on one Redis and one provider simulator, without a control plane: the release is a file.

    with Gateways(directory, two_lanes(["chat"], policy=numbers), processes=2) as gateways:
        gateways.strike("chat-primary", "status:code=503")
        ...gateways.urls[0], gateways.breaker(1, "chat/primary"), gateways.redis.stop()...

Unlike those behind the supervisor's port, each process has a port of its own, so that whoever asks knows whom.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import httpx
import redis
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from dataplane.release import SCHEMA, sign
from dataplane.report_sinks import STREAM
from dataplane.supervisor import bind, gateway_command
from launcher.keys import keep_signing_key
from launcher.postgres import wait_until
from launcher.redis import EmbeddedRedis
from tests.ports import pick_port

KEY = "bk-demo"
DEMO_TENANT = {KEY: "demo"}
HOST = "127.0.0.1"
PROJECT = Path(__file__).resolve().parents[2]
READY_SECONDS = 120.0
ROUTES = {"fast": ["fast"], "slow": ["slow"], "drip": ["drip"], "spare": ["spare", "spare-able"]}
STOP_SECONDS = 60.0
SERIES = re.compile(r'ballast_gateway_breaker\{lane="([^"]+)",state="([^"]+)"\} 1\.0')

Routing = Callable[[str], dict[str, Any]]


def secret_of(account: str) -> str:
    """The key of a lane's account at the simulator, which knows accounts by how their keys end."""
    return f"sk-{account}"


def two_lanes(
    routes: Sequence[str],
    *,
    policy: Mapping[str, float],
    model: str = "gpt-4o-instant",
    first_token_seconds: float | None = None,
    whole_answer_seconds: float | None = None,
) -> Routing:
    """How to route when the simulator's address is known: every route has the lanes `<route>/primary` and
    `<route>/alternate`, each with an account of its own, `<route>-primary` and `<route>-alternate`, under one breaker
    policy.
    """

    def routing(simulator_url: str) -> dict[str, Any]:
        accounts, lanes = {}, {}
        for route in routes:
            for role in ("primary", "alternate"):
                account = f"{route}-{role}"
                accounts[account] = {
                    "provider": "openai",
                    "base_url": f"{simulator_url}/openai/v1",
                    "secret": f"env:{_variable(account)}",
                    "api_version": None,
                }
                lanes[f"{route}/{role}"] = {
                    "provider": "openai",
                    "region": "eu-west",
                    "account": account,
                    "model": "gpt-4o",
                    "upstream_model": model,
                    "residency": "eu",
                    "capabilities": ["chat", "stream"],
                    "input_micros_per_million_tokens": 2_500_000,
                    "output_micros_per_million_tokens": 10_000_000,
                    "connect_timeout_seconds": 20,
                    "first_byte_timeout_seconds": 20,
                    "idle_timeout_seconds": 15,
                    "breaker": "watched",
                }
        limits = {"first_token_seconds": first_token_seconds, "whole_answer_seconds": whole_answer_seconds}
        return {
            "providers": {"openai": {"wire": "openai"}},
            "accounts": accounts,
            "lanes": lanes,
            "breakers": {"watched": {name: _threshold(value) for name, value in policy.items()}},
            "routes": {
                route: {"lanes": [f"{route}/primary", f"{route}/alternate"], "deadline_ms": 60_000}
                | {name: _threshold(value) for name, value in limits.items() if value is not None}
                for route in routes
            },
        }

    return routing


def resumable(*, on_cut: str = "end", model: str = "gpt-4o-instant", abandon_seconds: float = 30.0) -> Routing:
    """Routes whose streams outlive their callers: `fast`, `slow` and `drip` have one lane each, `spare` two: one of
    OpenAI's wire and then one that takes up what another began; and `plain`, which has the lane of `fast` and keeps no
    streams. Accounts are called as the lanes.
    """

    def routing(simulator_url: str) -> dict[str, Any]:
        made = {"fast": model, "slow": "gpt-4o", "drip": "gpt-4o", "spare": "gpt-4o", "spare-able": "claude-sonnet-4-5"}
        providers = {"openai": {"wire": "openai"}, "anthropic": {"wire": "anthropic"}}
        accounts, lanes = {}, {}
        for name, upstream_model in made.items():
            wire = "anthropic" if upstream_model.startswith("claude") else "openai"
            accounts[name] = {
                "provider": wire,
                "base_url": f"{simulator_url}/{wire}" + ("/v1" if wire == "openai" else ""),
                "secret": f"env:{_variable(name)}",
                "api_version": None,
            }
            lanes[name] = {
                "provider": wire,
                "region": "eu-west",
                "account": name,
                "model": upstream_model,
                "upstream_model": upstream_model,
                "residency": "eu",
                "capabilities": ["chat", "stream", "tools"] + (["prefill"] if wire == "anthropic" else []),
                "input_micros_per_million_tokens": 2_500_000,
                "output_micros_per_million_tokens": 10_000_000,
                "connect_timeout_seconds": 20,
                "first_byte_timeout_seconds": 20,
                "idle_timeout_seconds": 15,
            }
        policy = {
            "retention_seconds": _threshold(600),
            "abandon_seconds": _threshold(abandon_seconds),
            "continuations": _threshold(0 if on_cut == "end" else 2),
            "on_cut": on_cut,
            "transcript": "keep",
            "refund": "undelivered",
        }
        return {
            "providers": providers,
            "accounts": accounts,
            "lanes": lanes,
            "streams": {"kept": policy},
            "routes": {
                route: {"lanes": chosen, "deadline_ms": 60_000, "streams": "kept"} for route, chosen in ROUTES.items()
            }
            | {"plain": {"lanes": ROUTES["fast"], "deadline_ms": 60_000}},
        }

    return routing


def under_quota(quota: Mapping[str, float | None], *, model: str = "gpt-4o-instant", learn: bool = False) -> Routing:
    """The route `chat` with one lane, `chat/only`, of the account `chat-only`, whose calls the fleet shares under a
    quota policy of these numbers.
    """

    def routing(simulator_url: str) -> dict[str, Any]:
        table = two_lanes(["chat"], policy={}, model=model)(simulator_url)
        lane, account = table["lanes"].pop("chat/primary"), table["accounts"].pop("chat-primary")
        lane |= {"account": "chat-only", "quota": "shared"}
        del lane["breaker"]
        numbers = {name: None if value is None else _threshold(value) for name, value in quota.items()}
        return {
            "providers": table["providers"],
            "accounts": {"chat-only": account | {"secret": f"env:{_variable('chat-only')}"}},
            "lanes": {"chat/only": lane},
            "quotas": {"shared": numbers | {"learn": learn}},
            "routes": {"chat": {"lanes": ["chat/only"], "deadline_ms": 60_000}},
        }

    return routing


class Gateways:
    """See the module.

    Args:
        directory: Empty.
        routing: Gives the release's section `routing` once the simulator's address is known.
        processes: Gateway processes.
        database_url: Where idempotency keys are kept; None: nowhere.
        tenants: Who may ask, by API key.
        tiers: The tiers of those that are not standard, by tenant.
        sections: Of the release, beside access and routing.
        runners: Processes that run jobs; each asks the gateway process of its number.
    """

    def __init__(
        self,
        directory: Path,
        routing: Routing,
        *,
        processes: int,
        database_url: str | None = None,
        tenants: Mapping[str, str] = DEMO_TENANT,
        tiers: Mapping[str, str] = MappingProxyType({}),
        sections: Mapping[str, Any] = MappingProxyType({}),
        runners: int = 0,
        broker_url: str | None = None,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`broker_url` is by what runners hear of jobs; without one it is the Redis of all. `variables` are what every
        process is told besides.
        """
        self._variables = dict(variables)
        self.database_url = database_url or ""
        self.redis = OwnRedis(directory / "redis")
        self.simulator_url = f"http://{HOST}:{pick_port()}"
        self.urls: list[str] = []
        self._tenants = tenants
        self._tiers = tiers
        self._sections = sections
        self._directory = directory
        self._routing = routing(self.simulator_url)
        self._processes = processes
        self._runners = runners
        self._broker_url = broker_url
        self._children: list[subprocess.Popen[bytes]] = []
        self._gateway_children: dict[int, subprocess.Popen[bytes]] = {}
        self._runner_children: dict[int, subprocess.Popen[bytes]] = {}
        self._environment: dict[str, str] = {}
        self._lifeline: int | None = None
        self._lifeline_end = -1
        self._http = httpx.Client(timeout=60)

    def __enter__(self) -> Gateways:
        """Start everything; returns when every process serves."""
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop everything."""
        for child in self._children:
            child.terminate()
        if self._lifeline is not None:
            os.close(self._lifeline)
            os.close(self._lifeline_end)
            self._lifeline = None
        for child in self._children:
            try:
                child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.redis.stop()
        self._http.close()

    def ask(self, process: int, route: str, *, stream: bool = False) -> httpx.Response:
        """One request of an application, of one process; the response has been read."""
        return self._http.post(
            f"{self.urls[process]}/v1/chat/completions",
            json={"model": route, "stream": stream, "messages": [{"role": "user", "content": "Where is my parcel?"}]},
            headers={"authorization": f"Bearer {KEY}"},
        )

    def breaker(self, process: int, lane: str) -> str:
        """The state that the process' `/metrics` shows for the lane's breaker."""
        return breakers_in(self._http.get(f"{self.urls[process]}/metrics").text)[lane]

    def strike(self, account: str, fault: str, *, count: int | None = None) -> int:
        """From now on, or for the next `count` requests, the simulator plays `fault` on this account alone, even if it
        plays the same fault otherwise already; returns the rule's id.
        """
        rule = {"fault": fault, "account": secret_of(account), "count": count}
        answer = self._http.post(f"{self.simulator_url}/admin/faults", json=rule).raise_for_status()
        number: int = answer.json()["rules"][0]["id"]
        return number

    def relieve(self) -> None:
        """End all faults."""
        self._http.delete(f"{self.simulator_url}/admin/faults").raise_for_status()

    def hits(self, rule: int) -> int:
        """How many requests have met this fault."""
        rules = self._http.get(f"{self.simulator_url}/admin/faults").json()["rules"]
        return next(one["hits"] for one in rules if one["id"] == rule)

    def pid(self, process: int) -> int:
        """The process id of a gateway process."""
        return self._gateway_children[process].pid

    def kill(self, process: int) -> None:
        """End a gateway process with SIGKILL."""
        child = self._gateway_children[process]
        child.kill()
        child.wait()
        self._children.remove(child)

    def restart(self, process: int) -> None:
        """Start a process again that was killed, on its port; returns when it serves."""
        self._spawn_gateway(process)
        self._wait_ready(f"{self.urls[process]}/readyz")

    def kill_runner(self, number: int) -> None:
        """End a runner of jobs with SIGKILL."""
        child = self._runner_children.pop(number)
        child.kill()
        child.wait()
        self._children.remove(child)

    def stop_runner(self, number: int) -> int:
        """Tell a runner of jobs to stop, with SIGTERM; returns its exit status."""
        child = self._runner_children.pop(number)
        child.terminate()
        self._children.remove(child)
        return child.wait(STOP_SECONDS)

    @contextlib.contextmanager
    def runners_held(self) -> Iterator[None]:
        """No runner of jobs does anything meanwhile, as if the machine had forgotten it."""
        held = list(self._runner_children.values())
        for child in held:
            child.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for child in held:
                child.send_signal(signal.SIGCONT)

    def reported(self, kind: str) -> list[dict[str, Any]]:
        """The rows of a kind (streams, usage, ...) that the processes have reported so far."""
        with redis.Redis.from_url(self.redis.url) as client:
            batches = [json.loads(fields[b"batch"]) for _, fields in client.xrange(STREAM)]
        return [row for batch in batches for row in batch[kind]]

    def stream_state(self, process: int, stream: str) -> str:
        """How a stream stands, as a process says it; empty where it cannot."""
        headers = {"authorization": f"Bearer {KEY}", "accept": "application/json"}
        answer = self._http.get(f"{self.urls[process]}/v1/streams/{stream}", headers=headers)
        return str(answer.json().get("state", ""))

    def wait_for(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        """Wait for the processes to get somewhere; how long it takes is never part of what is tested."""
        assert wait_until(lambda: bool(condition()), alive=lambda: True, seconds=seconds), "it did not happen"

    def logged(self, words: str) -> int:
        """How many lines with these words the processes have logged."""
        return sum(log.read_text(errors="replace").count(words) for log in self._directory.glob("*.log"))

    def _start(self) -> None:
        self.redis.start()
        keys = self._directory / "keys"
        keep_signing_key(keys / "signing.pem", keys / "trusted-keys.json")
        key = load_pem_private_key((keys / "signing.pem").read_bytes(), password=None)
        (self._directory / "release.json").write_text(sign(self._document(), key).to_json())
        environment = {
            "BALLAST_PRIVATE_NETWORKS": "127.0.0.0/8",
            "PATH": os.environ.get("PATH", os.defpath),
            "BALLAST_DATA_DIR": str(self._directory),
            "BALLAST_HOST_NAME": "fleet",
            "BALLAST_DRAIN_GRACE": "0",
            "BALLAST_SIMULATOR_PORT": self.simulator_url.rpartition(":")[2],
            "REDIS_URL": self.redis.url,
            "DATABASE_URL": self.database_url,
            "CELERY_BROKER_URL": self._broker_url or self.redis.url,
        } | {_variable(account): secret_of(account) for account in self._routing["accounts"]}
        environment |= self._variables
        self._environment = environment
        ends, self._lifeline = os.pipe()
        with contextlib.closing(os.fdopen(os.dup(ends))):
            self._lifeline_end = ends
            self._spawn([sys.executable, "-m", "dataplane", "simulator"])
            for slot in range(self._processes):
                self.urls.append(f"http://{HOST}:{pick_port()}")
                self._spawn_gateway(slot)
        for url in (self.simulator_url, *self.urls):
            self._wait_ready(f"{url}/readyz")
        for number in range(self._runners):
            more = {"BALLAST_GATEWAY_URL": self.urls[number], "BALLAST_HOST_NAME": f"runner-{number}"}
            self._spawn([sys.executable, "-m", "dataplane", "jobs"], more=more | {"BALLAST_JOB_CONCURRENCY": "4"})
            self._runner_children[number] = self._children[-1]

    def _spawn_gateway(self, slot: int) -> None:
        with bind(HOST, int(self.urls[slot].rpartition(":")[2])) as listener:
            inherited = (listener.fileno(), self._lifeline_end)
            options = ["--slot", str(slot), "--listener", str(inherited[0]), "--lifeline", str(inherited[1])]
            self._spawn([*gateway_command(), *options], inherited)
        self._gateway_children[slot] = self._children[-1]

    def _spawn(
        self, command: list[str], inherited: Sequence[int] = (), *, more: Mapping[str, str] | None = None
    ) -> None:
        environment = self._environment | dict(more or {})
        with (self._directory / f"{len(self._children)}.log").open("wb") as log:
            self._children.append(
                subprocess.Popen(command, cwd=PROJECT, env=environment, pass_fds=inherited, stdout=log, stderr=log)
            )

    def _wait_ready(self, url: str) -> None:
        def ready() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return self._http.get(url).is_success
            return False

        def alive() -> bool:
            return all(child.poll() is None for child in self._children)

        if not wait_until(ready, alive=alive, seconds=READY_SECONDS):
            said = "".join(log.read_text(errors="replace")[-1500:] for log in sorted(self._directory.glob("*.log")))
            raise AssertionError(f"{url} does not become ready: {said}")

    def _document(self) -> dict[str, Any]:
        anyone = {"tier": "standard", "residency": [], "region": "eu-west", "internal": False, "log_content": False}
        return {
            "schema": SCHEMA,
            "revision": 1,
            "cut_at": "2026-01-02T03:04:05Z",
            "reason": "gateways without a control plane",
            "audit_head": {"seq": 1, "hash": "ab" * 32},
            "sections": {
                "access": {
                    "tenants": {
                        tenant: anyone | {"tier": self._tiers.get(tenant, "standard")}
                        for tenant in self._tenants.values()
                    },
                    "keys": {
                        hashlib.sha256(key.encode()).hexdigest(): {"tenant": tenant, "id": f"k{number}"}
                        for number, (key, tenant) in enumerate(self._tenants.items(), start=1)
                    },
                },
                "prompts": {},
                "canaries": {},
                "routing": self._routing,
                **self._sections,
            },
        }


class OwnRedis:
    """A Redis that can be stopped and started again on its port."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self._server = EmbeddedRedis(home, home, pick_port(), durable=False)
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address, with the password."""
        return self._server.url()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._child is not None
        return self._child.pid

    def start(self) -> None:
        """Return when it answers."""
        self._server.initialise()
        child = self._child = subprocess.Popen(
            self._server.command, cwd=self._server.working_directory, stdout=subprocess.DEVNULL
        )
        if not wait_until(self._server.is_ready, alive=lambda: child.poll() is None, seconds=READY_SECONDS):
            raise AssertionError("redis does not start")

    def stop(self) -> None:
        """End it, at once; nothing happens when it does not run."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None


def breakers_in(metrics: str) -> dict[str, str]:
    """The state of every breaker, by lane, in the text of a `/metrics` page."""
    return dict(SERIES.findall(metrics))


def _variable(account: str) -> str:
    return f"KEY_OF_{account.upper().replace('-', '_')}"


def _threshold(value: float) -> dict[str, Any]:
    provenance = {"origin": "guess", "note": "as asked for", "link": "", "author": "oncall"}
    return {"value": value, "provenance": provenance | {"on": "2026-01-02", "review_by": "2026-04-02"}}
