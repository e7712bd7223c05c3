"""The articles of the demo's corpora: as files, as the corpora take them in, and as an editor changes one."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import yaml
from django.conf import settings

from controlplane.corpora.accepting import Change, Fate, accept_changes
from controlplane.corpora.models import Corpus

FOLDER = settings.BASE_DIR / "fixtures" / "corpora"
_FENCE = "---\n"
# What an editor writes below an article that was looked through, by its language.
_CHECKED = {"en": "Last checked: {at} UTC", "de": "Zuletzt geprüft: {at} UTC"}


@dataclass(frozen=True, slots=True)
class Article:
    """One article of a help centre.

    Attributes:
        rev: Grows with each edit of its file.
        content: Its title and its text: a title says in few words what a passage below it is about, and it is found by
            that.
        metadata: Shape: {"title", "url", "language", "topic": str}.
    """

    key: str
    rev: int
    content: str
    metadata: dict[str, Any]

    def checked(self, at: datetime) -> str:
        """Its content with a note at the end that somebody looked through it."""
        return f"{self.content}\n\n{_CHECKED[self.metadata['language']].format(at=f'{at:%Y-%m-%d %H:%M}')}"


def corpora() -> tuple[str, ...]:
    """The corpora that articles are there for."""
    return tuple(sorted(path.name for path in FOLDER.iterdir() if path.is_dir()))


def read_articles(corpus: str) -> tuple[Article, ...]:
    """The articles of a corpus, by their keys."""
    return tuple(_read(path.read_text(encoding="utf-8")) for path in sorted((FOLDER / corpus).glob("*.md")))


def _read(text: str) -> Article:
    """Shape: between two lines of '---', {"key", "title", "url", "language", "topic": str, "rev": int} as YAML; below
    them the text.
    """
    _, head, body = text.split(_FENCE, 2)
    said: dict[str, Any] = yaml.safe_load(head)
    key, rev = said.pop("key"), said.pop("rev")
    return Article(key, rev, f"{said['title']}\n\n{body.strip()}", said)


def hand_in(*, now: datetime) -> int:
    """Have every corpus that is there take in its articles; how many were news to it. What an editor changed meanwhile
    stands.
    """
    taken = 0
    for corpus in Corpus.objects.filter(slug__in=corpora()):
        changes = [
            Change(
                source_key=article.key,
                source_rev=article.rev,
                is_deleted=False,
                content=article.content,
                metadata=article.metadata,
                event_at=now,
            )
            for article in read_articles(corpus.slug)
        ]
        fates = accept_changes(corpus=corpus, changes=changes, now=now).fates
        taken += sum(fate is Fate.ACCEPTED for fate in fates)
    return taken
