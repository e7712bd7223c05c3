"""What the page of a corpus shows of what was written down: comparisons, dumps and drills, the newest of each."""

from dataclasses import dataclass
from typing import Final

from controlplane.console.corpus_words import found_words, took_words
from controlplane.corpora.models import Corpus, Dump, Reconciliation, RecoveryDrill
from controlplane.corpora.records import DumpState
from controlplane.corpora.scenarios import SCENARIOS

_MOST: Final = 8


@dataclass(frozen=True, slots=True)
class ReconciliationRow:
    """One comparison. `found`: what differed, in words."""

    row: Reconciliation
    found: str


@dataclass(frozen=True, slots=True)
class DumpRow:
    """One dump. `can_be_verified`: it is whole and still there."""

    row: Dump
    can_be_verified: bool


@dataclass(frozen=True, slots=True)
class DrillRow:
    """One drill, with how long it took from the loss to verified, and how long that was predicted to take."""

    row: RecoveryDrill
    title: str
    took: str
    predicted: str


def reconciliation_rows(corpus: Corpus) -> list[ReconciliationRow]:
    """The newest comparisons; one query."""
    found = corpus.reconciliations.select_related("namespace")[:_MOST]
    return [ReconciliationRow(one, found_words(one.counts)) for one in found]


def dump_rows(corpus: Corpus) -> list[DumpRow]:
    """The newest dumps; one query."""
    return [
        DumpRow(one, one.state == DumpState.COMPLETE and one.deleted_at is None) for one in corpus.dumps.all()[:_MOST]
    ]


def drill_rows(corpus: Corpus) -> list[DrillRow]:
    """The newest drills; one query."""
    return [_drill_row(one) for one in corpus.drills.defer("steps", "report", "report_signature")[:_MOST]]


def _drill_row(drill: RecoveryDrill) -> DrillRow:
    scenario = SCENARIOS.get(drill.scenario)
    title = scenario.title if scenario else drill.scenario
    return DrillRow(drill, title, took_words(drill.rto_seconds), took_words(drill.predicted_seconds))
