"""The SQL of the store of idempotency keys: one statement for each step of a record, which writes its evidence too.

Every statement has the same parts: `found` locks the record, `written` is the row of evidence, `chained` adds its hash;
then the record and the evidence are written. A statement is a transaction, so there is never one without the other.

The table of moves (`TRANSITIONS`) is compiled in: a move that it lacks leads to no state, which the column refuses.
`CLAIM` judges as `event_of_claim` does; a test holds the two beside each other. The database's clock is the only one,
and is read once the record is locked, so hosts need not agree on the time.
"""

from __future__ import annotations

from typing import Final

from dataplane.idempotency import BEGINNINGS, EVIDENCE, TRANSITIONS, Event, State

CHANNEL: Final = "ballast_idempotency"
RECORDS: Final = "ledger_idempotencyrecord"
ROWS: Final = "ledger_idempotencyevidence"
GENESIS: Final = "0" * 64

RECORD_COLUMNS: Final = (
    *("id", "tenant", "user_hash", "key", "fingerprint", "fields", "is_repeatable", "state", "owner", "epoch"),
    *("request_id", "created_at", "expires_at", "lease_until", "evidence_seq", "evidence_hash"),
    *("stream_id", "is_awaited", "status", "headers", "media", "body", "body_bytes", "body_sha256", "usage"),
)
EVIDENCE_COLUMNS: Final = (*EVIDENCE, "hash")

_WRITERS: Final = {
    "text": "to_json(w.{0})::text",  # escapes exactly what RFC 8785 does
    "integer": "w.{0}::text",
    "uuid": "to_json(w.{0}::text)::text",
    "moment": """to_json(to_char(w.{0} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'))::text""",
}


def _canonical_json() -> str:
    """An SQL expression for the canonical JSON of a row of evidence `w`, as `EVIDENCE` says."""
    members = [f"'\"{name}\":' || {_WRITERS[kind].format(name)}" for name, kind in EVIDENCE.items()]
    return "'{' || " + " || ',' || ".join(members) + " || '}'"


def _state_after(event: str) -> str:
    """An SQL expression for where a record `r` moves; null for a move that does not exist."""
    moves = " ".join(
        f"WHEN r.state = '{before}' AND {event} = '{what}' THEN '{after}'"
        for (before, what), after in TRANSITIONS.items()
    )
    return f"CASE {moves} END"


def _words(*events: Event) -> str:
    return ", ".join(f"'{event}'" for event in sorted(events))


_CHAINED: Final = f"""chained AS MATERIALIZED (
    SELECT w.*, encode(sha256(convert_to({_canonical_json()}, 'UTF8')), 'hex') AS hash FROM written AS w
)"""  # noqa: S608 - made of names of ours alone
_COLUMNS: Final = ", ".join(EVIDENCE_COLUMNS)
_BEGINNING: Final = f"c.event IN ({_words(*BEGINNINGS)})"
_LEASING: Final = f"c.event IN ({_words(*BEGINNINGS, Event.RESUMED)})"
_REOPENED: Final = f"c.event = '{Event.REOPENED}'"

