"""The tables of `console_scale`, and how many rows of each there are at full scale."""

# ruff: noqa: S608 - every statement is made of this module's own text
from __future__ import annotations

from benchmarks.console_scale.rows import Copies

DAYS = 90
# What is reported of minutes is kept for 35 days: what is older had been deleted.
MINUTE_DAYS = 35
VERSIONS_EACH = 50
PROCESSES_EACH = 4

_AGO = "interval '{} days' * ((n - i)::float8 / n)"
AT = f"now() - {_AGO.format(DAYS)}"
MINUTE = "date_trunc('minute', now()) - interval '1 minute' * (n - i)"
# The i-th of all ids, as it would have been made then: they sort by time.
UUID = f"uuidv7(-{_AGO.format(DAYS)})"
# 0 <= x < 1, the same for the same row.
CHANCE = "(hashtext(i::text) / 4294967296.0 + 0.5)"
# A few tenants have most of the traffic, and many have some.
TENANT = f"'tenant-' || 1 + floor(power({CHANCE}, 3) * %(tenants)s)::int"
PROMPT = "'prompt-' || 1 + (i::bigint * 7919) %% %(prompts)s"
_PROMPT_ID = f"(SELECT p.id FROM prompts_prompt p WHERE p.slug = {PROMPT})"
_NEWEST = (
    f"(SELECT v.{{}} FROM prompts_promptversion v WHERE v.prompt_id = {_PROMPT_ID} AND v.number = {VERSIONS_EACH})"
)
_FIRST = f"(SELECT v.id FROM prompts_promptversion v WHERE v.prompt_id = {_PROMPT_ID} AND v.number = 1)"
_GATEWAYS = "SELECT name, boot, host FROM releases_worker WHERE name LIKE 'host-%%/gateway-%%'"


def _digest(of: str) -> str:
    return f"encode(sha256(convert_to('{of}-' || i, 'UTF8')), 'hex')"


_VERSION = {"number": "1000 + i", "digest": _digest("version"), "created_at": AT}
_STATE = {"worker": "w.name", "started_at": "now() - interval '1 day'", "reported_at": "now()"}

PEOPLE = (
    Copies("accounts_tenant", 300, {"slug": "'tenant-' || i", "name": "'Tenant ' || i"}, "slug = 'globex'", least=3),
    Copies(
        "accounts_apikey",
        600,
        {
            "tenant_id": "(SELECT id FROM accounts_tenant WHERE slug = 'tenant-' || 1 + i %% %(tenants)s)",
            "secret_hash": _digest("key"),
            "prefix": "'bk-' || left(md5('key-' || i), 8)",
            "created_at": AT,
        },
        "replaces_id IS NULL AND revoked_at IS NULL",
        least=6,
    ),
    Copies("accounts_operator", 200, {"username": "'operator-' || i"}, "username = 'auditor'", least=2),
    Copies(
        "accounts_rolegrant",
        200,
        {"operator_id": "(SELECT id FROM accounts_operator WHERE username = 'operator-' || i)"},
        "role = 'auditor'",
        least=2,
    ),
)

