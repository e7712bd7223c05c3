"""The SQL of the store of jobs: one statement for each step of a job.

The table of moves (`TRANSITIONS`) is compiled in: a move that it lacks leads to no state, which the column refuses. The
database's clock is the only one, so hosts need not agree on the time.
"""

from __future__ import annotations

from typing import Final

from dataplane.deadletters import MAX_LAPSES, Category
from dataplane.destinations import DeliveryState
from dataplane.jobs import RATE_SECONDS, TRANSITIONS, Delivery, Event, State
from dataplane.stores.deadletters_sql import JOB, LETTERS, bury_jobs, cause, with_cause

JOBS: Final = "ledger_job"
# Where answers go. The database makes them due when their job ends (see the trigger at the model).
DELIVERIES: Final = "ledger_delivery"
# Any constant would do; with the tenant's it keeps two submissions of one tenant apart, and nothing else.
SUBMITTING: Final = 0x0BA1106


def _state_after(event: str) -> str:
    """An SQL expression for where a job `j` moves; null for a move that does not exist."""
    moves = " ".join(
        f"WHEN j.state = '{before}' AND {event} = '{what}' THEN '{after}'"
        for (before, what), after in TRANSITIONS.items()
    )
    return f"CASE {moves} END"


_VIEW: Final = ", ".join(
    f"j.{name}"
    for name in (
        *("id", "tenant", "endpoint", "state", "tag", "created_at", "expires_at", "epoch", "cancel_asked", "ended_at"),
        *("status", "response_headers", "response", "error", "usage", "forgotten_at", "fingerprint", "fields"),
        "erased_at",
    )
)

# As what somebody handed the work of a job in again that had failed; whoever has the old id is told the new one.
_REDRIVEN: Final = (
    f"(SELECT l.redriven_as FROM {LETTERS} AS l WHERE l.kind = '{JOB}' AND l.work_id = j.id) AS redriven_as"  # noqa: S608 - names of ours
)

# How sending its answer stands, of one whose answer is sent; what its receiver said is for those who run Ballast.
_SENT: Final = f"""(
    SELECT jsonb_build_object(
        'channel', d.channel, 'status', d.state, 'attempts', d.attempts,
        'delivered_at', extract(epoch FROM d.delivered_at)::bigint
    ) FROM {DELIVERIES} AS d WHERE d.job_id = j.id
) AS delivery"""  # noqa: S608 - as above

# What letters say of failures that no answer tells of. They are part of their fingerprints.
POISON_WORDS: Final = f"its runner or its gateway died {MAX_LAPSES} times in a row"
LAPSED: Final = "lapsed"
LAPSED_WORDS: Final = "its runner was gone before it ended"
BROKEN_OFF_WORDS: Final = "its gateway was gone before it answered"
_EXPIRED: Final = "expired; its last attempt: "
_EXPIRED_WORDS: Final = f"'{_EXPIRED}' || coalesce(nullif(e.error_code, ''), 'unanswered')"
_ANSWERED: Final = cause(code="%(cause_code)s::text", message="%(cause_message)s::text", status="%(status)s::int")
_LAPSED: Final = cause(code=f"'{LAPSED}'", message=f"'{LAPSED_WORDS}'", status="0")
_POISONED: Final = (
    f"jsonb_build_object('type', 'server_error', 'code', '{Category.POISON}', 'message', '{POISON_WORDS}; it is not"
    " tried again', 'param', NULL)"
)


def expired_words(code: str) -> str:
    """What the letter of an expired job says, whose last attempt ended with this error."""
    return f"{_EXPIRED}{code}"


# Held until the transaction is over: whoever submits for the same tenant next sees this job, its tag and its number.
LOCK: Final = f"SELECT pg_advisory_xact_lock({SUBMITTING}, hashtext(%(tenant)s))"

