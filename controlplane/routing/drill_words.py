"""What a drill's figures say, in sentences: the same on its page, over the API and in the terminal. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from controlplane.routing.lessons import ENOUGH
from controlplane.routing.models import Drill

Tone = str
# With none seen in n, the true rate is below 3/n with 95 % confidence.
_RULE_OF_THREE: Final = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence. `tone`: good, watch, bad, or off where nothing is concluded."""

    tone: Tone
    text: str

    def to_json(self) -> dict[str, str]:
        """Shape: {"tone": str, "text": str}."""
        return {"tone": self.tone, "text": self.text}


def findings(drill: Drill, figures: Mapping[str, Any]) -> list[Finding]:
    """The figures in sentences, the most important first.

    Args:
        figures: As `controlplane.telemetry.drills.measure` gives them.
    """
    return [
        _convergence(figures["convergence"]),
        _departure(drill, figures["departure"]),
        _callers(figures),
        *_copy(figures["callers"]["during"]),
        *_cost(figures["callers"]),
        *_returned(figures["returned"]),
    ]


def duration(ms: float) -> str:
    """Milliseconds for reading: '412 ms', '3.2 s', '2 min 5 s'."""
    if ms < 1000:
        return f"{ms:,.0f} ms"
    if ms < 60_000:
        return f"{ms / 1000:.1f} s"
    minutes, seconds = divmod(round(ms / 1000), 60)
    return f"{minutes} min {seconds} s" if seconds else f"{minutes} min"


def _convergence(found: Mapping[str, Any]) -> Finding:
    expected, acked = found["expected"], found["acked"]
    if not expected:
        return Finding("off", "No worker was heard of, so nobody had to follow")
    if found["ms"] is not None:
        who = {1: "The one worker", 2: "Both workers"}.get(expected, f"All {expected} workers")
        return Finding("good", f"{who} followed within {duration(found['ms'])} of the click")
    missing = ", ".join(found["missing"][:5]) + (" and others" if len(found["missing"]) > 5 else "")
    refused = f"; {found['refused']} refused the release" if found["refused"] else ""
    return Finding("bad", f"{acked} of {expected} workers followed; not yet: {missing}{refused}")


def _departure(drill: Drill, found: Mapping[str, Any]) -> Finding:
    if found["late"]:
        return Finding(
            "bad", f"{_count(found['late'], 'attempt')} at {drill.subject} began after every worker had followed"
        )
    if not found["attempts"]:
        return Finding("good", f"No attempt at {drill.subject} began after the click")
    return Finding(
        "good",
        f"The last attempt at {drill.subject} began {duration(found['last_ms'])} after the click "
        f"({_count(found['attempts'], 'attempt')} until then)",
    )


def _callers(figures: Mapping[str, Any]) -> Finding:
    during = figures["callers"]["during"]
    answerable, errors = during["answerable"], during["errors"]
    seen = f"{_count(during['requests'], 'request')} in {duration(figures['held']['seconds'] * 1000)}"
    if answerable < ENOUGH:
        failed = f", {_count(errors, 'error')}" if errors else ""
        return Finding("watch" if errors else "off", f"{seen}{failed}; no conclusion under {ENOUGH}")
    if not errors:
        bound = f"{_RULE_OF_THREE / answerable:.2%}".replace("%", " %")
        return Finding("good", f"{seen}, 0 errors: with 95 % confidence fewer than {bound} fail")
    rate = f"{errors / answerable:.2%}".replace("%", " %")
    before = figures["callers"]["before"]
    earlier = before["errors"] / before["answerable"] if before["answerable"] else None
    compared = "" if earlier is None else f", {earlier:.2%} before".replace("%", " %")
    worse = earlier is None or errors / answerable > 2 * earlier
    return Finding("bad" if worse else "watch", f"{seen}, {_count(errors, 'error')} ({rate}{compared})")


def _copy(during: Mapping[str, Any]) -> Iterator[Finding]:
    if during["copy"]:
        yield Finding("watch", f"{_count(during['copy'], 'request')} got signed copy instead of an answer")
    if during["elsewhere"]:
        yield Finding(
            "off", f"{_count(during['elsewhere'], 'attempt')} fell back to another lane after one that failed"
        )


def _cost(callers: Mapping[str, Any]) -> Iterator[Finding]:
    before, during = callers["before"], callers["during"]
    if min(before["requests"], during["requests"]) < ENOUGH or not before["cost_usd_per_1000"]:
        return
    was, now = before["cost_usd_per_1000"], during["cost_usd_per_1000"]
    change = f"{now / was - 1:+.0%}".replace("%", " %").replace("-", "−")
    yield Finding("off", f"1,000 requests cost ${now:,.2f}, before it ${was:,.2f} ({change})")


def _returned(returned: Any) -> Iterator[Finding]:
    used = [one for one in returned if one["ms"] is not None]
    if not used:
        return
    slowest = max(used, key=lambda one: one["ms"])
    verb = "was" if len(used) == 1 else "were"
    lanes = "Its lane was" if len(returned) == 1 else f"{len(used)} of {len(returned)} lanes {verb}"
    yield Finding("good", f"{lanes} used again within {duration(slowest['ms'])} of the end")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
