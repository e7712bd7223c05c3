"""Jobs whose word goes by RabbitMQ."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.end_to_end.gateways import Gateways, resumable
from tests.end_to_end.test_jobs import TENANTS, count, hand_in
from tests.rabbitmq.broker import Broker

pytestmark = [pytest.mark.rabbitmq, pytest.mark.django_db]  # asks for the tables; what is written is committed

JOBS = 20


@pytest.fixture
def gateways(tmp_path_factory: pytest.TempPathFactory, keys_url: str, rabbitmq: Broker) -> Iterator[Gateways]:
    """Two gateway processes and two runners."""
    directory = tmp_path_factory.mktemp("jobs")
    with Gateways(
        directory,
        resumable(),
        processes=2,
        database_url=keys_url,
        tenants=TENANTS,
        runners=2,
        broker_url=rabbitmq.url,
    ) as gateways:
        yield gateways


def test_every_job_ends_although_the_broker_is_restarted(gateways: Gateways, rabbitmq: Broker) -> None:
    """Those before, those while it is away, and those afterwards; the queue is a replicated one."""
    for number in range(JOBS):
        hand_in(gateways, "bk-many", number)
    gateways.wait_for(lambda: count(gateways, "ended_at IS NOT NULL") >= JOBS // 2)

    rabbitmq.stop()
    for number in range(JOBS):
        hand_in(gateways, "bk-few", number)
    rabbitmq.start()
    for number in range(JOBS):
        hand_in(gateways, "bk-many", number)

    gateways.wait_for(lambda: count(gateways, "state = 'completed'") == 3 * JOBS, 120)
    assert rabbitmq.server.queues()["ballast.jobs"] == "quorum"