# No row comes back when the tenant has too many. `max(tag)` of what was ever taken is what is being served now.
SUBMIT: Final = f"""
WITH known AS MATERIALIZED (
    SELECT j.* FROM {JOBS} AS j
    WHERE j.id = %(job)s OR (%(key)s <> '' AND j.key <> '' AND j.tenant = %(tenant)s
        AND j.user_hash = %(user_hash)s AND j.key = %(key)s)
), waiting AS MATERIALIZED (
    SELECT count(*) AS number FROM (
        SELECT FROM {JOBS} AS j WHERE j.tenant = %(tenant)s AND j.state = '{State.QUEUED}' LIMIT %(limit)s
    ) AS q
), added AS (
    INSERT INTO {JOBS} AS j (
        id, tenant, key_id, "user", user_hash, key, fingerprint, fields, endpoint, request, request_bytes, state, tag,
        epoch, owner, created_at, not_before, expires_at, cancel_asked, failures, request_id, status, response_headers,
        response_bytes, error_code, causes, lapses, has_tools, redriven_from, surface, traceparent
    )
    SELECT %(job)s, %(tenant)s, %(key_id)s, %(user)s, %(user_hash)s, %(key)s, %(fingerprint)s, %(fields)s::jsonb,
        %(endpoint)s, %(request)s::bytea, length(%(request)s::bytea), '{State.QUEUED}', greatest(
            (SELECT max(t.tag) FROM {JOBS} AS t WHERE t.epoch > 0),
            1 + (SELECT max(t.tag) FROM {JOBS} AS t
                WHERE t.tenant = %(tenant)s AND (t.state = '{State.QUEUED}' OR t.epoch > 0)),
            0
        ), 0, '', now(), now(), now() + make_interval(secs => %(expires_seconds)s::float8), false, 0, '', 0, '[]', 0,
        '', '[]', 0, %(has_tools)s, %(redriven_from)s::uuid, %(surface)s, %(traceparent)s
    FROM waiting WHERE waiting.number < %(limit)s AND NOT EXISTS (SELECT FROM known)
    RETURNING j.*
), promised AS (
    INSERT INTO {DELIVERIES} (job_id, channel, address, subject, text, ballast, state, attempts, created_at)
    SELECT a.id, %(channel)s::text, %(address)s, %(subject)s, %(text)s, %(ballast)s::jsonb,
        '{DeliveryState.WAITING}', 0, a.created_at
    FROM added AS a WHERE %(channel)s::text <> ''
)
SELECT true AS is_new, {_VIEW}, NULL AS redriven_as, CASE %(channel)s::text WHEN '' THEN NULL ELSE jsonb_build_object(
    'channel', %(channel)s::text, 'status', '{DeliveryState.WAITING}', 'attempts', 0, 'delivered_at', NULL
) END AS delivery FROM added AS j
UNION ALL SELECT j.id = %(job)s, {_VIEW}, {_REDRIVEN}, {_SENT} FROM known AS j
"""  # noqa: S608 - every name in it is a constant of ours; the values are parameters

FIND: Final = f"""
SELECT {_VIEW}, {_REDRIVEN}, {_SENT} FROM {JOBS} AS j WHERE j.id = %(job)s AND j.tenant = %(tenant)s
"""  # noqa: S608 - as above

PLACE: Final = f"""
SELECT count(*) AS position FROM {JOBS} AS j
WHERE j.state = '{State.QUEUED}' AND (j.tag, j.id) <= (%(tag)s::bigint, %(job)s::uuid)
"""  # noqa: S608 - as above

FIGURES: Final = f"""
WITH ended AS MATERIALIZED (
    SELECT j.state, count(*) AS number, min(j.ended_at) AS first FROM {JOBS} AS j
    WHERE j.ended_at > now() - make_interval(secs => {RATE_SECONDS}) GROUP BY j.state
)
SELECT (SELECT count(*) FROM {JOBS} AS j WHERE j.state = '{State.QUEUED}') AS queued,
    (SELECT count(*) FROM {JOBS} AS j WHERE j.state = '{State.RUNNING}') AS running,
    (SELECT coalesce(jsonb_object_agg(e.state, e.number), '{{}}') FROM ended AS e) AS ended,
    coalesce((SELECT extract(epoch FROM now() - min(e.first)) FROM ended AS e
        WHERE e.state IN ('{State.COMPLETED}', '{State.FAILED}')), 0)::float8 AS span_seconds
"""  # noqa: S608 - as above

# How long the oldest job has waited by now that each surface's rung 4 put off, to be run for the first time or again.
OLDEST_PUT_OFF: Final = f"""
SELECT j.surface, extract(epoch FROM greatest(clock_timestamp() - min(j.created_at), interval '0'))::float8 AS seconds
FROM {JOBS} AS j WHERE j.state = '{State.QUEUED}' AND j.surface <> '' GROUP BY j.surface
"""  # noqa: S608 - as above

# Queued: it ends. Running: its runner is asked to stop. Over: it stays.
CANCEL: Final = f"""
UPDATE {JOBS} AS j SET
    state = CASE WHEN j.state = '{State.QUEUED}' THEN '{State.CANCELLED}' ELSE j.state END,
    ended_at = CASE WHEN j.state = '{State.QUEUED}' THEN clock_timestamp() END,
    cancel_asked = true, sent_until = NULL
WHERE j.id = %(job)s AND j.tenant = %(tenant)s AND j.state IN ('{State.QUEUED}', '{State.RUNNING}')
"""  # noqa: S608 - as above

