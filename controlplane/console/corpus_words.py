"""What is promised of a corpus, in words: how it is made findable, how old it may be and what happens then, and how it
comes back when its index is lost. Pure.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from controlplane.console.ladder_words import clock as clock
from controlplane.console.threshold_words import Words
from controlplane.console.wording import listed
from controlplane.durations import span
from dataplane.retrieval.policy import BANNER, BLOCK, REBUILD, REPLICATE, RESTORE, TIERS, Corpus, Recovery

MAX_LAG: Final = "freshness.max_lag_seconds"
NUMBERS: Final[Mapping[str, Words]] = {
    MAX_LAG: Words("Changes are searchable within", "s", "Once the oldest missing change is older, it is stale"),
    "recovery.rpo_seconds": Words("May be missing after a loss (RPO)", "s", "Until it is captured again"),
    "recovery.rto_seconds": Words("Searchable again after a loss (RTO)", "s", "From the loss until it is verified"),
    "recovery.reembed_minutes": Words(
        "Embedding again", "min", "So long of it is accepted, where that is what it takes"
    ),
}
_GROUPS: Final = {"freshness": "Freshness", "recovery": "Recovery"}
_STRATEGIES: Final = {
    REBUILD: "rebuilt by embedding every document again",
    RESTORE: "restored from the last dump",
    REPLICATE: "served from a second namespace that is kept as fresh as the first",
}
# What a comparison finds, in the order in which people ask.
_FINDINGS: Final = {
    "missing": "missing",
    "stale": "stale",
    "wrong_model": "of the wrong model",
    "corrupt": "corrupt",
    "extra": "too many",
    "leftover": "left-over vectors",
}


def number_words(name: str) -> Words:
    """The words for a threshold of a corpus, such as 'recovery.rto_seconds'."""
    return NUMBERS[name]


def group_of(name: str) -> str:
    """Under which heading a threshold stands."""
    return _GROUPS[name.partition(".")[0]]


def took_words(seconds: float | None) -> str:
    """What was measured, short ones to the hundredth; '–' of what was not."""
    if seconds is None:
        return "–"
    return f"{seconds:.2f} s" if seconds < 60 else span(seconds)


def found_words(counts: Mapping[str, int]) -> str:
    """What a comparison found: '2 missing, 1 stale'; empty where nothing differs."""
    return ", ".join(f"{counts[kind]:,} {words}" for kind, words in _FINDINGS.items() if counts.get(kind))


# --- how it is made findable ------------------------------------------------------------------------------------------
def index_sentence(corpus: Corpus) -> str:
    """How it is cut, embedded and kept."""
    cut, embedding = corpus.chunking, corpus.embedding
    shared = f", {cut.overlap_characters} of them shared with the one before" if cut.overlap_characters else ""
    return (
        f"Cut by {cut.version} into passages of at most {cut.max_characters:,} characters{shared}; embedded by "
        f"{embedding.model} in {embedding.dimensions:,} dimensions over route {embedding.route}; kept in {corpus.store}"
    )


def reach_sentence(corpus: Corpus) -> str:
    """Who may ask it, and where its documents may go."""
    who = f"Asked by {listed(list(corpus.tenants))} alone" if corpus.tenants else "Asked by every tenant"
    zones = sorted(corpus.residency)
    where = f"in {listed(zones, last='or')} only" if zones else "anywhere"
    return f"{who}; its documents are embedded {where}"


# --- how old it may be ------------------------------------------------------------------------------------------------
def breach_sentence(corpus: Corpus) -> str:
    """What happens once it is older than promised, as gateways decide it.

    Args:
        corpus: One that knows which words are signed.
    """
    older = f"Once the oldest missing change is over {span(corpus.freshness.max_lag_seconds.value)} old"
    if corpus.on_breach == BANNER:
        return f"{older}, its answers carry the signed words of {corpus.freshness.banner}"
    refused = f"{older}, nothing is answered from it: callers get corpus_stale"
    if corpus.freshness.on_breach == BLOCK:
        return refused
    return f"{refused}, since nobody has signed the words of {corpus.freshness.banner} that answers would carry"


# --- how it comes back ------------------------------------------------------------------------------------------------
def tier_words(recovery: Recovery) -> str:
    """Its tier with both promises: 'Contractual: RPO 1 h, RTO 15 min'."""
    rpo, rto = span(recovery.rpo_seconds.value), span(recovery.rto_seconds.value)
    return f"{TIERS[recovery.tier]}: RPO {rpo}, RTO {rto}"


def strategy_words(recovery: Recovery) -> str:
    """How it comes back: 'restored from the last dump'."""
    return _STRATEGIES[recovery.strategy]


def recovery_sentences(recovery: Recovery) -> Iterator[str]:
    """How it comes back, what that may lose and how long it may take."""
    rpo, rto = span(recovery.rpo_seconds.value), span(recovery.rto_seconds.value)
    yield f"After a loss it is {strategy_words(recovery)}, and searchable again within {rto}"
    yield f"What changed within {rpo} before the loss may be missing then, until it is captured again"
    yield accepted_sentence(recovery)
    if recovery.dump_hours:
        days = f"{recovery.keep_days} day{'' if recovery.keep_days == 1 else 's'}"
        yield f"A dump is made every {recovery.dump_hours} h, and nobody can delete one for {days}"
    else:
        yield "No dump is ever made"


def accepted_sentence(recovery: Recovery) -> str:
    """How much of embedding again people have signed."""
    minutes = recovery.reembed_minutes.value
    return f"We accept {minutes:,.10g} minute{'' if minutes == 1 else 's'} of re-embed, where that is what it takes"
