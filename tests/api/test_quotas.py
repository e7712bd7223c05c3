import pytest
from django.utils import timezone

from controlplane.telemetry.operations import record_quota_states
from tests.factories import crew, make_policy, make_routing
from tests.worker_reports import STILL_HEARD, quota_state, report

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def deployment():
    make_policy()
    make_routing()


def workers_say(*quotas, count=1):
    heard = timezone.now() + STILL_HEARD
    batch = [report(worker=f"host/gateway-{at}", sent_at=heard, quotas=quotas) for at in range(count)]
    record_quota_states(batch, now=heard)


def test_every_quota_in_force_is_read_as_it_stands(as_operator, queries):
    """With its lanes and limits also where no worker tells of it; as many queries however many workers there are."""
    auditor = as_operator(crew.auditor)
    learned = {"limits": {"requests": 8000}, "learned": {"requests": 8000}, "paused_seconds": 600.0}
    workers_say(quota_state(**learned, waiting={"interactive": 31, "batch": 120}))
    first = auditor.get("quotas")
    few = queries(lambda: auditor.get("quotas"))
    workers_say(quota_state("azure-eu"), quota_state("anthropic-main"), count=5)

    many = queries(lambda: auditor.get("quotas"))

    rows = {row["pool"]: row for row in first.body["results"]}
    assert list(rows) == ["anthropic-main/shared", "azure-eu/shared", "openai-main/shared"]
    assert rows["azure-eu/shared"]["standing"] is None
    assert rows["azure-eu/shared"]["limits"]["tokens"] == {
        "value": 2_000_000,
        "is_learned": False,
        "declared": 2_000_000,
    }
    openai = rows["openai-main/shared"]
    assert (openai["account"], openai["policy"], len(openai["lanes"])) == ("openai-main", "shared", 2)
    assert (openai["window_seconds"], openai["attempts"], openai["throttled"]) == (60, 0, 0)
    assert openai["limits"] == {"requests": {"value": 8000, "is_learned": True, "declared": 10_000}}
    assert 540 < openai["standing"].pop("paused_seconds") - STILL_HEARD.total_seconds() <= 600
    assert openai["standing"] == {
        "ramp": 1.0,
        "used_share": 0.4,
        "waiting": {"interactive": 31, "batch": 120},
        "eta_seconds": {"interactive": 0.0, "batch": 0.0},
        "in_flight": 5,
        "workers": 1,
        "alone": 0,
    }
    assert many == few
