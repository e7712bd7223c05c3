"""Channels that lead where a test wants them, alerts, and the work that tells them."""

from __future__ import annotations

from datetime import datetime
from random import Random
from typing import Any

from controlplane.alerts import kinds, operations
from controlplane.alerts.models import Alert, Channel, ChannelKind, Delivery, Severity
from controlplane.alerts.networks import Reach
from controlplane.alerts.operations import Issued
from controlplane.alerts.outside import Outside
from controlplane.work import runner
from tests.factories import NOW, SETUP, crew


def outside(*addresses: str, reach: Reach = Reach.LOOPBACK, mails: bool = True, **fields: Any) -> Outside:
    """A world in which every name leads to these addresses."""
    return Outside(reach=reach, resolve=lambda host, port: addresses or ["127.0.0.1"], tls=None, mails=mails, **fields)


def make_webhook(url: str, slug: str = "pager", **fields: Any) -> Issued:
    """A webhook, added by an admin."""
    given = {"slug": slug, "kind": ChannelKind.WEBHOOK, "url": url, "actor": crew.admin, "now": NOW}
    return operations.create_channel(**given | {"outside": outside()} | fields)


def make_mailboxes(*addresses: str, slug: str = "team", **fields: Any) -> Channel:
    """A channel of mailboxes, added by an admin."""
    given = {"slug": slug, "kind": ChannelKind.EMAIL, "addresses": addresses, "actor": crew.admin, "now": NOW}
    return operations.create_channel(**given | {"outside": outside()} | fields).channel


def raise_one(**fields: Any) -> Alert:
    """An alert about a canary."""
    given = {
        "kind": kinds.CANARY_ROLLED_BACK,
        "severity": Severity.PAGE,
        "title": "Canary answers-v2 was rolled back",
        "sentence": "Cost is 14.2 % above control; everybody is on v1 again.",
        "facts": {"rail": "cost", "harm": 14.2},
        "link": "/canaries/answers-v2/",
        "target": "canary:answers-v2",
        "dedupe": "answers-v2",
        "now": NOW,
    }
    return operations.raise_alert(**given | fields)


def work() -> None:
    """Do what is due, each piece once."""
    while runner.run_next(owner="w1", rng=Random(5), now=lambda: NOW):
        pass


def only() -> Delivery:
    """The one delivery that there is, as the database has it."""
    return Delivery.objects.get()


def furnish(now: datetime) -> None:
    """One channel whose receiver is away, one of mailboxes, one that is disabled, and what they were told."""
    for slug in ("pager", "old-pager"):
        make_webhook("http://127.0.0.1:9/hooks/ballast", slug=slug, actor=SETUP, now=now)
    make_mailboxes("team@ballast.example", "lead@ballast.example", actor=SETUP, now=now)
    operations.set_enabled(channel=Channel.objects.get(slug="old-pager"), enabled=False, actor=SETUP, now=now)
    for severity in Severity:
        raise_one(severity=severity, dedupe=severity.value, link="/canaries/", now=now)
