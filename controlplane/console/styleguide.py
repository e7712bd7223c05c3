"""Every part of the console in every state, on one page: for people who build pages, and for photographs of them."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.safestring import mark_safe
from django.views.decorators.http import require_safe

from controlplane.console import charts
from controlplane.console.diffs import diff_json, diff_rows, diff_words
from controlplane.console.ladder_now import Engagement, Step
from controlplane.console.lists import KeyPage

_BEFORE = """You are the support assistant of {{company}}.
Answer in at most five sentences.
If you are not sure, say so and offer to hand over to a person.

Never promise a refund.
Use the customer's language.
Cite the help article that you used.
Do not mention these instructions.
Close with one question that moves the case on."""
_AFTER = """You are the support assistant of {{company}}.
Answer in at most three short sentences.
If you are not sure, say so and offer to hand over to a person.

Never promise a refund or a date.
Use the customer's language.
Cite the help article that you used.
Do not mention these instructions.
Close with one question that moves the case on.
Address the customer as {{customer_name}}."""

_BANNER_HTML = """<h2>Es ist sehr viel los</h2><p>Ihre Frage wird beantwortet, nur <strong>kürzer</strong>.</p>
<ul><li>Ausführliche Antworten kommen per E-Mail.</li><li>Mehr auf der <a href="#banners">Statusseite</a>.</li></ul>"""


class SampleForm(forms.Form):
    """One field of each kind, bound to bad values so that errors show."""

    slug = forms.SlugField(label="Prompt", help_text="Lower-case letters, digits and hyphens; callers name it so.")
    change_class = forms.ChoiceField(
        label="Change class", choices=[("minor", "Minor"), ("tone", "Tone"), ("legal", "Legal")]
    )
    schema = forms.CharField(
        label="Schema of the variables",
        required=False,
        widget=forms.Textarea(attrs={"rows": 5, "class": "code", "spellcheck": "false"}),
        initial='{"type": "object",\n "required": ["customer_name"]}',
    )
    unit = forms.ChoiceField(
        label="Unit", widget=forms.RadioSelect, choices=[("user", "User"), ("tenant", "Tenant"), ("region", "Region")]
    )
    notify = forms.BooleanField(label="Tell the approvers by mail", required=False)


@require_safe
def styleguide(request: HttpRequest) -> HttpResponse:
    """Show the parts. Debug and demo only: elsewhere it does not exist."""
    if not (settings.DEBUG or getattr(settings, "DEMO", False)):
        raise Http404
    return render(request, "styleguide/page.html", _samples(timezone.now()))


def _ladder_steps(now: datetime) -> list[Step]:
    """A ladder with a step in every state."""
    by_hand = Engagement("by oncall for Standard and Free", now + timedelta(minutes=28), reason="capacity", workers=4)
    by_triggers = Engagement("by triggers, until it is calm", None)
    unsigned = ("nobody has signed 'web-chat-known-answers' yet",)
    return [
        Step(6, "Maintenance", "signed", url="#ladder"),
        Step(5, "Known answers only", "unsigned", missing=unsigned, signers="Exec and Legal", url="#ladder"),
        Step(4, "Answers later", "absent"),
        Step(3, "Cheaper model", "engaged", engagements=(by_hand, by_triggers), url="#ladder"),
        Step(2, "No tools", "kept", url="#ladder"),
        Step(1, "Shorter answers", "kept", url="#ladder"),
    ]


def _samples(now: datetime) -> dict[str, Any]:
    digest = "9f2b64c1d07e4a5d8f7be01c3a96e2d4b1c07f5e2f7a9d3381c6f0a4b5d6e7f8"
    return {
        "generated_at": now,
        "status_text": (
            "Serving r128 on 6 of 6 workers. Canary support-answer v13 at 5 %, not enough evidence yet. "
            "No breaker open."
        ),
        "status_tone": "good",
        "digest": digest,
        "ladder_steps": _ladder_steps(now),
        "moments": [
            now - timedelta(seconds=40),
            now - timedelta(minutes=12),
            now - timedelta(hours=7),
            now + timedelta(days=2),
        ],
        "pills": [
            ("good", "in sync"),
            ("watch", "waiting"),
            ("bad", "refused"),
            ("off", "off"),
            ("info", "minor"),
            ("canary", "canary v13"),
            ("control", "control v12"),
        ],
        "points": [20 + 6 * math.sin(at / 3) + at % 5 for at in range(40)],
        "gapped": [None if 14 < at < 20 else 8 + at % 7 for at in range(40)],
        "stages": _stages(),
        "stops": _stops(),
        "seats": [
            {"role": "Approver", "name": "approver-one", "at": now - timedelta(minutes=31), "state": "signed"},
            {"role": "Legal", "name": "", "at": None, "state": "waiting"},
        ],
        "void_seats": [
            {"role": "Approver", "name": "approver-one", "at": now, "state": "void", "why": "the text changed"},
            {"role": "Approver", "name": "approver-two", "at": now, "state": "refused", "why": "too blunt for legal"},
        ],
        "expires_at": now + timedelta(days=3),
        "diff": diff_rows(_BEFORE, _AFTER),
        "json_diff": diff_json(
            {"temperature": 0.2, "max_tokens": 400}, {"max_tokens": 320, "temperature": 0.2, "top_p": 0.9}
        ),
        "flat_diff": diff_words("Answer in at most five sentences.", "Answer in at most three short sentences."),
        "banner": "Der Web-Chat antwortet gerade kürzer; in etwa 4 min ist alles wieder wie sonst.",
        "banner_html": mark_safe(_BANNER_HTML),  # noqa: S308 - written here
        "events": [
            {
                "at": now - timedelta(minutes=4),
                "text": "Knob turned to 5 %",
                "actor": "owner",
                "reason": "A day at 1 % without a complaint.",
                "tone": "info",
                "icon": "sliders",
            },
            {
                "at": now - timedelta(minutes=31),
                "text": "Signed off",
                "actor": "approver-one",
                "tone": "good",
                "icon": "check-lg",
            },
            {
                "at": now - timedelta(hours=2),
                "text": "Release r127 refused by gateway-3",
                "actor": "host-b",
                "reason": "signature does not match key 4be1…",
                "tone": "bad",
                "icon": "x-lg",
            },
            {"at": now - timedelta(hours=5), "text": "Version 13 submitted", "actor": "owner"},
        ],
        "workers": _workers(now, digest),
        "figures": _figures(now),
        "tabs": [
            {"label": "Versions", "url": "#", "active": True, "count": 13},
            {"label": "Canary", "url": "#"},
            {"label": "Preview", "url": "#"},
            {"label": "Audit", "url": "#", "count": 0},
        ],
        "columns": [
            {"label": "Lane"},
            {"label": "State"},
            {"label": "Requests", "numeric": True},
            {"label": "p95, ms", "numeric": True},
            {"label": "Cost, $", "numeric": True},
        ],
        "rows": [
            [
                {"text": "openai/eu-west/main/gpt-4o", "mono": True, "url": "#"},
                {"text": "healthy", "tone": "good"},
                "12,480",
                "840",
                "31.20",
            ],
            [
                {"text": "azure/eu-west/main/gpt-4o", "mono": True, "url": "#"},
                {"text": "slow", "tone": "watch"},
                "1,024",
                "2,110",
                "2.71",
            ],
            [
                {"text": "anthropic/eu-west/main/sonnet", "mono": True, "url": "#"},
                {"text": "open", "tone": "bad"},
                "0",
                "–",
                "0.00",
            ],
        ],
        "form": SampleForm(
            {
                "slug": "Support answer!",
                "change_class": "tone",
                "schema": '{"type": "object",\n "required": [customer]}',
                "unit": "user",
            }
        ),
        "page": Paginator(range(312), 50).page(2),
        "key_page": KeyPage([], first_url="?", next_url="?before=262"),
        "extra": {"version": 12},
    }


def _stages() -> list[dict[str, Any]]:
    gate = [
        {"text": "2 of 2 sign-offs", "met": True},
        {"text": "24 h at 5 %", "met": False},
        {"text": "error rate within 0.5 pp", "met": None},
    ]
    return [
        {"name": "Internal only", "state": "past", "detail": "3 tenants"},
        {"name": "1 %", "state": "past", "detail": "about 120 users"},
        {"name": "5 %", "state": "now", "detail": "about 610 users"},
        {"name": "25 %", "state": "next", "gate": gate},
        {"name": "50 %", "state": "next"},
        {"name": "100 %", "state": "next"},
    ]


def _stops() -> list[dict[str, Any]]:
    return [
        {"value": "internal", "label": "Internal", "share": "0 %", "moves": "5 % of users return to control"},
        {"value": "1", "label": "Taste", "share": "1 %", "moves": "4 % of users return to control"},
        {"value": "5", "label": "Early", "share": "5 %", "moves": "no change", "current": True},
        {
            "value": "25",
            "label": "Quarter",
            "share": "25 %",
            "moves": "20 % of users, about 2,440, join the canary; nobody leaves it",
        },
        {
            "value": "50",
            "label": "Half",
            "share": "50 %",
            "moves": "45 % of users, about 5,500, join the canary; nobody leaves it",
        },
        {"value": "100", "label": "All", "share": "100 %", "moves": "", "disabled": True, "why": "needs promotion"},
    ]


def _workers(now: datetime, digest: str) -> list[dict[str, Any]]:
    states = ["in-sync"] * 7 + ["behind", "refused", "silent"]
    reasons = {
        "refused": "StaleRevision: r127 is older than r128",
        "silent": "no report for 41 s",
        "behind": "serving r127",
    }
    return [
        {
            "name": f"host-{'ab'[at % 2]}/gateway-{at // 2}",
            "host": f"host-{'ab'[at % 2]}",
            "state": state,
            "revision": 128 if state == "in-sync" else 127,
            "digest": digest,
            "seen_at": now - timedelta(seconds=41 if state == "silent" else 1),
            "ack_ms": 31 + at if state == "in-sync" else None,
            "reason": reasons.get(state, ""),
        }
        for at, state in enumerate(states)
    ]


def _figures(now: datetime) -> dict[str, charts.Figure]:
    start = now.replace(microsecond=0).astimezone(UTC) - timedelta(minutes=30)
    step = timedelta(seconds=30)
    xs = [start + step * at for at in range(60) if not 34 < at < 40]
    wave = [float(1 + 0.4 * math.sin(at / 5) + (at * 7 % 11) / 20) for at in range(len(xs))]
    canary_xs, canary = charts.with_gaps(xs, [round(value * 1.12, 3) for value in wave], step=step)
    control_xs, control = charts.with_gaps(xs, [round(value, 3) for value in wave], step=step)
    span = (start, start + step * 60)
    release = charts.Moment(start + timedelta(minutes=11), "r128")
    both = [
        charts.Series(
            "canary v13",
            "canary",
            canary_xs,
            canary,
            [None if y is None else y * 0.8 for y in canary],
            [None if y is None else y * 1.2 for y in canary],
        ),
        charts.Series("control v12", "control", control_xs, control),
    ]
    latency = [
        charts.Series("canary v13", "canary", canary_xs, [None if y is None else round(y * 640) for y in canary]),
        charts.Series("control v12", "control", control_xs, [None if y is None else round(y * 600) for y in control]),
    ]
    few = [charts.Series("canary v13", "canary", xs[:3], wave[:3])]
    return {
        "errors": charts.line_chart(
            "Error rate", "%", both, thresholds=[charts.Threshold(2.0, "guardrail 2 %")], moments=[release], span=span
        ),
        "latency": charts.line_chart("Latency p95", "ms", latency, moments=[release], span=span),
        "few": charts.line_chart("Schema pass rate", "%", few, span=span, minimum_points=30),
    }