# Word of a job (`sent`) says that something is due, not what: the first in the order is taken, so a broker that keeps
# the order of sending cannot spoil it. That word is used up then. If the job that is taken had word of its own, that
# one is still on its way and will serve the other; else the other is to be sent again.
TAKE: Final = f"""
WITH next AS MATERIALIZED (
    SELECT j.id, j.sent_until FROM {JOBS} AS j
    WHERE j.state = '{State.QUEUED}' AND j.not_before <= now() AND j.expires_at > now()
    ORDER BY j.tag, j.id LIMIT 1 FOR UPDATE SKIP LOCKED
), unsent AS (
    UPDATE {JOBS} AS j SET sent_until = NULL WHERE j.id IN (
        SELECT s.id FROM {JOBS} AS s WHERE s.id = %(sent)s::uuid AND s.state = '{State.QUEUED}'
            AND NOT EXISTS (SELECT FROM next AS n WHERE n.id = s.id OR n.sent_until > now())
        FOR UPDATE SKIP LOCKED
    )
)
UPDATE {JOBS} AS j SET
    state = {_state_after(f"'{Event.TAKEN}'")}, epoch = j.epoch + 1, owner = %(owner)s, taken_at = clock_timestamp(),
    lease_until = clock_timestamp() + make_interval(secs => %(lease_seconds)s::float8), sent_until = NULL
FROM next WHERE j.id = next.id
RETURNING j.id, j.epoch, j.owner, j.tenant, j.key_id, j."user", j.endpoint, j.request, j.failures, j.traceparent,
    extract(epoch FROM j.expires_at - clock_timestamp())::float8 AS expires_in_seconds
"""  # noqa: S608 - as above

RENEW: Final = f"""
UPDATE {JOBS} AS j SET lease_until = clock_timestamp() + make_interval(secs => %(lease_seconds)s::float8)
FROM unnest(%(jobs)s::uuid[], %(epochs)s::bigint[]) AS o(job, epoch)
WHERE j.id = o.job AND j.epoch = o.epoch AND j.owner = %(owner)s AND j.state = '{State.RUNNING}'
RETURNING j.id, j.epoch, j.cancel_asked
"""  # noqa: S608 - as above

# The end of an epoch, by whoever holds it; no row comes back when it is over already. A job that has failed for good
# leaves its dead letter in the same statement. Who lives to tell is none that the job has killed; a gateway that is
# gone counts as a runner does (see LAPSE). What was erased meanwhile gets no words any more, and is not tried again.
_IS_LOST: Final = f"%(delivery)s::text = '{Delivery.LOST}'"
END: Final = f"""
WITH found AS MATERIALIZED (
    SELECT j.id, j.erased_at IS NOT NULL AS is_erased, CASE
        WHEN {_IS_LOST} AND j.lapses + 1 >= {MAX_LAPSES}
            AND %(event)s::text IN ('{Event.PUT_BACK}', '{Event.EXPIRED}') THEN '{Category.POISON}'
        WHEN j.erased_at IS NOT NULL AND %(event)s::text = '{Event.PUT_BACK}' THEN '{Event.CANCELLED}'
        ELSE %(event)s::text END AS event
    FROM {JOBS} AS j
    WHERE j.id = %(job)s AND j.epoch = %(epoch)s AND j.owner = %(owner)s AND j.state = '{State.RUNNING}' FOR UPDATE
), judged AS MATERIALIZED (
    SELECT f.id, f.is_erased, f.event = '{Category.POISON}' AS is_poison,
        CASE WHEN f.event = '{Category.POISON}' THEN '{Event.FAILED}' ELSE f.event END AS event
    FROM found AS f
), ended AS (UPDATE {JOBS} AS j SET
    state = {_state_after("f.event")},
    ended_at = CASE WHEN f.event <> '{Event.PUT_BACK}' THEN clock_timestamp() END,
    lease_until = NULL, sent_until = NULL,
    not_before = clock_timestamp() + make_interval(secs => %(wait_seconds)s::float8)
        + CASE WHEN {_IS_LOST} THEN j.lapses ELSE 0 END * random() * make_interval(secs => %(apart_seconds)s::float8),
    failures = %(failures)s, request_id = %(request_id)s, status = %(status)s,
    response_headers = CASE WHEN f.is_erased THEN '[]' ELSE %(headers)s::jsonb END,
    response = CASE WHEN f.is_erased THEN NULL ELSE %(response)s::bytea END,
    response_bytes = coalesce(length(%(response)s::bytea), 0), usage = %(usage)s::jsonb,
    error = CASE WHEN f.is_erased THEN NULL WHEN f.is_poison THEN {_POISONED} ELSE %(error)s::jsonb END,
    error_code = CASE WHEN f.is_poison THEN '{Category.POISON}' ELSE %(error_code)s END,
    lapses = CASE %(delivery)s::text WHEN '{Delivery.LOST}' THEN j.lapses + 1
        WHEN '{Delivery.UNTRIED}' THEN j.lapses ELSE 0 END,
    causes = CASE WHEN f.is_erased THEN '[]'
        WHEN f.event = '{Event.COMPLETED}' THEN j.causes ELSE {with_cause(_ANSWERED)} END
FROM judged AS f WHERE j.id = f.id RETURNING j.*, f.is_poison
), buried AS ({
    bury_jobs(
        category=f"CASE WHEN e.is_poison THEN '{Category.POISON}' ELSE %(letter_category)s::text END",
        code=f"CASE WHEN e.is_poison THEN '{Category.POISON}' ELSE %(letter_code)s::text END",
        summary=f"CASE WHEN e.is_poison THEN '{POISON_WORDS}' ELSE %(letter_summary)s::text END",
    )
})
SELECT e.id FROM ended AS e
"""  # noqa: S608 - as above

