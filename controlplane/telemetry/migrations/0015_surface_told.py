from django.db import migrations, models

# As `rebuild_surfaces` notes it, of the minutes and readings that are there already.
BACKFILL = """
INSERT INTO telemetry_surfacetold (surface, bucket_at, minutes)
SELECT surface, date_trunc('hour', at, 'UTC'), bit_or(1::bigint << extract(minute FROM at AT TIME ZONE 'UTC')::int)
FROM (
    SELECT surface, bucket_at AS at FROM telemetry_surfaceminute
    UNION ALL SELECT surface, bucket_at FROM telemetry_surfacereading
) told
GROUP BY 1, 2 ORDER BY 1, 2
"""


class Migration(migrations.Migration):

    dependencies = [
        ('telemetry', '0014_readings_by_step'),
    ]

    operations = [
        migrations.CreateModel(
            name='SurfaceTold',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('surface', models.CharField(max_length=100)),
                ('bucket_at', models.DateTimeField()),
                ('minutes', models.BigIntegerField(help_text='Bit n stands for minute n of the hour')),
            ],
            options={
                'indexes': [models.Index(fields=['bucket_at'], name='surface_told_by_age')],
                'constraints': [models.UniqueConstraint(fields=('surface', 'bucket_at'), name='one_surface_told')],
            },
        ),
        migrations.RunSQL(BACKFILL, reverse_sql=migrations.RunSQL.noop),
    ]
