from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # An index that is made concurrently holds nobody up, and cannot be made in a transaction.
    atomic = False

    dependencies = [
        ('deadletters', '0003_erasures'),
    ]

    operations = [
        AddIndexConcurrently(
            model_name='deadletter',
            index=models.Index(fields=['fingerprint', 'lane'], name='letters_of_lane'),
        ),
    ]
