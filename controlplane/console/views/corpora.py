"""The corpus pages: how each stands against its promise, where a document is, and on-call's own hand on them."""

from collections.abc import Callable
from typing import Any, Final

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from controlplane.accounts.access import may
from controlplane.audit.models import AuditEvent
from controlplane.console.corpus_acts import acts, dropped_namespaces, living_documents, namespace_rows
from controlplane.console.corpus_content import (
    CorpusRow,
    banner_sample,
    corpora_sentence,
    corpus_charts,
    corpus_rows,
)
from controlplane.console.corpus_records import drill_rows, dump_rows, reconciliation_rows
from controlplane.console.requests import actor_of, reason_given, refused_as_message
from controlplane.console.timeline import timeline
from controlplane.corpora import operations
from controlplane.corpora.access import access_corpus, access_namespace, policy_access, visible_corpora
from controlplane.corpora.documents import searchable
from controlplane.corpora.models import MAX_KEY_CHARACTERS, Corpus
from controlplane.corpora.promise import clauses
from controlplane.corpora.standing import standings
from controlplane.ladder.checks import signed_words
from dataplane.retrieval.tables import Snapshot

OPERATE: Final = "corpora.operate_corpus"
_MOST_EVENTS: Final = 12


@login_required
@require_safe
def corpus_list(request: HttpRequest) -> HttpResponse:
    """Every corpus in one look: how far behind, promised what, proven when, and what on-call holds."""
    now = timezone.now()
    operator = actor_of(request)
    promises = policy_access.in_force(operator).parsed.with_words(signed_words())
    rows = corpus_rows(visible_corpora(operator), promises, standings(now=now), now=now)
    tone, sentence = corpora_sentence(rows)
    context = {
        "tabs": tabs("corpora"),
        "rows": rows,
        "tone": tone,
        "sentence": sentence,
        "may_propose": policy_access.may_propose(operator),
        "generated_at": now,
    }
    return render(request, "corpora/list.html", context)


@login_required
@require_safe
def corpus_page(request: HttpRequest, slug: str) -> HttpResponse:
    """One corpus: the same in depth, its namespaces, what readers of a stale one get, and what was written down."""
    now = timezone.now()
    operator = actor_of(request)
    corpus = access_corpus(operator, slug)
    row = _row(corpus, request, now=now)
    events = list(AuditEvent.objects.filter(target=corpus.audit_name)[:_MOST_EVENTS])
    lag = row.standing.lag_seconds if row.standing else 0.0
    may_operate = may(operator, OPERATE)
    key = request.GET.get("key", "").strip()[:MAX_KEY_CHARACTERS]
    document = corpus.documents.filter(source_key=key).first() if key else None
    context: dict[str, Any] = {
        "row": row,
        "corpus": corpus,
        "tiles": _tiles(row),
        "charts": corpus_charts(corpus, row.promised, events, now=now),
        "namespaces": namespace_rows(corpus),
        "dropped": dropped_namespaces(corpus),
        "acts": list(acts(row, documents=living_documents(corpus))) if may_operate else [],
        "banner": banner_sample(row.promised, lag, now=now) if row.promised else None,
        "key": key,
        "document": document,
        "searchable": searchable(document) if document else [],
        "reconciliations": reconciliation_rows(corpus),
        "dumps": dump_rows(corpus),
        "drills": drill_rows(corpus),
        "events": timeline(events),
        "may_operate": may_operate,
        "may_drill": may(operator, "corpora.drill_corpus"),
        "clauses": [(one, row.since(one)) for one in clauses(corpus, row.promised, now=now)] if row.promised else [],
        "generated_at": now,
    }
    return render(request, "corpora/corpus.html", context)


# --- acts -------------------------------------------------------------------------------------------------------------
@login_required
@require_POST
def pause(request: HttpRequest, slug: str) -> HttpResponse:
    """Refuse every query of the corpus until somebody resumes them."""
    return _acted(request, slug, operations.pause_queries, "Queries of {corpus} are refused from now on")


@login_required
@require_POST
def resume(request: HttpRequest, slug: str) -> HttpResponse:
    """Answer its queries again."""
    return _acted(request, slug, operations.resume_queries, "Queries of {corpus} are answered again")


@login_required
@require_POST
def pin(request: HttpRequest, slug: str) -> HttpResponse:
    """Have everybody read one snapshot: the one that was typed, else the newest."""
    now = timezone.now()
    operator = actor_of(request)
    corpus = access_corpus(operator, slug, "operate_corpus")
    reason = reason_given(request)
    typed = request.POST.get("snapshot", "").strip()
    snapshot = Snapshot.read(typed)
    if reason is None:
        return redirect(corpus)
    if typed and snapshot is None:
        messages.error(
            request, f"{typed[:80]!r} is no snapshot; nothing is pinned. Type one such as ns_7.1234, or none"
        )
        return redirect(corpus)
    pinned = refused_as_message(
        request,
        lambda: operations.pin_snapshot(corpus=corpus, snapshot=snapshot, reason=reason, actor=operator, now=now),
    )
    if pinned is not None:
        messages.success(request, f"Everybody reads {pinned} of {corpus} from now on, until somebody unpins it")
    return redirect(corpus)


