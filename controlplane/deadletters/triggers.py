"""What the database itself keeps true of dead letters, whichever plane writes them."""

from collections.abc import Sequence
from typing import Final

import pgtrigger

from dataplane.deadletters import RETENTION_DAYS, TRANSITIONS, PayloadState, State

LETTERS: Final = "deadletters_deadletter"
GROUPS: Final = "deadletters_group"
GROUP_TENANTS: Final = "deadletters_grouptenant"
RULES: Final = "deadletters_retentionrule"

_OPEN: Final = f"state = '{State.OPEN}'"
# What is known when the work fails, and stays so. `causes`, `key` and `user_hash` only go, with the payload; `summary`,
# and the fingerprint that it is part of, when the words of its user are erased.
_FIXED: Final = (
    *("id", "kind", "name", "tenant", "work_id", "attempts", "category", "code"),
    *("release_revision", "prompt", "lane", "has_tools", "created_at", "redriven_from"),
)

# By what groups are told apart, and what is said of them.
_COUNTED: Final = ("fingerprint", "tenant", "kind", "name", "category", "code", "summary")
# Letters whose state or group an update has changed, as they were (o) and are (n).
_CHANGED: Final = (
    "SELECT * FROM now_is AS n JOIN was AS o ON o.id = n.id"
    " WHERE (n.state <> o.state OR n.fingerprint <> o.fingerprint)"
)


def days_of(letter: str) -> str:
    """An SQL expression for how many days the payload of a letter is kept: by the rule that says most of it."""
    return (
        f"coalesce((SELECT r.days FROM {RULES} AS r"  # noqa: S608 - names of ours
        f" WHERE r.tenant IN ({letter}.tenant, '') AND r.category IN ({letter}.category, '')"
        f" ORDER BY r.tenant DESC, r.category DESC LIMIT 1), {RETENTION_DAYS})"
    )


def expires() -> pgtrigger.Trigger:
    """Says, in the transaction that writes a letter, for how long its payload is kept: rules are in force in both
    planes, and a payload that never gets into the store goes in time all the same.
    """
    return pgtrigger.Trigger(
        name="expires",
        operation=pgtrigger.Insert,
        when=pgtrigger.Before,
        func=f"NEW.payload_expires_at = NEW.created_at + make_interval(days => {days_of('NEW')}); RETURN NEW;",
    )


def counted() -> list[pgtrigger.Trigger]:
    """Keep the groups' counts. Once a statement and in the order of their keys, so that two statements which write
    letters of the same groups wait for each other and never in a circle.
    """
    groups = f"""
        INSERT INTO {GROUPS} AS g (fingerprint, kind, name, category, code, summary, total, open, first_at, last_at)
        SELECT fingerprint, min(kind), min(name), min(category), min(code), min(summary), count(*),
            count(*) FILTER (WHERE {_OPEN}), min(created_at), max(created_at)
        FROM added GROUP BY fingerprint ORDER BY fingerprint
        ON CONFLICT (fingerprint) DO UPDATE SET total = g.total + excluded.total, open = g.open + excluded.open,
            first_at = least(g.first_at, excluded.first_at), last_at = greatest(g.last_at, excluded.last_at);
    """  # noqa: S608 - names of ours
    tenants = f"""
        INSERT INTO {GROUP_TENANTS} AS g (fingerprint, tenant, total, open, first_at, last_at)
        SELECT fingerprint, tenant, count(*), count(*) FILTER (WHERE {_OPEN}), min(created_at), max(created_at)
        FROM added GROUP BY fingerprint, tenant ORDER BY fingerprint, tenant
        ON CONFLICT (fingerprint, tenant) DO UPDATE SET total = g.total + excluded.total, open = g.open + excluded.open,
            first_at = least(g.first_at, excluded.first_at), last_at = greatest(g.last_at, excluded.last_at);
    """  # noqa: S608 - names of ours
    return [
        pgtrigger.Trigger(
            name="counted_in",
            level=pgtrigger.Statement,
            when=pgtrigger.After,
            operation=pgtrigger.Insert,
            referencing=pgtrigger.Referencing(new="added"),  # type: ignore[no-untyped-call]  # has no types
            # Every job's end comes by here, and few leave a letter.
            func=f"IF EXISTS (SELECT FROM added) THEN {groups}{tenants} END IF; RETURN NULL;",
        ),
        pgtrigger.Trigger(
            name="counted_on",
            level=pgtrigger.Statement,
            when=pgtrigger.After,
            operation=pgtrigger.Update,
            referencing=pgtrigger.Referencing(old="was", new="now_is"),  # type: ignore[no-untyped-call]  # as above
            func=f"""
                IF EXISTS ({_CHANGED.replace("*", "")} AND n.fingerprint <> o.fingerprint) THEN
                    {_make_room(GROUPS, ("fingerprint",), _COUNTED[2:])}
                    {_make_room(GROUP_TENANTS, ("fingerprint", "tenant"), ())}
                END IF;
                {_recount(GROUPS, "fingerprint")}{_recount(GROUP_TENANTS, "fingerprint", "tenant")}RETURN NULL;
            """,
        ),
    ]


