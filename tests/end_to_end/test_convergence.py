"""The main promise, end to end: every worker comes to the latest release, and nobody is ever served a mixture."""

import json
import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import httpx
import psutil
import pytest
import redis

from dataplane.cohorts import assign
from dataplane.release import Release, parse_document
from tests.end_to_end.stack import ANSWER_SECONDS, Browser, Stack
from tests.end_to_end.traffic import PROMPT, TENANT_KEYS, Exchange, Traffic, hold_ladder

pytestmark = pytest.mark.end_to_end
GATEWAY_PROCESSES = 4
# Indexes of the default stages: internal, 1 %, 5 %, 25 %, 50 %, 100 %.
FIVE, QUARTER, HALF, ALL = 2, 3, 4, 5
ALL_IN_SYNC = {
    "expected": GATEWAY_PROCESSES,
    "in_sync": GATEWAY_PROCESSES,
    "behind": 0,
    "refused": 0,
    "silent": 0,
}


@pytest.fixture(scope="module")
def stack(data_dir: Path) -> Iterator[Stack]:
    """Four gateway processes, and a broker of its own that can go without the reports going. Nothing of it stays."""
    stack = Stack(data_dir, gateway_processes=GATEWAY_PROCESSES, own_broker=True)
    with stack:
        stack.wait_ready()
        hold_ladder(stack)
        yield stack
    assert stack.processes() == []


@pytest.fixture
def traffic(stack: Stack) -> Iterator[Traffic]:
    """Callers who have not begun to call; they end before the stack does, whatever a test makes of them."""
    traffic = Traffic(stack)
    yield traffic
    traffic.stop()


def test_every_worker_converges_and_none_serves_a_mixture(stack: Stack, traffic: Traffic) -> None:
    """Releases keep coming while broker, agent and a gateway process are killed: all of them arrive, none is mixed.

    What is checked of every answer: its release really gives that user that version, the words come from that version,
    and no process ever goes back to an older release. Only what the killed process held may fail.
    """
    owner = stack.sign_in("owner")
    traffic.start(callers=10)

    # Pushed by the broker.
    for position in (HALF, FIVE, ALL, QUARTER):
        turn_knob(stack, owner, position)
    wait_converged(stack, traffic)

    # Without a broker the clicks still count, and agents come to ask. Meanwhile one process dies and is replaced.
    stack.kill("broker")
    for position in (HALF, FIVE):
        turn_knob(stack, owner, position)
    victim, killed_at, gone_at = kill_one_gateway(stack)
    wait_converged(stack, traffic)

    # The broker is back, with nothing of what it knew.
    stack.start("broker")
    stack.wait_answering("broker")
    wait_subscribed(stack)
    for position in (QUARTER, HALF):
        turn_knob(stack, owner, position)
    wait_converged(stack, traffic)

    # Nobody on the host hears of a release while the agent is gone; it catches up when it is back.
    stack.kill("agent")
    turn_knob(stack, owner, ALL)
    stack.start("agent")
    wait_converged(stack, traffic)

    # What is live changes, and changes back.
    before = latest_revision(stack)
    assert owner.post(f"{canary_path(stack)}promote/", {}).status_code == httpx.codes.FOUND
    wait_converged(stack, traffic)
    with stack.api("oncall") as api:
        api.post(f"/releases/{before - 1}/roll-back", json={"reason": "test"}).raise_for_status()
        wait_converged(stack, traffic)
        traffic.stop()
        # A process whose last report is late counts as silent until the next one is in.
        stack.wait_for(lambda: fleet_counts(api) == ALL_IN_SYNC, "the whole fleet is in sync")
    owner.close()

    releases = read_releases(stack)
    answered = [one for one in traffic.exchanges if one.is_good]
    failed = [one for one in traffic.exchanges if not one.is_good]
    assert [one for one in failed if not was_held_by(one, victim, killed_at, gone_at)] == []
    assert len({one.release for one in answered}) >= 6
    assert {one.prompt for one in answered} >= {f"{PROMPT}@2", f"{PROMPT}@4"}
    check_cohorts(answered, releases)
    check_words(answered)
    check_never_back(answered)


def test_gateways_start_and_serve_from_disk_alone(stack: Stack, traffic: Traffic) -> None:
    """With console, agent, broker, Redis and PostgreSQL gone, even freshly started gateways serve the last release."""
    revision = latest_revision(stack)
    release = read_releases(stack)[revision]
    stack.wait_for(lambda: count_in_sync(stack, revision) == GATEWAY_PROCESSES, f"all gateways serve r{revision}")
    for name in ("console", "ingest", "agent", "broker", "redis", "postgres"):
        if stack.is_alive(name):
            stack.kill(name)
    end_orphans(stack, of="postgres")
    old = set(stack.gateway_pids())
    stack.stop("gateway")

    stack.start("gateway")
    stack.wait_answering("gateway")
    traffic.start(callers=8)
    stack.wait_for(
        lambda: (
            all(traffic.served_by(pid) for pid in stack.gateway_pids())
            and len(stack.gateway_pids()) == GATEWAY_PROCESSES
        ),
        "every gateway process has answered",
    )
    traffic.stop()

    assert old.isdisjoint(stack.gateway_pids())
    assert [one for one in traffic.exchanges if not one.is_good] == []
    assert {one.release for one in traffic.exchanges} == {revision}
    check_cohorts(traffic.exchanges, {revision: release})


# --- what people do ---------------------------------------------------------------------------------------------------
def canary_path(stack: Stack) -> str:
    """The page of the running canary."""
    ((slug,),) = stack.query("SELECT slug FROM rollouts_canary WHERE state = 'running'")
    return f"/canaries/{slug}/"


