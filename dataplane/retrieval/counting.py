"""What a process counts of its retrievals, and shows at `/metrics`."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily


class RetrievalCounts:
    """Retrievals by corpus and outcome, and the lag of each corpus as it was last seen.

    An outcome is `serve`, `banner`, `cancelled` or an error code.
    """

    def __init__(self) -> None:
        self._retrievals: dict[tuple[str, str], int] = {}
        self._lags: dict[str, float] = {}

    def count(self, corpus: str, outcome: str) -> None:
        """Count one retrieval that has ended. `corpus` is one of the release's, so there are few."""
        key = (corpus, outcome)
        self._retrievals[key] = self._retrievals.get(key, 0) + 1

    def note_lag(self, corpus: str, seconds: float) -> None:
        """Note how old the oldest change is that readers of a corpus lack."""
        self._lags[corpus] = seconds

    def families(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield what is shown of them."""
        retrievals = CounterMetricFamily(
            "ballast_retrievals",
            "Retrievals by corpus and outcome: serve, banner, cancelled, or the error's code.",
            labels=["corpus", "outcome"],
        )
        for (corpus, outcome), number in list(self._retrievals.items()):
            retrievals.add_metric([corpus, outcome], number)
        yield retrievals
        lags = GaugeMetricFamily(
            "ballast_corpus_lag_seconds",
            "Age of the oldest change of a corpus that is not searchable, as it was last seen here.",
            labels=["corpus"],
        )
        for corpus, seconds in list(self._lags.items()):
            lags.add_metric([corpus], seconds)
        yield lags