RECORD = (
    Copies(
        "approvals_changerequest",
        20_000,
        {
            "target": f"'prompt:' || {PROMPT}",
            "title": f"'Serve ' || {PROMPT} || '@' || 1 + i %% 49 || ' to everybody'",
            "content": f"t.content || jsonb_build_object('prompt', {PROMPT})",
            "content_digest": _digest("content"),
            "digest": _digest("change"),
            "opened_at": AT,
            "closed_at": f"{AT} + interval '1 hour'",
        },
        "kind = 'prompt.live' AND state = 'applied'",
    ),
    Copies(
        "approvals_signoff",
        0,
        {"change_id": "w.id", "digest": "w.digest", "signed_at": "w.opened_at", "expires_at": "w.closed_at"},
        "change_id = (SELECT min(id) FROM approvals_changerequest WHERE kind = 'prompt.live' AND state = 'applied')",
        per="SELECT id, digest, opened_at, closed_at FROM approvals_changerequest WHERE target LIKE 'prompt:prompt-%%'"
        " AND state = 'applied'",
    ),
    Copies(
        "approvals_changerequest",
        100,
        {
            "target": f"'prompt:' || {PROMPT}",
            "title": f"'Serve ' || {PROMPT} || '@{VERSIONS_EACH} to everybody'",
            "content": f"jsonb_build_object('prompt', {PROMPT}, 'candidate', jsonb_build_object('number',"
            f" {VERSIONS_EACH}, 'digest', {_NEWEST.format('digest')}), 'change_class', 'minor')",
            "content_digest": _NEWEST.format("digest"),
            "digest": _digest("open"),
            "state": "'open'",
            "opened_at": "now() - interval '1 minute' * i",
            "closed_at": "NULL",
            "closed_by": "''",
            "closing_note": "''",
        },
        "id = (SELECT min(id) FROM approvals_changerequest WHERE kind = 'prompt.live' AND state = 'applied')",
    ),
    Copies(
        "rollouts_canary",
        500,
        {
            "slug": "'canary-' || i",
            "prompt_id": _PROMPT_ID,
            "candidate_id": _NEWEST.format("id"),
            "control_id": _FIRST,
            "change_id": "(SELECT min(id) FROM approvals_changerequest WHERE target LIKE 'prompt:prompt-%%') + i - 1",
            "created_at": AT,
            "started_at": f"{AT} + interval '1 hour'",
            "moved_at": f"{AT} + interval '2 hours'",
            "ended_at": f"{AT} + interval '3 hours'",
        },
        "state IN ('promoted', 'rolled_back')",
    ),
    Copies(
        "approvals_breakglass",
        100,
        {
            "change_id": "(SELECT min(id) FROM approvals_changerequest WHERE target LIKE 'prompt:prompt-%%') + i - 1",
            "actor": "'oncall'",
            "reason": "'The answers named a price that is none'",
            "incident": "'INC-' || i",
            "digest": _digest("bypass"),
            "used_at": AT,
            "lapses_at": f"{AT} + interval '1 hour'",
            "ended_at": f"{AT} + interval '1 hour'",
            "end_note": "'lapsed'",
            "review_due_at": f"{AT} + interval '1 day'",
            "reviewed_by": "'approver-one'",
            "reviewed_at": f"{AT} + interval '2 hours'",
            "review_note": "'It was none'",
        },
        of="SELECT",
    ),
    Copies(
        "evals_evalrun",
        500,
        {"begun_at": AT, "started_at": AT, "moved_at": AT, "ended_at": AT, "change_id": "NULL"},
        "ended_at IS NOT NULL AND started_at IS NOT NULL",
    ),
    Copies("alerts_alert", 10_000, {"dedupe": "t.dedupe || '-' || i", "at": AT}),
    Copies(
        "alerts_delivery",
        10_000,
        {
            "id": UUID,
            "alert_id": "(SELECT max(id) FROM alerts_alert) - i + 1",
            "created_at": AT,
            "delivered_at": f"CASE WHEN t.delivered_at IS NOT NULL THEN {AT} END",
        },
    ),
    Copies("routing_routingtable", 100, _VERSION, "number = 1"),
    Copies("ladder_ladderpolicy", 50, _VERSION, "number = 1"),
    Copies("corpora_corpuspolicy", 50, _VERSION, "number = 1"),
    Copies("approvals_approvalpolicy", 20, _VERSION, "number = 1"),
    Copies("ladder_copyversion", 1_000, _VERSION),
    Copies(
        "routing_lanehold",
        1_000,
        {"at": AT, "until": f"CASE WHEN t.until IS NOT NULL THEN {AT} + interval '5 minutes' END"},
    ),
    Copies("routing_drill", 100, {"began_at": AT, "until": f"{AT} + interval '5 minutes'"}),
    Copies(
        "routing_drillresult",
        0,
        {"drill_id": "w.id", "at": "w.until", "figures": "(SELECT figures FROM drill_figures)"},
        of="SELECT",
        per="SELECT id, until FROM routing_drill d"
        " WHERE NOT EXISTS (SELECT FROM routing_drillresult r WHERE r.drill_id = d.id)"
        " AND until < now() - interval '1 hour'",
    ),
    Copies("ladder_rungactivation", 500, {"at": AT, "since": AT, "until": f"{AT} + interval '5 minutes'"}),
)