# A key that nobody has is inserted, one that is known is moved, one that has expired is removed. No row comes back when
# somebody else inserted the same key at the same moment, or the key had expired: then it is to be asked once more.
CLAIM: Final = f"""
WITH asked AS MATERIALIZED (
    SELECT %(record)s::uuid AS record, %(tenant)s::text AS tenant, %(user_hash)s::text AS user_hash,
        %(key)s::text AS key, %(fingerprint)s::text AS fingerprint, %(fields)s::jsonb AS fields,
        %(is_repeatable)s::boolean AS is_repeatable, %(owner)s::text AS owner, %(request_id)s::text AS request_id,
        make_interval(secs => %(lease_seconds)s::float8) AS lease, make_interval(secs => %(ttl_seconds)s::float8) AS ttl
), found AS MATERIALIZED (
    SELECT r.* FROM {RECORDS} AS r
    WHERE r.tenant = %(tenant)s AND r.user_hash = %(user_hash)s AND r.key = %(key)s FOR UPDATE
), seen AS MATERIALIZED (
    SELECT f.*, clock_timestamp() AS at FROM found AS f
), judged AS MATERIALIZED (
    SELECT s.*, CASE
        WHEN s.expires_at <= s.at AND (s.state <> '{State.RUNNING}' OR s.lease_until <= s.at) THEN '{Event.EXPIRED}'
        WHEN s.state = '{State.RELEASED}' THEN '{Event.REOPENED}'
        WHEN s.fingerprint <> a.fingerprint THEN '{Event.MISMATCH}'
        WHEN s.state = '{State.DONE}' AND s.body IS NULL THEN '{Event.NOT_KEPT}'
        WHEN s.state = '{State.DONE}' THEN '{Event.REPLAYED}'
        WHEN s.state = '{State.INDETERMINATE}' THEN '{Event.INDETERMINATE}'
        WHEN s.owner = a.owner AND s.request_id = a.request_id THEN '{Event.RESUMED}'
        WHEN s.lease_until > s.at THEN '{Event.ATTACHED}'
        WHEN s.is_repeatable AND a.is_repeatable THEN '{Event.TAKEN_OVER}'
        ELSE '{Event.INDETERMINATE}'
    END AS event FROM seen AS s, asked AS a
), written AS MATERIALIZED (
    SELECT c.id AS record, c.evidence_seq + 1 AS seq, c.at, c.event, a.tenant, a.user_hash, a.key, a.request_id,
        CASE WHEN {_BEGINNING} THEN a.owner ELSE c.owner END AS owner,
        CASE WHEN {_BEGINNING} THEN c.epoch + 1 ELSE c.epoch END AS epoch,
        CASE WHEN c.event = '{Event.EXPIRED}' THEN c.fingerprint ELSE a.fingerprint END AS fingerprint,
        CASE WHEN c.state = '{State.DONE}' THEN c.status ELSE 0 END AS status,
        CASE WHEN c.state = '{State.DONE}' THEN c.body_sha256 ELSE '' END AS body_sha256,
        CASE WHEN {_BEGINNING} THEN '' ELSE c.stream_id END AS stream_id,
        CASE WHEN c.event = '{Event.MISMATCH}' THEN (
            SELECT coalesce(json_agg(d.name ORDER BY d.name COLLATE "C")::text, '[]') FROM (
                SELECT coalesce(k.key, n.key) AS name
                FROM jsonb_each_text(c.fields) AS k FULL JOIN jsonb_each_text(a.fields) AS n ON k.key = n.key
                WHERE k.value IS DISTINCT FROM n.value
            ) AS d
        ) ELSE '' END AS detail,
        c.evidence_hash AS previous_hash
    FROM judged AS c, asked AS a
    UNION ALL
    SELECT a.record, 1, clock_timestamp(), '{Event.CREATED}', a.tenant, a.user_hash, a.key, a.request_id,
        a.owner, 1, a.fingerprint, 0, '', '', '', '{GENESIS}'
    FROM asked AS a WHERE NOT EXISTS (SELECT FROM found)
), {_CHAINED}, moved AS (
    UPDATE {RECORDS} AS r SET
        state = {_state_after("c.event")},
        owner = c.owner,
        epoch = c.epoch,
        request_id = CASE WHEN {_BEGINNING} THEN a.request_id ELSE r.request_id END,
        fingerprint = CASE WHEN {_REOPENED} THEN a.fingerprint ELSE r.fingerprint END,
        fields = CASE WHEN {_REOPENED} THEN a.fields ELSE r.fields END,
        is_repeatable = CASE WHEN {_REOPENED} THEN a.is_repeatable ELSE r.is_repeatable END,
        expires_at = CASE WHEN {_REOPENED} THEN c.at + a.ttl ELSE r.expires_at END,
        lease_until = CASE WHEN {_LEASING} THEN c.at + a.lease ELSE r.lease_until END,
        stream_id = CASE WHEN {_BEGINNING} THEN '' ELSE r.stream_id END,
        is_awaited = c.event = '{Event.ATTACHED}' OR (r.is_awaited AND NOT {_REOPENED}),
        evidence_seq = c.seq,
        evidence_hash = c.hash
    FROM chained AS c, asked AS a WHERE r.id = c.record AND c.event <> '{Event.EXPIRED}'
    RETURNING r.id
), removed AS (
    DELETE FROM {RECORDS} AS r USING chained AS c WHERE r.id = c.record AND c.event = '{Event.EXPIRED}' RETURNING r.id
), inserted AS (
    INSERT INTO {RECORDS} ({", ".join(RECORD_COLUMNS)})
    SELECT c.record, a.tenant, a.user_hash, a.key, a.fingerprint, a.fields, a.is_repeatable, '{State.RUNNING}', a.owner,
        c.epoch, a.request_id, c.at, c.at + a.ttl, c.at + a.lease, c.seq, c.hash,
        '', false, 0, '[]', '', NULL, 0, '', NULL
    FROM chained AS c, asked AS a WHERE c.event = '{Event.CREATED}'
    ON CONFLICT (tenant, user_hash, key) DO NOTHING RETURNING id
), proven AS (
    INSERT INTO {ROWS} ({_COLUMNS}) SELECT {_COLUMNS} FROM chained AS c
    WHERE c.record IN (SELECT id FROM moved UNION ALL SELECT id FROM removed UNION ALL SELECT id FROM inserted)
)
SELECT c.event, c.record, c.epoch, c.owner, c.stream_id, c.detail,
    extract(epoch FROM j.lease_until - j.at)::float8 AS lease_left_seconds,
    j.status, j.headers, j.media, j.body_bytes, j.usage, j.stream_id AS stream_before,
    CASE WHEN c.event = '{Event.REPLAYED}' THEN j.body END AS body
FROM chained AS c LEFT JOIN judged AS j ON j.id = c.record
WHERE c.record IN (SELECT id FROM moved UNION ALL SELECT id FROM inserted)
"""  # noqa: S608 - every name in it is a constant of ours; the values are parameters


