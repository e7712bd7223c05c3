import django.db.models.deletion
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # An index that is made concurrently holds nobody up, and cannot be made in a transaction.
    atomic = False

    dependencies = [
        ('corpora', '0008_pending_in_order'),
    ]

    operations = [
        AddIndexConcurrently(
            model_name='document',
            index=models.Index(condition=models.Q(('is_deleted', False)), fields=['corpus'], name='documents_living'),
        ),
        # As the first column of `one_head_per_document` is. Nobody misses it, old code neither.
        migrations.SeparateDatabaseAndState(
            database_operations=[
                migrations.RunSQL(
                    'DROP INDEX CONCURRENTLY IF EXISTS corpora_document_corpus_id_7bb193a4',
                    reverse_sql='CREATE INDEX CONCURRENTLY IF NOT EXISTS corpora_document_corpus_id_7bb193a4'
                    ' ON corpora_document (corpus_id)',
                ),
            ],
            state_operations=[
                migrations.AlterField(
                    model_name='document',
                    name='corpus',
                    field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='documents', to='corpora.corpus'),
                ),
            ],
        ),
    ]
