"""The one mind of the sidecar: takes in what is seen, says what to ask next, and gives the three verdicts.

Pure: no clock, no wait. Whoever drives it calls `observe…` with what came in, `decide` at every tick, and reads the
verdicts of the last decision, which is all that a probe of Kubernetes ever waits for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dataplane.health.findings import Findings
from dataplane.health.gate import Gate
from dataplane.health.gpus import GpuWatch
from dataplane.health.heartbeat import Beat, Heartbeat
from dataplane.health.liveness import KillBudget, Silence, proof_of_wedge
from dataplane.health.observations import Answer, Ask, EngineReading, GpuReport, Reach, Said
from dataplane.health.policy import HealthPolicy
from dataplane.health.startup import Load, Startup
from dataplane.health.strain import Strain

# One refused connection may be a full backlog; two looks in a row are a port at which nobody listens.
GONE_AFTER = 2
LOG_BYTES = 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to one of the three questions, for whoever asks next. `since` is monotonic seconds."""

    ok: bool
    why: str
    since: float


@dataclass(frozen=True, slots=True)
class Verdicts:
    """All three, of one moment."""

    startup: Verdict
    ready: Verdict
    live: Verdict


@dataclass(slots=True)
class Counts:
    """What was asked of the engine beyond looking, and how it ended."""

    asked: dict[tuple[str, str], int]

    def add(self, answer: Answer) -> None:
        """Count one."""
        key = (answer.ask.value, answer.said.name.lower())
        self.asked[key] = self.asked.get(key, 0) + 1


