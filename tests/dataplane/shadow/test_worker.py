"""What the shadow process does with what it is handed: one call, within budget, and never where bytes may not go."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.errors.upstream import UpstreamInterrupted, UpstreamRateLimited, UpstreamUnreachable
from dataplane.events import ShadowKilled, ShadowPaused, ShadowResumed
from dataplane.release import parse_document
from dataplane.shadow.bounded import MAX_ANSWER_BYTES
from dataplane.shadow.offers import Given
from dataplane.shadow.switch import State
from dataplane.shadow.worker import ShadowWorker
from dataplane.validators.values import Source
from tests.dataplane.bench import FakeExchange, Gate
from tests.dataplane.conftest import LANE, TENANT, breaker_policy, threshold
from tests.dataplane.virtual_time import in_virtual_time

from .shadow_world import CANDIDATE, CONTROL, TWIN, US_CANDIDATE, ShadowWorld, answer, shadow_policy, shadow_routing

RESETS = UpstreamInterrupted("reset", lane=CANDIDATE)
TOOL = {"type": "function", "function": {"name": "refund", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": SCHEMA}}


@pytest.fixture
def world(make_document):
    """Makes worlds under a policy."""

    def make(*, clock=time.monotonic, store=None, lanes=None, gate=None, answers=None, **changes):
        routing = shadow_routing(shadow_policy(**changes))
        return ShadowWorld(
            make_document(routing=routing),
            clock=clock,
            store=store,
            lanes=lanes,
            gate=gate,
            answers=answers or answer(),
        )

    return make


async def test_request_is_asked_once_billed_and_compared(world):
    """In one piece, on the candidate's own account, under the tenant, as a shadow of the caller's request."""
    shadow = world(answers=answer("Hi there", tokens=(40, 20)))

    await shadow.take(shadow.offer(7, given=Given(CONTROL, "Hi", (), "stop", False, 300, 100.0)))

    ((call, lane, _),) = shadow.transport.calls
    assert lane == CANDIDATE
    assert "stream" not in json.loads(call.body)
    (row,) = shadow.rows
    assert (row["kind"], row["request_id"], row["attempt_id"]) == ("shadow", "req_7", "7-s")
    assert (row["tenant"], row["key_id"], row["lane"], row["user"]) == ("acme", "k1", CANDIDATE, "")
    assert (row["canary"], row["cohort"], row["outcome"]) == ("", "none", "ok")
    assert row["cost_micros"] == 300
    found = shadow.drained()
    assert (found["asked"], found["answered"]) == (1, 1)
    assert (found["cost_micros"], found["control_cost_micros"]) == (300, 300)
    (settled,) = shadow.store.settled.values()
    assert (settled.calls, settled.tokens, settled.cost_micros) == (1, 60, 300)
    assert shadow.store.held == {}


async def test_what_is_no_part_of_the_question_is_not_sent(world):
    """Orders to a provider's store, labels, and who asks stay here; what asks a provider to search is not asked."""
    shadow = world()

    await shadow.take(
        shadow.offer(store=True, metadata={"a": "b"}, user="ada", safety_identifier="x", n=3, temperature=0),
        shadow.offer(1, web_search_options={}),
    )

    ((call, _, _),) = shadow.transport.calls
    assert json.loads(call.body).keys() == {"model", "messages", "temperature"}
    assert shadow.drained()["discarded"] == {"hosted_tools": 1}


async def test_tools_are_declared_and_never_carried_out(world):
    """A call of a tool ends the matter: it is compared, and nobody is asked with its outcome."""
    call = {"id": "c", "type": "function", "function": {"name": "refund", "arguments": '{"order": 2}'}}
    shadow = world(answers=answer(None, finish="tool_calls", tool_calls=[call]))
    control = Given(CONTROL, "", (("refund", '{"order": 1}'),), "tool_calls", False, 30, 100.0)

    await shadow.take(shadow.offer(tools=[TOOL], given=control))

    assert len(shadow.transport.calls) == 1
    assert json.loads(shadow.transport.calls[0][0].body)["tools"] == [TOOL]
    found = shadow.drained()
    assert (found["tools_agree"], found["tools_differ"]) == (0, 1)


