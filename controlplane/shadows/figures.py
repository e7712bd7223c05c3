"""How a candidate compares with control, beside how control compares with itself: for pages and items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from controlplane.shadows.statistics import NOTHING, Interval, beyond, mean_of, ratio_of, share_of
from controlplane.telemetry.shadow_sums import ShadowTally, Sums
from dataplane.shadow.counting import CANDIDATE, NOISE


@dataclass(frozen=True, slots=True)
class Figure:
    """One measure of two answers' difference: of the candidate's from control's, and of control's from control's."""

    key: str
    label: str
    sentence: str  # with {candidate} and {noise} in it, each a share with its interval
    candidate: Interval
    noise: Interval

    @property
    def difference(self) -> Interval:
        """What is beyond the noise floor."""
        return beyond(self.candidate, self.noise)


SCHEMA, VERDICTS, TOOLS, WORDS, CITATIONS, REFUSALS = "schema", "verdicts", "tools", "words", "citations", "refusals"
LABELS: Final = {
    SCHEMA: "Schema missed",
    VERDICTS: "Validators differ",
    TOOLS: "Tools differ",
    WORDS: "Words differ",
    CITATIONS: "Sources differ",
    REFUSALS: "Refuses",
}
_SENTENCES: Final = {
    SCHEMA: "misses the schema where control met it on {candidate} of answers; control misses its own on {noise}",
    VERDICTS: "is judged otherwise on {candidate} of answers; control is judged otherwise than itself on {noise}",
    TOOLS: "calls tools otherwise on {candidate} of answers; control calls them otherwise than itself on {noise}",
    WORDS: "differs in {candidate} of words; control differs from itself in {noise}",
    CITATIONS: "cites other sources for {candidate}; control for {noise} of its own",
    REFUSALS: "refuses {candidate} of requests; control, asked once more, {noise}",
}


def merged(sums: Sums, *, arm: str, digest: str = "", route: str = "", lane: str = "") -> ShadowTally:
    """What was counted in an arm, over all series that fit what is given."""
    tally = ShadowTally()
    for series, one in sums.items():
        if series.arm == arm and all(
            not wanted or wanted == found
            for wanted, found in ((digest, series.digest), (route, series.route), (lane, series.lane))
        ):
            tally.add(one)
    return tally


def figures_of(candidate: ShadowTally, noise: ShadowTally) -> dict[str, Figure]:
    """Every measure, by its key; also those of which there is nothing to say."""
    sides = [_measures(candidate), _measures(noise)]
    return {key: Figure(key, label, _SENTENCES[key], sides[0][key], sides[1][key]) for key, label in LABELS.items()}


def _measures(tally: ShadowTally) -> dict[str, Interval]:
    counts, moments = tally.counts, tally.moments
    schemas = sum(counts[f"schema_{name}"] for name in ("both", "control", "shadow", "neither"))
    return {
        SCHEMA: share_of(counts["schema_control"], schemas),
        VERDICTS: share_of(counts["verdicts_differ"], counts["verdicts_agree"] + counts["verdicts_differ"]),
        TOOLS: share_of(counts["tools_differ"], counts["tools_agree"] + counts["tools_differ"]),
        WORDS: _complement(mean_of(moments["overlap"])),
        CITATIONS: _complement(mean_of(moments["citations"])),
        REFUSALS: share_of(counts["refused_shadow"], counts["answered"]),
    }


def _complement(agreement: Interval) -> Interval:
    """What is missing to 1, as a share: neither below 0 nor above 1."""
    if agreement.value is None or agreement.low is None or agreement.high is None:
        return NOTHING
    value, low, high = (min(max(1 - one, 0.0), 1.0) for one in (agreement.value, agreement.high, agreement.low))
    return Interval(value, low, high, agreement.n)


@dataclass(frozen=True, slots=True)
class Ratios:
    """What the candidate's answers cost and took beside control's, as geometric means of ratios."""

    cost: Interval
    latency: Interval
    length: Interval

    @classmethod
    def of(cls, tally: ShadowTally) -> Ratios:
        """Of one arm."""
        return cls(*(ratio_of(tally.moments[name]) for name in ("log2_cost", "log2_latency", "log2_length")))


def sides(sums: Sums, *, digest: str = "", route: str = "", lane: str = "") -> tuple[ShadowTally, ShadowTally]:
    """The candidate's arm, of one lane where that is given, and the noise arm, which has lanes of its own."""
    return (
        merged(sums, arm=CANDIDATE, digest=digest, route=route, lane=lane),
        merged(sums, arm=NOISE, digest=digest, route=route),
    )
