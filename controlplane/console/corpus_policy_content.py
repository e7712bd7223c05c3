"""A corpus policy in words: what is promised of each corpus and where every number comes from; and what another policy
would change. Pure.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from controlplane.console.corpus_words import (
    breach_sentence,
    group_of,
    index_sentence,
    number_words,
    reach_sentence,
    recovery_sentences,
    tier_words,
)
from controlplane.console.policies import entry_effects, moved_numbers
from controlplane.console.policy_words import Effect
from controlplane.console.threshold_content import Groups, number_groups
from controlplane.console.wording import listed
from dataplane.retrieval.policy import BANNER, GLOBAL, Corpora, Corpus


@dataclass(frozen=True, slots=True)
class PromiseWords:
    """One corpus of a policy, for reading. `groups`: its numbers by what they are of."""

    corpus: Corpus
    tier: str
    sentences: tuple[str, ...]
    groups: Groups


def promise_words(corpus: Corpus, *, today: date) -> PromiseWords:
    """A corpus in words.

    Args:
        corpus: One that knows which words are signed.
    """
    return PromiseWords(
        corpus=corpus,
        tier=tier_words(corpus.recovery),
        sentences=(
            breach_sentence(corpus),
            reach_sentence(corpus),
            index_sentence(corpus),
            *source_sentences(corpus),
            *recovery_sentences(corpus.recovery),
        ),
        groups=number_groups(corpus.thresholds(), number_words, group_of, today=today),
    )


def source_sentences(corpus: Corpus) -> Iterator[str]:
    """Where its changes come from, and what that means for replays."""
    if corpus.sources:
        yield f"Changes are read from the outbox of {listed(sorted(corpus.sources))}, and taken over the API"
    else:
        yield "Changes are taken over the API"
    if corpus.revisions == GLOBAL:
        yield "Its source counts all changes by one clock, so what is older than a mark is known to be a replay"
    else:
        yield "Its source counts each document by itself, so what was deleted is remembered for ever"


# --- what another policy changes --------------------------------------------------------------------------------------
def corpora_effects(before: Corpora | None, after: Corpora) -> list[Effect]:
    """What putting `after` in force changes, corpus by corpus."""
    return entry_effects(
        before,
        after,
        gone=lambda corpus: (
            f"{corpus.title} is promised no longer: callers are told that it does not exist; its documents stay"
        ),
        changed=_of_corpus,
    )


def _of_corpus(before: Corpus | None, after: Corpus) -> Iterator[Effect]:
    if before is None:
        said = (index_sentence(after), reach_sentence(after), tier_words(after.recovery))
        yield Effect(f"{after.title} is a corpus: its first namespace is built once it is in force", said)
        return
    if reach_sentence(before) != reach_sentence(after):
        yield Effect(f"{after.title} has other readers or zones", (reach_sentence(after),))
    if index_sentence(before) != index_sentence(after):
        told = "every document is embedded again, into a namespace beside the one that serves, until somebody switches"
        yield Effect(f"{after.title} is made findable in another way: {told}", (index_sentence(after),))
    elif before.embedding != after.embedding:
        yield Effect(f"{after.title}: its model is told of documents and questions in other words")
    yield from _of_freshness(before, after)
    if before.answering != after.answering:
        yield Effect(f"{after.title}: answers are composed in another way", tuple(_answering(before, after)))
    if _plain(before) != _plain(after):
        yield Effect(f"{after.title} comes back in another way", tuple(recovery_sentences(after.recovery)))
    if tuple(source_sentences(before)) != tuple(source_sentences(after)):
        yield Effect(f"{after.title} gets its changes in another way", tuple(source_sentences(after)))
    if moved := moved_numbers(before, after, number_words, label=lambda name, words: words.label):
        yield Effect(f"Numbers of {after.title} move", moved)


def _of_freshness(before: Corpus, after: Corpus) -> Iterator[Effect]:
    old, new = before.freshness, after.freshness
    if old.on_breach != new.on_breach:
        told = "answers carry a banner" if new.on_breach == BANNER else "nothing is answered from it"
        yield Effect(f"{after.title}: once it is stale, {told} from now on")
    if old.banner != new.banner:
        yield Effect(f"{after.title}: its banner is {new.banner}, not {old.banner}")


def _answering(before: Corpus, after: Corpus) -> Iterator[str]:
    old, new = before.answering, after.answering
    if old.chunks != new.chunks:
        yield f"Passages {old.chunks} → {new.chunks}"
    if old.instructions != new.instructions:
        yield f"The model is told: {new.instructions}"
    if old.snapshot_hours != new.snapshot_hours:
        yield f"Snapshots are kept {old.snapshot_hours} h → {new.snapshot_hours} h"


def _plain(corpus: Corpus) -> tuple[object, ...]:
    """Of its recovery what is no threshold; those are told as numbers."""
    recovery = corpus.recovery
    return recovery.tier, recovery.strategy, recovery.dump_hours, recovery.keep_days
