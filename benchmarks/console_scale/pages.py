"""What `console_scale` asks for: every page, list and polled part of the console, and what ingest and beat do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from celery import current_app
from django.conf import settings
from django.db import connection, transaction
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone

from controlplane.ledger import operations as ledger
from controlplane.ledger import streams
from controlplane.releases import operations as releases
from controlplane.releases.fleet import fleet_message, worker_states
from controlplane.releases.models import Release, Worker
from controlplane.telemetry import evidence, ladder_states, surface_rows
from controlplane.telemetry import operations as telemetry
from controlplane.telemetry.feed import lanes_message, quotas_message
from tests.browser.pages import CANARY, PAGES, STREAM
from tests.end_to_end.stack import Stack
from tests.worker_reports import ack, ladder_state, lane_state, quota_state, report, rollup, stream_row, usage_row

PROMPT = "/prompts/prompt-7/"
RUNNING = CANARY.format("running")
# Pages of PAGES as they are asked for on a large deployment, and the parts that pages ask for by themselves.
FURTHER = (
    ("prompt, of 50 versions", "owner", PROMPT),
    ("prompt, a late page", "owner", f"{PROMPT}?page=3"),
    ("prompts, a late page", "owner", "/prompts/?page=20"),
    ("prompts, found", "owner", "/prompts/?q=prompt-19"),
    ("prompt-version, late", "owner", f"{PROMPT}versions/49/"),
    ("version-new, of 50", "owner", f"{PROMPT}submit/"),
    ("reviews, a late page", "approver-one", "/reviews/?show=closed&before=500"),
    ("canaries, a late page", "owner", "/canaries/?before=60"),
    ("releases, a late page", "oncall", "/releases/?before=60"),
    ("usage, of a tenant", "admin", "/usage/?tenant=tenant-1&hours=744"),
    ("usage, of a seldom lane", "admin", "/usage/?hours=744&lane=nobody/nowhere/none/x"),
    ("usage, of a prompt", "admin", "/usage/?prompt=prompt-7&hours=744"),
    ("usage, a month", "admin", "/usage/?hours=744"),
    ("usage, a key", "admin", "/usage/?key=bk-&hours=744"),
    ("usage-retries, a month", "admin", "/usage/retries/?days=30"),
    ("streams, a month", "admin", "/usage/streams/?hours=744"),
    ("streams, interrupted", "admin", "/usage/streams/?hours=744&outcome=interrupted"),
    ("streams, of a tenant", "admin", "/usage/streams/?hours=744&tenant=tenant-2"),
    ("idempotency-keys, replayed", "admin", "/usage/idempotency/?event=replayed"),
    ("jobs, failed", "admin", "/usage/jobs/?state=failed"),
    ("dead-letters, a month", "oncall", "/dead-letters/?hours=744"),
    ("audit, of one", "auditor", "/audit/?actor=owner"),
    ("audit, of an action", "auditor", "/audit/?action=prompt.live"),
    ("audit, of a target", "auditor", "/audit/?target=prompt%3Aprompt-7"),
    ("audit, a late page", "auditor", "/audit/?before=300"),
    ("lane, a month", "oncall", "/routing/lanes/?lane=openai/us-east/main/gpt-4o&hours=744"),
    ("repairs, a month", "oncall", "/routing/repairs/?hours=744"),
    ("validators, a month", "oncall", "/routing/validators/?hours=744"),
    ("status", "owner", "/status.json"),
    ("palette", "owner", "/palette.json"),
    ("fleet-figures", "oncall", "/releases/fleet.json"),
    ("dead-letters-chart", "oncall", "/dead-letters/depth.json?hours=24"),
)
# Where a list of the API hangs on something.
LISTS = (
    "prompts/prompt-7",
    "prompts/prompt-7/versions",
    "copy/help-centre-outage/versions",
    "corpora/help-centre",
    "corpora/help-centre/minutes",
    "corpora/help-centre/dumps",
    "corpora/help-centre/drills",
    "ladder/surfaces/web-chat/served",
    "ladder/surfaces/web-chat/episodes",
    "ladder/surfaces/web-chat/readings",
    "evals/sets/safety/versions",
    "evals/sets/safety/versions/1/rows",
    "tenants/acme/keys",
    "usage?tenant=tenant-1",
    "audit/events?actor=owner",
)
# They are no lists, ask a store of vectors or a gateway, or are an agent's.
NOT_ASKED = frozenset({"release-current", "release-trust"})
PROCESSES_AT_ONCE = 100
LANES = ("openai/us-east/main/gpt-4o", "azure/eu-west/eu/gpt-4o")
POOL = "openai-main/shared"
# What beat has done that has to do with what is stored; the others send, dump or drill.
TASKS = (
    *("telemetry.compact_rollups", "telemetry.audit_orders", "telemetry.forget_samples", "telemetry.measure_drills"),
    *("ledger.decide_credits", "ledger.forget_transcripts", "ledger.forget_repairs"),
    *("verdicts.watch", "verdicts.forget", "shadows.follow", "shadows.settle_checklists"),
    *("releases.push_latest", "work.sweep", "accounts.lapse_keys", "rollouts.lapse_break_glass"),
    *("deadletters.wake_redrives", "deadletters.finish_erasures", "releases.settle_reach"),
    "corpora.watch_promises",
)


@dataclass(frozen=True, slots=True)
class Asked:
    """One address; `who` is signed in when it is asked for."""

    name: str
    who: str
    path: str


@dataclass(frozen=True, slots=True)
class Work:
    """Something that happens without anybody asking; it is undone behind each time."""

    name: str
    run: Callable[[], object]


class _Store:
    """What `tests.browser.pages` asks a stack for."""

    def query(self, sql: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        """Ask the control plane's database."""
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall()