def _make_room(table: str, key: Sequence[str], facts: Sequence[str]) -> str:
    """The rows that letters which change their group go to. Those that they leave are touched in the same order, so
    that nobody waits in a circle.
    """
    names, columns = ", ".join(key), ", ".join([*key, *facts])
    least = "".join(f"min({name}), " for name in facts)
    was = ", ".join(f"o.{name}" for name in (*_COUNTED, "created_at"))
    return f"""
        INSERT INTO {table} AS g ({columns}, total, open, first_at, last_at)
        SELECT {names}, {least}0, 0, min(created_at), max(created_at) FROM (
            {_CHANGED.replace("*", was)} AND n.fingerprint <> o.fingerprint
            UNION ALL {_CHANGED.replace("*", was.replace("o.", "n."))} AND n.fingerprint <> o.fingerprint
        ) AS touched GROUP BY {names} ORDER BY {names}
        ON CONFLICT ({names}) DO UPDATE SET
            first_at = least(g.first_at, excluded.first_at), last_at = greatest(g.last_at, excluded.last_at);
    """  # noqa: S608 - names of ours


def _recount(table: str, *key: str) -> str:
    """Letters leave where they stood and come to where they stand; a group that nobody is left in goes."""
    names = ", ".join(key)
    same = " AND ".join(f"g.{name} = m.{name}" for name in key)
    went = _CHANGED.replace("*", f"o.fingerprint, o.tenant, -1 AS one, -((o.{_OPEN})::int) AS more")
    came = _CHANGED.replace("*", f"n.fingerprint, n.tenant, 1 AS one, (n.{_OPEN})::int AS more")
    moved = (
        f"SELECT {names}, sum(one) AS letters, sum(more) AS more"  # noqa: S608 - names of ours
        f" FROM ({went} UNION ALL {came}) AS steps GROUP BY {names}"
    )
    return f"""
        PERFORM 1 FROM {table} AS g JOIN ({moved}) AS m ON {same}
            ORDER BY {", ".join(f"g.{name}" for name in key)} FOR UPDATE OF g;
        UPDATE {table} AS g SET total = g.total + m.letters, open = g.open + m.more FROM ({moved}) AS m WHERE {same};
        DELETE FROM {table} AS g USING ({moved}) AS m WHERE {same} AND m.letters < 0 AND g.total = 0;
    """  # noqa: S608 - names of ours


def guards() -> list[pgtrigger.Trigger]:
    """Refuse what no operation does: to rewrite what failed, to move a letter where the table of moves does not lead,
    to bring a payload back, to let go of one that is held, to delete a row.
    """
    moves = " OR ".join(
        f"(OLD.state = '{before}' AND NEW.state = '{after}')" for (before, _), after in TRANSITIONS.items()
    )
    fixed = ", ".join(f"OLD.{name}" for name in _FIXED)
    words = "ROW(OLD.summary, OLD.fingerprint)"
    purged = f"NEW.payload_state = '{PayloadState.PURGED}'"
    is_erased = f"({purged} AND NEW.summary = '')"
    is_erased = f"({purged} AND NEW.summary = '')"
    return [
        pgtrigger.Protect(
            name="facts_are_fixed",
            operation=pgtrigger.Update,
            condition=pgtrigger.Condition(
                f"ROW({fixed}) IS DISTINCT FROM ROW({fixed.replace('OLD.', 'NEW.')})"
                f" OR (OLD.state <> NEW.state AND NOT ({moves}))"
                f" OR ({words} IS DISTINCT FROM {words.replace('OLD.', 'NEW.')} AND NOT {is_erased})"
            ),
        ),
        pgtrigger.Protect(
            name="payload_only_goes",
            operation=pgtrigger.Update,
            condition=pgtrigger.Condition(
                # It must not begin with a parenthesis: the library takes that for one around the whole.
                f"NOT {purged} AND (OLD.payload_state = '{PayloadState.PURGED}'"
                " OR ROW(OLD.causes, OLD.key, OLD.user_hash, OLD.payload_sha256)"
                " IS DISTINCT FROM ROW(NEW.causes, NEW.key, NEW.user_hash, NEW.payload_sha256))"
                f" OR (OLD.payload_state = '{PayloadState.STORED}' AND NEW.payload_state = '{PayloadState.PENDING}')"
                f" OR (OLD.payload_state <> NEW.payload_state AND {purged} AND OLD.hold_by <> '')"
            ),
        ),
        pgtrigger.Protect(name="no_delete", operation=pgtrigger.Delete),
    ]
