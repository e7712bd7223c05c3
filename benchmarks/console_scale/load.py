"""Fill the database of `console_scale`: what SQL alone cannot make, and that digests, chain and signatures hold."""

from __future__ import annotations

import base64
import hashlib
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from django.db import connection
from django.utils import timezone
from psycopg.types.json import Jsonb

from benchmarks.console_scale.rows import Sizes, load
from benchmarks.console_scale.tables import DAYS, FLEET, LEDGER, MINUTE_DAYS, PEOPLE, RECORD, TELEMETRY, VERSIONS_EACH
from controlplane.audit import operations as audit
from controlplane.audit.models import event_hash
from controlplane.corpora import tasks as corpora_tasks
from controlplane.ledger.operations import rebuild_usage_days
from controlplane.ledger.streams import rebuild_stream_days
from controlplane.prompts.models import PromptVersion, content_digest
from controlplane.releases.models import Release
from controlplane.releases.operations import cut_release
from controlplane.releases.propagation import settle
from controlplane.releases.signing import signing_key
from controlplane.routing.models import Drill
from controlplane.telemetry import drills, operations
from controlplane.telemetry.outcome_spans import rebuild_outcomes
from controlplane.telemetry.outcome_windows import rebuild_windows, slide_windows
from controlplane.telemetry.shadow_hours import rebuild_shadow_hours
from controlplane.telemetry.shadow_minutes import compact_shadows
from controlplane.telemetry.surface_hours import rebuild_hours
from controlplane.telemetry.surface_minutes import compact_surfaces
from controlplane.verdicts import tasks as verdict_tasks
from dataplane.release import SIGNED_PREFIX, key_id_of

# What an event was of, how often beside the others, and by whom.
ACTIONS = (
    ("change.approve", 5, "change:{change}", "approver-one"),
    ("change.opened", 3, "change:{change}", "owner"),
    ("change.applied", 2, "change:{change}", "owner"),
    ("prompt.version_submitted", 4, "prompt:prompt-{prompt}", "owner"),
    ("prompt.live", 2, "prompt:prompt-{prompt}", "owner"),
    ("canary.knob_turned", 3, "canary:canary-{canary}", "oncall"),
    ("release.cut", 3, "release:{release}", "owner"),
)
WORDS = (
    "You answer questions of customers of an online shop, in the language in which they ask. Say what the rules are, "
    "and where they are written. Promise nothing beyond them, and name nobody. When the question is about an order, "
    "ask for its number. When it is about money, say when it comes back and how. "
)
COPY_ROWS = 20_000


def fill(sizes: Sizes) -> None:
    """Put all of it in; the demo with something on every page is there already."""
    now = timezone.now()
    freshen()  # else the tasks forget what is copied
    closed = now + timedelta(minutes=2)  # so that the minute under way is folded too
    operations.compact_rollups(now=closed)
    compact_shadows(now=closed)
    compact_surfaces(now=closed)
    verdict_tasks.watch()
    corpora_tasks.sample()
    with connection.cursor() as cursor:
        # What copies of drills are said to have shown.
        figures = Jsonb(drills.measure(Drill.objects.latest("pk"), now=now))
        cursor.execute("CREATE TEMPORARY TABLE drill_figures AS SELECT %s AS figures", [figures])
        load(cursor, PEOPLE, sizes=sizes)
        _timed("prompts", lambda: _prompts(cursor, sizes, now))
        load(cursor, RECORD, sizes=sizes)
        _timed("audit events", lambda: _events(cursor, sizes))
        _timed("releases", lambda: _releases(cursor, sizes, now))
        load(cursor, FLEET, sizes=sizes)
        _timed("settled releases", _settle)
        load(cursor, LEDGER, sizes=sizes)
        load(cursor, TELEMETRY, sizes=sizes)
        _timed("usage days", lambda: _days(now))
        _timed("outcomes, surfaces and shadows", lambda: _added_up(now))
        _timed("analyze", lambda: cursor.execute("VACUUM ANALYZE"))


def _added_up(now: datetime) -> None:
    for age in range(MINUTE_DAYS + 1):
        rebuild_outcomes((now - timedelta(days=age)).date())
        rebuild_hours((now - timedelta(days=age)).date())
        rebuild_shadow_hours((now - timedelta(days=age)).date())
    rebuild_windows(now=now)


