"""Routing tables with validator policies that somebody wants in force, and stored answers to try those on."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from controlplane.accounts.models import Tenant
from controlplane.approvals.models import ChangeRequest
from controlplane.routing.operations import KIND_NAME, routing_tables
from controlplane.telemetry.samples import record_samples
from controlplane.trials.models import ValidatorTrial
from controlplane.trials.runner import run_trial
from dataplane.release import canonical, digest_of
from tests.factories import NOW, crew, make_tenant, routing_document
from tests.worker_reports import NOON, report, sample

PROVENANCE = {
    "origin": "guess",
    "note": "a test wants it",
    "link": "",
    "author": "oncall",
    "on": "2026-03-01",
    "review_by": "2026-06-01",
}


def number(value: float) -> dict[str, Any]:
    """A threshold."""
    return {"value": value, "provenance": PROVENANCE}


def rule(name: str = "no-mail", **fields: Any) -> dict[str, Any]:
    """A rule that blocks e-mail addresses in the text, unless told."""
    usual = {} if "kind" in fields else {"applies_to": "text"}
    return (
        usual
        | {
            "id": name,
            "version": 1,
            "kind": "pii",
            "on_failure": "block",
            "on_error": "closed",
            "budget_ms": number(50),
            "params": {"classes": ["email"]},
        }
        | fields
    )


def policy(*rules: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A validator policy of these rules."""
    return {
        "rules": list(rules or (rule(),)),
        "streams": "hold",
        "window_characters": number(400),
        "escalation": None,
        "regulated": False,
    } | fields


def document_with(*, deadline_ms: int = 60_000, routes: tuple[str, ...] = ("chat",), **policies: Any) -> dict[str, Any]:
    """The demo's routing table with these validator policies and no others; the first is that of `routes`."""
    made = routing_document(deadline_ms=deadline_ms)
    for route in made["routes"].values():
        route.pop("validators", None)
    made["validators"] = {name.replace("_", "-"): one for name, one in policies.items()}
    for slug in routes if policies else ():
        made["routes"][slug]["validators"] = next(iter(made["validators"]))
    return made


def propose(document: dict[str, Any], *, author: str = "oncall") -> ChangeRequest:
    """The change request that would put a table in force."""
    table = routing_tables.submit(document=document, rationale="r", actor=getattr(crew, author), now=NOW)
    return routing_tables.propose(version=table, reason="r", actor=getattr(crew, author), now=NOW)


def store(*texts: str, route: str = "chat", name: str = "s", **fields: Any) -> None:
    """Answers that are kept as samples, the first the newest."""
    make_allowing()
    rows = [
        sample(f"{name}{place}", at=NOON - timedelta(seconds=place), route=route, text=text, tool_calls=[], **fields)
        for place, text in enumerate(texts)
    ]
    record_samples([report(samples=tuple(rows))])


def make_allowing() -> None:
    """The tenant acme, whose contents may be kept."""
    if not Tenant.objects.filter(slug="acme").exists():
        make_tenant("acme", log_content=True)


def run_trials() -> None:
    """Do what workers would do about every trial that was begun."""
    for trial in ValidatorTrial.objects.filter(state="running").order_by("id"):
        run_trial(trial.pk, now=lambda: NOW, clock=lambda: 0.0)


def furnish(now: datetime) -> ChangeRequest:
    """Into a house with the demo, put answers of tenant globex, and a change by which more would be withheld of them,
    which was tried. Where both are there already, nothing is added.
    """
    Tenant.objects.filter(slug="globex").update(log_content=True)
    texts = (
        "Write to ada@example.com, or to bo@example.com by 3 March.",
        "Within 14 days [1].",
        "Call +44 20 7946 0958",
    )
    rows = [
        sample(
            f"walk-{place}", at=now - timedelta(minutes=place), tenant="globex", text=texts[place % 3], tool_calls=[]
        )
        for place in range(30)
    ]
    record_samples([report(samples=tuple(rows))])
    document = json.loads(json.dumps(routing_tables.active().document))
    more = (
        rule("no-phones", kind="pii", on_failure="block", params={"classes": ["phone", "email"]}),
        rule("kind-words", kind="judge", on_failure="warn", params={"route": "summaries"}, on_error="open"),
    )
    careful = document["validators"]["careful-answers"]
    names = {one["id"] for one in more}
    careful["rules"] = [*(one for one in careful["rules"] if one["id"] not in names), *more]
    asked = ChangeRequest.objects.filter(kind=KIND_NAME, content_digest=digest_of(canonical(document))).first()
    if asked is not None:
        return asked
    table = routing_tables.submit(document=document, rationale="Phones are personal too", actor=crew.oncall, now=now)
    change = routing_tables.propose(version=table, reason="Phones are personal too", actor=crew.oncall, now=now)
    for trial in ValidatorTrial.objects.filter(change=change):
        run_trial(trial.pk, now=lambda: now, clock=lambda: 0.0)
    return change
