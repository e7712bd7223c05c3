"""Answers that are kept as samples, so that a rule can be tried on what models really wrote before it decides anything.

Only of tenants whose contents may be kept, few at a time, and short ones: what is kept grows with routes and time, not
with traffic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from dataplane.journey import Journey
from dataplane.validators.values import Output

# Of one route, at one process.
EVERY_SECONDS: Final = 5.0
MAX_TEXT_CHARACTERS: Final = 32_000
MAX_SOURCE_CHARACTERS: Final = 64_000


class Samples:
    """See the module. One per process."""

    def __init__(
        self, report: Callable[[Mapping[str, Any]], None], *, clock: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        """`report` takes a sample over and must not wait; `clock` is monotonic seconds, `wall` epoch seconds."""
        self._report = report
        self._clock = clock
        self._wall = wall
        self._next_at: dict[str, float] = {}

    def wants(self, journey: Journey) -> bool:
        """Whether an answer of this request would be kept."""
        tenant = journey.tenant
        if tenant is None or not tenant.log_content:
            return False
        return self._clock() >= self._next_at.get(journey.route, 0.0)

    def offer(self, journey: Journey, answer: Callable[[], Output]) -> None:
        """Keep an answer as the model gave it, if it is one to keep. Only one that is wanted is made by `answer`."""
        if not self.wants(journey) or journey.tenant is None:
            return
        output = answer()
        size = len(output.text) + sum(len(arguments) for _, arguments in output.tool_calls)
        sources = sum(len(source.text) for source in output.sources)
        if not size or size > MAX_TEXT_CHARACTERS or sources > MAX_SOURCE_CHARACTERS or _has_nul(output):
            return
        self._next_at[journey.route] = self._clock() + EVERY_SECONDS
        version, lane = journey.prompt_version, journey.lane
        self._report(
            {
                "at": self._wall(),
                "request_id": journey.inbound.request_id,
                "tenant": journey.tenant.slug,
                "route": journey.route,
                "prompt": "" if version is None else version.prompt,
                "version": 0 if version is None else version.number,
                "lane": "" if lane is None else lane.id,
                "text": output.text,
                "tool_calls": [list(call) for call in output.tool_calls],
                "sources": [{"id": source.id, "text": source.text} for source in output.sources],
                "question": output.question[:MAX_TEXT_CHARACTERS],
                "is_json": output.is_json,
            }
        )


def _has_nul(output: Output) -> bool:
    """Whether PostgreSQL could not hold it. Who takes reports in refuses such a one, with whatever else is in it."""
    texts = [output.text, output.question, *(part for call in output.tool_calls for part in call)]
    texts += [part for source in output.sources for part in (source.id, source.text)]
    return any("\0" in text for text in texts)