async def test_noise_asks_control_once_more_on_the_shadows_account(world):
    """The model that answered, not the candidate's, and under an arm of its own."""
    shadow = world(noise_percent=100)

    await shadow.take(shadow.offer())

    assert sorted(shadow.transport.lanes) == sorted([CANDIDATE, TWIN])
    assert {row["arm"] for row in shadow.counting.drain(0)} == {"candidate", "noise"}
    assert sorted(row["attempt_id"] for row in shadow.rows) == ["0-n", "0-s"]


async def test_noise_of_a_model_that_has_no_twin_is_not_asked(world):
    """Two answers of different models are no noise."""
    shadow = world(noise_percent=100)
    other = Given("anthropic/us-east/claude/claude", "Hi", (), "stop", False, 30, 100.0)

    await shadow.take(shadow.offer(given=other))

    assert shadow.transport.lanes == [CANDIDATE]
    assert shadow.drained()["discarded"] == {"no_lane_can": 1}


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (RESETS, "upstream_interrupted"),
        (UpstreamUnreachable("no", lane=CANDIDATE), "upstream_unreachable"),
        (UpstreamRateLimited(lane=CANDIDATE, retry_after_seconds=1), "upstream_rate_limited"),
    ],
)
async def test_failed_call_is_not_made_again(world, failure, code):
    """No second attempt and no other lane: it is counted by its code, and that is all."""
    shadow = world(lanes={CANDIDATE: [failure]}, minimum_calls=100)

    await shadow.take(shadow.offer())

    assert len(shadow.transport.calls) == 1
    found = shadow.drained()
    assert (found["asked"], found["answered"], found["failed"]) == (1, 0, {code: 1})


@in_virtual_time
async def test_call_that_takes_too_long_is_given_up(world):
    """The deadline is the policy's, and what it may have cost is billed."""
    shadow = world(clock=asyncio.get_running_loop().time, gate=Gate("next_chunk"), deadline_ms=5000)

    await shadow.take(shadow.offer())

    assert shadow.drained()["failed"] == {"deadline_exceeded": 1}
    (row,) = shadow.rows
    assert row["input_tokens"] > 0
    assert shadow.store.held == {}


async def test_answer_of_ten_megabytes_is_read_to_a_bound(world):
    """What is over a megabyte is not read any more, and the connection is dropped."""
    exchange = FakeExchange([b"x" * 65_536] * 160, Gate())
    shadow = world(lanes={CANDIDATE: [exchange]}, minimum_calls=100)

    await shadow.take(shadow.offer())

    read = 65_536 * (160 - len(exchange._chunks))
    assert MAX_ANSWER_BYTES < read <= MAX_ANSWER_BYTES + 65_536
    assert exchange.closed
    assert not exchange.finished
    assert shadow.drained()["failed"] == {"upstream_malformed": 1}


async def test_answer_that_announces_ten_megabytes_is_not_read_at_all(world):
    """Its length says enough."""
    exchange = FakeExchange([b"x"], Gate())
    exchange.headers = lambda: {"content-length": "10000000"}
    shadow = world(lanes={CANDIDATE: [exchange]}, minimum_calls=100)

    await shadow.take(shadow.offer())

    assert (exchange._chunks, exchange.closed) == ([b"x"], True)
    assert shadow.drained()["failed"] == {"upstream_malformed": 1}


