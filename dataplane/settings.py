"""What a data-plane process is told when it starts.

`environment.py` fills these from the variables that `__main__.py` reads; nothing else reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from dataplane.networks import Allowed

# Host and port that probes of a process without a port of its own are answered on; None: nobody asks.
HealthAddress: TypeAlias = tuple[str, int] | None


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """Where reports go, and what bounds them while they cannot.

    `redis_url` None means that reports only go to the spool. `stream_limit` is the length of the reports stream above
    which a worker spools instead of adding; `spool_max_bytes` bounds one worker's spool, the oldest batches are dropped
    first. `ring_bytes` is what usage rows may take that are not handed over yet and would outlive the process.
    """

    redis_url: str | None
    spool_dir: Path
    spool_max_bytes: int = 64 * 1024 * 1024
    ring_bytes: int = 8 * 1024 * 1024
    stream_limit: int = 10_000
    interval_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class TracingSettings:
    """Where a process sends its traces, by OTLP over HTTP, and which of them. `service` and `worker` say who it is.

    `ratio`, from 0 to 1, is how many are kept of those that begin here; with `follows_callers`, a trace that somebody
    else began is kept if they keep it, else it is as if it began here. `most_waiting` bounds the spans that wait to be
    sent.
    """

    endpoint: str
    service: str
    worker: str
    ratio: float = 1.0
    follows_callers: bool = True
    most_waiting: int = 2048


@dataclass(frozen=True, slots=True)
class QdrantSettings:
    """A Qdrant server beside PostgreSQL. `key` refers to its API key, as `env:NAME` or `file:/path`; empty: it asks for
    none. `prefix` is what names of its collections begin with.
    """

    url: str
    key: str
    prefix: str


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """One gateway process. `slot` counts processes on this host from 0. `database_url` None: no idempotency keys and
    no jobs; a tenant may have `job_limit` jobs in the queue. `shadow_socket` is where the shadow process listens; None:
    there is none. `public_url` is where users reach the gateway, without a slash at its end; empty: nobody said. Told
    to stop, it says so for `drain_grace_seconds` and takes requests on, and then has `drain_seconds` to end what it
    has. `fairness_url` is the page that status pages link to, of who is promised what when capacity runs short.
    `qdrant` None: all vectors are beside their chunks. `allowed` says where lanes and gauges may be; None: anywhere.
    `tracing` None: nothing is traced. `scraped_at` is where this process alone shows its metrics; None: only behind the
    port that all processes share.

    The worker id is `<host_name>/gateway-<slot>`.
    """

    host: str
    port: int
    region: str
    host_name: str
    slot: int
    release_file: Path
    trusted_keys_file: Path
    cursor_keys_file: Path
    database_url: str | None
    reports: ReportSettings
    release_poll_seconds: float = 0.020
    shadow_socket: Path | None = None
    drain_grace_seconds: float = 0.0
    drain_seconds: float = 30.0
    max_body_bytes: int = 8 * 1024 * 1024
    job_limit: int = 10_000
    public_url: str = ""
    fairness_url: str = ""
    qdrant: QdrantSettings | None = None
    allowed: Allowed | None = None
    tracing: TracingSettings | None = None
    scraped_at: HealthAddress = None

    @property
    def worker(self) -> str:
        """The worker id under which this process reports."""
        return f"{self.host_name}/gateway-{self.slot}"


@dataclass(frozen=True, slots=True)
class SupervisorSettings:
    """What `serve` needs: how many gateway processes, and the settings they share (their `slot` is set per process)."""

    processes: int
    gateway: GatewaySettings
    restart_seconds: float = 0.5


@dataclass(frozen=True, slots=True)
class ShadowSettings:
    """The one shadow process of a host; `socket` is where gateways find it, `allowed` as in `GatewaySettings`."""

    host_name: str
    socket: Path
    release_file: Path
    trusted_keys_file: Path
    reports: ReportSettings
    release_poll_seconds: float = 0.020
    allowed: Allowed | None = None
    health: HealthAddress = None
    tracing: TracingSettings | None = None

    @property
    def worker(self) -> str:
        """The worker id under which this process reports."""
        return f"{self.host_name}/shadow"


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """A runner of jobs. `concurrency` is how many it has at once, which is how many of them wait for quota at the
    gateway; `keep_seconds` after its end a job's words are deleted.
    """

    host_name: str
    broker_url: str
    database_url: str
    gateway_url: str
    cursor_keys_file: Path
    concurrency: int = 8
    keep_seconds: float = 24 * 3600.0
    health: HealthAddress = None
    tracing: TracingSettings | None = None


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """The one agent of a host. `console_url` None turns reconciling off; the broker's pushes are then all there is."""

    host_name: str
    broker_url: str
    console_url: str | None
    token: str
    release_file: Path
    trusted_keys_file: Path
    reports: ReportSettings
    reconcile_seconds: float = 5.0
    reconcile_timeout_seconds: float = 5.0
    health: HealthAddress = None
    tracing: TracingSettings | None = None

    @property
    def worker(self) -> str:
        """The worker id under which the agent reports."""
        return f"{self.host_name}/agent"
