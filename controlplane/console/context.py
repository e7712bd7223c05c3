"""What every page of the console shows around its content: the rail, and what waits for the reader."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse

# (label, URL name, icon, permission asked everywhere or None). Only rooms with something in them are listed.
RAIL = (
    ("Overview", "overview", "speedometer2"),
    ("Prompts", "prompts", "chat-square-text"),
    ("Reviews", "reviews", "inbox"),
    ("Canaries", "canaries", "bezier2"),
    ("Routing", "routing", "signpost-split"),
    ("Releases & fleet", "releases", "broadcast"),
    ("Usage", "usage", "receipt"),
    ("Audit", "audit", "shield-check"),
    ("Access", "access", "people"),
)


def shell(request: HttpRequest) -> dict[str, Any]:
    """The rail and the deployment's mode; no query for anybody who is not signed in."""
    operator = getattr(request, "user", None)  # absent on an error page that precedes authentication
    if operator is None or not operator.is_authenticated:
        return {"demo": settings.DEMO}
    rail = []
    for label, name, icon in RAIL:
        try:
            url = reverse(name)
        except NoReverseMatch:
            continue
        active = request.path == url or (url != "/" and request.path.startswith(url))
        rail.append({"label": label, "url": url, "icon": icon, "active": active})
    return {"demo": settings.DEMO, "rail": rail}