async def test_lag_is_the_age_of_the_oldest_call_that_waits(world, clock):
    """Not of those that are made; none waits, and there is none."""
    shadow = world(clock=clock)
    shadow.transport._gate = Hanging()

    shadow.worker.take(shadow.offer(0))
    shadow.worker.take(shadow.offer(1))
    idle = shadow.worker.lag_seconds
    shadow.worker.take(shadow.offer(2))
    clock.advance(7)
    shadow.worker.take(shadow.offer(3))
    clock.advance(2)

    assert (idle, shadow.worker.lag_seconds, shadow.worker.waiting) == (0.0, 9.0, 2)
    shadow.transport._gate.let_go()
    await shadow.worker.settle_all()
    assert (shadow.worker.lag_seconds, shadow.worker.waiting, shadow.worker.in_flight) == (0.0, 0, 0)


async def test_pressure_is_discarded(world):
    """Two at once, two more wait, and what comes then is counted and gone."""
    shadow = world()
    shadow.transport._gate = Hanging()

    for number in range(6):
        shadow.worker.take(shadow.offer(number))
    await shadow.transport._gate.wait_for(2)

    assert shadow.worker.in_flight == 2
    assert shadow.drained()["discarded"] == {"worker_queue_full": 2}
    shadow.transport._gate.let_go()
    await shadow.worker.settle_all()
    assert shadow.drained()["asked"] == 4


class Hanging:
    """Holds every call until it is let go."""

    def __init__(self):
        self._waiting = 0
        self._arrived = asyncio.Condition()
        self._open = asyncio.Event()

    async def pass_(self, place):
        if place != "send":
            return
        async with self._arrived:
            self._waiting += 1
            self._arrived.notify_all()
        await self._open.wait()

    async def wait_for(self, number):
        async with self._arrived:
            await self._arrived.wait_for(lambda: self._waiting >= number)

    def let_go(self):
        self._open.set()


async def test_nothing_is_asked_that_cannot_be_reserved(world):
    """Redis away: every request is discarded, and the next is asked when it is back."""
    shadow = world()
    shadow.store.away = True
    await shadow.take(shadow.offer(), shadow.offer(1))
    shadow.store.away = False

    await shadow.take(shadow.offer(2))

    assert shadow.drained()["discarded"] == {"budget_unknown": 2}
    assert len(shadow.transport.calls) == 1


async def test_without_a_store_nothing_is_asked(world):
    """A host that is told of no Redis has no budget to spend."""
    shadow = world()
    shadow.worker._budgets._store = None

    await shadow.take(shadow.offer())

    assert shadow.transport.calls == []


async def test_spent_day_pauses_and_the_next_goes_on(world):
    """Once, with an event; what comes meanwhile is not even reserved for."""
    shadow = world(calls=2, percent=100)
    await shadow.take(*(shadow.offer(number) for number in range(2)))
    await shadow.take(shadow.offer(2))
    await shadow.take(shadow.offer(3))
    assert shadow.worker.state_of("trial") is State.PAUSED

    shadow.wall += 86_400
    shadow.store.settled.clear()
    await shadow.worker.look()
    await shadow.take(shadow.offer(4))

    assert len(shadow.transport.calls) == 3
    assert shadow.drained()["discarded"] == {"budget_spent": 1, "paused": 1}
    paused, resumed = shadow.rows.events
    assert (type(paused), paused.measured["budget"]) == (ShadowPaused, "calls")
    assert (type(resumed), resumed.cause) == (ShadowResumed, "new_day")


async def test_what_the_store_could_not_be_told_is_settled_later(world):
    """A call that ended while Redis was away is settled by the next turn."""
    shadow = world()
    shadow.transport._gate = Hanging()
    shadow.worker.take(shadow.offer())
    await shadow.transport._gate.wait_for(1)
    shadow.store.away = True
    shadow.transport._gate.let_go()
    await shadow.worker.settle_all()
    assert len(shadow.store.held) == 1

    shadow.store.away = False
    await shadow.worker.look()

    assert (len(shadow.store.held), len(shadow.store.settled)) == (0, 1)


