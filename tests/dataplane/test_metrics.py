"""What a process shows of itself when it is scraped."""

from __future__ import annotations

from types import SimpleNamespace

from dataplane.metrics import GatewayMetrics
from dataplane.retrieval.counting import RetrievalCounts


def lines_of(**given):
    metrics = GatewayMetrics(release=lambda: None, **given)
    return [line for line in metrics.render().decode().splitlines() if not line.startswith("#")]


def test_streams_are_shown_where_they_are_kept():
    """How many are live, how often they were read again, how they ended, and whether their log is there."""
    streams = SimpleNamespace(generating=2, resumes=5, endings={"completed": 7, "interrupted": 1}, is_log_up=False)

    shown = [line for line in lines_of(streams=lambda: streams) if "stream" in line]

    assert shown == [
        "ballast_gateway_streams_live 2.0",
        "ballast_gateway_stream_resumes_total 5.0",
        'ballast_gateway_stream_endings_total{ending="completed"} 7.0',
        'ballast_gateway_stream_endings_total{ending="interrupted"} 1.0',
        "ballast_gateway_stream_log_up 0.0",
    ]
    assert [line for line in lines_of() if "stream" in line] == []


def test_ladders_are_shown_by_surface_tier_and_trigger():
    """Where triggers put them, what stands for whom, and what is read; a reading that is not known has no series."""
    state = {
        "surface": "web-chat",
        "level": 2,
        "engaged": {"vip": 0, "free": 4},
        "ids": ["a"],
        "readings": {"queue": 12.5, "gpu": None},
        "generation": 7,
        "is_alone": True,
        "reserved": {"vip": 3},
    }

    shown = [line for line in lines_of(ladders=lambda: [state]) if "ladder" in line]

    assert shown == [
        'ballast_ladder_level{surface="web-chat"} 2.0',
        'ballast_ladder_engaged{surface="web-chat",tier="vip"} 0.0',
        'ballast_ladder_engaged{surface="web-chat",tier="free"} 4.0',
        'ballast_ladder_reading{surface="web-chat",trigger="queue"} 12.5',
        "ballast_ladder_alone 1.0",
    ]
    assert [line for line in lines_of() if "ladder" in line] == ["ballast_ladder_alone 0.0"]


def test_corpora_are_shown_by_outcome_and_lag():
    """As many series as the release has corpora, and outcomes there are; none at a gateway that searches none."""
    counts = RetrievalCounts()
    counts.count("help-centre", "serve")
    counts.count("help-centre", "serve")
    counts.count("manuals", "corpus_stale")
    counts.note_lag("help-centre", 12.5)

    shown = [line for line in lines_of(retrievals=counts) if "corpus" in line]

    assert shown == [
        'ballast_retrievals_total{corpus="help-centre",outcome="serve"} 2.0',
        'ballast_retrievals_total{corpus="manuals",outcome="corpus_stale"} 1.0',
        'ballast_corpus_lag_seconds{corpus="help-centre"} 12.5',
    ]
    assert [line for line in lines_of() if "corpus" in line] == []
