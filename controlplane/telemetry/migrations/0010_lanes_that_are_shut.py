from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # An index that is made concurrently holds nobody up, and cannot be made in a transaction.
    atomic = False

    dependencies = [
        ('telemetry', '0009_surfaces'),
    ]

    operations = [
        AddIndexConcurrently(
            model_name='lanestate',
            index=models.Index(condition=models.Q(('state__in', ('forced_open', 'open'))), fields=['lane'], name='lane_state_shut'),
        ),
    ]