class Judge:
    """See the module. `has_tokenizer`: see `Startup`."""

    def __init__(self, policy: HealthPolicy, *, now: float, has_tokenizer: bool = True) -> None:
        self.findings = Findings()
        self.gpus = GpuWatch(policy, self.findings)
        self.heartbeat = Heartbeat(now=now)
        self.counts = Counts({})
        self.kills = KillBudget(policy)
        self.loads: list[Load] = []
        self.restarts = 0
        self._policy = policy
        self._has_tokenizer = has_tokenizer
        self._startup = Startup(policy, now=now, has_tokenizer=has_tokenizer)
        self._gate = Gate(policy, now=now)
        self._strain = Strain(policy, self.findings)
        self._refusals = 0
        self._unhealthy_since: float | None = None
        self._alive_at = now
        self._failures = 0
        self._began_idle = False
        self._asked_idle = False
        self._asking: Ask | None = None
        self._asked_at: float | None = None
        self._mirror_failures = 0
        self._dead = False
        self._proof: str | None = None
        self._verdicts = self._first(now)

    @property
    def verdicts(self) -> Verdicts:
        """Those of the last decision."""
        return self._verdicts

    @property
    def startup(self) -> Startup:
        """The start that is under way, or the last."""
        return self._startup

    def observe(self, reading: EngineReading) -> None:
        """Take in a look at the engine."""
        self._refusals = self._refusals + 1 if reading.reach is Reach.REFUSED else 0
        beat = self.heartbeat.observe(reading)
        if beat is Beat.RESTARTED:
            self._begin_again(now=reading.at)
        elif self._refusals == GONE_AFTER and self._startup.is_done:
            self.heartbeat.forget()
            self._begin_again(now=reading.at)
        self.findings.set(
            "engine_gone",
            stands=self._refusals >= GONE_AFTER and self.restarts > 0,
            now=reading.at,
            detail=f"{self._refusals} connections in a row were refused",
        )
        self._startup.observe(reading)
        if beat is Beat.MOVED:
            self._is_alive(now=reading.at)
        # A look that brought no word of its health changes nothing about it.
        if reading.healthy:
            self._unhealthy_since = None
        elif reading.healthy is False and self._unhealthy_since is None:
            self._unhealthy_since = reading.at
        if self._startup.is_done:
            self._strain.observe(reading, finished_per_second=self.heartbeat.finished_per_second())

    def observe_gpu(self, report: GpuReport) -> None:
        """Take in what NVML said, or that it hangs."""
        self.gpus.observe(report)
        self._startup.observe_gpu(report)

    def observe_log(self, size: int, *, now: float) -> None:
        """Take in the size of the engine's log, in bytes: a log that grows is a load that gets on."""
        self._startup.observe_size(size, least=LOG_BYTES, now=now)

    def observe_mirror(self, *, is_there: bool, detail: str, now: float) -> None:
        """Take in whether the place that weights come from answers."""
        self._mirror_failures = 0 if is_there else self._mirror_failures + 1
        away = self._mirror_failures >= self._policy.mirror_failures
        self.findings.set("mirror_away", stands=away, now=now, detail=detail)

    def wants(self, *, now: float) -> Ask | None:
        """What to ask of the engine now, if anything. Whoever asks calls `asking` before and `answered` after."""
        if self._asking is not None:
            return None
        if not self._startup.is_done:
            return self._startup.wants(now=now)
        policy = self._policy
        if not policy.canary_enabled or "gpu_lost" in self.findings or self._refusals:
            return None
        if self._asked_at is not None and now - self._asked_at < policy.canary_interval_seconds:
            return None
        patience = policy.canary_interval_seconds if self._is_busy() is False else policy.ambiguous_seconds
        return Ask.CANARY if now - self._alive_at >= patience else None

    def asking(self, ask: Ask) -> None:
        """An ask is under way; there is one at a time."""
        self._asking = ask
        self._asked_idle = self._is_busy() is False

    def answered(self, answer: Answer) -> None:
        """Take in how an ask ended."""
        self._asking = None
        self.counts.add(answer)
        if answer.ask is not Ask.CANARY:
            was_done = self._startup.is_done
            self._startup.answered(answer)
            if self._startup.is_done and not was_done:
                self._end_load(answer)
            return
        self._asked_at = answer.at
        misfit = answer.said is Said.MISFIT
        self.findings.set("canary_misfit", stands=misfit, now=answer.at, detail=answer.detail)
        if answer.said is Said.ANSWERED:
            self.heartbeat.answered(answer)
            self._is_alive(now=answer.at)
        elif self._speaks_against(answer):
            if self._failures == 0:
                self._began_idle = self._asked_idle
            self._failures += 1
            detail = f"{self._failures} in a row, the last {answer.said.value} ({answer.seconds:.1f} s)"
            # Behind requests that run a canary may wait as they do: then only their silence says something.
            waits = answer.said is Said.LATE and self._is_busy() is True and not self._asked_idle
            self.findings.set("canary_waits" if waits else "canary_failed", stands=True, now=answer.at, detail=detail)

    def decide(self, *, now: float) -> Verdicts:
        """Weigh everything; the verdicts stand until the next decision."""
        self.gpus.expire(now=now)
        self._look_at_load(now=now)
        self._look_at_silence(now=now)
        is_clear = self._startup.is_done and not [
            one for one in self.findings.draining() if one.kind.code != "flapping"
        ]
        self._gate.step(is_clear=is_clear, now=now)
        held = is_clear and not self._gate.is_open
        self.findings.set(
            "flapping",
            stands=held and self._gate.is_held(now=now),
            now=now,
            detail=f"lost {self._policy.flips_per_hour} times in an hour",
        )
        self._verdicts = Verdicts(
            self._keep(self._verdicts.startup, *self._say_started(), now=now),
            self._keep(self._verdicts.ready, *self._say_ready(held), now=now),
            self._keep(self._verdicts.live, *self._say_live(now=now), now=now),
        )
        return self._verdicts

    def silence_seconds(self, *, now: float) -> float:
        """How long ago the last sign of life was."""
        return now - self._alive_at

    def _is_busy(self) -> bool | None:
        """Whether the engine has work, as far as it last said."""
        known = self.heartbeat.known
        return None if known is None else known.is_busy

    def _is_alive(self, *, now: float) -> None:
        self._alive_at = max(self._alive_at, now)
        self._failures, self._began_idle, self._proof = 0, False, None
        for code in ("canary_failed", "canary_waits"):
            self.findings.set(code, stands=False, now=now)

    def _begin_again(self, *, now: float) -> None:
        """Another process: what was known of the one before it is of no use, but for how often it was ended."""
        self.restarts += 1
        self._startup = Startup(self._policy, now=now, has_tokenizer=self._has_tokenizer)
        self._gate.restart(now=now)
        self._strain.clear(now=now)
        self._is_alive(now=now)
        self._unhealthy_since = None
        self._dead = False
        self.findings.set("wedged", stands=False, now=now)

    def _speaks_against(self, answer: Answer) -> bool:
        """Whether a canary's end counts against the engine: one that has nothing to do turns nobody away for load."""
        if answer.began_at < self._alive_at:
            return False
        return answer.said in {Said.FAILED, Said.LATE} or (answer.said is Said.REFUSED_LOAD and self._asked_idle)

    def _end_load(self, answer: Answer) -> None:
        self.loads.append(Load(answer.at - self._startup.began_at, self._startup.began_at, answer.at))
        if answer.said is Said.ANSWERED:
            self.heartbeat.answered(answer)
        self._is_alive(now=answer.at)

    def _look_at_load(self, *, now: float) -> None:
        start, findings = self._startup, self.findings
        gone_on = f"for {now - start.began_at:.0f} s, at {start.step.value}"
        stuck, late = start.is_stuck(now=now), start.is_late(now=now)
        findings.set("loading", stands=not start.is_done, now=now, detail=gone_on)
        findings.set("load_stuck", stands=stuck, now=now, detail=gone_on)
        findings.set("load_late", stands=late and not stuck, now=now, detail=gone_on)
        findings.set("warm_up_failed", stands=start.failures > 0, now=now, detail=start.failure)

    def _look_at_silence(self, *, now: float) -> None:
        """Set what silence says. Once proven, a wedge stands until a sign of life, whatever a later look lacks."""
        findings, known, last = self.findings, self.heartbeat.known, self.heartbeat.last
        is_done = self._startup.is_done
        blind = is_done and last is not None and last.reach is not Reach.OK
        findings.set("engine_blind", stands=blind, now=now, detail="" if last is None else f"it {last.reach.value}")
        unhealthy = 0.0 if self._unhealthy_since is None else now - self._unhealthy_since
        findings.set("engine_unhealthy", stands=is_done and self._unhealthy_since is not None, now=now)
        if not is_done:
            for code in ("engine_silent", "wedged"):
                findings.set(code, stands=False, now=now)
            return
        silence, busy = now - self._alive_at, self._is_busy()
        bound = self.heartbeat.ready_bound(self._policy)
        running = "an unknown number" if known is None or known.running is None else f"{known.running:.0f}"
        told = f"nothing moved for {silence:.0f} s with {running} of requests running"
        findings.set("engine_silent", stands=busy is not False and silence > bound, now=now, detail=told)
        xid_at = self.gpus.application_xid_at
        proof = proof_of_wedge(
            Silence(
                seconds=silence,
                is_busy=busy,
                running=None if known is None else known.running,
                failures=self._failures,
                began_idle=self._began_idle,
                had_xid=xid_at is not None and xid_at >= self._alive_at - bound,
                unhealthy_seconds=unhealthy,
            ),
            self._policy,
            ready_bound=bound,
            kill_bound=self.heartbeat.kill_bound(self._policy),
        )
        self._proof = self._proof or proof
        findings.set("wedged", stands=self._proof is not None, now=now, detail=self._proof or "")

    def _say_started(self) -> tuple[bool, str]:
        if self._startup.is_done:
            return True, "weights, tokenizer and warm-up are there"
        standing = [self.findings.get(code) for code in ("load_stuck", "load_late", "warm_up_failed", "loading")]
        return False, next((one.words for one in standing if one is not None), "loading")

    def _say_ready(self, held: bool) -> tuple[bool, str]:
        if self._gate.is_open:
            return True, "it serves"
        draining = self.findings.draining()
        if draining:
            return False, "; ".join(one.words for one in draining)
        return False, "well again, and not yet for long enough" if held else "nothing was seen yet"

    def _say_live(self, *, now: float) -> tuple[bool, str]:
        proof = self._proof
        stuck = self.findings.get("load_stuck") if self._startup.is_late(now=now) else None
        if proof is None and stuck is None:
            self._dead = False
            self.findings.set("kill_limit", stands=False, now=now)
            return True, "nothing proves that a restart would help"
        why = f"wedged: {proof}" if proof is not None else ("" if stuck is None else stuck.words)
        if self._dead:
            # Already counted; but a fault of the node that shows only now still spares it, if nobody acted yet.
            late = [one for one in self.findings.sparing() if one.kind.code != "kill_limit"]
            self._dead = not late
            return not self._dead, why if self._dead else f"{why}; spared: " + "; ".join(one.words for one in late)
        # The limit first, so that it is told beside what else spares.
        limited = not self.kills.may(now=now)
        self.findings.set(
            "kill_limit", stands=limited, now=now, detail=f"{self._policy.kills_per_hour} restarts in the last hour"
        )
        sparing = self.findings.sparing()
        if sparing:
            return True, f"{why}; spared: " + "; ".join(one.words for one in sparing)
        self._dead = True
        self.kills.spend(now=now)
        return False, why

    def _keep(self, before: Verdict, ok: bool, why: str, *, now: float) -> Verdict:
        return replace(before, why=why) if before.ok == ok else Verdict(ok, why, now)

    def _first(self, now: float) -> Verdicts:
        no = Verdict(False, "nothing was seen yet", now)
        return Verdicts(no, no, Verdict(True, "nothing proves that a restart would help", now))