# Where a job of an epoch stands whose end could not be written: it is over, or an answer to the same step was lost.
STANDING: Final = f"""
SELECT j.state FROM {JOBS} AS j WHERE j.id = %(job)s AND j.epoch = %(epoch)s AND j.owner = %(owner)s
"""  # noqa: S608 - as above

# Which jobs there is to send word of. So many are on their way at once that no runner waits for word, and no more:
# what is sent is one more thing that a broker can lose.
SEND: Final = f"""
WITH due AS MATERIALIZED (
    SELECT j.id FROM {JOBS} AS j
    WHERE j.state = '{State.QUEUED}' AND j.not_before <= now() AND j.expires_at > now()
        AND (j.sent_until IS NULL OR j.sent_until <= now())
    ORDER BY j.tag, j.id
    LIMIT (SELECT greatest(0, 2 * greatest(
        %(concurrency)s, (SELECT count(*) FROM {JOBS} AS r WHERE r.state = '{State.RUNNING}')
    ) - (SELECT count(*) FROM {JOBS} AS s WHERE s.state = '{State.QUEUED}' AND s.sent_until > now())))
    FOR UPDATE SKIP LOCKED
)
UPDATE {JOBS} AS j SET sent_until = clock_timestamp() + make_interval(secs => %(lost_seconds)s::float8)
FROM due WHERE j.id = due.id RETURNING j.id
"""  # noqa: S608 - as above

UNSEND: Final = f"""
UPDATE {JOBS} AS j SET sent_until = NULL WHERE j.id = ANY(%(jobs)s::uuid[]) AND j.state = '{State.QUEUED}'
"""  # noqa: S608 - as above

# Nobody knows which word a dead runner had, or a broker that was away: all of it is sent again. What comes twice then
# finds nothing to do.
RESEND: Final = f"""
UPDATE {JOBS} AS j SET sent_until = NULL WHERE j.id IN (
    SELECT s.id FROM {JOBS} AS s WHERE s.state = '{State.QUEUED}' AND s.sent_until IS NOT NULL FOR UPDATE SKIP LOCKED
)
"""  # noqa: S608 - as above

