"""What `/metrics` shows: few series, counted in plain dicts on the way and turned into Prometheus' types when scraped.

Per lane, prompt and cohort figures travel with the reports instead, where quantiles merge across workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from dataplane.job_metrics import job_families
from dataplane.jobs import Figures
from dataplane.loop_lag import LoopLag
from dataplane.release import Release
from dataplane.report_metrics import ReportCounts, report_families
from dataplane.request_counts import RequestCounts
from dataplane.retrieval.counting import RetrievalCounts
from dataplane.shadow.figures import ShadowTotals, shadow_families
from dataplane.span_metrics import span_families
from dataplane.tracing import SpanCounts
from dataplane.validators.counting import ValidatorCounts


class StreamCounts(Protocol):
    """What a process can say of its streams, such as `Streams`."""

    @property
    def generating(self) -> int:
        """How many are generated now."""

    @property
    def is_log_up(self) -> bool:
        """Whether the log can be written."""

    @property
    def resumes(self) -> int:
        """How often one was read again."""

    @property
    def endings(self) -> Mapping[str, int]:
        """How many ended, and how."""


class QuotaCounts(Protocol):
    """What a process can say of a quota that it shares, such as `QuotaShare`."""

    name: str

    @property
    def granted(self) -> int:
        """How many requests got leave here."""

    @property
    def throttled(self) -> int:
        """How many of them their provider refused."""

    @property
    def waiting(self) -> int:
        """How many requests wait here."""

    @property
    def paused_seconds(self) -> float:
        """How long nobody may go."""

    @property
    def is_alone(self) -> bool:
        """Whether the fleet cannot be asked."""


class GatewayMetrics(Collector):
    """Counts requests by operation and outcome; an outcome is `ok`, `cancelled` or an error code."""

    def __init__(
        self,
        *,
        release: Callable[[], Release | None],
        breakers: Callable[[], list[dict[str, Any]]] = list,
        quotas: Callable[[], Iterable[QuotaCounts]] = list,
        streams: Callable[[], StreamCounts | None] = lambda: None,
        jobs: Callable[[], Figures | None] = lambda: None,
        ladders: Callable[[], list[dict[str, Any]]] = list,
        retrievals: RetrievalCounts | None = None,
        spans: SpanCounts | None = None,
        reports: ReportCounts | None = None,
        lag: LoopLag | None = None,
        shadows: ShadowTotals | None = None,
    ) -> None:
        """`breakers` gives the states of the lanes' breakers: see `BreakerBoard.states`; `ladders` how the ladders
        stand: see `Ladders.states`. `streams` gives None where no stream outlives its caller's connection; their series
        are absent then, as are those of jobs where `jobs` gives None, of corpora without `retrievals`, of traces
        without `spans`, of reports without `reports`, of the event loop without `lag` and of what is asked again
        without `shadows`. `counts` is for whoever knows of requests and attempts, `validators` of answers.
        """
        self.in_flight = 0
        self._release = release
        self._streams = streams
        self.counts = RequestCounts()
        self.validators = ValidatorCounts()
        self._shadows = shadows
        self._lag = lag
        self._reports = reports
        self._requests: dict[tuple[str, str], int] = {}
        self._seconds: dict[str, float] = {}
        self._fallbacks: dict[tuple[str, str], int] = {}
        self._fields: dict[tuple[str, str, str], int] = {}
        self._breakers = breakers
        self._quotas = quotas
        self._jobs = jobs
        self._ladders = ladders
        self._retrievals = retrievals
        self._spans = spans
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def count(self, operation: str, outcome: str, seconds: float) -> None:
        """Count one finished request and the seconds it took."""
        key = (operation, outcome)
        self._requests[key] = self._requests.get(key, 0) + 1
        self._seconds[operation] = self._seconds.get(operation, 0.0) + seconds

    def count_fallback(self, route: str, rung: str) -> None:
        """Count one request that no lane answered; `rung` is cached, template or outage."""
        key = (route, rung)
        self._fallbacks[key] = self._fallbacks.get(key, 0) + 1

    def count_fields(self, lane: str, *, dropped: Iterable[str], adjusted: Iterable[str]) -> None:
        """Count the fields of one attempt that were not sent to the lane, or not as they were asked for."""
        for what, names in (("dropped", dropped), ("adjusted", adjusted)):
            for name in names:
                key = (lane, what, name)
                self._fields[key] = self._fields.get(key, 0) + 1

    def render(self) -> bytes:
        """Return Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        """Yield the families; called by the registry."""
        requests = CounterMetricFamily(
            "ballast_gateway_requests", "Finished requests by operation and outcome.", labels=["operation", "outcome"]
        )
        for (operation, outcome), number in list(self._requests.items()):
            requests.add_metric([operation, outcome], number)
        yield requests
        seconds = CounterMetricFamily(
            "ballast_gateway_request_seconds", "Seconds spent on finished requests.", labels=["operation"]
        )
        for operation, total in list(self._seconds.items()):
            seconds.add_metric([operation], total)
        yield seconds
        yield from self.counts.families()
        yield from self.validators.families()
        if self._shadows is not None:
            yield from shadow_families(self._shadows)
        fallbacks = CounterMetricFamily(
            "ballast_gateway_fallbacks",
            "Requests that no lane answered, by route and the rung of its fallback stack.",
            labels=["route", "rung"],
        )
        for (route, rung), number in list(self._fallbacks.items()):
            fallbacks.add_metric([route, rung], number)
        yield fallbacks
        fields = CounterMetricFamily(
            "ballast_gateway_request_fields",
            "Fields of requests that were not sent to a lane (dropped), or not as they were asked for (adjusted).",
            labels=["lane", "what", "field"],
        )
        for (lane, what, name), number in list(self._fields.items()):
            fields.add_metric([lane, what, name], number)
        yield fields
        breakers = GaugeMetricFamily(
            "ballast_gateway_breaker",
            "1 for the state that a lane's breaker is in.",
            labels=["lane", "state"],
        )
        for one in self._breakers():
            breakers.add_metric([one["lane"], one["state"]], 1)
        yield breakers
        yield from quota_families(self._quotas())
        yield from ladder_families(self._ladders())
        streams = self._streams()
        if streams is not None:
            yield from stream_families(streams)
        jobs = self._jobs()
        if jobs is not None:
            yield from job_families(jobs)
        if self._retrievals is not None:
            yield from self._retrievals.families()
        if self._reports is not None:
            yield from report_families(self._reports)
        if self._lag is not None:
            yield GaugeMetricFamily(
                "ballast_gateway_loop_lag_seconds",
                "How late the event loop turned at worst in the last half minute.",
                value=self._lag.worst_seconds,
            )
        if self._spans is not None:
            yield from span_families(self._spans)
        yield GaugeMetricFamily("ballast_gateway_in_flight", "Requests being served now.", value=self.in_flight)
        release = self._release()
        yield GaugeMetricFamily(
            "ballast_gateway_release_revision",
            "Revision of the release being served; 0 while there is none.",
            value=0 if release is None else release.revision,
        )
        if release is not None:
            served = GaugeMetricFamily(
                "ballast_gateway_release_info", "1 for the digest of the release being served.", labels=["digest"]
            )
            served.add_metric([release.digest[:12]], 1)
            yield served
            yield GaugeMetricFamily(
                "ballast_gateway_release_cut_timestamp_seconds",
                "When the release being served was cut, in Unix seconds.",
                value=release.cut_at.timestamp(),
            )


