"""The acts on dumps of a corpus: make one, and have one read whole. Both are done by workers, and harm nothing."""

from collections.abc import Callable
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST

from controlplane.console.requests import actor_of, refused_as_message
from controlplane.corpora.access import access_corpus, access_dump
from controlplane.corpora.dump_keeping import ask_for_dump, ask_for_verification
from controlplane.corpora.models import Corpus


@login_required
@require_POST
def dump_new(request: HttpRequest, slug: str) -> HttpResponse:
    """Have a dump made of what serves."""
    now = timezone.now()
    operator = actor_of(request)
    corpus = access_corpus(operator, slug, "drill_corpus")
    said = "The dump is queued; it stands below once it is begun"
    return _asked(request, corpus, lambda: ask_for_dump(corpus=corpus, actor=operator, now=now), said)


@login_required
@require_POST
def dump_verify(request: HttpRequest, slug: str, name: str) -> HttpResponse:
    """Have a dump read whole, and compared with what was signed."""
    now = timezone.now()
    dump = access_dump(actor_of(request), slug, name, "drill_corpus")
    said = f"{name} is being read whole; what is found stands beside it"
    return _asked(request, dump.corpus, lambda: ask_for_verification(dump=dump, now=now), said)


def _asked(request: HttpRequest, corpus: Corpus, ask: Callable[[], UUID], said: str) -> HttpResponse:
    if refused_as_message(request, ask) is not None:
        messages.success(request, said)
    return redirect(f"{reverse('corpus', args=[corpus.slug])}#dumps")
