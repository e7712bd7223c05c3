"""What the sidecar shows: one plain line per probe, everything as JSON, and Prometheus' series."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from dataplane.health.findings import KINDS, Finding
from dataplane.health.judge import Judge, Verdict
from dataplane.health.policy import HealthPolicy

QUESTIONS = ("startup", "ready", "live")


def status(judge: Judge, *, engine: str, now: float) -> dict[str, Any]:
    """Return all that is known.

    Shape: {"engine": str, "verdicts": {"startup" | "ready" | "live": {"ok": bool, "why": str, "since_seconds": float}},
    "findings": [{"code", "means", "detail", "advice", "since_seconds", "drains", "spares"}], "engine_seen": {…} or
    null, "silence_seconds": float, "prefill_tokens_per_second": float or null, "asked": {"canary answered": int},
    "gpus": {…} or null, "load_step": str, "loads_seconds": [float], "restarts": int, "kills": int}.
    """
    heartbeat, last, gpu = judge.heartbeat, judge.heartbeat.last, judge.gpus.last
    verdicts = judge.verdicts
    return {
        "engine": engine,
        "verdicts": {name: _verdict(getattr(verdicts, name), now=now) for name in QUESTIONS},
        "findings": [_finding(one, now=now) for one in judge.findings.standing()],
        "engine_seen": None
        if last is None
        else {
            "seconds_ago": round(now - last.at, 1),
            "reach": last.reach.value,
            "healthy": last.healthy,
            "loaded": last.loaded,
            "running": last.running,
            "waiting": last.waiting,
            "kv_used": last.kv_used,
            "preemptions": last.preemptions,
            "tokens_per_second": heartbeat.tokens_per_second(),
            "signs": dict(last.signs),
        },
        "silence_seconds": round(judge.silence_seconds(now=now), 1),
        "prefill_tokens_per_second": heartbeat.slowest_prefill,
        "asked": {f"{ask} {said}": number for (ask, said), number in sorted(judge.counts.asked.items())},
        "gpus": None
        if gpu is None
        else {
            "seconds_ago": round(now - gpu.at, 1),
            "state": gpu.state.value,
            "detail": gpu.detail,
            "devices": [
                {
                    "uuid": one.uuid,
                    "name": one.name,
                    "is_lost": one.is_lost,
                    "memory_used_bytes": one.memory_used_bytes,
                    "memory_total_bytes": one.memory_total_bytes,
                    "temperature_celsius": one.temperature_celsius,
                    "ecc_uncorrected": one.ecc_uncorrected,
                    "ecc_corrected": one.ecc_corrected,
                    "remap_pending": one.remap_pending,
                    "remap_failed": one.remap_failed,
                    "retired_pending": one.retired_pending,
                    "throttle": sorted(one.throttle),
                }
                for one in gpu.devices
            ],
            "xids": [
                {"seconds_ago": round(now - at, 1), "uuid": uuid, "xid": xid} for at, uuid, xid in judge.gpus.xids
            ],
        },
        "load_step": judge.startup.step.value,
        "loads_seconds": [round(one.seconds, 1) for one in judge.loads],
        "restarts": judge.restarts,
        "kills": judge.kills.total,
    }


class HealthMetrics(Collector):
    """The series of one sidecar, read from the judge when they are asked for."""

    def __init__(self, judge: Judge, policy: HealthPolicy) -> None:
        self._judge = judge
        self._policy = policy
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def render(self) -> bytes:
        """Return Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield the families; called by the registry. What is unknown is left out."""
        judge = self._judge
        verdict = GaugeMetricFamily("ballast_probe_verdict", "1: yes, by question.", labels=["question"])
        for name in QUESTIONS:
            verdict.add_metric([name], int(getattr(judge.verdicts, name).ok))
        yield verdict
        finding = GaugeMetricFamily("ballast_probe_finding", "1 while a finding stands.", labels=["code"])
        for code in KINDS:
            finding.add_metric([code], int(code in judge.findings))
        yield finding
        asked = CounterMetricFamily(
            "ballast_probe_asks", "Canaries and other asks of the engine, by how they ended.", labels=["ask", "ended"]
        )
        for (ask, said), number in list(judge.counts.asked.items()):
            asked.add_metric([ask, said], number)
        yield asked
        yield CounterMetricFamily("ballast_probe_restarts", "Engine processes after the first.", value=judge.restarts)
        yield CounterMetricFamily(
            "ballast_probe_kills", "Times that liveness ended the engine.", value=judge.kills.total
        )
        yield from self._engine()
        yield from self._gpus()

    def _engine(self) -> Iterator[GaugeMetricFamily]:
        heartbeat, known = self._judge.heartbeat, self._judge.heartbeat.known
        for name, told, value in (
            ("tokens_per_second", "Tokens that the engine wrote, over the last minute.", heartbeat.tokens_per_second()),
            ("prefill_tokens_per_second", "The slowest prefill lately.", heartbeat.slowest_prefill),
            ("kill_bound_seconds", "Silence after which a wedge may be proven.", heartbeat.kill_bound(self._policy)),
            ("running", "Requests that the engine runs.", None if known is None else known.running),
            ("waiting", "Requests that wait at the engine.", None if known is None else known.waiting),
            ("kv_used", "Share of the KV cache in use.", None if known is None else known.kv_used),
        ):
            if value is not None:
                yield GaugeMetricFamily(f"ballast_probe_engine_{name}", told, value=value)
        if self._judge.loads:
            yield GaugeMetricFamily(
                "ballast_probe_load_seconds", "How long the last load took.", value=self._judge.loads[-1].seconds
            )

    def _gpus(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        report = self._judge.gpus.last
        if report is None:
            return
        readings: tuple[tuple[str, str], ...] = (
            ("memory_used_bytes", "Memory in use."),
            ("temperature_celsius", "Temperature."),
            ("ecc_uncorrected", "Memory errors that could not be corrected, since the driver was loaded."),
            ("ecc_corrected", "Memory errors that were corrected, since the driver was loaded."),
            ("remap_pending", "1 while rows wait to be remapped."),
        )
        for name, told in readings:
            family = GaugeMetricFamily(f"ballast_probe_gpu_{name}", told, labels=["gpu"])
            for device in report.devices:
                value = getattr(device, name)
                if value is not None:
                    family.add_metric([device.uuid], float(value))
            yield family
        throttle = GaugeMetricFamily(
            "ballast_probe_gpu_throttle", "1 for a reason to throttle.", labels=["gpu", "reason"]
        )
        for device in report.devices:
            for reason in sorted(device.throttle):
                throttle.add_metric([device.uuid, reason], 1)
        yield throttle


def _verdict(verdict: Verdict, *, now: float) -> dict[str, Any]:
    return {"ok": verdict.ok, "why": verdict.why, "since_seconds": round(now - verdict.since, 1)}


def _finding(finding: Finding, *, now: float) -> dict[str, Any]:
    kind = finding.kind
    return {
        "code": kind.code,
        "means": kind.means,
        "detail": finding.detail,
        "advice": kind.advice,
        "since_seconds": round(now - finding.since, 1),
        "drains": kind.drains,
        "spares": kind.spares,
    }
