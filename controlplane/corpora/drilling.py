"""A game day, as a worker runs it: lose something in a sandbox, see it, decide, come back, verify, and switch.

It is durable work in pieces: a long one does not stand before everybody else's, and each piece goes on where the last
one ended, which the drill's steps and the facts of its sandbox say. A piece whose worker died is not gone on with, for
its times would be of two; it ends the drill, and what it made is dropped.

What serves is never harmed. Of a drill on what serves the loss is only assumed; what comes back serves really, for as
long as it takes to switch back.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from functools import partial
from time import monotonic, sleep
from typing import Any, Final, Protocol

from django.db import Error, transaction
from django.utils import timezone

from controlplane.audit import operations as audit
from controlplane.corpora import drills, namespaces
from controlplane.corpora.acceptance import accept, count_chunks, examine
from controlplane.corpora.drill_dumps import HalfWritten, compare_heads
from controlplane.corpora.drill_log import CalledOff, DrillLog
from controlplane.corpora.drill_reports import sign_report, write_report
from controlplane.corpora.dump_keeping import CLOCK
from controlplane.corpora.embedding import Embedder, open_embedder
from controlplane.corpora.errors import DrillNotPossible, DumpRefused
from controlplane.corpora.indexing import index_pending
from controlplane.corpora.models import Dump, Namespace, Pending, Purpose, RecoveryDrill, Sandbox
from controlplane.corpora.policies import promised
from controlplane.corpora.rates import note_rebuild
from controlplane.corpora.records import DRILL_TRANSITIONS, DrillEvent, DrillState
from controlplane.corpora.recovering import make_plan, size_of
from controlplane.corpora.restoring import restore_dump
from controlplane.corpora.sandboxes import (
    copy_alive,
    make_namespace,
    mark_all_differing,
    require_fit,
    switch_sandbox,
)
from controlplane.corpora.scenarios import scenario_of
from controlplane.corpora.vault import vault
from controlplane.corpora.vectors import await_built
from controlplane.releases.errors import SigningKeyMissing
from controlplane.releases.signing import signing_key
from controlplane.work.handlers import Attempt
from dataplane.retrieval.acceptance import Check
from dataplane.retrieval.policy import REBUILD, REPLICATE, RESTORE
from dataplane.retrieval.policy import Corpus as Promised

logger = logging.getLogger(__name__)

PREPARE: Final = "prepare"
# What a loss costs.
PHASES: Final = ("detect", "decide", "restore", "verify", "switch")
# After that nothing more is begun in this piece, so that others' work gets its turn.
BEGIN_SECONDS: Final = 60.0
# That an acceptance makes.
_CHECKS: Final = 4
# What is known of a drill at its end only.
_FOUND: Final = (
    "ended_at",
    "error",
    "steps",
    "seconds",
    "rto_seconds",
    "rpo_seconds",
    "tokens",
    "cost_micros",
    "acceptance",
)


class OpenEmbedder(Protocol):
    """`embedding.open_embedder`."""

    def __call__(self, corpus: Promised) -> AbstractContextManager[Embedder]: ...


class _NotShown(Exception):
    """What the drill was to show, it did not show; the message says what."""


def run_work(arguments: dict[str, Any], attempt: Attempt) -> None:
    """As `controlplane.work` calls it.

    Shape: {"drill": int, "piece": int}.
    """
    run_piece(arguments["drill"], arguments["piece"], is_again=attempt.number > 1, now=timezone.now, clock=monotonic)


def run_piece(
    pk: int,
    piece: int,
    *,
    is_again: bool = False,
    now: Callable[[], datetime],
    clock: Callable[[], float],
    open_embedder: OpenEmbedder = open_embedder,
    wait: Callable[[float], object] = sleep,
) -> bool:
    """Go on with a drill, and have the rest done by another piece, or end it. Returns whether it is over.

    Args:
        is_again: Whoever had this piece before was gone before it ended.
        clock: Monotonic seconds.
        wait: Waits so many of them.
    """
    drill = RecoveryDrill.objects.select_related("corpus", "namespace", "dump").get(pk=pk)
    if is_again and not drill.is_over:
        drills.end_failed(drill, error=drills.GONE, now=now())
    if not drill.is_over:
        run = _Run(drill, now=now, clock=clock, open_embedder=open_embedder, wait=wait)
        try:
            if not run.go_on():
                drills.enqueue_piece(drill, piece + 1, now=now())
                return False
        except CalledOff:
            logger.info("drill %s was called off", pk)
        except Error:
            raise  # the database is away: the piece is tried again, which ends the drill
        except Exception as exc:
            if not isinstance(exc, _NotShown):
                logger.warning("drill %s failed", pk, exc_info=True)
            run.fail(str(exc) or type(exc).__name__)
    drills.clear(drill, now=now())
    return True


class _Run:
    """One drill, for as long as one piece of it lasts."""

    def __init__(
        self,
        drill: RecoveryDrill,
        *,
        now: Callable[[], datetime],
        clock: Callable[[], float],
        open_embedder: OpenEmbedder,
        wait: Callable[[float], object],
    ) -> None:
        self._drill = drill
        self._corpus = drill.corpus
        self._scenario = scenario_of(drill.scenario)
        self._promised = promised(drill.corpus.slug)
        self._log = DrillLog(drill, now=now, clock=clock)
        self._now = now
        self._clock = clock
        self._open_embedder = open_embedder
        self._wait = wait
        self._began = clock()
        self._sandbox: Sandbox | None = Sandbox.objects.filter(drill=drill).first()

    def go_on(self) -> bool:
        """Do what is left, until it is over or the time of a piece is. Returns whether it is over.

        Raises:
            CalledOff, _NotShown, and whatever a step does.
        """
        if self._drill.state == DrillState.QUEUED:
            signing_key()  # whose absence would be found out at the end
            drills.move(self._drill, DrillEvent.BEGUN, began_at=self._now())
        acts = (self._prepare, self._detect, self._decide, self._restore, self._verify, self._switch)
        for name, act in zip((PREPARE, *PHASES), acts, strict=True):
            if self._log.is_done(name):
                continue
            if self._is_time_over():
                return False
            with self._log.step(name, is_counted=name in PHASES):
                if (words := act()) is not None:
                    self._log.end(words)
            if words is None:
                return False
        self._pass()
        return True

    # --- steps: each says what it found; None: it is gone on with in the next piece -----------------------------------
    def _prepare(self) -> str:
        serving = self._corpus.live_namespace
        if serving is None:
            raise DrillNotPossible(f"corpus {self._corpus.slug!r} is served from no namespace any more")
        require_fit(serving, self._promised)
        facts: dict[str, Any] = {"live": serving.pk, "documents": self._corpus.documents.count(), "refused": []}
        if self._drill.targets_live:
            self._sandbox = Sandbox.objects.create(drill=self._drill, lost=serving, live_namespace=serving)
            self._note(facts | {"rows": count_chunks(serving), "lost_at": self._now().isoformat()})
            return "What serves is left as it is: its loss is only assumed"
        with transaction.atomic():  # so that no namespace is ever nobody's
            lost, _ = make_namespace(self._corpus, self._promised, purpose=Purpose.DRILL, fill=False, now=self._now())
            self._sandbox = Sandbox.objects.create(drill=self._drill, lost=lost, live_namespace=lost)
        rows = copy_alive(serving, lost)
        self._log.tell(rows, rows)
        if self._strategy == REPLICATE and not self._scenario.needs_dump:
            facts["seq"] = self._make_replica(serving)
        self._scenario.damage(lost)
        self._note(facts | {"rows": rows, "lost_at": self._now().isoformat()})
        return f"{rows} chunks of {serving} were copied into {lost}. {self._scenario.loss.removesuffix('.')}"

    def _make_replica(self, serving: Namespace) -> int:
        """The warm second namespace, as fresh as the first before anything is lost. Returns its newest change."""
        replica, _ = self._make_recovered(fill=False)
        copy_alive(serving, replica)
        seq = mark_all_differing(replica, now=self._now())
        if not self._index(replica):
            raise _NotShown("the second namespace is not as fresh as the first within the time of one piece")
        self._await_built(replica)
        return seq

    def _detect(self) -> str:
        checks = list(examine(self._there.lost, expected=self._facts["rows"]))
        if self._drill.targets_live:
            if found := [one for one in checks if not one.passed]:
                raise _NotShown(f"what serves is not whole: {_listed(found)}; see to that first")
            return f"Nothing is lost: {_listed(checks)}"
        if self._scenario.is_source_lost:
            words = f"0 of {self._facts['documents']} documents can be read: they count as lost"
            checks.append(Check("documents", passed=False, words=words))
        failed = [one for one in checks if not one.passed]
        if self._scenario.detected_by not in {one.name for one in failed}:
            raise _NotShown(f"the loss was not seen by check {self._scenario.detected_by!r}: {_listed(checks)}")
        return f"Seen: {_listed(failed)}"

    def _decide(self) -> str:
        what = replace(self._promised, recovery=replace(self._promised.recovery, strategy=self._strategy))
        plan = make_plan(self._corpus, what, self._scenario, size=size_of(self._live))
        self._note({"way": plan.way, "dumps": [one.pk for one in plan.dumps]})
        if plan.dump is None:
            return plan.why
        self._log.write(dump=plan.dump)
        return f"{plan.why}: {plan.dump.name} is restored"

    def _restore(self) -> str | None:
        way, recovered = self._facts["way"], self._there.recovered
        if way == REPLICATE:
            assert recovered is not None  # noqa: S101 - `_make_replica` made it
            namespaces.mark_ready(recovered, now=self._now())
            return f"Nothing is restored: {recovered} was there"
        if recovered is None:
            recovered, seq = self._make_recovered(fill=way == REBUILD)
            self._note({"seq": seq})
        if way == RESTORE and not self._facts.get("is_loaded"):
            self._load(recovered)
        if not self._index(recovered):
            return None
        if way == REBUILD:
            self._build_index(recovered)
        namespaces.mark_ready(recovered, now=self._now())
        refused = "".join(f". Refused: {one}" for one in self._facts["refused"])
        how = "embedded again" if way == REBUILD else "restored, and what changed since was indexed"
        if self._scenario.is_source_lost:
            how = "restored; what changed since is lost with its source"
        return f"{count_chunks(recovered)} chunks in {recovered}: {how}{refused}"

    def _load(self, recovered: Namespace) -> None:
        """Restore the dump that was decided on, after those were refused that are half written."""
        dumps = Dump.objects.in_bulk(self._facts["dumps"])
        *flawed, good = (dumps[pk] for pk in self._facts["dumps"])
        refused = [self._refused(dump, recovered, is_finished=one) for dump in flawed for one in (False, True)]
        told: dict[str, Any] = {"progress": self._log.tell, "clock": self._clock, "wait": self._wait}
        restore_dump(good, namespace=recovered, now=self._now(), **told)
        # What changed since is indexed from its documents; where those are lost too, it is no part of what is back.
        is_lost = self._scenario.is_source_lost
        seq = good.high_water_seq if is_lost else mark_all_differing(recovered, now=self._now())
        self._note({"is_loaded": True, "seq": seq, "refused": refused})

    def _refused(self, dump: Dump, recovered: Namespace, *, is_finished: bool) -> str:
        store = HalfWritten(vault(), is_finished=is_finished)
        try:
            restore_dump(dump, namespace=recovered, now=self._now(), kept=store, clock=self._clock)
        except DumpRefused as exc:
            return str(exc)
        raise _NotShown(f"dump {dump.name!r} is half written, and was restored all the same")

    def _build_index(self, recovered: Namespace) -> None:
        load = self._log.seconds
        namespaces.build_index(recovered)
        self._await_built(recovered)
        note_rebuild(
            namespace=recovered,
            chunks=count_chunks(recovered),
            tokens=self._drill.tokens,
            cost_micros=self._drill.cost_micros,
            load_seconds=load,
            index_seconds=self._log.seconds - load,
            at=self._log.began_at,
        )

    def _await_built(self, namespace: Namespace) -> None:
        chunks = count_chunks(namespace)
        await_built(namespace, told=partial(self._log.tell, chunks, chunks), wait=self._wait)

    def _index(self, namespace: Namespace) -> bool:
        """Index what is pending in a namespace; False: the time of this piece is over before it is done."""
        waiting = Pending.objects.filter(namespace=namespace, is_poisoned=False)
        if not waiting.exists():
            return True
        total = self._facts.get("waiting") or waiting.count()
        self._note({"waiting": total})
        owner, is_done = f"drill/{self._drill.pk}", False
        with self._open_embedder(self._promised) as embedder:
            while not is_done and not self._is_time_over():
                one = index_pending(namespace=namespace, embedder=embedder, owner=owner, now=self._now())
                is_done = not one.taken
                self._drill.tokens += one.tokens
                self._drill.cost_micros += one.cost_micros
                self._log.tell(max(total - waiting.count(), 0), total)
        self._log.write(tokens=self._drill.tokens, cost_micros=self._drill.cost_micros)
        return is_done

    def _verify(self) -> str:
        recovered = self._recovered
        checks: list[Check] = []
        for one in accept(self._corpus, recovered, peer=self._live, seq=self._facts["seq"]):
            checks.append(one)
            self._log.tell(len(checks), _CHECKS)
        if self._scenario.is_source_lost:
            assert self._drill.dump is not None  # noqa: S101 - as `_decide` found it
            checks.append(compare_heads(self._drill.dump, self._corpus))
        self._log.write(acceptance={"checks": [one.to_json() for one in checks]})
        if failed := [one for one in checks if not one.passed]:
            raise _NotShown(f"what came back is not accepted: {_listed(failed)}")
        return _listed(checks)

    def _switch(self) -> str:
        """There and back, one as fast as the other; what serves in the end is what served before."""
        recovered, began = self._recovered, self._clock()
        self._serve(recovered)
        there = self._clock()
        self._serve(self._live if self._drill.targets_live else self._there.lost)
        back = self._clock()
        self._log.took(there - began)
        what = "What serves" if self._drill.targets_live else "The sandbox's alias"
        return f"{what} was switched in {there - began:.3f} s, and back in {back - there:.3f} s"

    def _serve(self, namespace: Namespace) -> None:
        if self._drill.targets_live:
            why = f"drill {self._drill.pk}"
            namespaces.switch(corpus=self._corpus, namespace=namespace, reason=why, actor=CLOCK, now=self._now())
        switch_sandbox(self._there, namespace)

    # --- the end ------------------------------------------------------------------------------------------------------
    def _pass(self) -> None:
        drill = self._drill
        drills.clear(drill, now=self._now())
        drill.rto_seconds = sum(drill.seconds[name] for name in PHASES)
        lost_at = datetime.fromisoformat(self._facts["lost_at"])
        as_of = None if drill.dump is None else drill.dump.as_of
        drill.rpo_seconds = 0.0 if as_of is None else max(0.0, (lost_at - as_of).total_seconds())
        self._end(DrillEvent.PASSED)

    def fail(self, error: str) -> None:
        """Note that it did not come back, and why; nothing where it is over."""
        self._end(DrillEvent.FAILED, " ".join(error.split())[:300])

    @audit.operation
    def _end(self, event: DrillEvent, error: str = "") -> None:
        drill = self._drill
        origin, ended_at = DrillState(drill.state), self._now()
        drill.state, drill.ended_at, drill.error = DRILL_TRANSITIONS[origin, event], ended_at, error
        found: dict[str, Any] = {name: getattr(drill, name) for name in _FOUND}
        try:
            way, rows = self._facts.get("way", ""), self._facts.get("rows", 0)
            report = write_report(drill, scenario=self._scenario, promised=self._promised, way=way, rows=rows)
            found |= {"report": report, "report_signature": sign_report(report).to_mapping()}
        except SigningKeyMissing as exc:  # which was there when it began
            logger.warning("the report of drill %s is not signed: %s", drill.pk, exc)
        if drills.move(drill, event, **found):
            data = {"corpus": self._corpus.slug, "scenario": drill.scenario, "seconds": drill.seconds, "error": error}
            audit.record(f"corpus.drill_{drill.state}", actor=CLOCK, target=drill, at=ended_at, data=data)
            if event == DrillEvent.FAILED:
                drills.tell_failed(drill, now=ended_at)

    # --- what it stands on --------------------------------------------------------------------------------------------
    @property
    def _strategy(self) -> str:
        """Of the corpus; a drill on what serves has no second namespace of its own, and restores one."""
        strategy = self._promised.recovery.strategy
        return RESTORE if self._drill.targets_live and strategy == REPLICATE else strategy

    @property
    def _there(self) -> Sandbox:
        assert self._sandbox is not None  # noqa: S101 - `_prepare` made it
        return self._sandbox

    @property
    def _facts(self) -> dict[str, Any]:
        return {} if self._sandbox is None else self._sandbox.facts

    def _note(self, facts: dict[str, Any]) -> None:
        there = self._there
        there.facts |= facts
        Sandbox.objects.filter(pk=there.pk).update(facts=there.facts)

    @property
    def _live(self) -> Namespace:
        """What served when it began."""
        found: Namespace = Namespace.objects.select_related("corpus").get(pk=self._facts["live"])
        return found

    @property
    def _recovered(self) -> Namespace:
        recovered = self._there.recovered
        assert recovered is not None  # noqa: S101 - `_restore` made it
        return recovered

    def _make_recovered(self, *, fill: bool) -> tuple[Namespace, int]:
        purpose = Purpose.SERVING if self._drill.targets_live else Purpose.DRILL
        with transaction.atomic():
            recovered, seq = make_namespace(self._corpus, self._promised, purpose=purpose, fill=fill, now=self._now())
            Sandbox.objects.filter(pk=self._there.pk).update(recovered=recovered)
        self._there.recovered = recovered
        self._log.write(namespace=recovered)
        return recovered, seq

    def _is_time_over(self) -> bool:
        return self._clock() - self._began > BEGIN_SECONDS


def _listed(checks: Sequence[Check]) -> str:
    return "; ".join(one.words for one in checks)
