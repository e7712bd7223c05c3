from django.db import migrations, models

SERIES = "at, surface, region, tier, rung, outcome"
COUNTS = ("requests", "reserved", "cost_micros")
SKETCHES = ("latency_ms", "queued_ms")


def summed(name):
    return f"""jsonb_build_object(
        'count', SUM(({name} ->> 'count')::bigint), 'sum', SUM(({name} ->> 'sum')::float8),
        'zero', SUM(({name} ->> 'zero')::bigint), 'min', MIN(({name} ->> 'min')::float8),
        'max', MAX(({name} ->> 'max')::float8)) AS {name}"""


def bins(name):
    return f"""LEFT JOIN (
    SELECT {SERIES}, jsonb_object_agg(bin, number) AS {name}_bins FROM (
        SELECT {SERIES}, e.key AS bin, SUM(e.value::bigint)::bigint AS number
        FROM minutes, jsonb_each_text({name} -> 'bins') AS e GROUP BY {SERIES}, e.key
    ) b GROUP BY {SERIES}
) {name}_b USING ({SERIES})"""


# As `rebuild_hours` added up when this was written, for the minutes that are there already.
FROM_MINUTES = f"""
INSERT INTO telemetry_surfacehour
    (bucket_at, surface, region, tier, rung, outcome, {", ".join((*COUNTS, *SKETCHES))})
WITH minutes AS MATERIALIZED (
    SELECT date_trunc('hour', bucket_at, 'UTC') AS at, * FROM telemetry_surfaceminute
), sums AS (
    SELECT {SERIES}, {", ".join(f"SUM({name})::bigint AS {name}" for name in COUNTS)},
        {", ".join(map(summed, SKETCHES))}
    FROM minutes GROUP BY {SERIES}
)
SELECT {SERIES}, {", ".join(COUNTS)},
    {", ".join(f"{name} || jsonb_build_object('bins', COALESCE({name}_bins, '{{}}'))" for name in SKETCHES)}
FROM sums {" ".join(map(bins, SKETCHES))}
"""


class Migration(migrations.Migration):

    dependencies = [
        ('telemetry', '0011_outcome_rollups'),
    ]

    operations = [
        migrations.CreateModel(
            name='SurfaceHour',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('bucket_at', models.DateTimeField()),
                ('surface', models.CharField(max_length=100)),
                ('region', models.CharField(blank=True, help_text='Of the gateway; empty: it tells of none', max_length=100)),
                ('tier', models.CharField(max_length=10)),
                ('rung', models.PositiveSmallIntegerField(help_text='What it was served on; 0 in a reserved place')),
                ('outcome', models.CharField(max_length=10)),
                ('requests', models.BigIntegerField()),
                ('reserved', models.BigIntegerField(help_text='Of these: in a place that the tier is promised')),
                ('cost_micros', models.BigIntegerField(help_text='Millionths of a US dollar, answered or not')),
                ('latency_ms', models.JSONField(help_text='To the end of the answer')),
                ('queued_ms', models.JSONField(help_text="Of those that waited for an account's quota")),
            ],
            options={
                'indexes': [models.Index(fields=['bucket_at'], name='surface_hour_by_age')],
                'constraints': [models.UniqueConstraint(fields=('surface', 'bucket_at', 'region', 'tier', 'rung', 'outcome'), name='one_surface_hour')],
            },
        ),
        migrations.RunSQL(FROM_MINUTES, migrations.RunSQL.noop),
    ]
