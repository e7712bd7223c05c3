"""The answers page's content: how JSON came out of models, what was wrong with it, what mended it, in words."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from controlplane.console.charts import MAX_SERIES, Figure, Series, line_chart
from controlplane.console.policy_words import listed, repair_sentences, repair_warnings
from controlplane.console.repair_words import BY_MODEL, group_of, mode_words, rung_words
from controlplane.console.templatetags.ballast import NO_VALUE
from controlplane.console.threshold_content import routes_naming
from controlplane.routing.thresholds import REPAIR
from controlplane.telemetry.outcomes import NO_MODE
from controlplane.telemetry.outputs import Counts, Outputs, Place, Standing
from dataplane.repair.labels import Rung
from dataplane.repair.policy import RepairPolicy
from dataplane.routing import RoutingTable

# From this share of failed answers on, somebody has to look, once there were enough for it to mean something.
FAILED_SHARE: Final = 0.01
MIN_ANSWERS: Final = 20
MOST_ROWS: Final = 50
OTHER: Final = "other"


class Sort(NamedTuple):
    """How a table of standings can be ordered: as a link says it, and by which of `outputs.ORDERS`."""

    label: str
    order: str


SORTS: Final = {"share": Sort("Share", "share"), "count": Sort("Answers", "counted"), "failed": Sort("Failed", "bad")}
# What is drawn of rungs, a line each; right as they came is the rest of 100 %.
_LINES: Final[Mapping[str, frozenset[str]]] = {
    "unwrapped": frozenset({Rung.EXTRACT}),
    "syntax repaired": frozenset({Rung.SYNTAX}),
    "coerced to the schema": frozenset({Rung.COERCE}),
    "by a model": frozenset(BY_MODEL),
    "failed": frozenset({Rung.FAILED}),
}
_TILES: Final = {
    "right": "Right as they came",
    "lossless": "Repaired, nothing lost",
    "changed": "Lossy or invented",
    "model": "Mended by a model",
    "failed": "Failed",
}


@dataclass(frozen=True, slots=True)
class Sentence:
    """How answers went, in a line, as `components/_status_sentence.html` takes it."""

    tone: str
    text: str


@dataclass(frozen=True, slots=True)
class Groups:
    """How many parts of answers ended in which group: see `repair_words.group_of`."""

    counts: Mapping[str, int]

    @classmethod
    def of(cls, counts: Counts) -> "Groups":
        groups: Counter[str] = Counter()
        for key, number in counts.items():
            groups[group_of(key.outcome, key.label)] += number
        return cls(groups)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def sentence(self, period: str) -> Sentence:
        """What an operator has to know of a period, such as 'in the last hour'."""
        total = self.total
        if not total:
            return Sentence("off", f"No answer was to be JSON {period}, on a route that repairs it.")
        failed, counts = self.counts.get("failed", 0), self.counts
        said = [
            f"{percent(counts[name], total)} {words}"
            for name, words in (
                ("lossless", "were repaired without loss"),
                ("changed", "lost something or got something invented"),
                ("model", "were mended by a model"),
            )
            if counts.get(name)
        ]
        said.append(f"{failed:,} failed" if failed else "none failed")
        tone = "bad" if failed / total >= FAILED_SHARE and total >= MIN_ANSWERS else "good"
        if tone == "good" and (failed or counts.get("changed")):
            tone = "watch"
        answers = f"{total:,} JSON answer{'' if total == 1 else 's'}"
        right = f"{percent(counts.get('right', 0), total)} of {answers} {period} were right as they came"
        return Sentence(tone, f"{right}; {listed(said)}.")

    def tiles(self, period: str) -> list[dict[str, str]]:
        """One per group, as `components/_metric.html` takes them."""
        total = self.total
        return [
            {
                "label": label,
                "value": percent(self.counts.get(name, 0), total).removesuffix(" %") if total else NO_VALUE,
                "unit": "%",
                "note": f"{self.counts.get(name, 0):,} of {total:,} {period}",
            }
            for name, label in _TILES.items()
        ]


def percent(part: int, whole: int) -> str:
    """A share for reading; never 0 % of what is somebody's, never 100 % where something is missing."""
    share = 100 * part / whole if whole else 0.0
    if part and share < 0.1:
        return "< 0.1 %"
    if part != whole and share > 99.9:
        return "> 99.9 %"
    return f"{share:.1f} %".replace(".0 %", " %")