def turn_knob(stack: Stack, owner: Browser, position: int) -> None:
    """Click a stage of the running canary."""
    revision = latest_revision(stack)
    answer = owner.post(f"{canary_path(stack)}knob/", {"stage": str(position)})
    assert answer.status_code == httpx.codes.FOUND
    assert latest_revision(stack) == revision + 1, "the click gave no release"


def kill_one_gateway(stack: Stack) -> tuple[int, float, float]:
    """Kill -9 one gateway process; return its pid and between when and when that was, in monotonic seconds."""
    victim = stack.gateway_pids()[1]
    process = psutil.Process(victim)
    killed_at = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    stack.wait_for(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, "the victim is gone")
    return victim, killed_at, time.monotonic()


def end_orphans(stack: Stack, *, of: str) -> None:
    """Wait for what a killed server's children do when they notice."""
    stack.wait_for(lambda: not any(of in one.name() for one in stack.processes()), f"{of} is gone with its children")


# --- waiting ----------------------------------------------------------------------------------------------------------
def latest_revision(stack: Stack) -> int:
    """The newest release."""
    ((revision,),) = stack.query("SELECT max(revision) FROM releases_release")
    assert isinstance(revision, int)
    return revision


def fleet_counts(api: httpx.Client) -> dict[str, int]:
    """How many gateway processes the API says do what."""
    counts: dict[str, int] = api.get("/fleet").raise_for_status().json()["counts"]
    return counts


def count_in_sync(stack: Stack, revision: int) -> int:
    """How many gateway processes told the control plane that they serve the digest of this release."""
    ((count,),) = stack.query(
        "SELECT count(*) FROM releases_worker w JOIN releases_release r ON r.digest = w.digest"
        " WHERE w.kind = 'gateway' AND w.status = 'serving' AND r.revision = %s",
        [revision],
    )
    assert isinstance(count, int)
    return count


def wait_converged(stack: Stack, traffic: Traffic) -> None:
    """Wait until the control plane heard every gateway say the latest digest, and each process answered with it."""
    revision = latest_revision(stack)

    def converged() -> bool:
        pids = stack.gateway_pids()
        return count_in_sync(stack, revision) == len(pids) == GATEWAY_PROCESSES and all(
            revision in traffic.served_by(pid) for pid in pids
        )

    stack.wait_for(converged, f"all gateways serve r{revision}")


def wait_subscribed(stack: Stack) -> None:
    """Wait until the agent listens to the broker again."""

    def subscribed() -> bool:
        with redis.Redis.from_url(stack.broker_url, socket_timeout=ANSWER_SECONDS) as client:
            return int(client.pubsub_numpat()) > 0  # the agent is the only one who subscribes at this broker

    stack.wait_for(subscribed, "the agent listens to the broker", needs="agent")


# --- what must be true of the answers ---------------------------------------------------------------------------------
def read_releases(stack: Stack) -> dict[int, Release]:
    """Every release as the control plane stored it."""
    rows = stack.query("SELECT revision, document, digest FROM releases_release")
    return {
        int(str(revision)): parse_document(json.loads(str(document)), digest=str(digest))
        for revision, document, digest in rows
    }


def was_held_by(exchange: Exchange, pid: int, killed_at: float, gone_at: float) -> bool:
    """Whether a request failed because its process was killed: it was under way then, on that process's connection."""
    under_way = exchange.sent_at <= gone_at + 0.5 and exchange.done_at >= killed_at
    return under_way and exchange.pid in (pid, None)


def check_cohorts(answered: Sequence[Exchange], releases: dict[int, Release]) -> None:
    """The version and the cohort that an answer names are the ones that its release gives to that user."""
    for one in answered:
        release = releases[one.release]
        tenant = release.tenant_for_key(sha256(TENANT_KEYS[one.tenant].encode()).hexdigest())
        assert tenant is not None
        plan = release.canary_for(PROMPT)
        version, cohort = release.prompts[PROMPT].live, "none"
        if plan is not None:
            units = {"user": one.user, "tenant": one.tenant, "region": tenant.region}
            decided = assign(
                plan,
                unit_values=units,
                tenant=one.tenant,
                internal=tenant.internal,
                region=tenant.region,
                now=datetime.now(UTC),
            )
            version, cohort = decided.version or version, decided.arm.value
        assert (one.prompt, one.cohort) == (f"{PROMPT}@{version}", cohort), f"r{one.release}: {one}"
        assert one.lane in {lane.id for lane in release.routing.routes["chat"].lanes}, one


def check_words(answered: Sequence[Exchange]) -> None:
    """The simulator answers the same request with the same words, so each version has its own, whatever the release."""
    words: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one in answered:
        words[one.lane, one.prompt].add(one.answer)
    assert {key: texts for key, texts in words.items() if len(texts) != 1} == {}
    for lane in {lane for lane, _ in words}:
        texts = [next(iter(found)) for (of, _), found in words.items() if of == lane]
        assert len(set(texts)) == len(texts), f"two versions say the same on {lane}"


def check_never_back(answered: Sequence[Exchange]) -> None:
    """A process that has answered with a release answers no later request with an older one."""
    by_process: dict[int, list[Exchange]] = defaultdict(list)
    for one in answered:
        if one.pid is not None:
            by_process[one.pid].append(one)
    assert len(by_process) >= GATEWAY_PROCESSES
    for pid, exchanges in by_process.items():
        ended = sorted(exchanges, key=lambda one: one.done_at)
        newest, index = 0, 0
        for one in sorted(exchanges, key=lambda one: one.sent_at):
            while index < len(ended) and ended[index].done_at < one.sent_at:
                newest = max(newest, ended[index].release)
                index += 1
            assert one.release >= newest, f"process {pid} went back from r{newest} to r{one.release}"
