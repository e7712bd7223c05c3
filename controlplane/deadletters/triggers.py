"""What the database itself keeps true of dead letters, whichever plane writes them."""

from typing import Final

import pgtrigger

from dataplane.deadletters import RETENTION_DAYS, TRANSITIONS, PayloadState, State

LETTERS: Final = "deadletters_deadletter"
GROUPS: Final = "deadletters_group"
GROUP_TENANTS: Final = "deadletters_grouptenant"
RULES: Final = "deadletters_retentionrule"

_OPEN: Final = f"state = '{State.OPEN}'"
# What is known when the work fails, and stays so. `causes`, `key` and `user_hash` only go, with the payload.
_FIXED: Final = (
    *("id", "kind", "name", "tenant", "work_id", "attempts", "category", "code", "summary", "fingerprint"),
    *("release_revision", "prompt", "lane", "has_tools", "created_at", "redriven_from"),
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
            func=f"{_recount(GROUPS, 'fingerprint')}{_recount(GROUP_TENANTS, 'fingerprint', 'tenant')}RETURN NULL;",
        ),
    ]


def _recount(table: str, *key: str) -> str:
    names = ", ".join(f"n.{name}" for name in key)
    same = " AND ".join(f"g.{name} = m.{name}" for name in key)
    moved = (
        f"SELECT {names}, sum((n.{_OPEN})::int - (o.{_OPEN})::int) AS more"  # noqa: S608 - names of ours
        f" FROM now_is AS n JOIN was AS o USING (id) WHERE n.state <> o.state GROUP BY {names}"
    )
    return f"""
        PERFORM 1 FROM {table} AS g JOIN ({moved}) AS m ON {same} ORDER BY {names.replace("n.", "g.")} FOR UPDATE OF g;
        UPDATE {table} AS g SET open = g.open + m.more FROM ({moved}) AS m WHERE {same};
    """  # noqa: S608 - names of ours


def guards() -> list[pgtrigger.Trigger]:
    """Refuse what no operation does: to rewrite what failed, to move a letter where the table of moves does not lead,
    to bring a payload back, to let go of one that is held, to delete a row.
    """
    moves = " OR ".join(
        f"(OLD.state = '{before}' AND NEW.state = '{after}')" for (before, _), after in TRANSITIONS.items()
    )
    fixed = ", ".join(f"OLD.{name}" for name in _FIXED)
    purged = f"NEW.payload_state = '{PayloadState.PURGED}'"
    return [
        pgtrigger.Protect(
            name="facts_are_fixed",
            operation=pgtrigger.Update,
            condition=pgtrigger.Condition(
                f"ROW({fixed}) IS DISTINCT FROM ROW({fixed.replace('OLD.', 'NEW.')})"
                f" OR (OLD.state <> NEW.state AND NOT ({moves}))"
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
