"""Whether migrations let the version before go on while they are applied, and afterwards: expand first, contract later.

During an upgrade the old code and the new one use one schema: the old must go on with what the new has added, and the
new must not miss what only a later version takes away. So a migration adds, and takes nothing away that code which
still runs may use. What is taken away later, once no such code is left, says so itself: `CONTRACTS = "why"` in its
module.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from django.db.migrations import Migration
from django.db.migrations.operations import base, fields, models, special
from django.db.models import NOT_PROVIDED

# The last migration of each app before there was anybody to upgrade. What came before was applied to nothing that runs.
BEFORE_ANYBODY: Final[Mapping[str, str]] = {
    "accounts": "0007_dead_letters",
    "alerts": "0001_channels_and_deliveries",
    "approvals": "0004_closed_stays_closed",
    "audit": "0001_initial",
    "corpora": "0008_pending_in_order",
    "deadletters": "0003_erasures",
    "deliveries": "0001_webhook_secrets",
    "evals": "0003_runs_of_words",
    "ladder": "0005_freshness",
    "ledger": "0013_answers_later",
    "prompts": "0002_guards",
    "releases": "0003_region_of_workers",
    "rollouts": "0003_guardrails",
    "routing": "0005_versioned_documents",
    "shadows": "0001_shadows",
    "telemetry": "0009_surfaces",
    "trials": "0001_validator_trials",
    "verdicts": "0001_watches_and_replays",
    "work": "0001_initial",
}
TAKES_AWAY: Final = (
    fields.RemoveField,
    fields.RenameField,
    models.DeleteModel,
    models.RenameModel,
    models.AlterModelTable,
)
# Words of SQL that take something away, or hold a table for as long as it is long.
ALARMING: Final = ("DROP TABLE", "DROP COLUMN", "RENAME TO", "RENAME COLUMN", "SET NOT NULL", "TRUNCATE")


def problems_of(migration: Migration) -> Iterator[str]:
    """What code of the version before would trip over."""
    if getattr(migration, "CONTRACTS", "") or migration.name <= BEFORE_ANYBODY.get(migration.app_label, ""):
        return
    for operation in migration.operations:
        for problem in _problems_of(operation):
            yield f"{migration.app_label} {migration.name}: {problem}"


def _problems_of(operation: base.Operation) -> Iterator[str]:
    words = operation.describe()
    if isinstance(operation, TAKES_AWAY):
        yield f"{words}: code that still runs may use it; take it away a version later, and say CONTRACTS"
    elif isinstance(operation, fields.AddField):
        field = operation.field
        filled = field.generated or getattr(field, "db_default", NOT_PROVIDED) is not NOT_PROVIDED
        if not (field.null or filled or field.many_to_many):
            yield f"{words}: rows that old code inserts have no value for it; give it null=True or a db_default"
    elif isinstance(operation, fields.AlterField):
        if not operation.field.null and getattr(operation.field, "db_default", NOT_PROVIDED) is NOT_PROVIDED:
            yield f"{words}: it may forbid what old code writes; if it does not, say CONTRACTS and why"
    elif isinstance(operation, special.RunSQL):
        for statement in _statements(operation.sql):
            if alarming := next((word for word in ALARMING if word in " ".join(statement.upper().split())), None):
                yield f"{words}: {alarming}"
    elif isinstance(operation, special.SeparateDatabaseAndState):
        for part in operation.database_operations:
            yield from _problems_of(part)


def _statements(sql: Any) -> Iterator[str]:
    for one in [sql] if isinstance(sql, str) else sql:
        yield one if isinstance(one, str) else one[0]
