"""How often canaries are rolled back for nothing, and how soon for something, beside fixed thresholds.

    python -m benchmarks.canary_power [--canaries 2000] [--seeded 100] [--hours 2] [--seed 20261126]

Each simulated canary has 5,000 sticky users an arm, whose activity, cost, latency, errors and quality of answers differ
from one to another, and 20 requests a second to both arms together; beside it 200 held-out queries are asked of
both versions, as many pairs a minute as plans start from. Every 10 seconds everything seen so far is judged on all
guardrails and both streams, as `controlplane.verdicts` does it (a part of the last looks is judged by `decide` itself,
and has to agree).

- A/A: nothing is worse. Whatever is rolled back within the time is a false rollback; the budget is 1 %.
- At the margin: every guardrail is worse by exactly what is still acceptable, which is the hardest case of the promise.
- Seeded: one thing is worse; how many requests and seconds until it is rolled back.

Fixed thresholds watch the same traces: each interval they compare the means of that interval, canary against control,
with the same margins. One is set as the example of Flagger's documentation (each minute; rolled back at the 10th
interval with a failed metric), one as that of Argo Rollouts' (each 5 minutes; a metric may fail 3 times, not 4), and
one as the latter with margins three times as wide, as people set them who are tired of false alarms.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.load import describe_machine, table
from controlplane.rollouts.guardrails import RAILS, Guardrails, Rail, Scale, Stream, default_guardrails
from controlplane.verdicts import live, paired
from controlplane.verdicts.decision import decide, levels_of
from controlplane.verdicts.sequences import bounded_reach
from controlplane.verdicts.values import Exposure, LiveEvidence, ReplayEvidence, Ruling
from dataplane.evidence import CELL, GROUPS

LOOK_SECONDS = 10
REQUESTS_PER_SECOND = 20  # both arms together
USERS = 5_000  # of an arm
QUERIES = 200  # of the held-out set
TICKETS = 20_000  # drawn for a request; a user has as many as is active
CLEAR_LOOKS = 6  # whether canaries are clear is looked at less often, to save time
BATCH = 100  # canaries that are simulated at a time
# What is ordinary: shares, and microdollars and milliseconds of a user in the middle.
ERRORS, SCHEMA, GROUNDED, REFUSED, BLOCKED, SAFE = 0.01, 0.97, 0.92, 0.02, 0.015, 0.99
COST, MILLISECONDS = 400.0, 900.0
WITH_SCHEMA, WITH_SOURCES = 0.3, 0.5  # of the answers
POLICY = Guardrails.parse(default_guardrails("held-out@1", {"grounding": "grounded@1", "safety": "safe@1"}))
PAIRS_PER_LOOK = POLICY.replays_per_minute * LOOK_SECONDS // 60


@dataclass(frozen=True)
class Harm:
    """How much worse the canary is: factors of cost and latency, points of shares."""

    name: str
    rail: str = ""
    cost: float = 1.0
    latency: float = 1.0
    error_rate: float = 0.0
    schema: float = 0.0
    grounding: float = 0.0
    refusals: float = 0.0
    rejects: float = 0.0
    safety: float = 0.0


NOTHING = Harm("A/A")
AT_MARGIN = Harm(
    "all at the margin",
    **{key: 1 + margin if RAILS[key].scale is Scale.RELATIVE else margin for key, margin in POLICY.margins.items()},
)
SEEDED = (
    Harm("grounding -3 points", "grounding", grounding=0.03),
    Harm("grounding -5 points", "grounding", grounding=0.05),
    Harm("grounding -10 points", "grounding", grounding=0.10),
    Harm("cost +10 %", "cost", cost=1.10),
    Harm("cost +25 %", "cost", cost=1.25),
    Harm("error rate +1 point", "error_rate", error_rate=0.01),
)


@dataclass
class Arms:
    """The live traffic of a batch of canaries: users of arm 0 (canary) and 1 (control), flattened canary by canary."""

    rng: np.random.Generator
    harm: Harm
    users: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng, arms, harm = self.rng, 2 * BATCH, self.harm
        worse = np.arange(arms)[:, None] % 2 == 0
        shape = (arms, USERS)
        activity = np.cumsum(rng.lognormal(0.0, 1.0, shape), axis=1)
        activity /= activity[:, -1:]
        tickets = (np.arange(TICKETS) + 0.5) / TICKETS
        owners = np.stack([np.searchsorted(row, tickets) for row in activity])
        self.owners = (owners + np.arange(arms)[:, None] * USERS).astype(np.int32).ravel()
        groups = rng.integers(0, GROUPS, shape) + np.arange(arms)[:, None] * GROUPS
        ill_luck = rng.gamma(1.0, 1.0, shape)

        def share(usual: float, harmed: float) -> Any:
            """Of each user: what is usual, spread as exponentials are, and what the canary adds."""
            return np.clip(usual * ill_luck + np.where(worse, harmed, 0.0), 0.0, 1.0).astype(np.float32).ravel()

        self.users = {
            "group": groups.ravel(),
            "cost": (np.log(COST) + rng.normal(0, 0.5, shape) + np.where(worse, math.log(harm.cost), 0.0)),
            "log2_ms": np.log2(MILLISECONDS)
            + rng.normal(0, 0.4, shape)
            + np.where(worse, math.log2(harm.latency), 0.0),
            "error": share(ERRORS, harm.error_rate),
            "no_schema": share(1 - SCHEMA, harm.schema),
            "ungrounded": share(1 - GROUNDED, harm.grounding),
            "refused": share(REFUSED, harm.refusals),
            "blocked": share(BLOCKED, harm.rejects),
        }
        for name in ("cost", "log2_ms"):
            self.users[name] = self.users[name].astype(np.float32).ravel()

    def next_look(self, cells: Any) -> None:
        """Add the sums of the next ten seconds to `cells`, of shape (len(CELL), BATCH, 2, GROUPS)."""
        rng, users = self.rng, self.users
        counts = rng.poisson(REQUESTS_PER_SECOND * LOOK_SECONDS / 2, 2 * BATCH)
        arm = np.repeat(np.arange(2 * BATCH) * TICKETS, counts)
        user = self.owners[arm + rng.integers(0, TICKETS, arm.size, dtype=np.int32)]
        group = users["group"][user]
        size = 2 * BATCH * GROUPS

        def count(which: Any) -> Any:
            return np.bincount(group[np.flatnonzero(which)], minlength=size)

        length = rng.standard_normal(arm.size, dtype=np.float32)
        cost = np.exp(users["cost"][user] + np.float32(0.5) * length)
        log2_ms = users["log2_ms"][user] + np.float32(0.5) * length
        log2_ms += np.float32(0.4) * rng.standard_normal(arm.size, dtype=np.float32)
        # One number decides what becomes of a request, one what kind of answer it asks for and whether that is good.
        fate, kind = rng.random(arm.size, dtype=np.float32), rng.random(arm.size, dtype=np.float32)
        bad = fate < users["error"][user]
        good = ~bad
        has_schema = good & (kind < WITH_SCHEMA)
        has_sources = good & (kind > 1 - WITH_SOURCES)
        requests, errors, with_schema, with_sources = (
            np.bincount(group, minlength=size),
            count(bad),
            count(has_schema),
            count(has_sources),
        )
        sums = {
            "answerable": requests,
            "errors": errors,
            "reached": requests,
            "cost_micros": np.bincount(group, weights=cost, minlength=size),
            "timed": requests - errors,
            "log2_ms": np.bincount(group, weights=log2_ms * good, minlength=size),
            "schema_checked": with_schema,
            "schema_passed": with_schema - count(has_schema & (kind < WITH_SCHEMA * users["no_schema"][user])),
            "answered": requests - errors,
            "refused": count(good & (abs(fate - np.float32(0.6)) < users["refused"][user] / 2)),
            "validated": requests - errors,
            "blocked": count(good & (fate > 1 - users["blocked"][user])),
            "grounding_checked": with_sources,
            "grounded": with_sources - count(has_sources & (kind > 1 - WITH_SOURCES * users["ungrounded"][user])),
        }
        for index, name in enumerate(CELL):
            cells[index] += sums[name].reshape(BATCH, 2, GROUPS)


REPLAYED = tuple(rail for rail, stream in POLICY.judged if stream is Stream.REPLAY)
MARGINS = np.array([[paired.margin_of(rail, POLICY.margins[rail.key])] for rail in REPLAYED])
LEVELS = {rail.key: levels_of(POLICY, rail) for rail, _ in POLICY.judged}
JUDGED_LIVE = tuple(rail for rail, stream in POLICY.judged if stream is Stream.LIVE)


@dataclass
class Replays:
    """Replays of a batch of canaries, by rail: what `PairedBound` keeps, with arrays in place of numbers."""

    rng: np.random.Generator
    harm: Harm

    def __post_init__(self) -> None:
        shape = (BATCH, QUERIES)
        self.hardness = self.rng.gamma(1.0, 1.0, shape)
        self.n = 0
        self.total = np.zeros((len(REPLAYED), BATCH))
        self.spread = np.zeros((len(REPLAYED), BATCH))

    def next_look(self) -> None:
        """Ask the next queries of both versions."""
        for _ in range(PAIRS_PER_LOOK):
            query = self.rng.integers(0, QUERIES, BATCH)
            hardness = self.hardness[np.arange(BATCH), query]
            for index, rail in enumerate(REPLAYED):
                harm = self._harm(rail, hardness)
                guess = self.total[index] / (self.n + 1)
                self.spread[index] += (harm - guess) ** 2
                self.total[index] += harm
            self.n += 1

    def _harm(self, rail: Rail, hardness: Any) -> Any:
        rng, worse = self.rng, getattr(self.harm, rail.key)
        if rail.scale is Scale.RELATIVE:
            ratio = math.log(worse) + rng.normal(0.0, 0.25 * math.sqrt(2), BATCH)
            return np.clip(ratio, -paired.CLIP, paired.CLIP) / paired.CLIP
        usual = {"schema": 1 - SCHEMA, "grounding": 1 - GROUNDED, "refusals": REFUSED, "safety": 1 - SAFE}[rail.key]
        failed = rng.random((2, BATCH)) < np.stack([usual * hardness + worse, usual * hardness])
        return failed[0].astype(float) - failed[1]

    def regressed(self) -> Any:
        """Which canaries of the batch each rail calls regressed; of shape (rails, BATCH)."""
        down = 2 * bounded_reach(self.spread / 4, alpha=LEVELS[REPLAYED[0].key][0]) / self.n
        return (self.n >= POLICY.pairs) & (self.total / self.n - down > MARGINS)

    def clear(self) -> Any:
        """Which each calls clear."""
        up = [
            2 * bounded_reach(spread / 4, alpha=LEVELS[rail.key][1]) / self.n
            for rail, spread in zip(REPLAYED, self.spread, strict=True)
        ]
        return (self.n >= POLICY.pairs) & (self.total / self.n + np.stack(up) < MARGINS)


def judge_live(rail: Rail, cells: Any, *, is_clear: bool) -> Any:
    """Which canaries of a batch live traffic calls regressed, or clear; `cells` as sums since the beginning."""
    arms = np.moveaxis(cells, 0, -1)
    found = live.estimate(rail, canary=arms[:, 0], control=arms[:, 1])
    margin = live.margin_of(rail, POLICY.margins[rail.key])
    reach = live.reach(found, margin=margin, alpha=LEVELS[rail.key][is_clear])
    may = (np.minimum(found.canary_n, found.control_n) >= POLICY.requests) & (found.freedom >= live.LEAST_FREEDOM)
    may &= np.minimum(found.canary_groups, found.control_groups) >= POLICY.groups
    return may & ((found.harm + reach < margin) if is_clear else (found.harm - reach > margin))


@dataclass
class Checker:
    """Fixed thresholds on the means of intervals."""

    name: str
    looks: int
    failures: int  # at which it rolls back
    per_metric: bool
    margins: float = 1.0  # times those of the policy
    failed: Any = None

    def is_due(self, look: int) -> bool:
        """Whether an interval ends here."""
        return look % self.looks == 0

    def judge(self, window: Any) -> Any:
        """Which canaries it rolls back now, from the sums of the last interval."""
        arms = np.moveaxis(window, 0, -1)
        fails = []
        for rail in JUDGED_LIVE:
            columns = live.COLUMNS[rail.key]
            with np.errstate(all="ignore"):
                means = arms[..., columns.counted].sum(-1) / arms[..., columns.out_of].sum(-1)
                if rail.key == "latency":
                    means = np.exp2(means)
                if rail.scale is Scale.RELATIVE:
                    harm = means[:, 0] / means[:, 1] - 1
                else:
                    harm = (means[:, 0] - means[:, 1]) * (-1 if rail.worse == "below" else 1)
            fails.append(harm > POLICY.margins[rail.key] * self.margins)
        failed = np.stack(fails) if self.per_metric else np.stack(fails).any(0)[None]
        self.failed = failed.astype(int) if self.failed is None else self.failed + failed
        return (self.failed >= self.failures).any(0)


CHECKERS: tuple[Callable[[], Checker], ...] = (
    lambda: Checker("fixed, 1 min, 10 failures", 6, 10, False),
    lambda: Checker("fixed, 5 min, 4 failures", 30, 4, True),
    lambda: Checker("the latter, margins x 3", 30, 4, True, margins=3.0),
)
OURS, LIVE_ONLY, REPLAY_ONLY = "ours", "ours, live alone", "ours, replays alone"
CLEAR = "clear "  # of all guardrails, or of the one whose key follows


@dataclass
class Outcome:
    """When each was decided, in looks; 0: not within the time. `wrong_rail`: rolled back first for another rail."""

    looks: dict[str, Any]
    wrong_rail: int

    @property
    def decided(self) -> list[tuple[str, Any]]:
        """Those of rollbacks, ours first."""
        names = [OURS, LIVE_ONLY, REPLAY_ONLY, *(make().name for make in CHECKERS)]
        return [(name, self.looks[name]) for name in names]


def simulate(harm: Harm, canaries: int, looks: int, seed: int) -> Outcome:
    """Watch so many canaries for so many looks. Each batch has a seed of its own."""
    parts: list[tuple[dict[str, Any], int]] = []
    for batch, begin in enumerate(range(0, canaries, BATCH)):
        seeds = np.random.SeedSequence([seed, batch, *harm.name.encode()])
        part, wrong = _simulate_batch(harm, looks, np.random.Generator(np.random.SFC64(seeds)))
        size = min(BATCH, canaries - begin)
        parts.append(({name: at[:size] for name, at in part.items()}, wrong))
    return Outcome(
        {name: np.concatenate([part[name] for part, _ in parts]) for name in parts[0][0]},
        sum(wrong for _, wrong in parts),
    )


def _simulate_batch(harm: Harm, looks: int, rng: np.random.Generator) -> tuple[dict[str, Any], int]:
    arms, replays = Arms(rng, harm), Replays(rng, harm)
    cells = np.zeros((len(CELL), BATCH, 2, GROUPS))
    checkers = [make() for make in CHECKERS]
    begun = [np.zeros_like(cells) for _ in checkers]
    names = [checker.name for checker in checkers]
    names += [OURS, LIVE_ONLY, REPLAY_ONLY, CLEAR, *(CLEAR + key for key in POLICY.margins)]
    at = {name: np.zeros(BATCH, dtype=int) for name in names}
    wrong = 0

    def note(name: str, which: Any, look: int) -> Any:
        new = which & (at[name] == 0)
        at[name][new] = look
        return new

    for look in range(1, looks + 1):
        arms.next_look(cells)
        replays.next_look()
        regressed = {(rail.key, Stream.LIVE): judge_live(rail, cells, is_clear=False) for rail in JUDGED_LIVE}
        regressed |= zip(((rail.key, Stream.REPLAY) for rail in REPLAYED), replays.regressed(), strict=True)
        by_live, by_replay = (
            np.any([bad for (_, which), bad in regressed.items() if which is stream], axis=0) for stream in Stream
        )
        new = note(OURS, by_live | by_replay, look)
        if harm.rail:
            right = np.any([bad for (rail, _), bad in regressed.items() if rail == harm.rail], axis=0)
            wrong += int((new & ~right).sum())
        note(LIVE_ONLY, by_live, look)
        note(REPLAY_ONLY, by_replay, look)
        if look % CLEAR_LOOKS == 0 or look == looks:
            clear = dict.fromkeys(POLICY.margins, np.zeros(BATCH, dtype=bool))
            for rail, good in zip(REPLAYED, replays.clear(), strict=True):
                clear[rail.key] = clear[rail.key] | good
            for rail in JUDGED_LIVE:
                clear[rail.key] = clear[rail.key] | judge_live(rail, cells, is_clear=True)
            note(CLEAR, np.all(list(clear.values()), axis=0), look)
            for key, shown in clear.items():
                note(CLEAR + key, shown, look)
        for checker, before in zip(checkers, begun, strict=True):
            if checker.is_due(look):
                note(checker.name, checker.judge(cells - before), look)
                before[:] = cells
    _compare_with_decide(cells, replays, regressed, clear)
    return at, wrong


def _compare_with_decide(cells: Any, replays: Replays, regressed: Mapping[Any, Any], clear: Mapping[str, Any]) -> None:
    """Stop if `decide` rules otherwise than what is measured here."""
    for canary in range(0, BATCH, 25):
        sides = [
            {group: tuple(float(each) for each in cells[:, canary, side, group]) for group in range(GROUPS)}
            for side in (0, 1)
        ]
        pairs = {
            rail.key: paired.Pairs(
                paired.PairedBound(replays.n, replays.total[index, canary], replays.spread[index, canary])
            )
            for index, rail in enumerate(REPLAYED)
        }
        verdict = decide(POLICY, live=LiveEvidence(*sides), replay=ReplayEvidence(pairs), exposure=Exposure())
        bad = {(each.rail, each.stream) for each in verdict.readings if each.ruling is Ruling.REGRESSED}
        good = {each.rail for each in verdict.readings if each.ruling is Ruling.CLEAR}
        if bad != {key for key, which in regressed.items() if which[canary]} or good != {
            key for key, which in clear.items() if which[canary]
        }:
            raise SystemExit(f"decide says {verdict.sentence!r}, and the benchmark something else")


def interval(count: int, of: int) -> str:
    """A share with its exact 95 % interval (Clopper and Pearson), in percent; for none, of the upper side alone."""
    if count == 0:
        return f"0 of {of:,} (95 % bound {3 / of:.2%})"

    def tail(share: float, least: int) -> float:
        """The chance of at least so many."""
        logs = [
            math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1)
            + k * math.log(share) + (of - k) * math.log1p(-share)
            for k in range(least)
        ]  # fmt: skip
        return 1.0 - math.fsum(map(math.exp, logs))

    def solve(wanted: Callable[[float], bool]) -> float:
        low, high = 1e-9, 1 - 1e-9
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if wanted(middle) else (low, middle)
        return low

    lower = solve(lambda share: tail(share, count) < 0.025)
    upper = 1.0 if count == of else solve(lambda share: 1.0 - tail(share, count + 1) > 0.025)
    return f"{count:,} of {of:,} = {count / of:.2%} (95 % {lower:.2%} to {upper:.2%})"


def print_false(harm: Harm, canaries: int, looks: int, seed: int) -> None:
    """How many of these were rolled back, by whom."""
    outcome = simulate(harm, canaries, looks, seed)
    rows: list[tuple[str, ...]] = [(f"{harm.name}, {looks} looks", "rolled back")]
    rows += [(name, interval(int((at > 0).sum()), canaries)) for name, at in outcome.decided]
    print(table(rows))
    if harm is NOTHING:
        print("(shown to be clear, and when half of all canaries were:")
        print(f" on all guardrails {_when_clear(outcome.looks[CLEAR])},")
        print(f" {', '.join(f'{key} {_when_clear(outcome.looks[CLEAR + key])}' for key in POLICY.margins)})")
    else:
        wrongly = {key: (outcome.looks[CLEAR + key] > 0).mean() for key in POLICY.margins}
        print(f"(called clear all the same, budget {POLICY.clear_budget:.0%} for each guardrail:")
        print(f" {', '.join(f'{key} {share:.1%}' for key, share in wrongly.items())})")
    print(flush=True)


def _when_clear(at: Any) -> str:
    """How many were within the time, and after how long half of all."""
    median = np.median(np.where(at > 0, at * LOOK_SECONDS / 60, np.inf))
    return f"{(at > 0).mean():.1%} ({f'{median:.0f} min' if median < np.inf else 'later'})"


def print_seeded(canaries: int, looks: int, seed: int) -> None:
    """How soon, by whom."""
    rows: list[tuple[str, ...]] = [
        ("seeded", "by", "detected", "requests p50", "requests p90", "seconds p50", "seconds p90")
    ]
    wrong = 0
    for harm in SEEDED:
        outcome = simulate(harm, canaries, looks, seed)
        wrong += outcome.wrong_rail
        for name, at in outcome.decided:
            # Those that nobody saw within the time count as later than all others.
            seconds = np.sort(np.where(at > 0, at * LOOK_SECONDS, np.inf))
            quantiles = [seconds[min(canaries - 1, int(canaries * q))] for q in (0.5, 0.9)]
            cells = [f"{q * REQUESTS_PER_SECOND:,.0f}" if q < np.inf else "later" for q in quantiles]
            cells += [f"{q:,.0f}" if q < np.inf else "later" for q in quantiles]
            rows.append((harm.name, name, f"{(at > 0).mean():.1%}", *cells))
    print(table(rows))
    print(f"(later: not within {looks * LOOK_SECONDS / 3600:g} h; requests of both arms together;")
    print(f" {wrong} of {canaries * len(SEEDED):,} were rolled back first for a guardrail that nothing was done to)\n")


def plug_in_pairs(harms: Any, margin: float, alpha: float) -> Any:
    """After how many pairs the plug-in bound of Waudby-Smith and Ramdas 2024, Theorem 2, exceeds the margin."""
    numbers, at = (harms + 1) / 2, np.arange(1, harms.shape[1] + 1)
    sums = np.cumsum(numbers, axis=1)
    guesses = np.insert((sums[:, :-1] + 0.5) / at[1:], 0, 0.5, axis=1)
    squares = 0.25 + np.cumsum((numbers - (sums + 0.5) / (at + 1)) ** 2, axis=1)
    variances = np.insert(squares[:, :-1] / at[1:], 0, 0.25, axis=1)
    bets = np.minimum(0.5, np.sqrt(2 * math.log(1 / alpha) / (variances * at * np.log1p(at))))
    price = np.cumsum((numbers - guesses) ** 2 * (-np.log1p(-bets) - bets), axis=1)
    lower = (np.cumsum(bets * numbers, axis=1) - math.log(1 / alpha) - price) / np.cumsum(bets, axis=1)
    return _first(lower > (margin + 1) / 2)


def mixture_pairs(harms: Any, margin: float, alpha: float) -> Any:
    """After how many pairs ours does."""
    at, sums = np.arange(1, harms.shape[1] + 1), np.cumsum(harms, axis=1)
    guesses = np.insert(sums[:, :-1] / at[1:], 0, 0.0, axis=1)
    spread = np.cumsum((harms - guesses) ** 2, axis=1)
    return _first(sums - 2 * bounded_reach(spread / 4, alpha=alpha) > margin * at)


def _first(which: Any) -> Any:
    return np.where(which.any(axis=1), which.argmax(axis=1) + 1, np.inf)


def print_bounds(replays: int, seed: int) -> None:
    """How many pairs replays take to see something, with our bound and with that which the paper puts first."""
    rng = np.random.default_rng(seed)
    pairs = 20_000

    def scores(worse: float, better: float) -> Any:
        draws = rng.random((replays, pairs))
        return (draws < worse).astype(float) - (draws > 1 - better)

    def ratios(factor: float) -> Any:
        return np.clip(rng.normal(math.log(factor), 0.35, (replays, pairs)) / paired.CLIP, -1, 1)

    rows: list[tuple[str, ...]] = [("pairs until seen, p50", "mixture", "plug-in")]
    for name, rail, make in (
        ("grounding -3 points, 23 in 100 pairs differ", "grounding", lambda: scores(0.13, 0.10)),
        ("grounding -5 points, 25 in 100 differ", "grounding", lambda: scores(0.15, 0.10)),
        ("grounding -10 points, 26 in 100 differ", "grounding", lambda: scores(0.18, 0.08)),
        ("cost +10 %", "cost", lambda: ratios(1.10)),
        ("cost +25 %", "cost", lambda: ratios(1.25)),
    ):
        harms, alpha = make(), LEVELS[rail][0]
        margin = paired.margin_of(next(each for each in REPLAYED if each.key == rail), POLICY.margins[rail])
        rows.append((name, *(f"{np.median(way(harms, margin, alpha)):,.0f}" for way in (mixture_pairs, plug_in_pairs))))
    print(table(rows))
    print()


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--canaries", type=int, default=2_000)
    parser.add_argument("--seeded", type=int, default=100)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=20261126)
    arguments = parser.parse_args()
    looks = int(arguments.hours * 3600 / LOOK_SECONDS)
    started = time.perf_counter(), time.process_time()
    print(f"machine: {describe_machine()}")
    print(f"seed {arguments.seed}; a look each {LOOK_SECONDS} s for {arguments.hours:g} h\n")
    print_false(NOTHING, arguments.canaries, looks, arguments.seed)
    print_false(AT_MARGIN, arguments.canaries // 10, looks, arguments.seed)
    print_seeded(arguments.seeded, looks, arguments.seed)
    print_bounds(20, arguments.seed)
    taken = time.perf_counter() - started[0], time.process_time() - started[1]
    print(f"took {taken[0]:.0f} s, {taken[1]:.0f} s of them of a processor")


if __name__ == "__main__":
    main()
