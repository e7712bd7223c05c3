from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # An index that is made concurrently holds nobody up, and cannot be made in a transaction.
    atomic = False

    dependencies = [
        ('telemetry', '0013_outcome_windows'),
    ]

    operations = [
        AddIndexConcurrently(
            model_name='surfacereading',
            index=models.Index(condition=models.Q(('is_alone', False)), fields=['surface', 'generation', 'bucket_at'], name='surface_reading_by_step'),
        ),
    ]
