"""Figures of the whole deployment for /metrics: computed by one task every few seconds, kept in Redis, shown by beat.

Whoever scrapes reads what is there, so no scrape asks the database, however many there are.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.core.cache import cache
from prometheus_client.core import GaugeMetricFamily
from redis.exceptions import RedisError

from dataplane.process_metrics import Family

logger = logging.getLogger(__name__)

KEY: Final = "ballast:figures"
# For so long the last ones are shown; their age tells that they are.
KEEP_SECONDS: Final = 3600

# Every figure that there is: name, what it says, the name of its label or nothing.
KNOWN: Final[Mapping[str, tuple[str, str]]] = {
    "ballast_fleet_workers": ("Gateway processes by how they stand to the current release.", "state"),
    "ballast_fleet_release_revision": ("Revision of the current release; 0: there is none.", ""),
    "ballast_fleet_release_age_seconds": ("How old the current release is.", ""),
    "ballast_fleet_telemetry_age_seconds": ("Since when nothing was heard of any worker.", ""),
    "ballast_work_tasks": ("Durable work by state: due, later, running.", "state"),
    "ballast_work_oldest_due_seconds": ("For how long the oldest work that is due has waited.", ""),
    "ballast_dead_letters_open": ("Dead letters that nobody has dealt with, by kind of work.", "kind"),
    "ballast_dead_letters_oldest_seconds": ("How old the oldest of them is.", ""),
    "ballast_canaries_running": ("Running canaries by what the statistics say of them.", "ruling"),
    "ballast_break_glass_unpaid": ("Bypasses that nobody else has reviewed: due, or overdue.", "state"),
    "ballast_changes_waiting": ("Changes that wait for sign-offs.", ""),
    "ballast_changes_oldest_seconds": ("For how long the oldest of them has waited.", ""),
    "ballast_audit_export_waiting": ("Audit events that are not exported; absent where no store is configured.", ""),
    "ballast_audit_export_behind_seconds": ("For how long an event that should be exported is not; 0: none.", ""),
    "ballast_reports_waiting": ("Batches of reports in Redis that nobody has taken in.", ""),
}
COMPUTED_AT: Final = "ballast_figures_computed_timestamp_seconds"


@dataclass(frozen=True, slots=True)
class Figure:
    """One value of one figure; `label` empty where it has none."""

    name: str
    value: float
    label: str = ""


def keep(figures: list[Figure], *, now: datetime) -> None:
    """Have these shown from now on."""
    rows = [[one.name, one.label, one.value] for one in figures]
    cache.set(KEY, json.dumps({"at": now.timestamp(), "figures": rows}), KEEP_SECONDS)


def families() -> Iterator[Family]:
    """What is shown of them; nothing, where none are known."""
    try:
        text = cache.get(KEY)
    except RedisError as exc:
        logger.info("figures cannot be read: %s", type(exc).__name__)
        return
    if text is None:
        return
    told: dict[str, Any] = json.loads(text)
    for name, (words, label) in KNOWN.items():
        family = GaugeMetricFamily(name, words, labels=[label] if label else [])
        for found, of, value in told["figures"]:
            if found == name:
                family.add_metric([of] if label else [], value)
        if family.samples:
            yield family
    yield GaugeMetricFamily(COMPUTED_AT, "When these figures were computed, in Unix seconds.", value=told["at"])
