"""A job that kills every gateway that has it in hand, over real processes: it is quarantined, the others are done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest

from dataplane.deadletters import MAX_LAPSES
from tests.end_to_end.gateways import Gateways, resumable

pytestmark = [pytest.mark.end_to_end, pytest.mark.django_db]  # asks for the tables; what is written is committed

KEY = "bk-demo"
CHAT = "/v1/chat/completions"
# More would be the job's fault no longer: a machine that stands still lets an attempt end before it is killed.
MOST_KILLS = 5 * MAX_LAPSES


@pytest.fixture
def gateways(tmp_path_factory: pytest.TempPathFactory, keys_url: str) -> Iterator[Gateways]:
    """One gateway process and a runner that asks it."""
    directory = tmp_path_factory.mktemp("poison")
    with Gateways(directory, resumable(), processes=1, database_url=keys_url, runners=1) as gateways:
        yield gateways


def sql(gateways: Gateways, statement: str, *parameters: Any) -> list[Any]:
    with psycopg.connect(gateways.database_url, autocommit=True) as other:
        cursor = other.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


def hand_in(gateways: Gateways, route: str) -> str:
    """One job for a route; its id."""
    body = {"model": route, "messages": [{"role": "user", "content": "Where is my parcel?"}]}
    headers = {"authorization": f"Bearer {KEY}"}
    answer = httpx.post(
        f"{gateways.urls[0]}/v1/jobs", json={"endpoint": CHAT, "body": body}, headers=headers, timeout=60
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def look(gateways: Gateways, job: str) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {KEY}"}
    found: dict[str, Any] = httpx.get(f"{gateways.urls[0]}/v1/jobs/{job}", headers=headers, timeout=60).json()
    return found


def test_job_that_kills_its_gateways_is_quarantined_while_others_are_done(gateways: Gateways) -> None:
    """Three gateways in a row die with it in hand, each by SIGKILL; no fourth gets it, and it leaves a letter. A job
    that is handed in beside it each time is done.
    """
    hung = gateways.strike("slow", "silence")
    poison = hand_in(gateways, "slow")
    others = []
    deliveries = kills = 0

    def stands() -> tuple[str, int]:
        [(state, lapses)] = sql(gateways, "SELECT state, lapses FROM ledger_job WHERE endpoint = %s AND tag = 0", CHAT)
        return str(state), int(lapses)

    while stands()[0] != "failed":
        assert kills < MOST_KILLS, stands()
        # What it waits for is nobody's concern here: the pause, and the lease of the gateway that died with it.
        sql(gateways, "UPDATE ledger_job SET not_before = now() WHERE state = 'queued'")
        sql(gateways, "UPDATE ledger_idempotencyrecord SET lease_until = now() WHERE state = 'running'")
        gateways.wait_for(lambda seen=deliveries: gateways.hits(hung) > seen)
        others.append(hand_in(gateways, "fast"))
        gateways.wait_for(lambda: look(gateways, others[-1])["status"] == "completed")
        deliveries = gateways.hits(hung)
        gateways.kill(0)
        kills += 1
        gateways.wait_for(lambda: stands()[0] != "running")
        gateways.restart(0)

    others.append(hand_in(gateways, "fast"))
    gateways.wait_for(lambda: look(gateways, others[-1])["status"] == "completed")
    told = look(gateways, poison)
    assert (told["status"], told["error"]["code"]) == ("failed", "poison")
    assert told["attempts"] >= kills >= MAX_LAPSES
    assert gateways.hits(hung) == deliveries
    letters = sql(gateways, "SELECT category, work_id, causes FROM deadletters_deadletter")
    assert [(category, f"job_{work.hex}") for category, work, _ in letters] == [("poison", poison)]
    lapsed = [cause["code"] for cause in letters[0][2] if cause["code"] == "lapsed"]
    assert len(lapsed) >= MAX_LAPSES
    assert len(others) == kills + 1
