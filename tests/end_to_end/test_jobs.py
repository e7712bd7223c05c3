"""Jobs over several processes: gateways, runners under Celery, Redis, PostgreSQL and the provider simulator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest

from tests.end_to_end.gateways import Gateways, resumable

pytestmark = [pytest.mark.end_to_end, pytest.mark.django_db]  # asks for the tables; what is written is committed

TENANTS = {"bk-many": "many", "bk-few": "few"}
MANY, FEW = 40, 10
QUICK = 20
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory, keys_url: str) -> Iterator[Gateways]:
    """Two gateway processes and two runners, each of which asks one of them."""
    directory = tmp_path_factory.mktemp("jobs")
    with Gateways(directory, resumable(), processes=2, database_url=keys_url, tenants=TENANTS, runners=2) as gateways:
        yield gateways


def sql(gateways: Gateways, statement: str, *parameters: Any) -> list[Any]:
    with psycopg.connect(gateways.database_url, autocommit=True) as other:
        cursor = other.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


def hand_in(gateways: Gateways, key: str, number: int) -> str:
    """One job, at one of the processes; its id."""
    body = {"model": "fast", "messages": [{"role": "user", "content": f"Where is parcel {number}?"}]}
    answer = httpx.post(
        f"{gateways.urls[number % 2]}/v1/jobs",
        json={"endpoint": CHAT, "body": body},
        headers={"authorization": f"Bearer {key}"},
        timeout=60,
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def count(gateways: Gateways, condition: str) -> int:
    """How many jobs there are of which this holds."""
    [(number,)] = sql(gateways, f"SELECT count(*) FROM ledger_job WHERE {condition}")  # noqa: S608 - ours
    return int(number)


def look(gateways: Gateways, process: int, key: str, job: str) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {key}"}
    found: dict[str, Any] = httpx.get(f"{gateways.urls[process]}/v1/jobs/{job}", headers=headers, timeout=60).json()
    return found


def test_every_job_ends_once_although_a_runner_is_killed(gateways: Gateways) -> None:
    """In the middle of 50 jobs of two tenants, with several of its own under way: each is completed, the provider saw
    each once, each has one usage row; and the tenant with few was served in between, not after, the one with many.
    """
    # The last ones take so long that, however late that is noticed, some are under way; nobody begins before all wait.
    gateways.strike("fast", "latency:ms=5000")
    gateways.strike("fast", "latency:ms=300", count=QUICK)
    with gateways.runners_held(), ThreadPoolExecutor(8) as threads:
        many = list(threads.map(lambda number: hand_in(gateways, "bk-many", number), range(MANY)))
        few = list(threads.map(lambda number: hand_in(gateways, "bk-few", number), range(FEW)))
    jobs = dict.fromkeys(many, "bk-many") | dict.fromkeys(few, "bk-few")

    of_first = "starts_with(owner, 'runner-0/') AND state = 'running'"
    gateways.wait_for(lambda: count(gateways, "state = 'completed'") >= 10 and count(gateways, of_first) > 1)
    gateways.kill_runner(0)
    orphans = count(gateways, of_first)
    assert orphans > 0
    gateways.relieve()
    sql(gateways, f"UPDATE ledger_job SET lease_until = now() WHERE {of_first}")  # noqa: S608 - ours
    gateways.wait_for(lambda: count(gateways, "ended_at IS NOT NULL") == len(jobs), 120)

    with ThreadPoolExecutor(8) as threads:
        told = list(threads.map(lambda job: look(gateways, 1, jobs[job], job), jobs))
    assert Counter(one["status"] for one in told) == {"completed": MANY + FEW}
    assert all(one["response"]["body"]["choices"] for one in told)
    assert sum(one["attempts"] == 2 for one in told) >= orphans
    state = httpx.get(f"{gateways.simulator_url}/admin/state", timeout=60).json()
    print(f"{state['total']} calls for {len(jobs)} jobs; {orphans} were under way when their runner died")
    assert state["total"] == len(jobs)
    gateways.wait_for(lambda: len(gateways.reported("usage")) == len(jobs))
    assert Counter(row["tenant"] for row in gateways.reported("usage")) == {"many": MANY, "few": FEW}
    order = sql(gateways, "SELECT tenant FROM ledger_job ORDER BY ended_at")
    assert [tenant for (tenant,) in order[:30]].count("few") >= FEW - orphans


def test_broker_that_is_away_loses_no_job_and_keeps_none_waiting(gateways: Gateways) -> None:
    """What is under way is finished, and what is handed in meanwhile is accepted and done: a runner that hears no word
    looks for itself, also while its broker is away, and if it should be deaf afterwards.
    """

    def completed(jobs: list[str]) -> int:
        return sum(look(gateways, 0, "bk-few", job)["status"] == "completed" for job in jobs)

    begun = count(gateways, "epoch > 0")
    gateways.strike("fast", "latency:ms=1500")
    before = [hand_in(gateways, "bk-few", number) for number in range(8)]
    gateways.wait_for(lambda: count(gateways, "epoch > 0") > begun + 1)
    gateways.redis.stop()
    meanwhile = [hand_in(gateways, "bk-few", number) for number in range(8, 11)]
    gateways.wait_for(lambda: count(gateways, "ended_at IS NULL") == 0, 120)
    assert completed([*before, *meanwhile]) == 11

    gateways.redis.start()
    after = [hand_in(gateways, "bk-few", number) for number in range(11, 14)]

    gateways.wait_for(lambda: count(gateways, "ended_at IS NULL") == 0, 120)
    assert completed(after) == 3


def test_runner_that_is_told_to_stop_gives_its_jobs_back(gateways: Gateways) -> None:
    """At once, and not when they are done: the next runner may go on with them."""
    gateways.relieve()
    gateways.strike("fast", "latency:ms=50000")
    jobs = [hand_in(gateways, "bk-few", number) for number in range(20, 24)]
    gateways.wait_for(lambda: count(gateways, "state = 'running'") == len(jobs))

    status = gateways.stop_runner(1)

    assert status == 0
    told = [look(gateways, 0, "bk-few", job) for job in jobs]
    gateways.kill(1)  # which would see them through before it stops
    assert [(one["status"], one["attempts"]) for one in told] == [("queued", 1)] * 4