LEDGER = (
    Copies(
        "ledger_usagerow",
        10_000_000,
        {
            "attempt_id": "lpad(to_hex(i), 32, '0') || '-1'",
            # One in ten is the second attempt of a request.
            "request_id": "md5('request-' || (i - (i %% 10 = 9)::int))",
            "attempt": "1 + (i %% 10 = 9)::int",
            "kind": "CASE WHEN i %% 10 = 9 THEN 'retry' WHEN t.kind IN ('retry', 'fallback') THEN 'primary'"
            " ELSE t.kind END",
            "at": AT,
            "tenant": TENANT,
            "key": "((SELECT max(id) FROM accounts_apikey) - i %% %(tenants)s)::text",
            "prompt": f"CASE WHEN i %% 3 = 0 THEN {PROMPT} ELSE t.prompt END",
        },
        "kind <> 'eval'",
    ),
    Copies(
        "ledger_streamrow",
        1_000_000,
        {
            "stream_id": "md5('stream-' || i)",
            "request_id": "md5('request-' || i * 10)",
            "started_at": AT,
            "at": AT,
            "tenant": TENANT,
            "continues": "''",
        },
    ),
    Copies("ledger_streamstanding", 1_000_000, {"stream_id": "md5('stream-' || i)", "credit_micros": "0"}, "in_order"),
    Copies(
        "ledger_streamdelivery",
        100_000,
        {"delivery_id": "md5('delivery-' || i)", "stream_id": "md5('stream-' || i)", "at": AT, "tenant": TENANT},
    ),
    Copies("ledger_streamcredit", 50_000, {"stream_id": "md5('stream-' || i)", "at": AT, "tenant": TENANT}),
    Copies("ledger_streamtranscript", 50_000, {"stream_id": "md5('stream-' || i)", "at": AT, "tenant": TENANT}),
    Copies(
        "ledger_idempotencyrecord",
        50_000,
        {
            "id": UUID,
            "tenant": TENANT,
            "key": "'key-' || i",
            "created_at": AT,
            "expires_at": f"{AT} + interval '91 days'",
        },
        "state = 'done'",
    ),
    Copies(
        "ledger_idempotencyevidence",
        0,
        {"record": "w.id", "tenant": "w.tenant", "key": "w.key", "at": "w.created_at"},
        "record = (SELECT record FROM ledger_idempotencyevidence WHERE event = 'replayed' LIMIT 1)",
        per="SELECT id, tenant, key, created_at FROM ledger_idempotencyrecord WHERE key LIKE 'key-%%'",
    ),
    Copies(
        "ledger_job",
        50_000,
        {"id": UUID, "tenant": TENANT, "key": "''", "created_at": AT, "taken_at": AT, "ended_at": AT},
        "ended_at IS NOT NULL",
    ),
    Copies("ledger_repair", 5_000, {"id": UUID, "tenant": TENANT, "created_at": AT}),
    Copies(
        "deadletters_deadletter",
        20_000,
        {
            "id": UUID,
            "work_id": "gen_random_uuid()",
            "tenant": TENANT,
            "fingerprint": "md5('group-' || i %% greatest(n / 100, 1))",
            "created_at": AT,
        },
        "kind = 'job' AND state = 'open' AND redriven_as IS NULL AND redriven_from IS NULL",
    ),
    Copies(
        "work_task",
        20_000,
        {
            "id": UUID,
            "key": "''",
            "state": "'done'",
            "created_at": AT,
            "not_before": AT,
            "taken_at": AT,
            "ended_at": AT,
            "lease_until": "NULL",
        },
        "redriven_from IS NULL",
    ),
)

FLEET = (
    Copies(
        "releases_worker",
        4_000,
        {
            "name": f"'host-' || 1 + (i - 1) / {PROCESSES_EACH} || '/gateway-' || (i - 1) %% {PROCESSES_EACH}",
            "host": f"'host-' || 1 + (i - 1) / {PROCESSES_EACH}",
            "boot": "md5('boot-' || i)",
            # One in a hundred is behind, and one in four hundred refuses.
            "revision": "w.revision - (i %% 100 = 7)::int",
            "digest": "CASE WHEN i %% 100 = 7 THEN w.before ELSE w.digest END",
            "refused_revision": "CASE WHEN i %% 400 = 7 THEN w.revision END",
            "refused_digest": "CASE WHEN i %% 400 = 7 THEN w.digest ELSE '' END",
            "refused_reason": "CASE WHEN i %% 400 = 7 THEN 'its revision is not above that on disk' ELSE '' END",
            "started_at": "now() - interval '1 day'",
            "last_seen_at": "now()",
            "status": "'serving'",
        },
        "kind = 'gateway'",
        per="SELECT revision, digest, lag(digest) OVER (ORDER BY revision) AS before FROM releases_release"
        " ORDER BY revision DESC LIMIT 1",
        least=PROCESSES_EACH,
    ),
    Copies(
        "releases_worker",
        1_000,
        {
            "name": "'host-' || i || '/agent'",
            "host": "'host-' || i",
            "boot": "md5('agent-' || i)",
            "last_seen_at": "now()",
        },
        "kind = 'agent'",
    ),
    Copies(
        "releases_ack",
        0,
        {
            "worker": "w.name",
            "boot": "w.boot",
            "revision": "w.revision",
            "digest": "w.digest",
            "at": "w.clicked_at + interval '1 second'",
            "latency_ms": f"40 + 900 * power({CHANCE}, 6)",
        },
        "id = (SELECT min(id) FROM releases_ack WHERE verdict = 'ack')",
        per="SELECT name, boot, r.revision, r.digest, clicked_at"
        " FROM releases_worker CROSS JOIN (SELECT revision, digest,"
        " clicked_at FROM releases_release ORDER BY revision DESC LIMIT %(releases)s) r"
        " WHERE name LIKE 'host-%%/gateway-%%'",
    ),
    *(
        Copies(table, 0, _STATE, f"worker = (SELECT min(worker) FROM {table})", per=_GATEWAYS)
        for table in ("telemetry_lanestate", "telemetry_quotastate", "telemetry_ladderstate")
    ),
    Copies(
        "telemetry_canarycells",
        0,
        {"worker": "w.name", "boot": "w.boot"},
        "(canary, worker, boot) = (SELECT canary, worker, boot FROM telemetry_canarycells ORDER BY id LIMIT 1)",
        per=_GATEWAYS,
    ),
    Copies(
        "telemetry_source",
        0,
        {"worker": "w.name", "boot": "w.boot", "newest_bucket_at": "now()", "changed_at": "now()"},
        "id = (SELECT min(id) FROM telemetry_source)",
        per=_GATEWAYS,
    ),
)

