from django.db import migrations, models

ASKED = "kind NOT IN ('shadow', 'eval')"
FAILED = "outcome NOT IN ('ok', 'cancelled')"
# As `rebuild_usage_days` counted when this was written, for the attempts that are there already.
BACKFILL = f"""
INSERT INTO ledger_usagesum (
    of, begins_at, tenant, lane, cause, attempts, requests, extra_attempts, input_tokens, output_tokens, cost_micros,
    asked_attempts, asked_retries, asked_failed, asked_cost_micros, asked_failed_cost_micros
)
SELECT k.of, k.begins_at, k.tenant, k.lane, k.cause,
    count(*),
    count(*) FILTER (WHERE attempt = 1 AND {ASKED}),
    count(*) FILTER (WHERE NOT (attempt = 1 AND {ASKED}) AND kind <> 'eval'),
    sum(input_tokens), sum(output_tokens), sum(cost_micros),
    count(*) FILTER (WHERE {ASKED}),
    count(*) FILTER (WHERE kind = 'retry'),
    count(*) FILTER (WHERE {ASKED} AND {FAILED}),
    coalesce(sum(cost_micros) FILTER (WHERE {ASKED}), 0),
    coalesce(sum(cost_micros) FILTER (WHERE {ASKED} AND {FAILED}), 0)
FROM ledger_usagerow u CROSS JOIN LATERAL (VALUES
    ('tenant_hour', date_trunc('hour', u.at, 'UTC'), u.tenant, '', ''),
    ('tenant_day', date_trunc('day', u.at, 'UTC'), u.tenant, '', ''),
    ('lane_day', date_trunc('day', u.at, 'UTC'), '', u.lane, u.cause)
) AS k(of, begins_at, tenant, lane, cause)
GROUP BY k.of, k.begins_at, k.tenant, k.lane, k.cause
ORDER BY k.of, k.begins_at, k.tenant, k.lane, k.cause
"""


class Migration(migrations.Migration):

    dependencies = [
        ('ledger', '0015_usage_by_prompt_and_lane'),
    ]

    operations = [
        migrations.CreateModel(
            name='UsageSum',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('of', models.CharField(help_text='tenant_hour, tenant_day or lane_day', max_length=12)),
                ('begins_at', models.DateTimeField(help_text='The hour or day, in UTC, in which the attempts ended')),
                ('tenant', models.CharField(blank=True, max_length=50)),
                ('lane', models.CharField(blank=True, max_length=200)),
                ('cause', models.CharField(blank=True, max_length=60)),
                ('attempts', models.BigIntegerField()),
                ('requests', models.BigIntegerField(help_text='Requests whose first attempt is among them')),
                ('extra_attempts', models.BigIntegerField(help_text='Beyond the first of their request, shadows among them')),
                ('input_tokens', models.BigIntegerField()),
                ('output_tokens', models.BigIntegerField()),
                ('cost_micros', models.BigIntegerField(help_text='Millionths of a US dollar')),
                ('asked_attempts', models.BigIntegerField()),
                ('asked_retries', models.BigIntegerField()),
                ('asked_failed', models.BigIntegerField(help_text='Attempts that neither answered nor were given up by the caller')),
                ('asked_cost_micros', models.BigIntegerField()),
                ('asked_failed_cost_micros', models.BigIntegerField(help_text='What of it was paid for attempts that failed')),
            ],
            options={
                'ordering': ['-begins_at', '-pk'],
                'constraints': [models.UniqueConstraint(fields=('of', 'begins_at', 'tenant', 'lane', 'cause'), name='usage_sum_of')],
            },
        ),
        migrations.RunSQL(BACKFILL, reverse_sql=migrations.RunSQL.noop),
    ]