def _owners_step(
    event: Event, *, sets: str = "", unless: str = "false", status: str = "0", body: str = "''", stream: str = "''"
) -> str:
    """A statement by which the owner of an epoch moves its record; no row comes back when the epoch is over.

    Duplicates are told if any came since the last step, and only then: each NOTIFY takes a lock that all commits of the
    server share. Those that go on waiting claim anew, and so ask to be told of the next.

    Args:
        sets: What else changes of the record `r`, each with a comma behind it.
        unless: What of the record makes the step one that was taken before.
        status, body, stream: SQL for what the evidence says of them.
    """
    return f"""
WITH found AS MATERIALIZED (
    SELECT r.* FROM {RECORDS} AS r
    WHERE r.id = %(record)s AND r.epoch = %(epoch)s AND r.owner = %(owner)s AND r.state = '{State.RUNNING}'
        AND NOT ({unless}) FOR UPDATE
), written AS MATERIALIZED (
    SELECT f.id AS record, f.evidence_seq + 1 AS seq, clock_timestamp() AS at, '{event}' AS event, f.tenant,
        f.user_hash, f.key, f.request_id, f.owner, f.epoch, f.fingerprint, {status} AS status,
        {body} AS body_sha256, coalesce(nullif({stream}, ''), f.stream_id) AS stream_id, %(detail)s::text AS detail,
        f.evidence_hash AS previous_hash
    FROM found AS f
), {_CHAINED}, moved AS (
    UPDATE {RECORDS} AS r SET {sets}
        state = {_state_after("c.event")}, stream_id = c.stream_id, is_awaited = false, evidence_seq = c.seq,
        evidence_hash = c.hash
    FROM chained AS c JOIN found AS f ON f.id = c.record WHERE r.id = c.record
    RETURNING r.id, f.is_awaited
), proven AS (
    INSERT INTO {ROWS} ({_COLUMNS}) SELECT {_COLUMNS} FROM chained AS c WHERE c.record IN (SELECT id FROM moved)
)
SELECT m.id, CASE WHEN m.is_awaited THEN pg_notify('{CHANNEL}', m.id::text)::text END FROM moved AS m
"""  # noqa: S608 - as above


STREAM: Final = _owners_step(Event.STREAMING, unless="r.stream_id = %(stream_id)s::text", stream="%(stream_id)s::text")
COMPLETE: Final = _owners_step(
    Event.COMPLETED,
    sets="status = %(status)s, headers = %(headers)s::jsonb, media = %(media)s, body = %(body)s, "
    "body_bytes = %(body_bytes)s, body_sha256 = %(body_sha256)s, usage = %(usage)s::jsonb,",
    status="%(status)s::integer",
    body="%(body_sha256)s::text",
    stream="%(stream_id)s::text",
)
RELEASE: Final = _owners_step(Event.RELEASED)
ABANDON: Final = _owners_step(Event.INDETERMINATE)

# Where a record of an epoch stands that could not be moved: it is over, or an answer to the same step was lost.
STANDING: Final = f"""
SELECT r.state, r.stream_id, r.body_sha256 FROM {RECORDS} AS r
WHERE r.id = %(record)s AND r.epoch = %(epoch)s AND r.owner = %(owner)s
"""  # noqa: S608 - as above

RENEW: Final = f"""
UPDATE {RECORDS} AS r SET lease_until = clock_timestamp() + make_interval(secs => %(lease_seconds)s::float8)
FROM unnest(%(records)s::uuid[], %(epochs)s::bigint[], %(owners)s::text[]) AS o(record, epoch, owner)
WHERE r.id = o.record AND r.epoch = o.epoch AND r.owner = o.owner AND r.state = '{State.RUNNING}'
RETURNING r.id, r.epoch, r.owner
"""  # noqa: S608 - as above

LOOK: Final = f"""
SELECT r.id, r.state = '{State.RUNNING}' AND r.lease_until > clock_timestamp() AS is_running, r.epoch, r.stream_id
FROM {RECORDS} AS r WHERE r.id = ANY(%(records)s::uuid[])
"""  # noqa: S608 - as above

EXPIRE: Final = f"""
WITH found AS MATERIALIZED (
    SELECT r.* FROM {RECORDS} AS r
    WHERE r.expires_at <= now() AND (r.state <> '{State.RUNNING}' OR r.lease_until <= now())
    ORDER BY r.expires_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), written AS MATERIALIZED (
    SELECT f.id AS record, f.evidence_seq + 1 AS seq, clock_timestamp() AS at, '{Event.EXPIRED}' AS event, f.tenant,
        f.user_hash, f.key, '' AS request_id, f.owner, f.epoch, f.fingerprint, f.status, f.body_sha256, f.stream_id,
        '' AS detail, f.evidence_hash AS previous_hash
    FROM found AS f
), {_CHAINED}, removed AS (
    DELETE FROM {RECORDS} AS r USING chained AS c WHERE r.id = c.record RETURNING r.id
), proven AS (
    INSERT INTO {ROWS} ({_COLUMNS}) SELECT {_COLUMNS} FROM chained AS c WHERE c.record IN (SELECT id FROM removed)
)
SELECT count(*) FROM removed
"""  # noqa: S608 - as above