# Of a minute, 20 series of the fleet; of 10 s, what little one process sees.
_SERIES = {"bucket_at": "date_trunc('minute', now()) - interval '1 minute' * ((n - i) / 20)", "sealed": "true"}
TELEMETRY = (
    Copies(
        "telemetry_rollup",
        10_000,
        {
            "bucket_at": "date_trunc('minute', now() - interval '2 hours' * ((n - i)::float8 / n))",
            "worker": "'host-' || 1 + i %% %(hosts)s || '/gateway-0'",
            "boot": "md5('rollup-' || i)",
            "folded": "i < n - 100",
            "changed_at": "now()",
        },
    ),
    Copies(
        "telemetry_minuterollup",
        MINUTE_DAYS * 1440 * 20,
        {**_SERIES, "version": "1000 + i %% 20", "prompt": PROMPT},
    ),
    Copies(
        "telemetry_minuterollup",
        MINUTE_DAYS * 1440,
        {"bucket_at": MINUTE, "sealed": "true"},
        "id = (SELECT id FROM telemetry_minuterollup WHERE outputs <> '{}' ORDER BY id LIMIT 1)",
    ),
    Copies(
        "telemetry_lanerollup",
        0,
        {"bucket_at": "w.minute", "lane": "w.lane", "sealed": "true"},
        "id = (SELECT max(id) FROM telemetry_lanerollup)",
        per="SELECT minute, lane FROM (SELECT DISTINCT bucket_at AS minute FROM telemetry_minuterollup"
        " WHERE version >= 1000) m CROSS JOIN (SELECT DISTINCT lane FROM telemetry_lanestate) l",
    ),
    Copies(
        "telemetry_surfaceminute",
        0,
        {"bucket_at": "w.minute", "tier": "w.tier", "sealed": "true"},
        "id = (SELECT min(id) FROM telemetry_surfaceminute)",
        per="SELECT minute, tier FROM (SELECT DISTINCT bucket_at AS minute FROM telemetry_lanerollup WHERE sealed) m"
        " CROSS JOIN unnest(ARRAY['vip', 'standard', 'free']) tier",
    ),
    Copies(
        "telemetry_surfacereading",
        14 * 8640,
        {"bucket_at": "date_trunc('minute', now()) - interval '10 seconds' * (n - i)", "boot": "md5('r-' || i)"},
    ),
    Copies("telemetry_shadowminute", MINUTE_DAYS * 1440, {"bucket_at": MINUTE, "sealed": "true"}),
    Copies("telemetry_exposedunit", 200_000, {"unit": "left(md5('unit-' || i), 16)", "changed_at": "now()"}),
    Copies(
        "telemetry_workerevent",
        500_000,
        {"at": AT, "worker": "'host-' || 1 + i %% %(hosts)s || '/gateway-0'", "boot": "md5('event-' || i)", "seq": "i"},
    ),
    Copies("telemetry_answersample", 2_000, {"at": AT, "request_id": "md5('request-' || i * 10)", "tenant": TENANT}),
    Copies("telemetry_shadowsample", 2_000, {"at": AT, "request_id": "md5('request-' || i * 10)", "tenant": TENANT}),
    Copies(
        "verdicts_verdictpoint",
        100_000,
        {
            "canary_id": "(SELECT min(id) FROM rollouts_canary WHERE slug LIKE 'canary-%%')"
            " + i %% greatest(n / 200, 1)",
            "at": AT,
        },
    ),
    Copies("corpora_corpusminute", DAYS * 1440, {"minute": f"{MINUTE} - interval '1 hour'"}),
    Copies(
        "corpora_document",
        50_000,
        {"source_key": "'article-' || i", "seq": "1000000 + i", "event_at": AT, "accepted_at": AT},
        "NOT is_deleted",
    ),
)