async def test_failures_kill_for_the_fleet_and_a_lift_begins_anew(world):
    """One process concludes it, the others hear of it, and whoever deletes the flag lets both go on."""
    shadow = world(lanes={CANDIDATE: [RESETS]}, failure_rate=0.5, minimum_calls=3)
    other = world(store=shadow.store)
    await other.worker.look()
    await shadow.worker.look()
    await shadow.take(*(shadow.offer(number) for number in range(3)))
    await shadow.take(shadow.offer(3))
    assert shadow.worker.state_of("trial") is State.KILLED

    await shadow.worker.look()
    killed_elsewhere = {**shadow.store.killed}
    shadow.store.killed = {other.policy.digest: "failure_rate"}
    await other.worker.look()
    assert other.worker.state_of("trial") is State.KILLED
    shadow.store.killed = {}
    await shadow.worker.look()
    await other.worker.look()

    assert killed_elsewhere == {shadow.policy.digest: "failure_rate"}
    assert (shadow.worker.state_of("trial"), other.worker.state_of("trial")) == (State.RUNNING, State.RUNNING)
    assert shadow.drained()["discarded"] == {"killed": 1}
    killed, resumed = shadow.rows.events
    assert (type(killed), killed.cause, killed.measured["failed"]) == (ShadowKilled, "failure_rate", 3)
    assert (type(resumed), resumed.cause) == (ShadowResumed, "lifted")


async def test_dear_answers_kill(world):
    """Twice as dear as control's is more than 1.5 times."""
    shadow = world(cost_ratio=1.5, minimum_calls=2, answers=answer(tokens=(0, 20)))
    control = Given(CONTROL, "Hi", (), "stop", False, 100, 100.0)

    await shadow.take(*(shadow.offer(number, given=control) for number in range(2)))

    assert shadow.worker.state_of("trial") is State.KILLED
    assert shadow.rows.events[0].cause == "cost_ratio"


async def test_flag_is_found_before_the_first_call(world):
    """A process that has just begun, and has not heard yet, is told so when it reserves."""
    shadow = world()
    shadow.store.killed[shadow.policy.digest] = "cost_ratio"

    await shadow.take(shadow.offer(), shadow.offer(1))

    assert shadow.transport.calls == []
    assert shadow.drained()["discarded"] == {"killed": 2}


async def test_redis_that_lost_everything_lifts_nothing(world):
    """It is told again what it forgot."""
    shadow = world(lanes={CANDIDATE: [RESETS]}, minimum_calls=1)
    await shadow.worker.look()
    await shadow.take(shadow.offer())
    await shadow.worker.look()
    shadow.store.killed, shadow.store.epoch = {}, "2"

    await shadow.worker.look()
    await shadow.worker.look()

    assert shadow.worker.state_of("trial") is State.KILLED
    assert shadow.store.killed == {shadow.policy.digest: "failure_rate"}


async def test_restarted_process_keeps_to_what_the_fleet_knows(world):
    """Nothing of a switch is its own: who comes after a process that died is killed too, and has what is left of the
    day.
    """
    first = world(lanes={CANDIDATE: [RESETS]}, minimum_calls=2, calls=5)
    await first.take(first.offer(), first.offer(1))
    await first.worker.stop()

    second = world(store=first.store, minimum_calls=2, calls=5)
    await second.worker.look()
    await second.worker.look()
    await second.take(second.offer(2))

    assert second.worker.state_of("trial") is State.KILLED
    assert second.transport.calls == []
    assert len(first.store.settled) == 2


async def test_stopped_process_settles_what_was_under_way(world):
    """A call that is given up is billed, and its reservation comes back."""
    shadow = world()
    shadow.transport._gate = Hanging()
    shadow.worker.take(shadow.offer())
    await shadow.transport._gate.wait_for(1)

    await shadow.worker.stop()

    assert shadow.store.held == {}
    assert shadow.drained()["failed"] == {"cancelled": 1}
    assert [row["outcome"] for row in shadow.rows] == ["cancelled"]


