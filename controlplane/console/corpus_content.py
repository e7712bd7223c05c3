"""What the pages show of corpora: how each stands against its promise, what was seen of it lately, and the words that
readers of a stale one get.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

from django.db.models import QuerySet

from controlplane.audit.models import AuditEvent
from controlplane.console.charts import Moment, Series, line_chart
from controlplane.console.charts import Threshold as Line
from controlplane.console.corpus_words import (
    MAX_LAG,
    accepted_sentence,
    breach_sentence,
    strategy_words,
    tier_words,
    took_words,
)
from controlplane.console.templatetags.ballast import in_words
from controlplane.console.threshold_content import SPAN, Chart, narrow
from controlplane.console.threshold_words import chart_id
from controlplane.console.wording import listed
from controlplane.corpora.breaches import standing_breaches
from controlplane.corpora.models import (
    Corpus,
    CorpusMinute,
    Namespace,
    NamespaceState,
    PromiseBreach,
    Purpose,
    RecoveryDrill,
)
from controlplane.corpora.promise import Clause, proven_drills
from controlplane.corpora.records import PromiseClause
from controlplane.corpora.standing import CorpusStanding
from controlplane.durations import span
from controlplane.ladder.models import CopyActivation, CopyKind
from controlplane.telemetry.models import MINUTE
from dataplane.retrieval.policy import BANNER
from dataplane.retrieval.policy import Corpus as Promised
from dataplane.retrieval.words import Banner, age_in_words, banner_of

Tone = Literal["good", "watch", "bad", "off"]
# Of what on-call did, as a vertical line of the charts.
_MOMENTS: Final[Mapping[str, str]] = {
    "corpus.paused": "paused",
    "corpus.resumed": "resumed",
    "corpus.pinned": "pinned",
    "corpus.unpinned": "unpinned",
    "corpus.switched": "switched",
}
_MOST_MOMENTS: Final = 8
# Corpora that a sentence names; of more it says how many.
_MOST_NAMED: Final = 3
# By what a banner is shown where nothing is stale: so many times what is promised.
_SAMPLE: Final = 2


# --- one corpus -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class CorpusRow:
    """One corpus as pages show it.

    Attributes:
        promised: None: no policy in force names it. It knows which words are signed.
        standing: None with it.
        is_building: Whether a namespace that may serve once is being built.
        proven: The newest drill that it came back from; None: none ever.
        breaches: What is promised of its recovery and was found broken, by clause.
    """

    corpus: Corpus
    promised: Promised | None
    standing: CorpusStanding | None
    is_building: bool
    proven: RecoveryDrill | None
    now: datetime
    breaches: Mapping[str, PromiseBreach] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return self.promised.title if self.promised else self.corpus.slug

    @property
    def url(self) -> str:
        return self.corpus.get_absolute_url()

    @property
    def live(self) -> Namespace | None:
        return self.corpus.live_namespace

    @property
    def is_stale(self) -> bool:
        """Whether what is served is older than promised; before anything is, there is nothing to be old."""
        return self.standing is not None and self.live is not None and self.standing.is_stale

    @property
    def tone(self) -> Tone:
        if self.standing is None:
            return "off"
        if self.corpus.paused_at or self.is_stale:
            return "bad"
        if self.live is None or self.corpus.pinned or self.standing.poisoned:
            return "watch"
        return "good"

    @property
    def pill(self) -> str:
        """Its state in a word or two, the worst first."""
        if self.standing is None:
            return "no longer promised"
        if self.corpus.paused_at:
            return "paused"
        if self.live is None:
            return "being built" if self.is_building else "not searchable"
        if self.is_stale:
            return "stale"
        if self.corpus.pinned:
            return "pinned"
        return "incomplete" if self.standing.poisoned else "fresh"

    @property
    def sentence(self) -> str:
        """What callers get now, and why."""
        if self.promised is None or self.standing is None:
            return "No policy in force names it, so callers are told that it does not exist; its documents are kept"
        return ". ".join([self._answered(self.promised), *self._held(), *self._poisoned()])

    def _answered(self, promised: Promised) -> str:
        assert self.standing is not None  # noqa: S101 - narrows the type; the caller has looked
        if self.corpus.paused_at is not None:
            since, reason = in_words(self.corpus.paused_at - self.now), self.corpus.paused_reason
            return f"Its queries are refused since {self.corpus.paused_by} paused them {since}: {reason}"
        if self.live is None:
            waits = f"{self.standing.pending:,} documents wait" if self.standing.pending else "no document is here yet"
            first = "its first namespace is being built" if self.is_building else "no namespace is being built"
            return f"Nothing of it is searchable yet: {first}, {waits}"
        lag, bound = age_in_words(self.standing.lag_seconds), span(promised.freshness.max_lag_seconds.value)
        if self.is_stale:
            carried = promised.on_breach == BANNER or (self.corpus.pinned is not None and promised.is_banner_signed)
            what = "its answers carry a banner" if carried else "nothing is answered from it"
            return f"Behind by {lag}, promised within {bound}: {what}"
        if self.standing.lag_seconds < 1:
            return "Every change is searchable"
        return f"Behind by {lag}, within the {bound} that is promised"

    def _held(self) -> Iterable[str]:
        if self.corpus.pinned is not None and self.corpus.pinned_at is not None:
            since, reason = in_words(self.corpus.pinned_at - self.now), self.corpus.pinned_reason
            yield f"Everybody reads {self.corpus.pinned}, which {self.corpus.pinned_by} pinned {since}: {reason}"

    def _poisoned(self) -> Iterable[str]:
        count = self.standing.poisoned if self.standing else 0
        if count:
            yield f"{count:,} document{'' if count == 1 else 's'} could not be indexed: see the dead letters"

    @property
    def lag(self) -> str:
        return age_in_words(self.standing.lag_seconds) if self.standing and self.live else "–"

    @property
    def bound(self) -> str:
        return f"≤ {span(self.promised.freshness.max_lag_seconds.value)}" if self.promised else ""

    @property
    def breach(self) -> str:
        return breach_sentence(self.promised) if self.promised else ""

    @property
    def tier(self) -> str:
        return tier_words(self.promised.recovery) if self.promised else "no tier"

    @property
    def strategy(self) -> str:
        return strategy_words(self.promised.recovery) if self.promised else ""

    @property
    def accepted(self) -> str:
        return accepted_sentence(self.promised.recovery) if self.promised else ""

    @property
    def is_proven(self) -> bool:
        """Whether the newest passed drill took no longer than is promised."""
        if self.proven is None or self.promised is None or self.proven.rto_seconds is None:
            return self.proven is not None
        return self.proven.rto_seconds <= self.promised.recovery.rto_seconds.value

    @property
    def broken(self) -> list[str]:
        """What is promised of its recovery and is not kept, in words, and since when."""
        return [f"{one.words} (found broken {in_words(one.since - self.now)})" for one in self.breaches.values()]

    def since(self, clause: Clause) -> datetime | None:
        """When a clause that is broken was found so; None: nobody has noted it yet, or it is kept."""
        breach = self.breaches.get(clause.name)
        return breach.since if breach is not None and clause.is_kept is False else None

    @property
    def proven_words(self) -> str:
        """When it last came back in a drill, and how long that took."""
        if self.proven is None or self.proven.ended_at is None:
            return "never proven"
        took = "" if self.proven.rto_seconds is None else f", in {took_words(self.proven.rto_seconds)}"
        return f"proven {in_words(self.proven.ended_at - self.now)}{took}"


def corpus_rows(
    corpora: Iterable[Corpus],
    promises: Mapping[str, Promised],
    standings: Mapping[str, CorpusStanding],
    *,
    now: datetime,
) -> list[CorpusRow]:
    """Each corpus with what is promised of it and how it stands, those that no policy names last; four queries."""
    building = set(
        Namespace.objects.filter(state=NamespaceState.BUILDING, purpose=Purpose.SERVING).values_list(
            "corpus", flat=True
        )
    )
    passed = proven_drills().order_by("corpus_id", "-id").distinct("corpus_id")
    proven = {drill.corpus_id: drill for drill in passed.defer("steps", "acceptance", "report", "report_signature")}
    # How old a corpus is, is seen at this moment; the rest is as of the last look, which takes more than a page may.
    breaches: dict[int, dict[str, PromiseBreach]] = {}
    for breach in standing_breaches().exclude(clause=PromiseClause.FRESHNESS):
        breaches.setdefault(breach.corpus_id, {})[breach.clause] = breach
    rows = [
        CorpusRow(
            corpus=corpus,
            promised=promises.get(corpus.slug),
            standing=standings.get(corpus.slug),
            is_building=corpus.pk in building,
            proven=proven.get(corpus.pk),
            now=now,
            breaches=breaches.get(corpus.pk, {}),
        )
        for corpus in corpora
    ]
    return sorted(rows, key=lambda row: (row.promised is None, row.corpus.slug))


def corpora_sentence(rows: Sequence[CorpusRow]) -> tuple[Tone, str]:
    """The state of all corpora in one line, and its tone.

    However fresh they are, something is amiss with one that would not come back, or that nobody ever saw come back.
    """
    promised = [row for row in rows if row.promised]
    if not promised:
        return "off", "No policy in force promises a corpus."
    bad = [row for row in promised if row.tone == "bad"]
    watched = [row for row in promised if row.tone == "watch"]
    lost = [row for row in promised if row.broken]
    unproven = [row for row in promised if not row.is_proven]
    said = [f"{row.corpus.slug} is {row.pill}." for row in [*bad, *watched][:_MOST_NAMED]]
    if not said:
        whole = promised[0].corpus.slug if len(promised) == 1 else f"Each of {len(promised)} corpora"
        said.append(f"{whole} is as fresh as promised{'.' if lost or unproven else '; nothing is amiss.'}")
    if lost:
        whose = "Its recovery" if len(promised) == 1 else f"Recovery of {_named(lost, promised)}"
        said.append(f"{whose} is not as promised.")
    if unproven:
        said.append(f"{_named(unproven, promised)} never came back from a loss as promised in a drill.")
    return "bad" if bad or lost else "watch" if watched or unproven else "good", " ".join(said)


def _named(rows: Sequence[CorpusRow], promised: Sequence[CorpusRow]) -> str:
    """Which of those that are promised, as one names them in a sentence after another."""
    if len(promised) == 1:
        return "It"
    return listed([row.corpus.slug for row in rows]) if len(rows) <= _MOST_NAMED else f"{len(rows)} corpora"


# --- what was seen of it lately ---------------------------------------------------------------------------------------
def lag_chart(promised: Promised, *, now: datetime) -> Chart:
    """How far behind a corpus was in the last hours, under what is promised; one query."""
    return _charts(CorpusMinute.objects.filter(corpus__slug=promised.slug), promised, (), now=now)[0]


def corpus_charts(
    corpus: Corpus, promised: Promised | None, events: Iterable[AuditEvent], *, now: datetime
) -> list[Chart]:
    """How far behind, how much waited, and at which revision a corpus was, over the same hours; one query."""
    return _charts(CorpusMinute.objects.filter(corpus=corpus), promised, events, now=now)


def _charts(
    minutes: QuerySet[CorpusMinute], promised: Promised | None, events: Iterable[AuditEvent], *, now: datetime
) -> list[Chart]:
    until = now.astimezone(UTC)
    since = (until - SPAN).replace(second=0, microsecond=0)
    known = {row.minute: row for row in minutes.filter(minute__gte=since)}
    times = [since + at * MINUTE for at in range(int((until - since) / MINUTE) + 1)]
    rows = [known.get(at) for at in times]
    moments = [
        Moment(event.at, _MOMENTS[event.action], "incident")
        for event in events
        if event.action in _MOMENTS and event.at >= since
    ][:_MOST_MOMENTS]
    bound = promised.freshness.max_lag_seconds.value if promised else None
    drawn = {
        "lag": ("Lag", "s", [None if row is None else row.lag_seconds for row in rows]),
        "pending": (
            "Waiting to be indexed",
            "documents",
            [None if row is None else float(row.pending) for row in rows],
        ),
        "revision": ("Index revision", "revisions", [None if row is None else float(row.index_rev) for row in rows]),
    }
    charts = []
    for name, (title, unit, ys) in drawn.items():
        lines = [Line(bound, f"promised: {span(bound)}")] if name == "lag" and bound is not None else []
        figure = line_chart(
            title,
            unit,
            [Series("this corpus", "other", times, ys)],
            thresholds=lines,
            moments=moments,
            span=(times[0], times[-1]),
        )
        if lines:
            # The line must be in the picture even when the corpus was far below it.
            highest = max((value for value in ys if value is not None), default=0.0)
            figure["layout"]["yaxis"]["range"] = [0, 1.15 * max(lines[0].value, highest)]
        if name == "revision":
            # It counts on for ever: from zero, nobody would see it move.
            figure["layout"]["yaxis"]["rangemode"] = "normal"
        narrow(figure)
        charts.append(Chart(chart_id(MAX_LAG) if name == "lag" else f"corpus-{name}", title, unit, figure))
    return charts


# --- what readers of a stale one get ----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class BannerSample:
    """The words of a corpus' banner as readers get them. `lag`: what they were filled in with."""

    banners: tuple[Banner, ...]
    lag: str


def banner_sample(promised: Promised, lag_seconds: float, *, now: datetime) -> BannerSample | None:
    """Its signed words in every language, by the code that gateways run; None: nobody has signed any. One query.

    Filled in with its lag where it is stale, else with a sample.
    """
    signed = CopyActivation.objects.current().filter(version__copy__kind=CopyKind.FRESHNESS)
    live = signed.filter(version__copy__slug=promised.freshness.banner).first()
    if live is None:
        return None
    copy = live.version.parsed()
    bound = promised.freshness.max_lag_seconds.value
    lag = lag_seconds if lag_seconds > bound else _SAMPLE * bound
    banners = tuple(
        banner_of(promised, copy, lag_seconds=lag, now=now.astimezone(UTC), accepted=locale) for locale in copy.locales
    )
    return BannerSample(banners, age_in_words(lag))
