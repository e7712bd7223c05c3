"""What the ladder's pages share."""

from typing import Any

from django.urls import reverse


def tabs(active: str) -> list[dict[str, Any]]:
    """The pages of the ladder that there are, the one named `active` marked."""
    pages = {"copies": "Copy"}
    return [{"label": label, "url": reverse(name), "active": name == active} for name, label in pages.items()]
