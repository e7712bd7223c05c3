from datetime import timedelta

import django.db.models.deletion
from django.db import migrations, models

# As `rebuild_outcomes` added up when this was written, for the spans and minutes that are there already. Windows are
# added up by beat, when it looks for the first time.
DAYS = """
INSERT INTO telemetry_outcomerollup (system, span, bucket_at, prompt, version, lane, outputs)
SELECT system, %(span)s, at, prompt, version, lane, jsonb_object_agg(key, number)
FROM (
    SELECT system, date_bin(%(span)s, bucket_at, 'epoch') AS at, prompt, version, lane, k.key,
           sum(k.value::bigint)::bigint AS number
    FROM telemetry_outcomerollup, jsonb_each_text(outputs) AS k(key, value)
    WHERE span = %(finer)s GROUP BY system, 2, prompt, version, lane, k.key
) c GROUP BY system, at, prompt, version, lane
"""
MINUTE_TOTALS = """
INSERT INTO telemetry_outcometotal (system, span, bucket_at, lane, outputs)
SELECT system, interval '1 minute', at, lane, jsonb_object_agg(key, number)
FROM (
    SELECT split_part(k.key, ':', 1) AS system, bucket_at AS at,
           CASE WHEN grouping(lane) = 1 THEN '*' ELSE lane END AS lane,
           substr(k.key, strpos(k.key, ':') + 1) AS key, sum(k.value::bigint)::bigint AS number
    FROM telemetry_minuterollup, jsonb_each_text(outputs) AS k(key, value)
    WHERE NOT (outputs = '{}'::jsonb) AND cardinality(string_to_array(k.key, ':')) = 4
    GROUP BY 1, 2, k.key, GROUPING SETS ((lane), ())
) c GROUP BY system, at, lane
"""
TOTALS = """
INSERT INTO telemetry_outcometotal (system, span, bucket_at, lane, outputs)
SELECT system, %(span)s, at, lane, jsonb_object_agg(key, number)
FROM (
    SELECT system, date_bin(%(span)s, bucket_at, 'epoch') AS at, lane, k.key, sum(k.value::bigint)::bigint AS number
    FROM telemetry_outcometotal, jsonb_each_text(outputs) AS k(key, value)
    WHERE span = %(finer)s GROUP BY system, 2, lane, k.key
) c GROUP BY system, at, lane
"""
# A standing is written every minute, and none of its indexes is about what changes then: with room beside it in its
# page no index has to be written with it. To read some ten thousands takes less than to start others who help.
ROOM = "ALTER TABLE telemetry_outcomestanding SET (fillfactor = 60, parallel_workers = 0)"
MINUTE, QUARTER, HOUR, SIX_HOURS, DAY = (timedelta(minutes=number) for number in (1, 15, 60, 360, 1440))


def backfill(apps, schema_editor):
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(DAYS, {"span": DAY, "finer": SIX_HOURS})
        cursor.execute(MINUTE_TOTALS)
        for finer, span in ((MINUTE, QUARTER), (QUARTER, HOUR), (HOUR, SIX_HOURS), (SIX_HOURS, DAY)):
            cursor.execute(TOTALS, {"span": span, "finer": finer})


class Migration(migrations.Migration):

    dependencies = [
        ('telemetry', '0012_surface_hours'),
    ]

    operations = [
        migrations.CreateModel(
            name='OutcomePlace',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('prompt', models.CharField(blank=True, max_length=100)),
                ('version', models.IntegerField(help_text='0: no managed prompt')),
                ('lane', models.CharField(blank=True, max_length=200)),
            ],
        ),
        migrations.CreateModel(
            name='OutcomeStanding',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('hours', models.PositiveSmallIntegerField()),
                ('system', models.CharField(max_length=200)),
                ('place', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='telemetry.outcomeplace')),
                ('name', models.CharField(blank=True, help_text='Empty: answers in all', max_length=200)),
                ('counted', models.BigIntegerField()),
                ('bad', models.BigIntegerField()),
                ('unsure', models.BigIntegerField()),
                ('outcomes', models.JSONField(help_text='{the rest of the key behind the name: count}')),
            ],
        ),
        migrations.CreateModel(
            name='OutcomeTotal',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('system', models.CharField(max_length=200)),
                ('span', models.DurationField(help_text='A minute, or one of `outcome_spans.SPANS`')),
                ('bucket_at', models.DateTimeField()),
                ('lane', models.CharField(blank=True, help_text="'*': all of them together", max_length=200)),
                ('outputs', models.JSONField(help_text='{the rest of the key: count}')),
            ],
        ),
        migrations.CreateModel(
            name='OutcomeWindow',
            fields=[
                ('hours', models.PositiveSmallIntegerField(primary_key=True, serialize=False)),
                ('since', models.DateTimeField()),
                ('until', models.DateTimeField()),
            ],
        ),
        migrations.RemoveConstraint(
            model_name='outcomerollup',
            name='one_outcome_rollup',
        ),
        migrations.RemoveIndex(
            model_name='outcomerollup',
            name='outcome_rollup_by_age',
        ),
        migrations.AddIndex(
            model_name='outcomerollup',
            index=models.Index(fields=['bucket_at', 'span'], name='outcome_rollup_by_age'),
        ),
        migrations.AddConstraint(
            model_name='outcomerollup',
            constraint=models.UniqueConstraint(fields=('system', 'prompt', 'version', 'lane', 'span', 'bucket_at'), name='one_outcome_rollup'),
        ),
        migrations.AddConstraint(
            model_name='outcomeplace',
            constraint=models.UniqueConstraint(fields=('prompt', 'version', 'lane'), name='one_outcome_place'),
        ),
        migrations.AddIndex(
            model_name='outcometotal',
            index=models.Index(fields=['bucket_at'], name='outcome_total_by_age'),
        ),
        migrations.AddConstraint(
            model_name='outcometotal',
            constraint=models.UniqueConstraint(fields=('system', 'lane', 'span', 'bucket_at'), name='one_outcome_total'),
        ),
        migrations.AddConstraint(
            model_name='outcomestanding',
            constraint=models.UniqueConstraint(fields=('hours', 'system', 'place', 'name'), name='one_outcome_standing'),
        ),
        migrations.AddIndex(
            model_name='outcomestanding',
            index=models.Index(condition=models.Q(('name', '')), fields=['hours', 'system', 'place'], name='outcome_standing_of_all'),
        ),
        migrations.AddIndex(
            model_name='outcomestanding',
            index=models.Index(condition=models.Q(('bad__gt', 0)), fields=['hours', 'system'], name='outcome_standing_bad'),
        ),
        migrations.RunSQL(ROOM, migrations.RunSQL.noop),
        migrations.RunPython(backfill, migrations.RunPython.noop),
    ]
