"""Names that forms ask for where there may be thousands: typed, a few offered meanwhile, and looked up when sent."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from django.db.models import Case, Max, QuerySet, Value, When

from controlplane.accounts.access import require, visible_tenants
from controlplane.accounts.models import Operator, Tenant
from controlplane.evals.access import MANAGE as MANAGE_EVALS
from controlplane.prompts.access import visible_prompts
from controlplane.prompts.models import Prompt, PromptQuerySet, PromptVersion
from controlplane.routing.operations import routing_tables

# At once; typing more of the name leads to the others.
OFFERED: Final = 12
MAX_CHARACTERS: Final = 200
EVERYTHING: Final = "everything"


class UnknownName(LookupError):
    """Nothing that the operator may see has the name; the message says what was typed, and how names look."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of names. `offer` gives those of the operator that hold a part, best first; `permission`: whose form asks
    for them, "" for everybody's.
    """

    offer: Callable[[Operator, str], Iterator[str]]
    permission: str = ""


def offered(kind: str, operator: Operator, part: str = "") -> list[str]:
    """At most `OFFERED` names that hold `part`, those that begin with it first.

    Raises:
        PermissionDenied: no form of the operator's asks for such names.
    """
    asked = KINDS[kind]
    if asked.permission:
        require(operator, asked.permission)
    return list(islice(asked.offer(operator, part.strip()[:MAX_CHARACTERS]), OFFERED))


# --- what is offered --------------------------------------------------------------------------------------------------
def _prompts(operator: Operator, part: str) -> Iterator[str]:
    yield from offered_slugs(visible_prompts(operator), part)


def offered_slugs(things: PromptQuerySet | QuerySet[Tenant], part: str = "") -> list[str]:
    """At most `OFFERED` of these prompts or tenants whose names hold `part`, those that begin with it first."""
    begins = Case(When(slug__istartswith=part, then=Value(0)), default=Value(1))
    found = things.filter(slug__icontains=part).order_by(begins, "slug")
    return list(found.values_list("slug", flat=True)[:OFFERED])


def _subjects(operator: Operator, part: str) -> Iterator[str]:
    """The newest version of each prompt, every version of one that is named in full, and lanes."""
    slug, at, number = part.partition("@")
    if at:
        versions = PromptVersion.objects.filter(prompt__in=visible_prompts(operator).filter(slug=slug).values("pk"))
        numbers = versions.order_by("-number").values_list("number", flat=True)
        yield from (f"{slug}@{one}" for one in numbers if str(one).startswith(number))
        return
    lanes = [lane for lane in _lanes() if part.lower() in lane.lower()]
    slugs = offered_slugs(visible_prompts(operator), part)
    versions = PromptVersion.objects.order_by().filter(prompt__slug__in=slugs)
    newest = dict(versions.values_list("prompt__slug").annotate(newest=Max("number")))
    prompts = [f"{slug}@{newest[slug]}" for slug in slugs if slug in newest]
    # Neither crowds the other out.
    half = OFFERED // 2
    yield from prompts[: max(half, OFFERED - len(lanes))]
    yield from lanes


def _lanes() -> list[str]:
    table = routing_tables.active()
    return sorted(table.document["lanes"]) if table is not None else []


def _targets(operator: Operator, part: str) -> Iterator[str]:
    kind, colon, rest = part.partition(":")
    if not colon and part.lower() in EVERYTHING:
        yield EVERYTHING
    tenants = visible_tenants(operator)
    if not colon or kind == "prompt":
        slugs = offered_slugs(visible_prompts(operator), rest if colon else part)
        # Room is left for tenants, unless nobody can mean one.
        yield from (f"prompt:{slug}" for slug in (slugs if colon else slugs[: OFFERED // 2]))
    if not colon or kind == "tenant":
        found = tenants.filter(slug__icontains=rest if colon else part).order_by("slug")
        yield from (f"tenant:{slug}" for slug in found.values_list("slug", flat=True)[:OFFERED])


def _tenants(operator: Operator, part: str) -> Iterator[str]:
    yield from offered_slugs(visible_tenants(operator), part)


KINDS: Final = {
    "prompts": Kind(_prompts),
    "tenants": Kind(_tenants),
    "subjects": Kind(_subjects, MANAGE_EVALS),
    "targets": Kind(_targets, "accounts.manage_access"),
}


# --- what was typed ---------------------------------------------------------------------------------------------------
def prompt_named(operator: Operator, slug: str) -> Prompt:
    """The prompt of that slug.

    Raises:
        UnknownName: none that the operator may see.
    """
    found = visible_prompts(operator).filter(slug=slug).first()
    if found is None:
        raise UnknownName(f"there is no prompt {slug!r}, or you may not see it; the list of prompts has their names")
    return found


def tenant_named(tenants: QuerySet[Tenant], slug: str) -> Tenant:
    """The tenant of that slug.

    Raises:
        UnknownName: none among these, which are those that the operator may do this with.
    """
    found = tenants.filter(slug=slug).first()
    if found is None:
        raise UnknownName(f"there is no tenant {slug!r}, or it is not yours to do this with")
    return found


def target_named(operator: Operator, name: str) -> Prompt | Tenant | None:
    """What a role is granted on: 'everything' is None, 'prompt:support-answer' and 'tenant:acme' are objects.

    Raises:
        UnknownName: nothing that the operator may see.
    """
    if name == EVERYTHING:
        return None
    kind, _, slug = name.partition(":")
    if kind == "prompt":
        return prompt_named(operator, slug)
    found = visible_tenants(operator).filter(slug=slug).first() if kind == "tenant" else None
    if found is None:
        raise UnknownName(
            f"there is no {name!r}, or you may not see it; say everything, prompt:its-name or tenant:its-name"
        )
    return found


def version_named(operator: Operator, name: str) -> tuple[str, int] | None:
    """The slug and number in 'support-answer@13'; None for a lane of the table in force, whose name it is then.

    Raises:
        UnknownName: neither a lane nor a version of a prompt that the operator may see.
    """
    if name in _lanes():
        return None
    slug, _, number = name.partition("@")
    if "/" in slug:
        raise UnknownName(f"there is no lane {name!r} in the routing table in force")
    newest = prompt_named(operator, slug).versions.order_by("-number").values_list("number", flat=True).first()
    if newest is None:
        raise UnknownName(f"prompt {slug!r} has no version yet")
    if not (number.isascii() and number.isdecimal() and len(number) < 10 and 1 <= int(number) <= newest):
        raise UnknownName(f"say which version of prompt {slug!r}: {slug}@{newest} is the newest")
    return slug, int(number)
