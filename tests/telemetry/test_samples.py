"""Answers kept to try rules on: taken in once, only where they may be, and not for long."""

from datetime import timedelta

import pytest

from controlplane.telemetry.samples import AnswerSample, forget_samples, record_samples
from controlplane.telemetry.tasks import forget_samples as forget_on_the_beat
from dataplane.validators.values import Output, Source
from tests.factories import make_tenant
from tests.worker_reports import NOON, report, sample

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)


def kept():
    return sorted(AnswerSample.objects.values_list("request_id", flat=True))


def test_a_sample_is_kept_once_as_the_model_gave_it():
    """Delivered twice, in one batch or in two, it is one row, and rules see the same answer as in the gateway."""
    make_tenant("acme", log_content=True)
    row = sample(since_tomorrow=1)

    assert record_samples([report(samples=(row, row))]) == 1
    record_samples([report(samples=(row,), seq=2)])

    assert AnswerSample.objects.get().output() == Output(
        "Within 14 days [1].",
        (("refund", '{"days": 14}'),),
        (Source("1", "Refunds take 14 days."),),
        "How long does a refund take?",
        is_json=False,
    )


def test_nothing_is_kept_of_a_tenant_that_does_not_allow_it():
    """A worker may be behind by a release: whether a tenant's contents may be kept is asked when they arrive."""
    make_tenant("acme", log_content=False)
    make_tenant("globex", log_content=True)

    record_samples([report(samples=(sample("a"), sample("b", tenant="globex"), sample("c", tenant="nobody")))])

    assert kept() == ["b"]


def test_reports_without_samples_cost_no_query(django_assert_num_queries):
    """Most reports have none, and come every second."""
    with django_assert_num_queries(0):
        assert record_samples([report(), report(seq=2)]) == 0


def test_a_tenant_that_takes_its_consent_back_is_forgotten():
    """From that moment no read finds its answers, and the next turn of the beat deletes them."""
    acme = make_tenant("acme", log_content=True)
    make_tenant("globex", log_content=True)
    record_samples([report(samples=(sample("a"), sample("b", tenant="globex")))])
    acme.log_content = False
    acme.save()

    found = [row.request_id for row in AnswerSample.objects.allowed().of_routes(["chat"])]
    forgotten = forget_samples(now=NOON, keep_days=30)

    assert (found, forgotten, kept()) == (["b"], 1, ["b"])


def test_the_newest_of_each_route_are_kept_for_some_days():
    """What is kept grows with routes and time, not with traffic."""
    make_tenant("acme", log_content=True)
    chat = [sample(f"c{n}", at=NOON - n * DAY) for n in range(5)]
    other = [sample(f"s{n}", at=NOON - n * DAY, route="summaries") for n in (0, 3)]
    record_samples([report(samples=(*chat, *other))])

    forgotten = forget_samples(now=NOON, keep_days=3, keep_per_route=3)

    assert (forgotten, kept()) == (2, ["c0", "c1", "c2", "s0", "s3"])
    assert forget_samples(now=NOON + timedelta(seconds=1), keep_days=3) == 1
    assert kept() == ["c0", "c1", "c2", "s0"]


def test_no_sample_is_kept_where_the_setting_says_so(settings):
    """Zero days: the beat deletes whatever has come."""
    make_tenant("acme", log_content=True)
    record_samples([report(samples=(sample(),))])
    settings.SAMPLE_DAYS = 0

    forget_on_the_beat()

    assert kept() == []
