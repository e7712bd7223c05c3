"""What an answer looks like on its way: the body of a webhook, and an e-mail as text and as HTML."""

from urllib.parse import urlsplit

import orjson
from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.template.loader import render_to_string

from controlplane.ledger.deliveries import Delivery
from controlplane.ledger.jobs import Job
from dataplane.jobs import State

# No words of a rung: what a reader is told instead of an answer is as plain as an error message.
UNANSWERED = (
    "We kept your question, and could not answer it after all. We are sorry. Nothing more will be sent about it; please"
    " ask again."
)
NO_TEXT = "The answer is not text, and an e-mail cannot bring it. Whoever runs this service can fetch it."


def body_of(delivery: Delivery) -> bytes:
    """What a webhook says, in every attempt the same.

    Shape: {"job": id, "status": completed | failed | expired, "request_id": str, "ballast": what was said of the rung
    that it was put off on, or {}} and "response": the body that the endpoint gave, or "error": the envelope's member.
    """
    job = delivery.job
    told: dict[str, object] = {
        "job": job.name,
        "status": job.state,
        "request_id": job.request_id,
        "ballast": delivery.ballast,
    }
    if job.state == State.COMPLETED:
        told["response"] = orjson.Fragment(bytes(job.response or b"null"))
    else:
        told["error"] = job.error or {"code": job.error_code or job.state, "message": UNANSWERED, "param": None}
    return orjson.dumps(told)


def compose(delivery: Delivery) -> EmailMultiAlternatives:
    """The e-mail of an answer. Its Message-ID follows from the job, so that one sent twice can be told."""
    job = delivery.job
    answer = answer_in(job) if job.state == State.COMPLETED else ""
    context = {
        # The signed words announce an answer, so they stand above nothing else.
        "words": delivery.text if answer else "",
        "answer": answer or (NO_TEXT if job.state == State.COMPLETED else UNANSWERED),
        "job": job.name,
        "locale": delivery.ballast.get("locale", "") if answer else "",
    }
    message = EmailMultiAlternatives(
        subject=delivery.subject,
        body=render_to_string("deliveries/mail.txt", context),
        from_email=settings.ALERT_FROM,
        to=[delivery.address],
        headers={
            "Message-ID": f"<{delivery.message_id}@{urlsplit(settings.CONSOLE_URL).hostname}>",
            # No out-of-office answers, please.
            "Auto-Submitted": "auto-generated",
        },
    )
    message.attach_alternative(render_to_string("deliveries/mail.html", context), "text/html")
    return message


def answer_in(job: Job) -> str:
    """The text of a chat's answer; "" where it has none, as with a call of a tool."""
    try:
        content = orjson.loads(bytes(job.response or b""))["choices"][0]["message"]["content"]
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError):
        return ""
    return content if isinstance(content, str) else ""