def addresses() -> Iterator[Asked]:
    """Every page, what pages ask for, and every list of the API."""
    stack = cast(Stack, _Store())
    for page in PAGES:
        yield Asked(page.name, page.who, page.path(stack))
    for name, who, path in FURTHER:
        yield Asked(name, who, path)
    ((running,),) = stack.query(RUNNING)
    for name in ("figures.json", "verdict/"):
        yield Asked(f"canary, {name}", "owner", f"/canaries/{running}/{name}")
    for path in _api_without_arguments():
        yield Asked(path.removeprefix("/"), "admin", path)
    for path in LISTS:
        yield Asked(f"api/v1/{path}", "admin", f"/api/v1/{path}")
    ((stream,),) = [row[:1] for row in stack.query(STREAM)]
    yield Asked("api/v1/streams/…/deliveries", "admin", f"/api/v1/streams/{stream}/deliveries")


def _api_without_arguments() -> list[str]:
    found = []
    for pattern in _patterns(get_resolver(), "/"):
        path, view = pattern
        methods = {name.upper() for name in ("get",) if hasattr(getattr(view.callback, "cls", object), name)}
        if path.startswith("/api/v1/") and "<" not in path and methods and view.name not in NOT_ASKED:
            found.append(path)
    return found


def _patterns(resolver: URLResolver, prefix: str) -> Iterator[tuple[str, URLPattern]]:
    for pattern in resolver.url_patterns:
        here = prefix + str(pattern.pattern)
        if isinstance(pattern, URLPattern):
            yield here, pattern
        elif isinstance(pattern, URLResolver):
            yield from _patterns(pattern, here)


def background() -> Iterator[Work]:
    """What ingest does with the reports of a hundred processes and with what pages are told, and beat's tasks."""
    yield Work("ingest: reports of 100 processes", _take_in)
    yield Work("ingest: the fleet, for pages", _tell_fleet)
    yield Work("ingest: lanes, for pages", lambda: lanes_message(LANES, now=timezone.now()))
    yield Work("ingest: quotas, for pages", lambda: quotas_message([POOL], now=timezone.now()))
    current_app.loader.import_default_modules()
    known = {entry["task"] for entry in settings.CELERY_BEAT_SCHEDULE.values()}
    for name in TASKS:
        assert name in known, name  # noqa: S101 - a task that was renamed must not go unmeasured
        yield Work(name, current_app.tasks[name])


def _tell_fleet() -> None:
    now = timezone.now()
    worker_states(now=now)
    fleet_message((), now=now)


def _take_in() -> None:
    now = datetime.now(UTC)
    current = Release.objects.defer("document").first()
    assert current is not None  # noqa: S101 - for the type checker
    names = Worker.objects.filter(name__startswith="host-", kind="gateway").order_by("name").values_list("name", "boot")
    batch: list[Any] = [
        report(
            rollup(now),
            worker=name,
            boot=boot,
            seq=10**9,
            sent_at=now,
            revision=current.revision,
            digest=current.digest,
            acks=(ack(current.revision, digest=current.digest, at=now),),
            usage=(usage_row(f"new-{place}", at=now),),
            lanes=tuple(lane_state(lane) for lane in LANES),
            quotas=(quota_state(),),
            ladders=(ladder_state(),),
            streams=(stream_row(f"{place:032x}", at=now),),
        )
        for place, (name, boot) in enumerate(names[:PROCESSES_AT_ONCE])
    ]
    with transaction.atomic():
        telemetry.merge_rollups(batch, now=now)
        evidence.record_evidence(batch, now=now)
        surface_rows.record_surfaces(batch, now=now)
        ladder_states.record_ladder_states(batch, now=now)
        telemetry.record_lane_states(batch, now=now)
        telemetry.record_quota_states(batch, now=now)
        ledger.record_usage([row for one in batch for row in one["usage"]])
        streams.record_streams(streams=[row for one in batch for row in one["streams"]], deliveries=[])
        releases.record_reports(batch, now=now)