# Runners that are dead: what they had goes back, in its place, unless nobody wants it any more. A job that was under
# way with so many runners when they died, one after the other, is held to be why, and not given to another. From the
# second time on it comes back after a while that nobody can foresee, so that what died with it is not there again.
LAPSE: Final = f"""
WITH found AS MATERIALIZED (
    SELECT j.id, CASE WHEN j.cancel_asked THEN '{Event.CANCELLED}'
        WHEN j.lapses + 1 >= {MAX_LAPSES} THEN '{Event.FAILED}'
        WHEN j.expires_at <= now() THEN '{Event.EXPIRED}' ELSE '{Event.PUT_BACK}' END AS event
    FROM {JOBS} AS j WHERE j.state = '{State.RUNNING}' AND j.lease_until <= now()
    ORDER BY j.lease_until LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), ended AS (UPDATE {JOBS} AS j SET
    state = {_state_after("f.event")}, lease_until = NULL, sent_until = NULL,
    not_before = now() + j.lapses * random() * make_interval(secs => %(apart_seconds)s::float8),
    ended_at = CASE WHEN f.event <> '{Event.PUT_BACK}' THEN now() END,
    lapses = j.lapses + 1, causes = {with_cause(_LAPSED)},
    status = CASE WHEN f.event = '{Event.FAILED}' THEN 0 ELSE j.status END,
    error_code = CASE WHEN f.event = '{Event.FAILED}' THEN '{Category.POISON}' ELSE j.error_code END,
    error = CASE WHEN f.event = '{Event.FAILED}' THEN {_POISONED} ELSE j.error END
FROM found AS f WHERE j.id = f.id RETURNING j.*
), buried AS ({
    bury_jobs(
        category=f"CASE WHEN e.state = '{State.FAILED}' THEN '{Category.POISON}' ELSE '{Category.EXPIRED}' END",
        code=f"CASE WHEN e.state = '{State.FAILED}' THEN '{Category.POISON}' ELSE '{Category.EXPIRED}' END",
        summary=f"CASE WHEN e.state = '{State.FAILED}' THEN '{POISON_WORDS}' ELSE {_EXPIRED_WORDS} END",
    )
})
SELECT e.id FROM ended AS e
"""  # noqa: S608 - as above

EXPIRE: Final = f"""
WITH ended AS (UPDATE {JOBS} AS j SET state = {_state_after(f"'{Event.EXPIRED}'")}, ended_at = now(), sent_until = NULL
WHERE j.id IN (
    SELECT q.id FROM {JOBS} AS q WHERE q.state = '{State.QUEUED}' AND q.expires_at <= now()
    ORDER BY q.expires_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
) RETURNING j.*
), buried AS ({bury_jobs(category=f"'{Category.EXPIRED}'", code=f"'{Category.EXPIRED}'", summary=_EXPIRED_WORDS)})
SELECT e.id FROM ended AS e
"""  # noqa: S608 - as above

# Where the answers of these jobs were to go goes with them; what nobody has sent by then, nobody can.
_WIPE: Final = f"""
UPDATE {DELIVERIES} AS d SET
    address = '', subject = '', text = '', last_problem = '', next_at = NULL,
    state = CASE WHEN d.state IN ('{DeliveryState.WAITING}', '{DeliveryState.DELIVERING}')
        THEN '{DeliveryState.CANCELLED}' ELSE d.state END
FROM wordless AS w WHERE d.job_id = w.id
"""  # noqa: S608 - as above

FORGET: Final = f"""
WITH wordless AS (UPDATE {JOBS} AS j SET
    request = NULL, response = NULL, response_headers = '[]', error = NULL, "user" = '', key = '', fields = '{{}}',
    causes = '[]', forgotten_at = now()
WHERE j.id IN (
    SELECT o.id FROM {JOBS} AS o
    WHERE o.forgotten_at IS NULL AND o.ended_at <= now() - make_interval(secs => %(keep_seconds)s::float8)
    ORDER BY o.ended_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
) RETURNING j.id
), wiped AS ({_WIPE})
SELECT w.id FROM wordless AS w
"""  # noqa: S608 - as above

# All that jobs of one user say, and whose they were. One that waits ends; one that runs is to be stopped, and leaves
# neither words nor a letter when it ends (see END). What was forgotten before says whose it was until now.
ERASE: Final = f"""
WITH wordless AS (UPDATE {JOBS} AS j SET
    state = CASE WHEN j.state = '{State.QUEUED}' THEN {_state_after(f"'{Event.CANCELLED}'")} ELSE j.state END,
    ended_at = CASE WHEN j.state = '{State.QUEUED}' THEN clock_timestamp() ELSE j.ended_at END,
    cancel_asked = j.cancel_asked OR j.state IN ('{State.QUEUED}', '{State.RUNNING}'), sent_until = NULL,
    request = NULL, response = NULL, response_headers = '[]', error = NULL, "user" = '', user_hash = '', key = '',
    fingerprint = '', fields = '{{}}', causes = '[]',
    forgotten_at = coalesce(j.forgotten_at, now()), erased_at = now()
WHERE j.tenant = %(tenant)s AND j.user_hash = %(user_hash)s AND j.user_hash <> ''
    AND (%(begun_by)s::timestamptz IS NULL OR j.created_at <= %(begun_by)s::timestamptz)
RETURNING j.id
), wiped AS ({_WIPE})
SELECT w.id FROM wordless AS w
"""  # noqa: S608 - as above