# --- over time -------------------------------------------------------------------------------------------------------
def rung_chart(found: Outputs) -> Figure:
    """The shares of answers that were not right as they came, a line for what became of them."""
    return _shares("Not right as they came", found, "outcome", _LINES)


def mode_chart(found: Outputs) -> Figure:
    """The shares of what was wrong, the most frequent by themselves and the rest as one."""
    counts: Counter[str] = Counter()
    for key, number in found.total.items():
        if key.name != NO_MODE:
            counts[key.name] += number
    ranked = [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    shown = ranked if len(ranked) <= MAX_SERIES else ranked[: MAX_SERIES - 1]
    lines = {mode_words(name): frozenset({name}) for name in shown}
    if len(ranked) > len(shown):
        lines[OTHER] = frozenset(ranked[len(shown) :])
    return _shares("What was wrong", found, "name", lines)


def _shares(title: str, found: Outputs, part: str, lines: Mapping[str, frozenset[str]]) -> Figure:
    """A line for each set of values of one part of the keys."""
    series = [
        Series(name, "other", found.times, [_share(counts, part, values) for counts in found.points])
        for name, values in lines.items()
    ]
    return line_chart(title, "% of JSON answers", series, span=(found.since, found.until))


def _share(counts: Counts, part: str, values: frozenset[str]) -> float | None:
    total = sum(counts.values())
    fitting = sum(number for key, number in counts.items() if getattr(key, part) in values)
    return round(100 * fitting / total, 4) if total else None


# --- what was wrong, and where ---------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class ModeRow:
    """One thing that was wrong with answers to one version of a prompt, of one lane.

    `answers` is how many JSON answers there were in all; `best` the rung that mended most, "" where none did.
    """

    place: Place
    mode: str
    count: int
    answers: int
    failed: int
    best: str
    mended: int

    @property
    def prompt(self) -> str:
        return f"{self.place.prompt} v{self.place.version}" if self.place.prompt else "no managed prompt"

    @property
    def words(self) -> str:
        return mode_words(self.mode)

    @property
    def share(self) -> float:
        return self.count / self.answers

    @property
    def share_words(self) -> str:
        return percent(self.count, self.answers)

    @property
    def remedy(self) -> str:
        return rung_words(self.best) if self.best else "nothing has yet"


def mode_rows(standings: Iterable[Standing]) -> list[ModeRow]:
    """What was wrong per version and lane, in the order of its standings."""
    return [_mode_row(one) for one in standings]


def _mode_row(one: Standing) -> ModeRow:
    mended: Counter[str] = Counter()
    for (rung, _), number in one.outcomes.items():
        mended[rung] += number if rung != Rung.FAILED else 0
    best, number = max(mended.items(), key=lambda item: (item[1], item[0]), default=("", 0))
    return ModeRow(
        place=one.place,
        mode=one.name,
        count=one.counted,
        answers=one.counted if one.answers is None else one.answers,
        failed=one.bad,
        best=best if number else "",
        mended=number,
    )


# --- what the policies say -------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class PolicyWords:
    """One repair policy: which routes it is for, what it does, and what to think twice about."""

    policy: RepairPolicy
    routes: tuple[str, ...]
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]


def policies_in_words(table: RoutingTable) -> list[PolicyWords]:
    """Every repair policy of the table, by name."""
    return [
        PolicyWords(
            policy,
            tuple(route.slug for route in routes_naming(table, REPAIR, slug)),
            tuple(repair_sentences(policy)),
            tuple(repair_warnings(policy)),
        )
        for slug, policy in sorted(table.repairs.items())
    ]


def unrepaired_routes(table: RoutingTable) -> Sequence[str]:
    """The routes that chat and repair nothing."""
    return [
        route.slug
        for route in table.routes.values()
        if route.repair is None and any("chat" in lane.capabilities for lane in route.lanes)
    ]
