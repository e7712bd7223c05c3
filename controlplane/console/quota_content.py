"""The quota page's content: what each account may be sent now, who waits for it, and what happened, in words."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from typing import Final
from urllib.parse import urlencode

from django.urls import reverse

from controlplane.console.policy_words import limit_words, listed
from controlplane.console.templatetags.ballast import NO_VALUE
from controlplane.durations import duration
from controlplane.telemetry.models import QuotaState, WorkerEvent
from controlplane.telemetry.quotas import CLASSES, Pool, QuotaStanding

# From this share of a limit on, it is close.
CLOSE: Final = 0.9
_LOOKED_BACK: Final = timedelta(hours=24)
_MOST_EVENTS: Final = 20


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit in effect, with its units, and where it comes from. `declared`: the number that the provider's stands
    instead of; empty where none was declared, or where it is what is kept to.
    """

    words: str
    is_learned: bool
    declared: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many of one class wait, and how long one who comes now will; `eta` is empty where nobody waits."""

    name: str
    count: int
    eta: str


@dataclass(frozen=True, slots=True)
class PoolRow:
    """One pool as the page shows it. `is_open`: its workers are listed below."""

    pool: Pool
    is_open: bool

    @property
    def url(self) -> str:
        """Where its workers are listed, or no longer are."""
        chosen = "" if self.is_open else f"?{urlencode({'pool': self.pool.name})}"
        return f"{reverse('quotas')}{chosen}"

    @property
    def limits(self) -> list[Limit]:
        declared, window = self.pool.policy.limits(), self.pool.policy.window_seconds.value
        found = []
        for name, value in self.pool.limits.items():
            learned = self.pool.learned(name) is not None
            instead = f"{declared[name]:,.10g}" if learned and name in declared else ""
            found.append(Limit(limit_words(name, value, window), learned, instead))
        return found

    @property
    def used(self) -> str:
        """Of the scarcest limit."""
        return NO_VALUE if self.pool.standing is None else _percent(self.pool.standing.used_share)

    @property
    def state(self) -> dict[str, str]:
        """Whether it is open, as `components/_pill.html` takes it."""
        standing = self.pool.standing
        if standing is None:
            return {"tone": "off", "text": "not heard of"}
        if standing.paused_seconds:
            return {"tone": "bad", "text": f"paused, {seconds_words(standing.paused_seconds)} more"}
        if standing.ramp < 1:
            return {"tone": "watch", "text": f"open to {_percent(standing.ramp)}"}
        return {"tone": "good", "text": "open"}

    @property
    def waiting(self) -> list[Waiting]:
        standing = self.pool.standing
        if standing is None:
            return []
        return [
            Waiting(name, standing.waiting[name], _eta(standing.eta_seconds[name]) if standing.waiting[name] else "")
            for name in CLASSES
        ]

    @property
    def workers(self) -> str:
        standing = self.pool.standing
        if standing is None:
            return "none"
        return f"{standing.alone} of {standing.workers} alone" if standing.alone else f"{standing.workers} together"


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """What one worker says of a pool."""

    said: QuotaState
    now: datetime

    @property
    def state(self) -> str:
        """paused for so long, open in part, or open."""
        until = self.said.paused_until_at
        if until is not None and until > self.now:
            return f"paused, {seconds_words((until - self.now).total_seconds())} more"
        return f"open to {_percent(self.said.ramp)}" if self.said.ramp < 1 else "open"

    @property
    def waited(self) -> tuple[str, str]:
        """Half of its callers, and all but one in twenty, waited no longer than this."""
        return _waited(self.said.waited_ms_p50), _waited(self.said.waited_ms_p95)


def _waited(value: float | None) -> str:
    return NO_VALUE if value is None else f"{value:,.0f} ms"


# --- in one sentence -------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Sentence:
    """The state of all quotas in a line, as `components/_status_sentence.html` takes it."""

    tone: str
    text: str


def sentence_of(pools: Sequence[Pool]) -> Sentence:
    """What an operator has to know: who is paused, who waits how long, who is close to a limit, who is alone."""
    names = _names(pools)
    heard = [(names[pool.name], pool.standing) for pool in pools if pool.standing is not None]
    unheard = [names[pool.name] for pool in pools if pool.standing is None]
    if not heard:
        return Sentence("off", f"No worker tells of {_accounts(unheard)}: none serves a release with its quotas.")
    paused = [(name, seconds_words(one.paused_seconds)) for name, one in heard if one.paused_seconds]
    # Of one that is paused, nothing else matters until it is not.
    well = [(name, one) for name, one in heard if not one.paused_seconds]
    opening = [(name, _percent(one.ramp)) for name, one in well if one.ramp < 1]
    close = [(name, _percent(one.used_share)) for name, one in well if one.used_share >= CLOSE]
    waiting = waiting_words([one for _, one in heard])
    alone = _alone_words([one for _, one in heard])
    said = [
        *_said(paused, "is paused for {} more after a 429", "are paused after 429s"),
        *_said(opening, "is open to {} of its limits after a 429", "open again after 429s"),
        *_said(close, "has used {} of a limit", "are close to a limit"),
    ]
    is_well = not said
    said = said or [_within([name for name, _ in heard])]
    said[-1] += f"; {waiting or 'nobody waits'}"
    if unheard:
        said.append(f"No worker tells of {_accounts(unheard)}")
    tone = "bad" if paused else "good" if is_well and not waiting and not alone and not unheard else "watch"
    return Sentence(tone, "".join(f"{line}. " for line in [*said, *alone]).strip())


def _names(pools: Iterable[Pool]) -> dict[str, str]:
    """How each pool is called: by its account, where that has no other."""
    of_account = Counter(pool.account for pool in pools)
    return {pool.name: pool.account if of_account[pool.account] == 1 else pool.name for pool in pools}


def _said(named: Sequence[tuple[str, str]], one: str, many: str) -> Iterator[str]:
    if len(named) == 1:
        yield f"Account {named[0][0]} {one.format(named[0][1])}"
    elif named:
        yield f"Accounts {listed([f'{name} ({value})' for name, value in named])} {many}"


def _within(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"Account {names[0]} is within its limits"
    # An account with several policies has several quotas.
    noun = "quotas" if any("/" in name for name in names) else "accounts"
    return f"{'Both' if len(names) == 2 else f'All {len(names)}'} {noun} are within their limits"


def _accounts(names: Sequence[str]) -> str:
    return f"account{'' if len(names) == 1 else 's'} {listed(names)}"


def waiting_words(standings: Sequence[QuotaStanding]) -> str:
    """Who waits, and how long one who comes now will at the slowest account; empty where nobody does."""
    counts = {name: sum(one.waiting[name] for one in standings) for name in CLASSES}
    shown = [f"{count:,} {name}" for name, count in counts.items() if count]
    if not shown:
        return ""
    total = sum(counts.values())
    first = next(name for name in CLASSES if counts[name])
    etas = [eta for one in standings if one.waiting[first] and (eta := one.eta_seconds[first]) is not None]
    how_long = f", about {seconds_words(max(etas))} for one who comes now" if etas else ""
    return f"{listed(shown)} request{' waits' if total == 1 else 's wait'}{how_long}"


def _alone_words(standings: Sequence[QuotaStanding]) -> list[str]:
    worst = max(standings, key=lambda one: one.alone)
    if not worst.alone:
        return []
    total = f"{worst.workers} worker{'' if worst.workers == 1 else 's'}"
    keeps = "keeps to its" if worst.alone == 1 else "keep to their"
    return [f"{worst.alone} of {total} cannot ask the others and {keeps} part of the limits"]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def seconds_words(seconds: float) -> str:
    """For reading: never less than is left, so that nobody is told 0 s of a pause."""
    return duration(max(ceil(seconds), 1))


def _eta(seconds: float | None) -> str:
    return "time not known" if seconds is None else f"about {seconds_words(seconds)}"


# --- what happened ---------------------------------------------------------------------------------------------------
def quota_events(*, now: datetime) -> list[WorkerEvent]:
    """The newest things that happened to quotas within a day; one query."""
    return list(WorkerEvent.objects.of_quotas().since(now - _LOOKED_BACK).newest()[:_MOST_EVENTS])
