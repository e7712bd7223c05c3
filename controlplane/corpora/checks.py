"""What is held against a corpus policy: routes, models and words that do not fit together, and tenants that do not
exist.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from controlplane.accounts.models import Tenant
from controlplane.corpora.errors import VectorsNowhere
from controlplane.corpora.vectors import external
from controlplane.ladder.checks import Library, library
from controlplane.routing.operations import routing_tables
from dataplane.documents import MalformedRelease, child_path
from dataplane.prompts import Problem
from dataplane.retrieval.policy import BANNER, Corpora, Corpus
from dataplane.routing import RoutingTable
from dataplane.signed_copy import FRESHNESS


def policy_problems(document: Mapping[str, Any]) -> list[Problem]:
    """What there is against putting this policy in force now: by the table in force, by all copy, and by all tenants.

    An error is what a release refuses too.
    """
    try:
        corpora = Corpora.parse(document, path="$")
    except MalformedRelease as exc:  # stored once, and written to by hand since
        return [Problem(exc.path, exc.fact)]
    active = routing_tables.active()
    routing = active.parsed() if active else None
    known, tenants = library(), set(Tenant.objects.values_list("slug", flat=True))
    return [
        problem
        for slug, corpus in corpora.items()
        for problem in _problems(corpus, routing, known, tenants, path=child_path("$", slug))
    ]


def _problems(
    corpus: Corpus, routing: RoutingTable | None, known: Library, tenants: Collection[str], *, path: str
) -> Iterator[Problem]:
    yield from _problems_of_embedding(corpus, routing, path=path)
    banner, place = corpus.freshness.banner, f"{path}.freshness.banner"
    kind = known.kinds.get(banner)
    if kind is not None and kind != FRESHNESS:
        yield Problem(place, f"{banner!r} is copy of the kind {kind!r}, not {FRESHNESS!r}")
    elif banner not in known.signed:
        instead = "it is refused" if corpus.freshness.on_breach == BANNER else "a pinned snapshot is refused"
        yield Problem(place, f"nobody has signed {banner!r} yet; until then, once stale, {instead}", is_error=False)
    for index, tenant in enumerate(corpus.tenants):
        if tenant not in tenants:
            yield Problem(f"{path}.tenants[{index}]", f"there is no tenant {tenant!r}", is_error=False)
    try:
        external(corpus.store)
    except VectorsNowhere as exc:
        yield Problem(f"{path}.store", str(exc), is_error=False)


def _problems_of_embedding(corpus: Corpus, routing: RoutingTable | None, *, path: str) -> Iterator[Problem]:
    name, model = corpus.embedding.route, corpus.embedding.model
    route = routing.routes.get(name) if routing else None
    if route is None:
        yield Problem(f"{path}.embedding.route", f"{name!r} is not a route of the table in force")
        return
    lanes = [lane for lane in route.lanes if lane.model == model and "embeddings" in lane.capabilities]
    if not lanes:
        yield Problem(f"{path}.embedding.model", f"no lane of route {name!r} embeds by {model!r}")
    elif corpus.residency and all(lane.residency not in corpus.residency for lane in lanes):
        zones = ", ".join(sorted(corpus.residency))
        fact = f"no lane of route {name!r} that embeds by {model!r} is in {zones}, so nothing of it could be indexed"
        yield Problem(f"{path}.residency", fact, is_error=False)
