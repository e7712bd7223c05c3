"""What users and apps are told of each surface: which rung stands, in signed words, since when and until when. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from dataplane.access import TIERS
from dataplane.errors.requests import InvalidRequest
from dataplane.ladder.activations import NOTHING, Engaged
from dataplane.ladder.policy import MAINTENANCE, OFF, Surface
from dataplane.ladder.words import Spoken, speak_to_everybody
from dataplane.messages import Json
from dataplane.signed_copy import CopyBook


@dataclass(frozen=True, slots=True)
class SurfaceStatus:
    """Where a surface stands for whoever asks.

    Attributes:
        tiers: The rung that stands for each tier that was looked at; `rung` is the highest of them.
        spoken: What users read of the rung; None while none is engaged, and then there are no words to show.
        since: None where nobody knows.
        until: When it ends by itself; None where triggers decide.
    """

    surface: Surface
    rung: int
    tiers: Mapping[str, int]
    spoken: Spoken | None
    since: datetime | None
    until: datetime | None

    @property
    def status(self) -> str:
        """ok | degraded | maintenance."""
        return "ok" if self.rung == OFF else "maintenance" if self.rung == MAINTENANCE else "degraded"

    def to_json(self) -> Json:
        """Shape: {"surface": slug, "title": str, "status": "ok" | "degraded" | "maintenance", "rung": 0..6, "tiers":
        {tier: 0..6}, "since", "until": ISO-8601 or null, and "name", "banner", "detail", "html", "locale",
        "eta_seconds", "copy": see `Spoken.to_json_in_full`, all null at rung 0}.
        """
        words: Json = dict.fromkeys(("name", "banner", "detail", "html", "locale", "eta_seconds", "copy"))
        return {
            **(words if self.spoken is None else self.spoken.to_json_in_full()),
            "surface": self.surface.slug,
            "title": self.surface.title,
            "status": self.status,
            "rung": self.rung,
            "tiers": dict(self.tiers),
            "since": written(self.since),
            "until": written(self.until),
        }

    def without_seconds(self) -> SurfaceStatus:
        """The same with the wait in whole minutes: what was told does not become another thing with every second."""
        if self.spoken is None:
            return self
        return replace(self, spoken=replace(self.spoken, eta_seconds=60 * math.ceil(self.spoken.eta_seconds / 60)))


def tiers_asked(tier: str | None) -> tuple[str, ...]:
    """The tiers that a question is about; None: all, since nobody knows whose users will read the answer.

    Raises:
        InvalidRequest: there is no such tier.
    """
    if tier is None:
        return tuple(sorted(TIERS))
    if tier not in TIERS:
        raise InvalidRequest(f"{tier[:20]!r} is no tier; there are {', '.join(sorted(TIERS))}", param="tier")
    return (tier,)


def highest(engaged: Iterable[Engaged]) -> Engaged:
    """The one that weighs most on users: the highest rung, of equal ones that which lasts longest."""
    forever = datetime.max.replace(tzinfo=UTC)
    return max(engaged, key=lambda one: (one.rung, one.until or forever), default=NOTHING)


def status_of(
    surface: Surface,
    engaged: Mapping[str, Engaged],
    *,
    book: CopyBook,
    accepted: str | None,
    eta_seconds: float,
    moved_at: datetime | None,
    status_url: str,
) -> SurfaceStatus:
    """Say where a surface stands.

    Args:
        engaged: By tier.
        accepted: An `Accept-Language` header.
        eta_seconds: Of the highest of them.
        moved_at: When triggers engaged what they engaged; None where nobody knows.
        status_url: Where a page says the same.
    """
    worst = highest(engaged.values())
    tiers = {tier: one.rung for tier, one in engaged.items()}
    if worst.rung == OFF:
        return SurfaceStatus(surface, OFF, tiers, None, None, None)
    spoken = speak_to_everybody(
        surface, worst.rung, book, accepted=accepted, eta_seconds=eta_seconds, status_url=status_url
    )
    since = moved_at if worst.activation is None else worst.activation.since
    return SurfaceStatus(surface, worst.rung, tiers, spoken, since, worst.until)


def written(moment: datetime | None) -> str | None:
    """A time as JSON has it, to the second."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