async def test_changed_policy_begins_anew_and_old_offers_are_discarded(world, make_document):
    """What was drawn under another policy is nobody's to ask any more, killed or not."""
    shadow = world(lanes={CANDIDATE: [RESETS]}, minimum_calls=1)
    old = shadow.offer(1)
    await shadow.take(shadow.offer())
    assert shadow.worker.state_of("trial") is State.KILLED

    document = make_document(2, routing=shadow_routing(shadow_policy(minimum_calls=9)))
    shadow.adopt(parse_document(document, digest="e" * 64))
    await shadow.take(old)

    assert shadow.worker.state_of("trial") is State.RUNNING
    assert shadow.drained()["discarded"] == {"other_policy": 1}


async def test_tenant_that_is_gone_is_not_asked_for(world):
    """Nobody would pay for it."""
    shadow = world()

    await shadow.take(shadow.offer(tenant="gone"))

    assert shadow.drained()["discarded"] == {"unknown_tenant": 1}


async def test_bytes_that_are_no_offer_are_passed_over(world):
    """A gateway of another release of the program does no harm."""
    shadow = world()

    for data in (b"", b"[]", b'{"v": 2}', b'{"v": 1}', b"\xff"):
        shadow.worker.take(data)
    await shadow.take(shadow.offer())

    assert len(shadow.transport.calls) == 1


async def test_own_breaker_holds_a_failing_candidate_back(make_document):
    """It opens here, and nobody else hears of it but by its event."""
    lanes = {CANDIDATE: LANE | {"account": "trial", "model": "gpt-5", "breaker": "hosted"}}
    routing = shadow_routing(shadow_policy(minimum_calls=1000), lanes=lanes)
    routing["breakers"] = {"hosted": breaker_policy(minimum_attempts=2)}
    unreachable = UpstreamUnreachable("no", lane=CANDIDATE)
    shadow = ShadowWorld(make_document(routing=routing), clock=time.monotonic, lanes={CANDIDATE: [unreachable]})

    for number in range(4):
        await shadow.take(shadow.offer(number))

    assert len(shadow.transport.calls) == 2
    assert shadow.drained()["discarded"] == {"breaker_open": 2}


async def test_schema_validators_and_words_of_both_are_compared(make_document):
    """By the same code that looks at control's answers: the schema that was asked for, and the route's rules."""
    rule = {"id": "no-rival", "version": 3, "kind": "terms", "on_failure": "block", "on_error": "closed"}
    rule |= {"budget_ms": threshold(1000), "params": {"deny": ["rival"]}}
    routing = shadow_routing(validators="strict")
    routing["validators"] = {
        "strict": {
            "rules": [rule],
            "streams": "hold",
            "window_characters": threshold(100),
            "escalation": None,
            "regulated": False,
        }
    }
    shadow = ShadowWorld(
        make_document(routing=routing), clock=time.monotonic, answers=answer('{"reply": "ask the rival [1]"}')
    )
    control = Given(CONTROL, '{"answer": "ask us [1]"}', (), "stop", False, 30, 100.0)

    await shadow.take(shadow.offer(response_format=FORMAT, sources=[Source("s", "us")], given=control))

    found = shadow.drained()
    assert (found["schema_control"], found["verdicts_differ"]) == (1, 1)
    assert found["rules"] == {"no-rival@3:pass:block": 1}
    (sample,) = shadow.rows.shadow_samples
    assert sample["diff"]["layers"] == {"rules": ["pass", "block"]}
    assert sample["diff"]["citations"] == 1.0