def freshen() -> None:
    """Have the fleet heard of for the next hour, as its reports would: a kept database has none."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE releases_worker SET last_seen_at = now() + interval '1 hour' WHERE name LIKE 'host-%'")
        for table in ("telemetry_lanestate", "telemetry_quotastate", "telemetry_ladderstate"):
            cursor.execute(f"UPDATE {table} SET reported_at = now() + interval '1 hour'")  # noqa: S608 - named above
            cursor.execute(f"VACUUM ANALYZE {table}")
        cursor.execute("VACUUM ANALYZE releases_worker")
    slide_windows(now=timezone.now(), until=timezone.now())


def _timed(name: str, step: Any) -> None:
    began = time.monotonic()
    step()
    if time.monotonic() - began > 1:
        print(f"  {name}: {time.monotonic() - began:.0f} s", flush=True)


def _prompts(cursor: Any, sizes: Sizes, now: datetime) -> None:
    """Prompts of 50 versions each, of which each has its last but one live."""
    like = PromptVersion.objects.select_related("prompt").get(prompt__slug="support-answer", number=1)
    cursor.execute(
        "INSERT INTO prompts_prompt (slug, title, description, route, created_by, created_at)"
        " SELECT 'prompt-' || i, 'Prompt ' || i, '', 'chat', 'owner', now() - interval '90 days'"
        " FROM generate_series(1, %s) i RETURNING id, slug",
        [sizes.prompts],
    )
    prompts = cursor.fetchall()
    first = now - timedelta(days=DAYS)

    def rows() -> Iterator[tuple[Any, ...]]:
        for number in range(1, VERSIONS_EACH + 1):
            for prompt, slug in prompts:
                words = f"{WORDS * 2}This is draft {number} of {slug}."
                messages = [{"role": "system", "content": words}, *like.messages[1:]]
                parts = {"variables_schema": like.variables_schema, "parameters": like.parameters}
                digest = content_digest(prompt=slug, messages=messages, **parts)
                at = first + timedelta(days=DAYS) * number / (VERSIONS_EACH + 1)
                yield (
                    *(number, _json(messages), _json(parts["variables_schema"]), _json(parts["parameters"])),
                    *(_json(like.sample_variables), "minor", "Clearer", digest, "owner", at, prompt),
                )

    columns = (
        "number, messages, variables_schema, parameters, sample_variables, change_class, rationale, digest, author,"
        " created_at, prompt_id"
    )
    with cursor.copy(f"COPY prompts_promptversion ({columns}) FROM STDIN") as copy:
        for row in rows():
            copy.write_row(row)
    cursor.execute(
        "INSERT INTO prompts_livechange (prompt_id, version_id, actor, reason, at) SELECT v.prompt_id, v.id, 'owner',"
        " 'Clearer', v.created_at FROM prompts_promptversion v JOIN prompts_prompt p ON p.id = v.prompt_id"
        " WHERE p.slug LIKE 'prompt-%%' AND number = %s",
        [VERSIONS_EACH - 1],
    )
    cursor.execute(
        "UPDATE prompts_prompt p SET live_version_id = l.version_id FROM prompts_livechange l"
        " WHERE l.prompt_id = p.id AND p.live_version_id IS NULL"
    )


def _events(cursor: Any, sizes: Sizes) -> None:
    """The chain goes on: each event seals those before."""
    seq, head = audit.head()
    ended = timezone.now()
    rng = random.Random(1)  # noqa: S311 - which event comes next is no secret
    chosen = rng.choices(ACTIONS, weights=[weight for _, weight, _, _ in ACTIONS], k=sizes.events)
    with cursor.copy(
        "COPY audit_auditevent (seq, at, actor, action, target, data, previous_hash, hash) FROM STDIN"
    ) as copy:
        for number, (action, _, target, actor) in enumerate(chosen, 1):
            at = ended - timedelta(days=DAYS) * (1 - number / sizes.events)
            names = {
                "change": rng.randrange(100, 20_000),
                "prompt": rng.randrange(1, sizes.prompts + 1),
                "canary": rng.randrange(1, 500),
                "release": rng.randrange(1, sizes.releases + 1),
            }
            named, data = (
                target.format(**names),
                {"reason": "Clearer", "role": "approver", "before": "1 %", "after": "5 %"},
            )
            facts = {"seq": seq + number, "at": at, "actor": actor, "action": action, "target": named, "data": data}
            previous, head = head, event_hash(**facts, previous_hash=head)
            copy.write_row((seq + number, at, actor, action, named, _json(data), previous, head))


def _releases(cursor: Any, sizes: Sizes, now: datetime) -> None:
    """One that is cut of all that is in force now, and as many like it: each with its own digest and signature."""
    cut = audit.operation(cut_release)(reason="prompts of the benchmark", actor="owner", now=now)
    assert cut is not None  # noqa: S101 - for the type checker: the prompts are new
    key = signing_key()
    before = f'"revision":{cut.revision},'
    assert cut.document.count(before) == 1  # noqa: S101 - else the copies would be no releases
    columns = "revision, document, digest, key_id, signature, reason, actor, clicked_at, restores"
    with cursor.copy(f"COPY releases_release ({columns}) FROM STDIN") as copy:
        for number in range(1, sizes.releases + 1):
            revision = cut.revision + number
            document = cut.document.replace(before, f'"revision":{revision},')
            payload = document.encode()
            signature = base64.b64encode(key.sign(SIGNED_PREFIX + payload)).decode()
            at = now - timedelta(days=DAYS) * (1 - number / sizes.releases)
            digest = hashlib.sha256(payload).hexdigest()
            copy.write_row(
                (revision, document, digest, key_id_of(key.public_key()), signature, "prompt live", "owner", at, None)
            )
    assert Release.objects.first() is not None  # noqa: S101 - it is read as it was written


def _settle() -> None:
    while settle(now=timezone.now()):
        pass


def _days(now: datetime) -> None:
    for days in range(DAYS + 1):
        day = (now.astimezone(UTC) - timedelta(days=days)).date()
        rebuild_usage_days(day)
        rebuild_stream_days(day)


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
