"""Telling pages that something of a corpus is another than they show."""

from functools import partial

from django.db import transaction

from controlplane import live
from controlplane.corpora.models import Corpus


def announce(corpus: Corpus) -> None:
    """Have pages look again once the surrounding transaction has committed, and not if it does not."""
    transaction.on_commit(partial(live.notify, live.CORPORA, {"corpus": corpus.slug}))
