"""How fresh a corpus is, and what follows from that for whoever asks. Pure.

Its lag is the age of the oldest change that is not searchable yet: on its way to us, as far as whoever captures it can
tell, or accepted and not indexed. With a snapshot, that of the oldest change which the snapshot lacks. Documents that
nothing could index (`poisoned`) are dead letters; they are counted apart and are in no lag, or one of them would hold
the corpus stale for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from dataplane.retrieval.modes import Mode
from dataplane.retrieval.policy import BANNER, Corpus
from dataplane.retrieval.tables import Snapshot

# Whoever reads a source's outbox looks every few seconds; one that was looked at within so long hides no change.
UNCHECKED_SECONDS: Final = 15


@dataclass(frozen=True, slots=True)
class Standing:
    """What a store knows of a corpus at the moment of a search; all of it, and what was found, of one moment.

    Attributes:
        snapshot: What was read.
        lag_seconds: See the module; 0 when every change is searchable.
        pending: Documents whose newest revision is not searchable yet; a store may stop counting at 1,000.
        poisoned: Documents that nothing could index; as `pending`.
        waited_for: Whether the change that the caller waits for is not searchable yet.
        is_pinned: Whether an operator holds the corpus at this snapshot.
    """

    snapshot: Snapshot
    lag_seconds: float
    pending: int
    poisoned: int
    waited_for: bool = False
    is_pinned: bool = False


class Outcome(StrEnum):
    """What is done with what was found."""

    SERVE = "serve"
    BANNER = "banner"  # with signed words on its age
    WAIT = "wait"  # until the change is searchable that the caller asked for
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Judged:
    """An outcome, and by which bound; `max_lag_seconds` is the stricter of the policy's and the caller's."""

    outcome: Outcome
    max_lag_seconds: float
    is_stale: bool


def judge(corpus: Corpus, mode: Mode, standing: Standing) -> Judged:
    """Decide what is done with what was found.

    A caller's own bound is a demand: older than that is refused, whatever the policy. What an operator pinned is served
    with a banner however old it is: somebody decided that, and the answer says so.
    """
    promised = corpus.freshness.max_lag_seconds.value
    asked = mode.max_lag_seconds
    bound = promised if asked is None else min(promised, asked)
    is_stale = standing.lag_seconds > bound
    if standing.waited_for:
        return Judged(Outcome.WAIT, bound, is_stale)
    if asked is not None and standing.lag_seconds > asked:
        return Judged(Outcome.REFUSE, bound, is_stale=True)
    if not is_stale:
        return Judged(Outcome.SERVE, bound, is_stale=False)
    is_told = corpus.on_breach == BANNER or (standing.is_pinned and corpus.is_banner_signed)
    return Judged(Outcome.BANNER if is_told else Outcome.REFUSE, bound, is_stale=True)


def freshness_json(standing: Standing, judged: Judged) -> dict[str, Any]:
    """As answers and errors have it.

    Shape: {"snapshot": name, "index_rev": int, "lag_seconds": number, "max_lag_seconds": number, "is_stale": bool,
            "is_pinned": bool, "pending", "poisoned": int, counted up to 1,000}.
    """
    return {
        "snapshot": str(standing.snapshot),
        "index_rev": standing.snapshot.index_rev,
        "lag_seconds": round(standing.lag_seconds, 3),
        "max_lag_seconds": judged.max_lag_seconds,
        "is_stale": judged.is_stale,
        "is_pinned": standing.is_pinned,
        "pending": standing.pending,
        "poisoned": standing.poisoned,
    }
