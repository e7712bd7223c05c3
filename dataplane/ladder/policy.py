"""What people decided and signed about the ladder of each product surface: its rungs, its triggers, who is exempt.

A section of the release. Which of its rungs have signed words, and so can be engaged, the release says beside it: see
`Ladder.with_words`. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from dataplane.access import TIERS
from dataplane.documents import Node, child_path
from dataplane.ladder.signals import SIGNALS, SOURCE_MEMBERS, Budget, Gauge, parse_source
from dataplane.thresholds import Threshold

# What each rung is called wherever people read of it. Each keeps what those below it do.
RUNGS: Final[Mapping[int, str]] = {
    1: "Shorter answers",
    2: "No tools",
    3: "Cheaper model",
    4: "Answers later",
    5: "Known answers only",
    6: "Maintenance",
}
OFF: Final = 0
SHORTER, NO_TOOLS, CHEAPER, LATER, KNOWN_ONLY, MAINTENANCE = RUNGS
# What a rung says beside which copy it shows.
RUNG_MEMBERS: Final[Mapping[int, tuple[str, ...]]] = {
    SHORTER: ("instruction", "max_output_tokens"),
    NO_TOOLS: ("instruction",),
    CHEAPER: ("route",),
    LATER: (),
    KNOWN_ONLY: ("answers",),
    MAINTENANCE: (),
}
MAX_INSTRUCTION_CHARACTERS: Final = 2_000
MAX_OUTPUT_TOKENS: Final = 100_000
MAX_SECONDS: Final = 24 * 3600
MAX_EMERGENCY_MINUTES: Final = 24 * 60
MAX_CONCURRENCY: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of a surface's ladder.

    Attributes:
        copy: The signed copy of the kind `rung` that users read while it is engaged.
        instruction: What the model is told, of the rungs that tell it something; it is no word of users'.
        max_output_tokens: Of rung 1: no answer is let to be longer.
        route: Of rung 3: whose lanes serve the surface's routes; all else stays as those routes have it.
        answers: Of rung 5: the signed answers to known questions.
    """

    number: int
    copy: str
    instruction: str = ""
    max_output_tokens: Threshold | None = None
    route: str = ""
    answers: str = ""

    @property
    def name(self) -> str:
        """What people call it."""
        return RUNGS[self.number]

    @property
    def words(self) -> tuple[str, ...]:
        """The slugs of all copy that it shows."""
        return (self.copy, self.answers) if self.answers else (self.copy,)


