"""What every page of the console shows around its content: the rail, the state of the house, and what waits."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import SimpleLazyObject

from controlplane.accounts.access import may_somewhere
from controlplane.accounts.models import Operator
from controlplane.approvals.access import count_waiting
from controlplane.console.status import House, read_house, status_of

# (label, URL name, icon, permission without which there is nothing to see there). Only rooms with something in them.
RAIL = (
    ("Overview", "overview", "speedometer2", ""),
    ("Prompts", "prompts", "chat-square-text", ""),
    ("Reviews", "reviews", "inbox", ""),
    ("Canaries", "canaries", "bezier2", ""),
    ("Ladder", "ladder", "ladder", "ladder.view_ladderpolicy"),
    ("Routing", "routing", "signpost-split", "routing.view_routingtable"),
    ("Releases & fleet", "releases", "broadcast", "releases.view_release"),
    ("Dead letters", "dead-letters", "envelope-x", "accounts.view_deadletter"),
    ("Streams & billing", "usage", "receipt", "accounts.view_usage"),
    ("Corpora & drills", "corpora", "database", "corpora.view_corpuspolicy"),
    ("Evals", "evals", "clipboard-check", "evals.view_evalset"),
    ("Shadow", "shadows", "layout-split", "routing.view_routingtable"),
    ("Audit", "audit", "shield-check", "audit.view_auditevent"),
    ("Access", "access", "people", ""),
)


def shell(request: HttpRequest) -> dict[str, Any]:
    """The rail with its badges, the status sentence and the deployment's mode; no query for who is not signed in.

    As many queries however many prompts, canaries, workers and changes there are; none for a template that shows
    neither, such as a part that htmx fetches or the page of an error.
    """
    operator = getattr(request, "user", None)  # absent on an error page that precedes authentication
    if not isinstance(operator, Operator) or not operator.is_authenticated:
        return {"demo": settings.DEMO}
    now = timezone.now()
    return {
        "demo": settings.DEMO,
        "rail": SimpleLazyObject(lambda: _rail(request, operator, now=now)),
        "status_text": SimpleLazyObject(lambda: status_of(house_of(request, operator, now=now)).text),
        "status_tone": SimpleLazyObject(lambda: status_of(house_of(request, operator, now=now)).tone),
        "fleet_picture": SimpleLazyObject(lambda: house_of(request, operator, now=now).fleet_picture),
        "palette_url": reverse("palette"),
        "status_url": reverse("status"),
    }


def _rail(request: HttpRequest, operator: Operator, *, now: datetime) -> list[dict[str, Any]]:
    waiting = badges(operator, house_of(request, operator, now=now))
    return [
        {
            "label": label,
            "name": name,
            "url": reverse(name),
            "icon": icon,
            "active": is_inside(request.path, reverse(name)),
            "badge": waiting.get(name),
        }
        for label, name, icon, permission in rooms(operator)
    ]


def house_of(request: HttpRequest, operator: Operator, *, now: datetime) -> House:
    """The state of the house as this request has read it: a page that shows it too reads it once."""
    known = getattr(request, "ballast_house", None)
    if not isinstance(known, House):
        known = read_house(operator, now=now)
        request.ballast_house = known  # type: ignore[attr-defined]  # ours, on Django's request
    return known


def badges(operator: Operator, house: House) -> Mapping[str, int]:
    """What waits for the reader, by the URL name of its room; zero is left out."""
    counts = {"overview": house.unpaid_debts, "reviews": count_waiting(operator)}
    return {name: count for name, count in counts.items() if count}


def rooms(operator: Operator) -> list[tuple[str, str, str, str]]:
    """The rooms of the rail in which there is something for this operator."""
    return [room for room in RAIL if not room[3] or may_somewhere(operator, room[3])]


def is_inside(path: str, room: str) -> bool:
    """Whether the page at `path` belongs to the room at `room`; to the front page belongs only itself."""
    return path == room or (room != "/" and path.startswith(room))
