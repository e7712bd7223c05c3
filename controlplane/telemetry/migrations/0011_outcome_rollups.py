from datetime import timedelta

from django.db import migrations, models

# As `rebuild_outcomes` added up when this was written, for the minutes that are there already.
FROM_MINUTES = """
INSERT INTO telemetry_outcomerollup (system, span, bucket_at, prompt, version, lane, outputs)
SELECT system, %(span)s, at, prompt, version, lane, jsonb_object_agg(key, number)
FROM (
    SELECT split_part(k.key, ':', 1) AS system, date_bin(%(span)s, bucket_at, 'epoch') AS at, prompt, version, lane,
           substr(k.key, strpos(k.key, ':') + 1) AS key, sum(k.value::bigint)::bigint AS number
    FROM telemetry_minuterollup, jsonb_each_text(outputs) AS k(key, value)
    WHERE NOT (outputs = '{}'::jsonb) AND cardinality(string_to_array(k.key, ':')) = 4
    GROUP BY 1, 2, prompt, version, lane, k.key
) c GROUP BY system, at, prompt, version, lane
"""
FROM_FINER = """
INSERT INTO telemetry_outcomerollup (system, span, bucket_at, prompt, version, lane, outputs)
SELECT system, %(span)s, at, prompt, version, lane, jsonb_object_agg(key, number)
FROM (
    SELECT system, date_bin(%(span)s, bucket_at, 'epoch') AS at, prompt, version, lane, k.key,
           sum(k.value::bigint)::bigint AS number
    FROM telemetry_outcomerollup, jsonb_each_text(outputs) AS k(key, value)
    WHERE span = %(finer)s GROUP BY system, 2, prompt, version, lane, k.key
) c GROUP BY system, at, prompt, version, lane
"""
QUARTER, HOUR, SIX_HOURS = timedelta(minutes=15), timedelta(hours=1), timedelta(hours=6)


def backfill(apps, schema_editor):
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(FROM_MINUTES, {"span": QUARTER})
        cursor.execute(FROM_FINER, {"span": HOUR, "finer": QUARTER})
        cursor.execute(FROM_FINER, {"span": SIX_HOURS, "finer": HOUR})


class Migration(migrations.Migration):

    dependencies = [
        ('telemetry', '0010_lanes_that_are_shut'),
    ]

    operations = [
        migrations.CreateModel(
            name='OutcomeRollup',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('system', models.CharField(help_text='As keys name it, see `dataplane.aggregation.output_key`', max_length=200)),
                ('span', models.DurationField(help_text='How long the span is, one of `outcome_spans.SPANS`')),
                ('bucket_at', models.DateTimeField(help_text='When it begins: a multiple of `span` since the epoch')),
                ('prompt', models.CharField(blank=True, max_length=100)),
                ('version', models.IntegerField(help_text='0: no managed prompt')),
                ('lane', models.CharField(blank=True, max_length=200)),
                ('outputs', models.JSONField(help_text='{the rest of the key: count}')),
            ],
            options={
                'indexes': [models.Index(fields=['bucket_at'], name='outcome_rollup_by_age')],
                'constraints': [models.UniqueConstraint(fields=('system', 'span', 'bucket_at', 'prompt', 'version', 'lane'), name='one_outcome_rollup')],
            },
        ),
        migrations.RunPython(backfill, migrations.RunPython.noop),
    ]
