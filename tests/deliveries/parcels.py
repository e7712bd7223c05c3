"""Jobs whose answers go somewhere, and the world that they are sent into."""

from __future__ import annotations

from datetime import timedelta
from random import Random
from typing import Any

import orjson
from django.utils import timezone

from controlplane.deliveries import sending
from controlplane.ledger.deliveries import Delivery
from controlplane.ledger.jobs import Job
from dataplane.jobs import State
from tests.alerts.channels import outside
from tests.job_rows import make_job

GERMAN = {"surface": "web-chat", "rung": 4, "copy": "web-chat-later@1", "locale": "de"}
ANSWER = "Ja: <b>30 Tage</b> & kostenlos."


def completion(content: str | None = ANSWER) -> bytes:
    """A chat's answer."""
    message = {"role": "assistant", "content": content}
    return orjson.dumps({"id": "c1", "object": "chat.completion", "choices": [{"index": 0, "message": message}]})


def promise(
    channel: str = "webhook", address: str = "", *, state: str = "completed", tenant_slug: str = "acme", **job: Any
) -> Delivery:
    """The delivery of a job of `tenant_slug` that was handed in a minute ago, and is in `state` by now."""
    at = timezone.now() - timedelta(minutes=1)
    made = make_job(tenant=tenant_slug, at=at, request_id="req_1")
    is_mail = channel == "email"
    Delivery.objects.create(
        job=made,
        channel=channel,
        address=address or ("ada@example.com" if is_mail else "https://app.example.com/answers"),
        subject="Ihre Antwort von Web chat" if is_mail else "",
        text="Hier ist die Antwort." if is_mail else "",
        ballast=GERMAN,
        created_at=at,
    )
    if state != State.QUEUED:
        ended = {"response": completion(), "status": 200} if state == State.COMPLETED else {}
        Job.objects.filter(pk=made.pk).update(state=state, ended_at=timezone.now(), **ended | job)
    return Delivery.objects.get(pk=made.pk)


def send(*, hours: float = 0.01, **world: Any) -> int:
    """Send what is due so many hours from now."""
    at = timezone.now() + timedelta(hours=hours)
    return sending.send_due(
        outside=outside(*world.pop("addresses", ()), **world), rng=Random(5), now=lambda: at, clock=lambda: 0.0
    )


def only() -> Delivery:
    """The one delivery that there is, as the database has it."""
    return Delivery.objects.select_related("job").get()
