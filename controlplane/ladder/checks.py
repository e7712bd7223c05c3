"""What is held against a ladder: routes and words that do not fit together; and which rungs have all their words."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from controlplane.ladder.models import Copy, CopyActivation, CopyVersion
from controlplane.routing.operations import routing_tables
from dataplane.documents import MalformedRelease, child_path
from dataplane.ladder.policy import RUNG_MEMBERS, Ladder, Rung, Surface
from dataplane.prompts import Problem
from dataplane.release import Release
from dataplane.routing import RoutingTable
from dataplane.signed_copy import ANSWERS, RUNG

ROOT: Final = "$.sections.ladder"


@dataclass(frozen=True, slots=True)
class Library:
    """Every piece of copy as ladders see it: its kind by its slug, which are signed, and which legal signs too."""

    kinds: Mapping[str, str]
    signed: Collection[str]
    regulated: Collection[str]

    def missing(self, surface: Surface, rung: Rung) -> list[str]:
        """Why the rung cannot be engaged, a phrase for each piece whose words are missing; none: it can."""
        return [said for _, words, kind in _words_of(rung) if (said := self._missing(words, kind, surface)) is not None]

    def _missing(self, words: str, kind: str, surface: Surface) -> str | None:
        if (wrong := self.misplaced(words, kind, surface)) is not None:
            return wrong
        return None if words in self.signed else f"nobody has signed {words!r} yet"

    def misplaced(self, words: str, kind: str, surface: Surface) -> str | None:
        """Why a piece may not stand there, signed or not; None: it may, or does not exist yet."""
        found = self.kinds.get(words)
        if found is not None and found != kind:
            return f"{words!r} is copy of the kind {found!r}, not {kind!r}"
        if found is not None and surface.regulated and words not in self.regulated:
            return f"{words!r} is no regulated copy, so legal does not sign it, and the surface is regulated"
        return None


def signed_words() -> dict[str, CopyVersion]:
    """The version of each piece that users may read, by its slug, without its document; one query."""
    current = CopyActivation.objects.current().defer("version__document")
    return {one.version.copy.slug: one.version for one in current}


def library() -> Library:
    """All copy there is; two queries."""
    pieces = dict(Copy.objects.values_list("slug", "kind"))
    regulated = set(Copy.objects.filter(regulated=True).values_list("slug", flat=True))
    return Library(pieces, signed_words().keys(), regulated)


def policy_problems(document: Mapping[str, Any]) -> list[Problem]:
    """What there is against putting this policy in force now: by the table in force, and by all copy."""
    try:
        ladder = Ladder.parse(document, path="$")
    except MalformedRelease as exc:  # stored once, and written to by hand since
        return [Problem(exc.path, exc.fact)]
    active = routing_tables.active()
    routing = active.parsed() if active else None
    return list(_problems(ladder, routing, library(), root="$"))


def release_errors(release: Release) -> list[str]:
    """What a release's ladder promises and could not do, each as one line; releases are not cut with a new one."""
    if not release.ladder:
        return []
    names = {words for surface in release.ladder.values() for rung in surface.rungs.values() for words in rung.words}
    regulated = set(Copy.objects.filter(slug__in=names, regulated=True).values_list("slug", flat=True))
    kinds = {slug: copy.kind for slug, copy in release.copy.items()}
    found = _problems(release.ladder, release.routing, Library(kinds, kinds.keys(), regulated), root=ROOT)
    return [f"{problem.path}: {problem.message}" for problem in found if problem.is_error]


def _problems(ladder: Ladder, routing: RoutingTable | None, known: Library, *, root: str) -> Iterator[Problem]:
    for slug, surface in ladder.items():
        path = child_path(root, slug)
        for index, route in enumerate(surface.routes):
            if routing is None or route not in routing.routes:
                yield Problem(f"{path}.routes[{index}]", f"{route!r} is not a route of the table in force")
        engageable = set()
        for number, rung in surface.rungs.items():
            place = child_path(f"{path}.rungs", str(number))
            yield from _problems_of_rung(rung, surface, routing, known, place=place)
            if not known.missing(surface, rung):
                engageable.add(number)
        for name, trigger in surface.triggers.items():
            if trigger.highest not in engageable:
                yield Problem(
                    f"{child_path(f'{path}.triggers', name)}.highest",
                    f"rung {trigger.highest} has no signed words, so the trigger stops below it",
                    is_error=False,
                )


def _problems_of_rung(
    rung: Rung, surface: Surface, routing: RoutingTable | None, known: Library, *, place: str
) -> Iterator[Problem]:
    if "instruction" in RUNG_MEMBERS[rung.number] and not rung.instruction.strip():
        yield Problem(f"{place}.instruction", "it is empty, so the model is not told what changed")
    if rung.route:
        lanes = routing.routes[rung.route].lanes if routing and rung.route in routing.routes else None
        if lanes is None:
            yield Problem(f"{place}.route", f"{rung.route!r} is not a route of the table in force")
        elif not any("chat" in lane.capabilities for lane in lanes):
            yield Problem(f"{place}.route", f"no lane of route {rung.route!r} takes chat, so it could serve nobody")
    for member, words, kind in _words_of(rung):
        if (wrong := known.misplaced(words, kind, surface)) is not None:
            yield Problem(f"{place}.{member}", wrong)
        elif words not in known.signed:
            yield Problem(
                f"{place}.{member}",
                f"{words!r} has no signed words yet; until it has, nobody and nothing engages rung {rung.number}",
                is_error=False,
            )


def _words_of(rung: Rung) -> Iterator[tuple[str, str, str]]:
    """Each piece that the rung shows: the member that names it, its slug, and the kind that it has to be of."""
    yield "copy", rung.copy, RUNG
    if rung.answers:
        yield "answers", rung.answers, ANSWERS
