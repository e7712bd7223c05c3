"""The SQL by which whoever ends a piece of work writes its dead letter, as one part of the statement that ends it."""

from __future__ import annotations

from typing import Final

from dataplane.deadletters import FINGERPRINT_CHARACTERS, KEPT_CAUSES, PayloadState, State

LETTERS: Final = "deadletters_deadletter"
JOB: Final = "job"

# A UUID of version 7, which sorts by time; PostgreSQL makes them by itself from version 18 on.
_NEW_ID: Final = """encode(
        substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
            || set_byte(substring(uuid_send(gen_random_uuid()) FROM 7), 0,
                112 | (get_byte(uuid_send(gen_random_uuid()), 0) & 15)), 'hex')::uuid"""


def cause(*, code: str, message: str, status: str, owner: str = "j.owner") -> str:
    """An SQL expression for one attempt that came to nothing, as the column `causes` has it; each argument is one."""
    return (
        f"jsonb_build_object('at', clock_timestamp(), 'owner', {owner}, 'code', {code}, 'message', {message},"
        f" 'status', {status})"
    )


def with_cause(one: str) -> str:
    """An SQL expression for a job `j`'s causes and one more; the oldest goes when there are too many."""
    return (
        f"CASE WHEN jsonb_array_length(j.causes) >= {KEPT_CAUSES} THEN j.causes - 0 ELSE j.causes END"
        f" || jsonb_build_array({one})"
    )


def _header(name: str) -> str:
    """What a header of the last answer to a job `e` said; empty without one."""
    headers = "jsonb_array_elements(e.response_headers) AS h(pair)"
    return f"coalesce((SELECT left(h.pair ->> 1, 200) FROM {headers} WHERE h.pair ->> 0 = '{name}' LIMIT 1), '')"  # noqa: S608 - names of ours


def bury_jobs(*, category: str, code: str, summary: str) -> str:
    """Insert the letters of those rows `ended` that end as failures and whose words were not erased; category, code and
    summary are SQL expressions over a row `e`.

    The payload is what the job takes to be handed in again, as one JSON object around the request as it came:
    {"endpoint", "key_id", "user", "body"}.
    """
    return f"""
    INSERT INTO {LETTERS} (
        id, kind, name, tenant, user_hash, key, work_id, state, causes, attempts, category, code, summary, fingerprint,
        release_revision, prompt, lane, has_tools, created_at, redriven_from, payload_state, payload_body,
        payload_bytes, payload_sha256, payload_name, payload_key, payload_expires_at, hold_by, hold_reason
    )
    SELECT {_NEW_ID}, '{JOB}', d.endpoint, d.tenant, d.user_hash, d.key, d.id, '{State.OPEN}', d.causes, d.epoch,
        d.letter_category, d.letter_code, d.letter_summary,
        left(encode(sha256(convert_to(concat_ws(
            E'\\x1f', '{JOB}', d.endpoint, d.letter_category, d.letter_code, d.letter_summary
        ), 'UTF8')), 'hex'), {FINGERPRINT_CHARACTERS}),
        substring(d.letter_release FROM '^[0-9]{{1,18}}$')::bigint, d.letter_prompt, d.letter_lane, d.has_tools,
        d.ended_at, d.redriven_from, '{PayloadState.PENDING}', d.letter_payload, length(d.letter_payload),
        encode(sha256(d.letter_payload), 'hex'), '', '', d.ended_at, '', ''
    FROM (
        SELECT e.*, {category} AS letter_category, {code} AS letter_code, {summary} AS letter_summary,
            {_header("ballast-release")} AS letter_release, {_header("ballast-prompt")} AS letter_prompt,
            {_header("ballast-lane")} AS letter_lane,
            convert_to('{{"endpoint":' || to_json(e.endpoint::text)::text
                || ',"key_id":' || to_json(e.key_id::text)::text
                || ',"user":' || to_json(e."user")::text || ',"body":', 'UTF8')
                || e.request || convert_to('}}', 'UTF8') AS letter_payload
        FROM ended AS e WHERE e.state IN ('failed', 'expired') AND e.erased_at IS NULL
    ) AS d
    ON CONFLICT (kind, work_id) DO NOTHING
    """  # noqa: S608 - every name in it is a constant of ours; the values are parameters
