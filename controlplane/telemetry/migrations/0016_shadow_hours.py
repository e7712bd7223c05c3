from django.db import migrations, models

SERIES = "at, policy, digest, route, arm, lane"
COUNTS = (
    "offered", "asked", "answered", "input_tokens", "output_tokens", "cost_micros", "control_cost_micros",
    "schema_both", "schema_control", "schema_shadow", "schema_neither", "tools_agree", "tools_differ",
    "verdicts_agree", "verdicts_differ", "refused_control", "refused_shadow",
)
TALLIES = ("discarded", "failed", "rules")
MOMENTS = ("overlap", "citations", "tool_arguments", "log2_length", "log2_latency", "log2_cost")
SKETCHES = ("latency_ms", "control_latency_ms")
KEYED = {name: name for name in TALLIES} | {name: f"{name} -> 'bins'" for name in SKETCHES}


def moments(name):
    return f"""'{name}', jsonb_build_array(
        COALESCE(SUM((moments -> '{name}' ->> 0)::bigint), 0), COALESCE(SUM((moments -> '{name}' ->> 1)::float8), 0),
        COALESCE(SUM((moments -> '{name}' ->> 2)::float8), 0))"""


def summed(name):
    return f"""jsonb_build_object(
        'count', SUM(({name} ->> 'count')::bigint), 'sum', SUM(({name} ->> 'sum')::float8),
        'zero', SUM(({name} ->> 'zero')::bigint), 'min', MIN(({name} ->> 'min')::float8),
        'max', MAX(({name} ->> 'max')::float8)) AS {name}"""


def keys(name, value):
    return f"""LEFT JOIN (
    SELECT {SERIES}, jsonb_object_agg(bin, number) AS {name}_keys FROM (
        SELECT {SERIES}, e.key AS bin, SUM(e.value::bigint)::bigint AS number
        FROM minutes, jsonb_each_text({value}) AS e GROUP BY {SERIES}, e.key
    ) b GROUP BY {SERIES}
) {name}_b USING ({SERIES})"""


# As `rebuild_shadow_hours` added up when this was written, for the minutes that are there already.
FROM_MINUTES = f"""
INSERT INTO telemetry_shadowhour
    (bucket_at, policy, digest, route, arm, lane, {", ".join((*COUNTS, *TALLIES, "moments", *SKETCHES))})
WITH minutes AS MATERIALIZED (
    SELECT date_trunc('hour', bucket_at, 'UTC') AS at, * FROM telemetry_shadowminute
), sums AS (
    SELECT {SERIES}, {", ".join(f"SUM({name})::bigint AS {name}" for name in COUNTS)},
        jsonb_build_object({", ".join(map(moments, MOMENTS))}) AS moments, {", ".join(map(summed, SKETCHES))}
    FROM minutes GROUP BY {SERIES}
)
SELECT {SERIES}, {", ".join(COUNTS)}, {", ".join(f"COALESCE({name}_keys, '{{}}')" for name in TALLIES)}, moments,
    {", ".join(f"{name} || jsonb_build_object('bins', COALESCE({name}_keys, '{{}}'))" for name in SKETCHES)}
FROM sums {" ".join(keys(name, value) for name, value in KEYED.items())}
ORDER BY {SERIES}
"""


class Migration(migrations.Migration):

    dependencies = [
        ('telemetry', '0015_surface_told'),
    ]

    operations = [
        migrations.CreateModel(
            name='ShadowHour',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('bucket_at', models.DateTimeField()),
                ('policy', models.CharField(max_length=100)),
                ('digest', models.CharField(help_text='Of the policy, as it decided then', max_length=64)),
                ('route', models.CharField(max_length=100)),
                ('arm', models.CharField(help_text='candidate, or noise: control asked once more', max_length=10)),
                ('lane', models.CharField(blank=True, help_text='Empty: none was chosen', max_length=200)),
                ('offered', models.BigIntegerField(default=0)),
                ('asked', models.BigIntegerField(default=0)),
                ('answered', models.BigIntegerField(default=0)),
                ('input_tokens', models.BigIntegerField(default=0)),
                ('output_tokens', models.BigIntegerField(default=0)),
                ('cost_micros', models.BigIntegerField(default=0, help_text='Millionths of a US dollar, answered or not')),
                ('control_cost_micros', models.BigIntegerField(default=0, help_text='What control cost on the answered')),
                ('schema_both', models.BigIntegerField(default=0)),
                ('schema_control', models.BigIntegerField(default=0)),
                ('schema_shadow', models.BigIntegerField(default=0)),
                ('schema_neither', models.BigIntegerField(default=0)),
                ('tools_agree', models.BigIntegerField(default=0)),
                ('tools_differ', models.BigIntegerField(default=0)),
                ('verdicts_agree', models.BigIntegerField(default=0)),
                ('verdicts_differ', models.BigIntegerField(default=0)),
                ('refused_control', models.BigIntegerField(default=0)),
                ('refused_shadow', models.BigIntegerField(default=0)),
                ('discarded', models.JSONField(help_text='{reason: count}')),
                ('failed', models.JSONField(help_text='{error code: count}')),
                ('rules', models.JSONField(help_text="{rule@version:control's verdict:shadow's: count}")),
                ('moments', models.JSONField(help_text='{name: [how many, sum, sum of squares]}')),
                ('latency_ms', models.JSONField()),
                ('control_latency_ms', models.JSONField()),
            ],
            options={
                'indexes': [models.Index(fields=['policy', 'bucket_at'], name='shadow_hour_of_policy')],
                'constraints': [models.UniqueConstraint(fields=('bucket_at', 'policy', 'digest', 'route', 'arm', 'lane'), name='one_shadow_hour')],
            },
        ),
        migrations.RunSQL(FROM_MINUTES, reverse_sql=migrations.RunSQL.noop),
    ]