@dataclass(frozen=True, slots=True)
class Trigger:
    """What engages rungs by itself, one at a time up to `highest`: a reading at or above `enter` for `sustain_seconds`
    presses the ladder up, and none lets it down before it is at or below `exit`.
    """

    slug: str
    signal: str
    enter: Threshold
    exit: Threshold
    sustain_seconds: Threshold
    highest: int
    source: Budget | Gauge | None = None

    @property
    def budget(self) -> Budget | None:
        """What it measures against, if it looks at an error budget."""
        return self.source if isinstance(self.source, Budget) else None

    def thresholds(self) -> dict[str, Threshold]:
        """Its numbers by name."""
        found = {"enter": self.enter, "exit": self.exit, "sustain_seconds": self.sustain_seconds}
        if isinstance(self.source, Budget):
            found |= {"objective": self.source.objective, "window_seconds": self.source.window_seconds}
        return found


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a ladder moves by itself.

    Attributes:
        step_seconds: At least so long a rung is given to work before the next one above it.
        dwell_seconds: At least so long a rung stays once it is engaged.
        calm_seconds: So long every reading must be at or below its exit before one rung is let go.
        longest_calm_seconds: Each time pressure comes back soon after a rung was let go, the next calm must be twice as
            long, up to this.
    """

    step_seconds: Threshold
    dwell_seconds: Threshold
    calm_seconds: Threshold
    longest_calm_seconds: Threshold


PACE: Final = tuple(Pace.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Promise:
    """What customers of a tier are promised while the ladder is engaged.

    Attributes:
        reserved_concurrency: So many of its requests at once, in the whole fleet, are served as if no rung below
            maintenance were engaged; 0: none.
        served_share: Of all that they ask, so much is answered by a model, however shortly: 0..1.
    """

    reserved_concurrency: Threshold
    served_share: Threshold


PROMISE: Final = tuple(Promise.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Surface:
    """One product surface: the routes that serve it, its rungs from the lowest, and what moves it along them.

    Attributes:
        regulated: Legal signs its words too.
        eta_seconds: What users are told to wait where nobody knows better.
        emergency_minutes: For at most so long a rung can be engaged on a host that nobody else reaches.
        unsigned: The rungs whose words nobody has signed: neither people nor triggers can engage those.
    """

    slug: str
    title: str
    routes: tuple[str, ...]
    regulated: bool
    eta_seconds: Threshold
    emergency_minutes: Threshold
    rungs: Mapping[int, Rung]
    triggers: Mapping[str, Trigger]
    pace: Pace
    promises: Mapping[str, Promise]
    unsigned: frozenset[int] = frozenset()

    @property
    def engageable(self) -> tuple[int, ...]:
        """The numbers of the rungs that can be engaged, ascending."""
        return tuple(sorted(self.rungs.keys() - self.unsigned))

    def nearest(self, number: int) -> int:
        """The highest rung that can be engaged and is not above `number`; OFF where there is none."""
        return max((one for one in self.engageable if one <= number), default=OFF)

    def without(self, signed: Collection[str]) -> frozenset[int]:
        """The rungs of which some words are not among those signed."""
        return frozenset(
            number for number, rung in self.rungs.items() if any(words not in signed for words in rung.words)
        )

    def thresholds(self) -> Iterator[tuple[str, Threshold]]:
        """Every number of the surface with its name, such as 'triggers.queue.enter'."""
        yield "eta_seconds", self.eta_seconds
        yield "emergency_minutes", self.emergency_minutes
        for number, rung in self.rungs.items():
            if rung.max_output_tokens is not None:
                yield f"rungs.{number}.max_output_tokens", rung.max_output_tokens
        for slug, trigger in self.triggers.items():
            for name, threshold in trigger.thresholds().items():
                yield f"triggers.{slug}.{name}", threshold
        for name in PACE:
            yield f"pace.{name}", getattr(self.pace, name)
        for tier, promise in self.promises.items():
            for name in PROMISE:
                yield f"promises.{tier}.{name}", getattr(promise, name)


class Ladder(dict[str, Surface]):
    """The section `ladder` of a release: slug -> Surface."""

    @classmethod
    def parse(cls, section: object, *, path: str = "$.sections.ladder") -> Ladder:
        """Read the section, or raise MalformedRelease. Whether routes and copy exist is for the release to say.

        Shape: {slug: {"title": str, "routes": [slug], "regulated": bool, "eta_seconds", "emergency_minutes": see
                `Threshold.parse`, "rungs": {"1".."6": {"copy": slug, and RUNG_MEMBERS}}, "triggers": {slug: {"signal",
                "enter", "exit", "sustain_seconds", "highest": 1..6, and SOURCE_MEMBERS}}, "pace": {PACE}, "promises":
                {tier: {PROMISE}}}}.
        """
        ladder = cls()
        taken: dict[str, str] = {}
        for slug, node in Node(section, path).slugged_entries():
            surface = ladder[slug] = _parse_surface(slug, node)
            for route in surface.routes:
                if route in taken:
                    node.refuse(f"route {route!r} is of surface {taken[route]!r} already; a route is of one")
                taken[route] = slug
        return ladder

    def with_words(self, signed: Collection[str]) -> Ladder:
        """The same, knowing the slugs of all copy that is signed."""
        return Ladder({slug: replace(surface, unsigned=surface.without(signed)) for slug, surface in self.items()})

    def by_route(self) -> dict[str, Surface]:
        """Each surface by the routes that are of it."""
        return {route: surface for surface in self.values() for route in surface.routes}


def _parse_surface(slug: str, node: Node) -> Surface:
    members = node.members(
        "title", "routes", "regulated", "eta_seconds", "emergency_minutes", "rungs", "triggers", "pace", "promises"
    )
    rungs = {}
    for key, entry in members["rungs"].entries():
        if not key.isascii() or not key.isdigit() or int(key) not in RUNGS or str(int(key)) != key:
            entry.refuse(f"{key[:20]!r} is no rung; there are 1 to {MAINTENANCE}")
        rungs[int(key)] = _parse_rung(int(key), entry)
    if not rungs:
        members["rungs"].refuse("a ladder without rungs leads nowhere; leave the surface out")
    triggers = {}
    for name, entry in members["triggers"].slugged_entries():
        triggers[name] = trigger = _parse_trigger(name, entry)
        if trigger.highest not in rungs:
            entry.refuse(f"it engages rungs up to {trigger.highest}, which the surface does not have")
    pace = _parse_pace(members["pace"])
    promises = {}
    for tier, entry in members["promises"].entries():
        if tier not in TIERS:
            entry.refuse(f"{tier[:20]!r} is no tier; there are {', '.join(sorted(TIERS))}")
        inner = entry.members(*PROMISE)
        promises[tier] = Promise(
            Threshold.parse_whole(inner["reserved_concurrency"], minimum=0, maximum=MAX_CONCURRENCY),
            Threshold.parse(inner["served_share"], above=0, maximum=1),
        )
    return Surface(
        slug=slug,
        title=members["title"].text(),
        routes=members["routes"].texts(minimum=1),
        regulated=members["regulated"].flag(),
        eta_seconds=Threshold.parse_whole(members["eta_seconds"], minimum=1, maximum=MAX_SECONDS),
        emergency_minutes=Threshold.parse_whole(members["emergency_minutes"], minimum=1, maximum=MAX_EMERGENCY_MINUTES),
        rungs=dict(sorted(rungs.items())),
        triggers=triggers,
        pace=pace,
        promises=promises,
    )


def _parse_rung(number: int, node: Node) -> Rung:
    members = node.members("copy", *RUNG_MEMBERS[number])
    instruction = members["instruction"].text() if "instruction" in members else ""
    if len(instruction) > MAX_INSTRUCTION_CHARACTERS:
        members["instruction"].refuse(f"{len(instruction)} characters; at most {MAX_INSTRUCTION_CHARACTERS}")
    cap = members.get("max_output_tokens")
    return Rung(
        number=number,
        copy=members["copy"].text(),
        instruction=instruction,
        max_output_tokens=None if cap is None else Threshold.parse_whole(cap, minimum=1, maximum=MAX_OUTPUT_TOKENS),
        route=members["route"].text() if "route" in members else "",
        answers=members["answers"].text() if "answers" in members else "",
    )


def _parse_trigger(slug: str, node: Node) -> Trigger:
    signal = dict(node.entries()).get("signal", Node(None, child_path(node.path, "signal"))).one_of(SIGNALS)
    members = node.members("signal", "enter", "exit", "sustain_seconds", "highest", *SOURCE_MEMBERS.get(signal, ()))
    enter = Threshold.parse(members["enter"], above=0, maximum=SIGNALS[signal])
    leave = Threshold.parse(members["exit"], above=-1e-9, maximum=SIGNALS[signal])
    if leave.value >= enter.value:
        members["exit"].refuse(
            f"{leave.value:g} is not below {enter.value:g}, at which the trigger presses; between them nothing moves"
        )
    return Trigger(
        slug=slug,
        signal=signal,
        enter=enter,
        exit=leave,
        sustain_seconds=Threshold.parse_whole(members["sustain_seconds"], minimum=0, maximum=MAX_SECONDS),
        highest=members["highest"].integer(minimum=1, maximum=MAINTENANCE),
        source=parse_source(signal, members),
    )


def _parse_pace(node: Node) -> Pace:
    members = node.members(*PACE)
    pace = Pace(**{name: Threshold.parse_whole(members[name], minimum=1, maximum=MAX_SECONDS) for name in PACE})
    if pace.longest_calm_seconds.value < pace.calm_seconds.value:
        members["longest_calm_seconds"].refuse("shorter than calm_seconds, from which it grows")
    return pace