@login_required
@require_POST
def unpin(request: HttpRequest, slug: str) -> HttpResponse:
    """Have everybody read the newest state again."""
    return _acted(request, slug, operations.unpin, "Everybody reads the newest state of {corpus} again")


@login_required
@require_POST
def rebuild(request: HttpRequest, slug: str) -> HttpResponse:
    """Build another namespace beside the one that serves."""
    return _acted(request, slug, operations.rebuild, "{result} is being built; switch to it once it is ready")


@login_required
@require_POST
def reconcile(request: HttpRequest, slug: str) -> HttpResponse:
    """Have what serves compared with all documents, and repaired."""
    return _acted(request, slug, operations.reconcile_now, "{corpus} is being compared; what is found stands below")


@login_required
@require_POST
def switch(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """Serve the corpus from another namespace."""
    said = "{corpus} is served from namespace {number} from now on"
    return _acted_with(request, slug, number, operations.switch, said)


@login_required
@require_POST
def drop(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """Drop a namespace that serves nobody."""
    return _acted_with(request, slug, number, operations.drop_retired, "Namespace {number} of {corpus} is dropped")


def _acted(request: HttpRequest, slug: str, operation: Callable[..., Any], said: str) -> HttpResponse:
    """Do something with a corpus for the reason that was typed. `said` may name {corpus} and the {result}."""
    now = timezone.now()
    operator = actor_of(request)
    corpus = access_corpus(operator, slug, "operate_corpus")
    reason = reason_given(request)
    if reason is not None:
        _tell(request, lambda: operation(corpus=corpus, reason=reason, actor=operator, now=now), said, corpus=corpus)
    return redirect(corpus)


def _acted_with(request: HttpRequest, slug: str, number: int, operation: Callable[..., Any], said: str) -> HttpResponse:
    """The same with one of its namespaces. `said` may name its {number}."""
    now = timezone.now()
    operator = actor_of(request)
    namespace = access_namespace(operator, slug, number, "operate_corpus")
    reason = reason_given(request)
    if reason is not None:
        _tell(
            request,
            lambda: operation(namespace=namespace, reason=reason, actor=operator, now=now),
            said,
            corpus=namespace.corpus,
            number=number,
        )
    return redirect(namespace.corpus)


def _tell(request: HttpRequest, operation: Callable[[], Any], said: str, **names: Any) -> None:
    """Run an operation, and say on the next page what came of it."""
    # In a tuple, since the operation may well return None.
    done = refused_as_message(request, lambda: (operation(),))
    if done is None:
        return
    (result,) = done
    if result is False:
        messages.info(request, "It was so already; nothing was changed")
    else:
        messages.success(request, said.format(**names, result=result))


# --- what the pages show ----------------------------------------------------------------------------------------------
def tabs(active: str) -> list[dict[str, Any]]:
    """The pages of corpora, the one named `active` marked."""
    pages = {"corpora": "Corpora", "corpus-policies": "Policy"}
    return [{"label": label, "url": reverse(name), "active": name == active} for name, label in pages.items()]


def _row(corpus: Corpus, request: HttpRequest, *, now: Any) -> CorpusRow:
    promises = policy_access.in_force(actor_of(request)).parsed.with_words(signed_words())
    (row,) = corpus_rows([corpus], promises, standings(now=now), now=now)
    return row


def _tiles(row: CorpusRow) -> list[dict[str, Any]]:
    """What matters of a corpus, as `components/_metric.html` takes it."""
    standing, live = row.standing, row.live
    return [
        {"label": "Lag", "value": row.lag, "limit": row.bound, "note": "age of the oldest missing change"},
        {
            "label": "Waiting to be indexed",
            "value": f"{standing.pending:,}" if standing else "–",
            "unit": "documents",
            "note": f"{standing.waiting:,} more at its sources" if standing and standing.waiting else "",
        },
        {
            "label": "Poisoned",
            "value": f"{standing.poisoned:,}" if standing else "–",
            "unit": "documents",
            "url": reverse("dead-letters") if standing and standing.poisoned else "",
        },
        {
            "label": "Revision",
            "value": f"{live.index_rev:,}" if live else "–",
            "note": f"of namespace {live.number}" if live else "",
        },
        _ghosts(row.corpus),
    ]


def _ghosts(corpus: Corpus) -> dict[str, Any]:
    """What the newest sample says of chunks whose documents are gone."""
    newest = corpus.ghost_samples.first()
    if newest is None:
        return {"label": "Ghosts", "value": "–", "note": "sampled once an hour; not yet"}
    note = f"of {newest.sampled:,} sampled chunks; at most {newest.most:.1%} of all"
    return {"label": "Ghosts", "value": f"{newest.ghosts:,}", "note": note}
