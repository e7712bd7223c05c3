"""A job as one trace: whoever hands it in, the gateway that stores it, and the runner's attempts, of real processes."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.dataplane.conftest import retry_policy
from tests.end_to_end.gateways import KEY, Gateways, two_lanes
from tests.otlp import Receiver

pytestmark = [pytest.mark.end_to_end, pytest.mark.django_db]  # asks for the tables; what is written is committed
CHAT = "/v1/chat/completions"
JOB = {"endpoint": CHAT, "body": {"model": "chat", "messages": [{"role": "user", "content": "Where is parcel 40-31?"}]}}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """Whoever collects."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory, keys_url: str, receiver: Receiver) -> Iterator[Gateways]:
    """A gateway process and a runner that trace whatever callers trace, and nothing else."""
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_TRACES_SAMPLER_ARG": "0"}
    directory: Path = tmp_path_factory.mktemp("traced-jobs")
    routing = two_lanes(["chat"], policy={}, model="gpt-4o-instant")

    def quick(simulator_url: str) -> dict[str, object]:
        table = routing(simulator_url)
        for lane in table["lanes"].values():
            del lane["breaker"]
        del table["breakers"]
        table["retries"] = {"once": retry_policy(max_attempts=1)}
        table["routes"]["chat"] |= {"retry": "once", "lanes": ["chat/primary"]}
        return table

    with Gateways(directory, quick, processes=1, database_url=keys_url, runners=1, variables=variables) as gateways:
        yield gateways


def hand_in(gateways: Gateways, **headers: str) -> str:
    """One job; its id once it is over."""
    client = httpx.Client(base_url=gateways.urls[0], timeout=60, headers={"authorization": f"Bearer {KEY}"})
    with client:
        told = client.post("/v1/jobs", json=JOB, headers=headers)
        assert told.status_code == 202, told.text
        job = str(told.json()["id"])
        gateways.wait_for(lambda: client.get(f"/v1/jobs/{job}").json()["status"] == "completed")
    return job


def test_job_is_one_trace_from_its_handing_in_to_its_last_attempt(gateways: Gateways, receiver: Receiver) -> None:
    """The first attempt fails, the second is answered: both are below the request that handed the job in, each with the
    gateway's own span and the provider's call below it; what was billed names the trace.
    """
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    gateways.strike("chat-primary", "status:code=503", count=1)

    job = hand_in(gateways, traceparent=f"00-{trace_id}-{span_id}-01")

    receiver.wait_for(lambda: sum(one.name == "run job" for one in receiver.of_trace(trace_id)) == 2)
    receiver.wait_for(lambda: sum(one.name == f"POST {CHAT}" for one in receiver.of_trace(trace_id)) == 2)
    [handed_in] = [one for one in receiver.of_trace(trace_id) if one.name == "POST /v1/jobs"]
    assert (handed_in.service, handed_in.parent_id) == ("ballast-gateway", span_id)
    runs = receiver.below(handed_in)
    assert [(one.service, one.kind, one.name) for one in runs] == [("ballast-jobs", "consumer", "run job")] * 2
    assert [one.attributes["ballast.job.attempt"] for one in runs] == [1, 2]
    assert {one.attributes["ballast.job"] for one in runs} == {job}
    asked = [one for run in runs for one in receiver.below(run)]
    assert [(one.name, one.attributes["ballast.outcome"]) for one in asked] == [
        (f"POST {CHAT}", "upstream_unavailable"),
        (f"POST {CHAT}", "ok"),
    ]
    calls = [one for request in asked for one in receiver.below(request)]
    assert [one.attributes["http.response.status_code"] for one in calls] == [503, 200]
    gateways.wait_for(lambda: sum(row.get("trace_id") == trace_id for row in gateways.reported("usage")) == 2)


def test_job_that_nobody_traces_stores_no_trace(gateways: Gateways, receiver: Receiver) -> None:
    """And its attempts make no spans; one whose caller keeps no trace is handed on as it came."""
    unkept = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"

    jobs = [hand_in(gateways), hand_in(gateways, traceparent=unkept)]

    with psycopg.connect(gateways.database_url, autocommit=True) as other:
        stored = dict(
            other.execute(
                "SELECT 'job_' || replace(id::text, '-', ''), traceparent FROM ledger_job WHERE state = 'completed'"
            ).fetchall()
        )
    assert [stored[job] for job in jobs] == ["", unkept]
    assert not [one for one in receiver.named("run job") if one.attributes["ballast.job"] in jobs]
