"""Migrations that old code can go on beside, and those that it cannot."""

import pytest
from django.db import migrations, models
from django.db.migrations import Migration
from django.db.models.functions import Length

from controlplane.console.schema_changes import problems_of


def migration(*operations, name="9999_later", contracts="", app="work"):
    """A migration of ours that came since there is anybody to upgrade."""
    kind = type("Later", (Migration,), {"operations": list(operations), "CONTRACTS": contracts})
    return kind(name, app)


UNSAFE = {
    "removed": migrations.RemoveField("task", "key"),
    "renamed": migrations.RenameField("task", "key", "name"),
    "deleted": migrations.DeleteModel("Task"),
    "moved": migrations.AlterModelTable("task", "other"),
    "not null, and only Django knows a default": migrations.AddField("task", "size", models.IntegerField(default=0)),
    "not null from now on": migrations.AlterField("task", "key", models.TextField()),
    "dropped by hand": migrations.RunSQL("ALTER TABLE work_task  DROP\n COLUMN key"),
    "dropped by hand, one of several": migrations.RunSQL(["SELECT 1", ("DROP TABLE work_task", None)]),
    "in disguise": migrations.SeparateDatabaseAndState(
        database_operations=[migrations.RunSQL("ALTER TABLE work_task RENAME TO task")]
    ),
}
SAFE = {
    "may be null": migrations.AddField("task", "size", models.IntegerField(null=True)),
    "the database knows a default": migrations.AddField("task", "size", models.IntegerField(db_default=0)),
    "the database computes it": migrations.AddField(
        "task",
        "size",
        models.GeneratedField(expression=Length("key"), output_field=models.IntegerField(), db_persist=True),
    ),
    "a table": migrations.CreateModel("Errand", [("id", models.BigAutoField(primary_key=True))]),
    "an index": migrations.AddIndex("task", models.Index(fields=["key"], name="by_key")),
    "may be null from now on": migrations.AlterField("task", "key", models.TextField(null=True)),
    "by hand": migrations.RunSQL("CREATE INDEX CONCURRENTLY by_key ON work_task (key)"),
    "no database at all": migrations.SeparateDatabaseAndState(state_operations=[migrations.DeleteModel("Task")]),
}


@pytest.mark.parametrize("operation", UNSAFE.values(), ids=UNSAFE)
def test_what_old_code_would_trip_over_is_named(operation):
    """By app and migration, with what to do."""
    [problem] = problems_of(migration(operation))

    assert problem.startswith("work 9999_later: ")


@pytest.mark.parametrize("operation", SAFE.values(), ids=SAFE)
def test_what_only_adds_is_fine(operation):
    """Old code knows nothing of it."""
    assert list(problems_of(migration(operation))) == []


def test_what_is_taken_away_later_says_so():
    """Once no code is left that uses it."""
    assert list(problems_of(migration(UNSAFE["removed"], contracts="nobody reads it since 1.4"))) == []


def test_what_came_before_anybody_ran_it_is_let_be():
    """There was nothing to upgrade."""
    assert list(problems_of(migration(UNSAFE["removed"], name="0001_initial"))) == []