@pytest.mark.parametrize(
    ("release_says", "offer_says", "kept"), [(True, True, True), (True, False, False), (False, True, False)]
)
async def test_words_are_kept_only_where_the_tenant_lets_them_be(make_document, release_says, offer_says, kept):
    """As the gateway knew it and as this process does; the diff, which has none of them, is kept always."""
    access = {
        "tenants": {"acme": TENANT | {"log_content": release_says}},
        "keys": {},
    }
    document = make_document(routing=shadow_routing(), access=access)
    shadow = ShadowWorld(document, clock=time.monotonic, answers=answer("quite secret"))

    await shadow.take(shadow.offer(messages=[{"role": "user", "content": "secret?"}], log_content=offer_says))

    (sample,) = shadow.rows.shadow_samples
    assert sample["diff"]["overlap"] == 0
    assert (sample["texts"] is not None) is kept
    assert ("secret" in json.dumps(sample)) is kept


async def test_samples_are_few(world, clock):
    """One for a policy in five seconds, however many there are."""
    shadow = world(clock=clock)
    await shadow.take(*(shadow.offer(number) for number in range(4)))
    clock.advance(5)

    await shadow.take(shadow.offer(9))

    assert [row["request_id"] for row in shadow.rows.shadow_samples] == ["req_0", "req_9"]


async def test_sample_with_what_no_database_can_hold_loses_its_words(make_document):
    """NUL characters, and texts that are too long, are not kept."""
    access = {"tenants": {"acme": TENANT | {"log_content": True}}, "keys": {}}
    shadow = ShadowWorld(
        make_document(routing=shadow_routing(), access=access), clock=time.monotonic, answers=answer("a\0b")
    )

    await shadow.take(shadow.offer(log_content=True))

    (sample,) = shadow.rows.shadow_samples
    assert sample["texts"] is None


REGIONS = ("eu", "us", "ch")
pins = st.frozensets(st.sampled_from(REGIONS))


@given(
    places=st.lists(st.sampled_from(REGIONS), min_size=1, max_size=4),
    twins=st.lists(st.sampled_from(REGIONS), max_size=3),
    known_here=pins,
    known_there=pins,
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_pinned_bytes_never_go_elsewhere(make_document, places, twins, known_here, known_there):
    """Whatever tenants, lanes and policies there are: what a pin forbids, as the gateway or this process knows it, is
    never sent, neither to candidates nor as noise; what no pin forbids is.
    """
    trial = LANE | {"account": "trial"}
    lanes = {f"c{at}": trial | {"model": f"m{at}", "residency": place} for at, place in enumerate(places)}
    noise = {f"n{at}": trial | {"region": f"r{at}", "residency": place} for at, place in enumerate(twins)}
    policy = shadow_policy(lanes=tuple(lanes), noise_lanes=tuple(noise), noise_percent=100 if noise else 0)
    access = {"tenants": {"acme": TENANT | {"residency": sorted(known_here)}}, "keys": {}}
    shadow = ShadowWorld(
        make_document(routing=shadow_routing(policy, lanes=lanes | noise), access=access), clock=time.monotonic
    )

    await shadow.take(shadow.offer(residency=known_there))

    sent = {lane: (lanes | noise)[lane]["residency"] for lane in shadow.transport.lanes}
    assert all(not pin or place in pin for place in sent.values() for pin in (known_here, known_there))
    allowed = [place for place in places if all(not pin or place in pin for pin in (known_here, known_there))]
    assert any(lane in lanes for lane in sent) is bool(allowed)


async def test_candidate_outside_the_pin_is_passed_over_for_one_inside(make_document):
    """The first that may be asked, in the policy's order."""
    routing = shadow_routing(shadow_policy(lanes=(US_CANDIDATE, CANDIDATE)))
    shadow = ShadowWorld(make_document(routing=routing), clock=time.monotonic)

    await shadow.take(shadow.offer())

    assert shadow.transport.lanes == [CANDIDATE]


def test_worker_is_told_of_no_store_of_callers():
    """Neither streams, idempotency keys nor the ledger's own are anything that it could reach."""
    told = ShadowWorker.__init__.__annotations__.keys()

    assert told == {
        "caller",
        "breakers",
        "quotas",
        "store",
        "counting",
        "reports",
        "timers",
        "clock",
        "wall",
        "look_seconds",
        "tracer",
        "return",
    }
