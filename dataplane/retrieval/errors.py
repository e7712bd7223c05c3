"""What a caller is told who gets nothing from a corpus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dataplane.errors import GatewayError
from dataplane.errors.requests import InvalidRequest
from dataplane.retrieval.found import Place


class CorpusNotFound(InvalidRequest):
    """The release has no corpus of this name, or none that this tenant may ask; the two look alike on purpose."""

    code = "corpus_not_found"

    def __init__(self, corpus: str, *, param: str = "corpus") -> None:
        super().__init__(f"corpus {corpus[:80]!r} does not exist, or not for your tenant", param=param)
        self.corpus = corpus


class CorpusStale(GatewayError):
    """What could be found is older than policy or caller allow, so nothing was.

    `members` are what the error says beside. Shape: {"corpus": slug, "freshness": see `freshness_json`}.
    """

    code = "corpus_stale"
    is_repeatable = False

    def __init__(self, message: str, *, members: Mapping[str, Any], retry_after_seconds: float) -> None:
        super().__init__(message)
        self.members = dict(members)
        self.retry_after_seconds = retry_after_seconds


class CorpusPaused(GatewayError):
    """On-call has paused all queries of the corpus."""

    code = "corpus_paused"

    def __init__(self, corpus: str) -> None:
        super().__init__(f"queries of corpus {corpus!r} are paused by its operators; retry later")
        self.corpus = corpus


class CorpusEmpty(GatewayError):
    """Nothing of the corpus is searchable yet: its first namespace is being built."""

    code = "corpus_not_ready"

    def __init__(self, corpus: str) -> None:
        super().__init__(f"corpus {corpus!r} has no searchable namespace yet; retry once its first build is done")
        self.corpus = corpus


class SnapshotGone(GatewayError):
    """The snapshot is older than what is kept, or of a namespace that was dropped."""

    code = "snapshot_gone"

    def __init__(self, snapshot: str) -> None:
        super().__init__(f"snapshot {snapshot!r} is no longer kept; begin again without one")
        self.snapshot = snapshot


class ModelMoved(GatewayError):
    """What is to be searched has vectors of another model than the question's by now; `place` is where. Never leaves
    the retriever.
    """

    code = "corpus_model_moved"

    def __init__(self, place: Place) -> None:
        super().__init__(f"namespace {place.namespace} is of model {place.model!r}; embed the question by that")
        self.place = place


class CorpusUnavailable(GatewayError):
    """Where the corpus is kept cannot be asked, so nobody knows what may be told of it: a delete may stand there."""

    code = "corpus_unavailable"

    def __init__(self, why: str) -> None:
        super().__init__(f"the corpus cannot be searched: {why}; retry later")
        self.why = why
