"""Comparisons as durable work: asked for by people and by the day, done by whoever has time."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from controlplane.accounts.models import Operator
from controlplane.audit import operations as audit
from controlplane.corpora.errors import CorpusError
from controlplane.corpora.models import Corpus, Namespace
from controlplane.corpora.reconciling import reconcile_store
from controlplane.corpora.source_reconciling import reconcile_source
from controlplane.corpora.sources import address_of
from controlplane.work import operations as work
from controlplane.work.errors import GiveUp
from controlplane.work.handlers import Attempt
from dataplane.deadletters import Category

RECONCILE: Final = "corpora.reconcile"
# A source that is away for so many attempts is looked at another day.
MAX_ATTEMPTS: Final = 5
NIGHTLY: Final = "ballast"


@transaction.atomic
def ask_to_reconcile_store(
    *, namespace: Namespace, actor: Operator | str, repair: bool, now: datetime, key: str = ""
) -> UUID:
    """Have a namespace compared with its documents. Returns the id of the work; see `reconciling.reconcile_store`.

    Args:
        key: Asked for again under the same, it is done once.
    """
    return _ask({"corpus": namespace.corpus.slug, "namespace": namespace.pk, "source": ""}, actor, repair, now, key)


@transaction.atomic
def ask_to_reconcile_source(
    *, corpus: Corpus, source: str, actor: Operator | str, repair: bool, now: datetime, key: str = ""
) -> UUID:
    """Have a corpus compared with one source of it. Returns the id of the work.

    Raises:
        UnknownCorpus: the policy in force names no such source.
    """
    address_of(corpus.slug, source)
    return _ask({"corpus": corpus.slug, "namespace": None, "source": source}, actor, repair, now, key)


def _ask(what: Mapping[str, Any], actor: Operator | str, repair: bool, now: datetime, key: str) -> UUID:
    told = {**what, "actor": audit.name_of(actor), "repair": repair}
    return work.enqueue(kind=RECONCILE, arguments=told, key=key, now=now)


def run_work(arguments: dict[str, Any], attempt: Attempt) -> None:
    """Compare, and repair where that was asked for: durable work. Done again, it finds what is left.

    Shape: {"corpus": slug, "namespace": id or null, "source": name or "", "actor": name, "repair": bool}.
    """
    now = timezone.now()
    how = {"actor": arguments["actor"], "repair": arguments["repair"], "now": now}
    try:
        corpus = Corpus.objects.get(slug=arguments["corpus"])
        if arguments["namespace"] is None:
            reconcile_source(corpus=corpus, source=arguments["source"], **how)
        else:
            namespace = Namespace.objects.get(pk=arguments["namespace"], corpus=corpus)
            reconcile_store(corpus=corpus, namespace=namespace, **how)
    except CorpusError as exc:
        raise GiveUp(str(exc), code=exc.code, category=Category.VALIDATION) from exc


def ask_nightly(*, now: datetime) -> int:
    """Have the namespace that serves compared, of every corpus, once a day (UTC). Returns how many there are."""
    live = Namespace.objects.filter(pk__in=Corpus.objects.values("live_namespace")).select_related("corpus")
    for namespace in live:
        ask_to_reconcile_store(
            namespace=namespace, actor=NIGHTLY, repair=False, now=now, key=f"{namespace.pk}:{now:%Y-%m-%d}"
        )
    return len(live)
