"""What a roll-back would do, before anybody does it: found out by the operation itself."""

from datetime import datetime
from typing import Any

from django.db import transaction

from controlplane.accounts.models import Operator
from controlplane.releases.models import Release
from controlplane.releases.operations import roll_back_to


def preview_roll_back(*, release: Release, actor: Operator, now: datetime) -> dict[str, Any]:
    """The sections that `roll_back_to` would release now: it is carried out, and all of it is undone.

    Nothing is kept, pushed or recorded; the audit chain is held for as long as the real one would hold it.

    Raises:
        As `roll_back_to`, and whatever an app refuses to restore with.
    """
    with transaction.atomic():
        restored = roll_back_to(release=release, actor=actor, reason="preview", now=now)
        transaction.set_rollback(True)
    sections: dict[str, Any] = restored.content["sections"]
    return sections
