from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # An index that is made concurrently holds nobody up, and cannot be made in a transaction.
    atomic = False

    dependencies = [
        ('ledger', '0014_traces'),
    ]

    operations = [
        AddIndexConcurrently(
            model_name='usagerow',
            index=models.Index(condition=models.Q(('prompt', ''), _negated=True), fields=['prompt', '-at'], name='usage_of_prompt'),
        ),
        AddIndexConcurrently(
            model_name='usagerow',
            index=models.Index(fields=['lane', '-at'], name='usage_of_lane'),
        ),
        # Django makes one for LIKE beside each key of text. Nobody asks for a part of an attempt's id, and it costs each
        # row as much as both of these.
        migrations.RunSQL(
            'DROP INDEX CONCURRENTLY IF EXISTS ledger_usagerow_attempt_id_54c3324b_like',
            reverse_sql='CREATE INDEX CONCURRENTLY IF NOT EXISTS ledger_usagerow_attempt_id_54c3324b_like'
            ' ON ledger_usagerow (attempt_id varchar_pattern_ops)',
        ),
    ]