def quota_families(quotas: Iterable[QuotaCounts]) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
    """Yield what is shown of quotas."""
    granted = CounterMetricFamily("ballast_gateway_quota_grants", "Attempts that a quota let go.", labels=["pool"])
    throttled = CounterMetricFamily("ballast_gateway_quota_throttled", "429s of providers, by quota.", labels=["pool"])
    waiting = GaugeMetricFamily("ballast_gateway_quota_waiting", "Requests that wait for a quota.", labels=["pool"])
    paused = GaugeMetricFamily("ballast_gateway_quota_paused_seconds", "How long a quota rests.", labels=["pool"])
    shared = GaugeMetricFamily(
        "ballast_gateway_quota_shared",
        "1 while the quota is shared with the fleet; else this process keeps to its part.",
        labels=["pool"],
    )
    for one in quotas:
        granted.add_metric([one.name], one.granted)
        throttled.add_metric([one.name], one.throttled)
        waiting.add_metric([one.name], one.waiting)
        paused.add_metric([one.name], one.paused_seconds)
        shared.add_metric([one.name], int(not one.is_alone))
    yield from (granted, throttled, waiting, paused, shared)


def ladder_families(ladders: list[dict[str, Any]]) -> Iterator[GaugeMetricFamily]:
    """Yield what is shown of ladders, from their states: see `Ladders.states`. A reading that is not known is left
    out.
    """
    level = GaugeMetricFamily("ballast_ladder_level", "The rung that triggers engaged; 0: none.", labels=["surface"])
    engaged = GaugeMetricFamily(
        "ballast_ladder_engaged",
        "The rung that stands for callers of a tier at this gateway, whoever engaged it; 0: none.",
        labels=["surface", "tier"],
    )
    reading = GaugeMetricFamily(
        "ballast_ladder_reading", "What a trigger reads, for the whole fleet.", labels=["surface", "trigger"]
    )
    for one in ladders:
        level.add_metric([one["surface"]], one["level"])
        for tier, rung in one["engaged"].items():
            engaged.add_metric([one["surface"], tier], rung)
        for trigger, value in one["readings"].items():
            if value is not None:
                reading.add_metric([one["surface"], trigger], value)
    yield from (level, engaged, reading)
    yield GaugeMetricFamily(
        "ballast_ladder_alone",
        "1 while the fleet's ladders cannot be heard, and this process decides by what it sees itself.",
        value=int(any(one["is_alone"] for one in ladders)),
    )


def stream_families(streams: StreamCounts) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
    """Yield what is shown of streams."""
    yield GaugeMetricFamily("ballast_gateway_streams_live", "Streams being generated now.", value=streams.generating)
    yield CounterMetricFamily("ballast_gateway_stream_resumes", "Times a stream was read again.", value=streams.resumes)
    endings = CounterMetricFamily(
        "ballast_gateway_stream_endings",
        "Streams that ended, by how: completed, failed, cancelled, interrupted; orphans where they were ended.",
        labels=["ending"],
    )
    for ending, number in list(streams.endings.items()):
        endings.add_metric([ending], number)
    yield endings
    yield GaugeMetricFamily(
        "ballast_gateway_stream_log_up",
        "1 while the log of streams can be written; while it cannot, streams are this process' own.",
        value=int(streams.is_log_up),
    )
