"""The statements that move work: one for each step. The database's clock is the only one.

The table of moves is compiled in: a move that it lacks leads to no state, which the column refuses.
"""

from typing import Final

from controlplane.work.models import TRANSITIONS, Event, State
from dataplane.deadletters import KEPT_CAUSES, MAX_LAPSES

TASKS: Final = "work_task"


def _state_after(event: str) -> str:
    moves = " ".join(
        f"WHEN t.state = '{before}' AND {event} = '{what}' THEN '{after}'"
        for (before, what), after in TRANSITIONS.items()
    )
    return f"CASE {moves} END"


def _with_cause(*, code: str, message: str) -> str:
    return (
        f"CASE WHEN jsonb_array_length(t.causes) >= {KEPT_CAUSES} THEN t.causes - 0 ELSE t.causes END ||"
        " jsonb_build_array(jsonb_build_object('at', clock_timestamp(), 'owner', t.owner,"
        f" 'code', {code}, 'message', {message}, 'status', 0))"
    )


_VIEW: Final = (
    "t.id, t.kind, t.arguments, t.key, t.tenant, t.user_hash, t.epoch, t.owner, t.failures, t.lapses, t.causes,"
    " t.redriven_from, t.state, t.traceparent"
)
LAPSED_WORDS: Final = "its owner was gone before it ended"

ENQUEUE: Final = f"""
INSERT INTO {TASKS} AS t (
    id, kind, arguments, key, tenant, user_hash, state, epoch, owner, failures, lapses, causes, created_at, not_before,
    redriven_from, traceparent
) VALUES (
    %(id)s, %(kind)s, %(arguments)s::bytea, %(key)s, %(tenant)s, %(user_hash)s, '{State.QUEUED}', 0, '', 0, 0, '[]',
    %(now)s, clock_timestamp() + make_interval(secs => %(delay_seconds)s::float8), %(redriven_from)s::uuid,
    %(traceparent)s
)
ON CONFLICT (kind, key) WHERE key <> '' DO NOTHING RETURNING t.id
"""  # noqa: S608 - every name in it is a constant of ours; the values are parameters

KNOWN: Final = f"SELECT t.id, t.arguments FROM {TASKS} AS t WHERE t.kind = %(kind)s AND t.key = %(key)s"  # noqa: S608 - as above

# Of these kinds; null: of any.
_OF_KINDS: Final = "(%(kinds)s::text[] IS NULL OR t.kind = ANY(%(kinds)s::text[]))"

TAKE: Final = f"""
WITH next AS MATERIALIZED (
    SELECT t.id FROM {TASKS} AS t WHERE t.state = '{State.QUEUED}' AND t.not_before <= clock_timestamp()
        AND {_OF_KINDS}
    ORDER BY t.not_before, t.id LIMIT 1 FOR UPDATE SKIP LOCKED
)
UPDATE {TASKS} AS t SET
    state = {_state_after(f"'{Event.TAKEN}'")}, epoch = t.epoch + 1, owner = %(owner)s, taken_at = clock_timestamp(),
    lease_until = clock_timestamp() + make_interval(secs => %(lease_seconds)s::float8)
FROM next WHERE t.id = next.id RETURNING {_VIEW}
"""  # noqa: S608 - as above

_MINE: Final = f"t.id = %(id)s AND t.epoch = %(epoch)s AND t.owner = %(owner)s AND t.state = '{State.RUNNING}'"

RENEW: Final = f"""
UPDATE {TASKS} AS t SET lease_until = clock_timestamp() + make_interval(secs => %(lease_seconds)s::float8)
WHERE {_MINE} RETURNING t.id
"""  # noqa: S608 - as above

FINISH: Final = f"""
UPDATE {TASKS} AS t SET state = {_state_after(f"'{Event.DONE}'")}, ended_at = clock_timestamp(), lease_until = NULL
WHERE {_MINE} RETURNING t.id
"""  # noqa: S608 - as above

FAIL: Final = f"""
UPDATE {TASKS} AS t SET
    state = {_state_after("%(event)s::text")}, lease_until = NULL, failures = t.failures + 1, lapses = 0,
    not_before = clock_timestamp() + make_interval(secs => %(wait_seconds)s::float8),
    ended_at = CASE WHEN %(event)s::text = '{Event.DIED}' THEN clock_timestamp() END,
    causes = {_with_cause(code="%(code)s::text", message="%(message)s::text")}
WHERE {_MINE} RETURNING {_VIEW}
"""  # noqa: S608 - as above

# What dead owners had goes back at once; what several in a row have died with is held to be why, and dies. From the
# second time on it comes back after a while that nobody can foresee, so that what died with it is not there again.
LAPSE: Final = f"""
WITH found AS MATERIALIZED (
    SELECT t.id, CASE WHEN t.lapses + 1 >= {MAX_LAPSES} THEN '{Event.DIED}' ELSE '{Event.PUT_BACK}' END AS event
    FROM {TASKS} AS t WHERE t.state = '{State.RUNNING}' AND t.lease_until <= clock_timestamp()
    ORDER BY t.lease_until LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
UPDATE {TASKS} AS t SET
    state = {_state_after("f.event")}, lease_until = NULL, lapses = t.lapses + 1,
    not_before = clock_timestamp() + t.lapses * random() * make_interval(secs => %(apart_seconds)s::float8),
    ended_at = CASE WHEN f.event = '{Event.DIED}' THEN clock_timestamp() END,
    causes = {_with_cause(code="'lapsed'", message=f"'{LAPSED_WORDS}'")}
FROM found AS f WHERE t.id = f.id RETURNING {_VIEW}
"""  # noqa: S608 - as above

DUE: Final = f"""
SELECT count(*) FROM (
    SELECT FROM {TASKS} AS t WHERE t.state = '{State.QUEUED}' AND t.not_before <= clock_timestamp() AND {_OF_KINDS}
    LIMIT %(limit)s
) AS d
"""  # noqa: S608 - as above

FORGET: Final = f"""
DELETE FROM {TASKS} WHERE id IN (
    SELECT t.id FROM {TASKS} AS t WHERE t.state IN ('{State.DONE}', '{State.DEAD}')
        AND t.ended_at <= clock_timestamp() - make_interval(secs => %(keep_seconds)s::float8)
    ORDER BY t.ended_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
"""  # noqa: S608 - as above

FORGET_SUBJECT: Final = f"""
DELETE FROM {TASKS} WHERE tenant = %(tenant)s AND user_hash = %(user_hash)s AND user_hash <> ''
    AND state IN ('{State.DONE}', '{State.DEAD}')
"""  # noqa: S608 - as above
