from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # An index that is made concurrently holds nobody up, and cannot be made in a transaction.
    atomic = False

    dependencies = [
        ('releases', '0006_reach'),
    ]

    operations = [
        AddIndexConcurrently(
            model_name='ack',
            index=models.Index(fields=['at'], name='acks_by_time'),
        ),
    ]
