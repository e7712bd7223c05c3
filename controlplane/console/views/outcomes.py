"""What the pages of checks of answers are asked for: how far back, to which prompt, of which lane."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.http import HttpRequest
from django.urls import reverse
from django.utils.http import urlencode

from controlplane.accounts.models import Operator
from controlplane.console.forms.repairs import DEFAULT_ANSWER_HOURS, AnswersForm
from controlplane.console.forms.usage import HOURS
from controlplane.routing.access import InForce, access_routing
from controlplane.telemetry.outputs import Key, Outputs, Worst, read_outputs, read_total, read_worst

PERIODS: Final = {
    1: "in the last hour",
    24: "in the last 24 hours",
    168: "in the last 7 days",
    744: "in the last 31 days",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What the address asks for.

    Attributes:
        system: Whose outcomes, as for `read_outputs`.
        charts: The name of the address of the page's charts.
        kept: What narrows it, for other addresses.
    """

    system: str
    charts: str
    in_force: InForce
    form: AnswersForm
    hours: int
    kept: Mapping[str, str]

    @property
    def period(self) -> str:
        """As a sentence has it, with what narrows it."""
        whose = f" to prompt {self.kept['prompt']}" if "prompt" in self.kept else ""
        where = f" of lane {self.kept['lane']}" if "lane" in self.kept else ""
        return f"{PERIODS[self.hours]}{whose}{where}"

    def read(self, now: datetime) -> Outputs:
        """What was counted."""
        return read_outputs(self.system, **self._of(now))

    def total(self, now: datetime, *, system: str) -> Counter[Key]:
        """What another system counted of the same, all of it together."""
        return read_total(system, **self._of(now))

    def worst(self, *, order: str, limit: int, name: str = "") -> Worst:
        """Where it went worst of the same; see `read_worst`."""
        narrow = {part: self.kept.get(part, "") for part in ("prompt", "lane")}
        return read_worst(self.system, hours=self.hours, order=order, limit=limit, name=name, **narrow)

    def _of(self, now: datetime) -> dict[str, Any]:
        return {
            "since": now - timedelta(hours=self.hours),
            "until": now,
            "prompt": self.kept.get("prompt", ""),
            "lane": self.kept.get("lane", ""),
        }

    def url(self, **changes: Any) -> str:
        return f"?{urlencode({**self.kept, **changes})}"

    def chart_url(self, name: str) -> str:
        return f"{reverse(self.charts, args=[name])}{self.url(hours=self.hours)}"

    def ranges(self, **kept: Any) -> list[dict[str, Any]]:
        """The periods that can be chosen, as links."""
        return [
            {"label": label, "url": self.url(hours=hours, **kept), "active": hours == self.hours}
            for hours, label in HOURS.items()
        ]


def outcomes_asked(
    request: HttpRequest,
    operator: Operator,
    *,
    system: str,
    charts: str,
    form: type[AnswersForm] = AnswersForm,
    **choices: Any,
) -> Asked:
    """Read the address; what it asks for that there is not is passed over.

    Args:
        choices: For the form, beside prompts and lanes.
    Raises:
        Http404, PermissionDenied: as `access_routing`.
    """
    in_force = access_routing(operator)
    asked = form(request.GET, operator=operator, lanes=sorted(in_force.table.lanes), **choices)
    asked.is_valid()
    found = asked.cleaned_data
    kept = {name: value for name, value in found.items() if name != "hours" and value}
    return Asked(system, charts, in_force, asked, found.get("hours") or DEFAULT_ANSWER_HOURS, kept)
