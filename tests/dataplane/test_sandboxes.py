"""Releases that evals bring along: read once, off the loop, guarded as customers' lanes are, served to nobody else."""

from __future__ import annotations

import asyncio
import copy
import threading
from dataclasses import replace

import orjson
import pytest

from dataplane.agent import ReleaseKeeper
from dataplane.errors.admission import NoRelease
from dataplane.errors.requests import InvalidRequest, Unauthorized
from dataplane.journey import Inbound
from dataplane.release import (
    BadSignature,
    DigestMismatch,
    MalformedRelease,
    UnknownKey,
    parse_document,
    sign,
    sign_sandbox,
    verify,
    verify_sandbox,
)
from dataplane.sandboxes import KEPT, Sandboxes, guarded_like

from .conftest import LANE, ROUTING, breaker_policy
from .eval_world import sandbox_of, token_for
from .quota_world import quota_document

NOW = 1_760_000_000.0
EU, US = "openai/eu-west/main/gpt-4o", "anthropic/us-east/claude/claude"
NEW = "openai/eu-west/main/gpt-5"


@pytest.fixture
def live(make_document):
    """What customers are served from, whose lanes have breakers and whose accounts have quotas."""
    document = make_document(routing=guarded_routing())
    return parse_document(document, digest="1" * 64)


def guarded_routing(**lanes):
    """The routing table with a breaker and a quota for every lane; `lanes` are further ones, or others of a name."""
    table = copy.deepcopy(ROUTING)
    table["lanes"] |= lanes
    for lane in table["lanes"].values():
        lane.setdefault("breaker", "b")
        lane.setdefault("quota", "shared")
    table["routes"]["chat"]["lanes"] = list(table["lanes"])
    return table | {"breakers": {"b": breaker_policy()}, "quotas": {"shared": quota_document(requests=60, learn=True)}}


class Reading:
    """Reads sandboxes when the test says so, and knows where and how often; `begun` is for the test's loop."""

    def __init__(self):
        self.may_go_on = threading.Event()
        self.begun = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.threads = []
        self.revisions = []

    def __call__(self, envelope, *, trusted, current):
        self.threads.append(threading.get_ident())
        self.revisions.append(current.revision)
        self._loop.call_soon_threadsafe(self.begun.set)
        assert self.may_go_on.wait(60)
        return verify_sandbox(envelope, trusted=trusted, current=current)


@pytest.fixture
async def reading():
    """Reads at once, unless a test clears `may_go_on`."""
    reading = Reading()
    reading.may_go_on.set()
    yield reading
    reading.may_go_on.set()


@pytest.fixture
def sandboxes(trusted, reading):
    """The sandboxes of one process."""
    return Sandboxes(lambda: trusted, verify=reading)


def inbound(body=b"{}", **changes):
    return Inbound("req_1", body, 0.0, **changes)


# --- who may serve what -----------------------------------------------------------------------------------------------
def test_sandbox_is_no_release(make_document, signing_key, trusted):
    """It is signed as a sandbox, and if it were signed as a release, its revision would be none."""
    document = make_document(revision=0)

    with pytest.raises(BadSignature):
        verify(sign_sandbox(document, signing_key), trusted=trusted, current=None)
    with pytest.raises(MalformedRelease, match=r"\$\.revision: 0 is outside 1"):
        verify(sign(document, signing_key), trusted=trusted, current=None)


def test_sandbox_that_is_pushed_is_refused_by_the_agent(
    make_document, signing_key, tmp_path, trusted_keys_file, verdicts
):
    """Nothing reaches the disk, and the control plane hears why."""
    keeper = ReleaseKeeper(
        release_file=tmp_path / "release.json", trusted_keys_file=trusted_keys_file, acknowledge=verdicts
    )
    envelope = sandbox_of(make_document(), signing_key)

    assert keeper.receive(envelope.to_mapping()) is False

    assert not (tmp_path / "release.json").exists()
    (nack,) = verdicts
    assert (nack["revision"], nack["digest"], nack["verdict"]) == (0, envelope.digest, "nack")
    assert nack["reason"].startswith("bad_signature:")


def test_release_is_no_sandbox(make_document, signing_key, trusted, live):
    """A release that customers are served from is not taken for one, nor is a sandbox with a revision of theirs."""
    with pytest.raises(BadSignature):
        verify_sandbox(sign(make_document(2), signing_key), trusted=trusted, current=live)
    with pytest.raises(MalformedRelease, match=r"\$\.revision: 2 is outside 0\.\.0"):
        verify_sandbox(sign_sandbox(make_document(2), signing_key), trusted=trusted, current=live)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"key_id": "0" * 16}, UnknownKey),
        ({"signature": "AAAA"}, BadSignature),
        ({"document": "{}"}, BadSignature),
        ({"digest": "0" * 64}, DigestMismatch),
    ],
)
def test_sandbox_is_verified_as_a_release_is(make_document, signing_key, trusted, live, changes, refusal):
    """Whatever of an envelope was altered, nothing of it is believed."""
    envelope = replace(sandbox_of(make_document(), signing_key), **changes)

    with pytest.raises(refusal):
        verify_sandbox(envelope, trusted=trusted, current=live)


# --- letting in -------------------------------------------------------------------------------------------------------
async def test_eval_is_let_in_as_nobodys_customer(sandboxes, live, signing_key):
    """With the residency of its data set, under a key that names the run."""
    token = token_for(signing_key, now=NOW, residency=["eu"])

    admission = await sandboxes.admit(inbound(), token, live=live, now=NOW)

    assert admission.release is live
    assert admission.key.id == "run:run-7"
    tenant = admission.key.tenant
    assert (tenant.slug, tenant.residency, tenant.log_content) == ("ballast", frozenset({"eu"}), False)


async def test_eval_is_not_let_in_before_there_is_a_release(sandboxes, signing_key):
    """A worker that serves nobody serves no evals either."""
    with pytest.raises(NoRelease):
        await sandboxes.admit(inbound(), token_for(signing_key, now=NOW), live=None, now=NOW)


@pytest.mark.parametrize(
    ("names", "brings", "refusal", "told"),
    [
        ("none", "candidate", Unauthorized, "the eval token is for no sandbox"),
        ("other", "candidate", Unauthorized, "the eval token is for the sandbox"),
        ("candidate", None, InvalidRequest, "the request brings none"),
        ("candidate", 7, InvalidRequest, "is no envelope of a release"),
        ("candidate", {"digest": "5" * 64}, InvalidRequest, "missing key 'document'"),
    ],
)
async def test_sandbox_is_the_one_that_the_token_names(
    sandboxes, live, make_document, signing_key, names, brings, refusal, told
):
    """Neither another one, nor the live release where one was to serve."""
    candidate = sandbox_of(make_document(reason="candidate"), signing_key)
    other = sandbox_of(make_document(reason="other"), signing_key)
    token = token_for(signing_key, now=NOW, sandbox={"none": None, "other": other, "candidate": candidate}[names])
    brought = candidate.to_mapping() if brings == "candidate" else brings
    body = b"{}" if brought is None else orjson.dumps({"ballast_sandbox": brought})

    with pytest.raises(refusal, match=told):
        await sandboxes.admit(inbound(body), token, live=live, now=NOW)


async def test_sandbox_that_is_no_good_is_the_callers_mistake(sandboxes, live, make_document, signing_key):
    """The runner hears the path within its document."""
    document = make_document()
    document["sections"]["routing"]["routes"]["chat"]["lanes"] = ["gone"]
    envelope = sandbox_of(document, signing_key)
    body = orjson.dumps({"ballast_sandbox": envelope.to_mapping()})

    with pytest.raises(InvalidRequest, match=r"malformed_release: \$\.sections\.routing\.routes\.chat"):
        await sandboxes.admit(inbound(body), token_for(signing_key, now=NOW, sandbox=envelope), live=live, now=NOW)


async def test_request_goes_on_without_its_sandbox(sandboxes, live, make_document, signing_key):
    """What is asked of a lane, and what it is thought to take, is the question alone."""
    envelope = sandbox_of(make_document(), signing_key)
    fields = {"model": "chat", "messages": [{"role": "user", "content": "Grüße"}]}
    body = orjson.dumps({"ballast_sandbox": envelope.to_mapping()} | fields)

    admission = await sandboxes.admit(
        inbound(body, user="ada"), token_for(signing_key, now=NOW, sandbox=envelope), live=live, now=NOW
    )

    assert orjson.loads(admission.inbound.body) == fields
    assert (admission.inbound.user, admission.release.digest) == ("ada", envelope.digest)


@pytest.mark.parametrize(
    ("changes", "param"),
    [({"idempotency_key": "k"}, "Idempotency-Key"), ({"body": b'{"stream": true}'}, "stream")],
)
async def test_eval_is_refused_what_outlives_its_request(sandboxes, live, signing_key, changes, param):
    """No key that would give a run another's answer, and no stream that somebody might keep."""
    with pytest.raises(InvalidRequest) as refusal:
        await sandboxes.admit(inbound(**changes), token_for(signing_key, now=NOW), live=live, now=NOW)

    assert refusal.value.param == param


# --- reading ----------------------------------------------------------------------------------------------------------
async def test_reading_a_sandbox_holds_nobody_up(sandboxes, reading, live, make_document, signing_key):
    """The loop goes on while a thread reads, and all who bring the same wait for the same reading."""
    reading.may_go_on.clear()
    envelope = sandbox_of(make_document(), signing_key)
    waiting = [asyncio.create_task(sandboxes.open(envelope, live)) for _ in range(5)]
    await reading.begun.wait()  # the loop turns, although nothing of the reading has come to its end
    reading.may_go_on.set()

    opened = await asyncio.gather(*waiting)

    assert len(reading.threads) == 1
    assert reading.threads[0] != threading.get_ident()
    assert {id(one) for one in opened} == {id(opened[0])}


async def test_whoever_leaves_takes_the_reading_from_nobody(sandboxes, reading, live, make_document, signing_key):
    """The first of two is cancelled while it waits; the second gets what is read for both."""
    reading.may_go_on.clear()
    envelope = sandbox_of(make_document(), signing_key)
    first, second = (asyncio.create_task(sandboxes.open(envelope, live)) for _ in range(2))
    await reading.begun.wait()
    first.cancel()
    reading.may_go_on.set()

    opened = await second

    assert (first.cancelled(), opened.digest, len(reading.threads)) == (True, envelope.digest, 1)


async def test_broken_sandbox_is_not_kept_and_takes_nobody_with_it(
    sandboxes, reading, live, make_document, signing_key
):
    """One that claims the digest of a good one is refused by itself, and the good one is read."""
    good = sandbox_of(make_document(), signing_key)
    broken = replace(good, signature="AAAA")

    results = await asyncio.gather(*(sandboxes.open(one, live) for one in (broken, good)), return_exceptions=True)

    assert isinstance(results[0], BadSignature)
    assert results[1].digest == good.digest


async def test_sandboxes_that_nobody_asks_for_are_forgotten_first(sandboxes, reading, live, make_document, signing_key):
    """So many are kept; the first, which was asked for again, outlives the second."""
    envelopes = [sandbox_of(make_document(reason=str(number)), signing_key) for number in range(KEPT + 1)]
    for envelope in envelopes[:KEPT]:
        await sandboxes.open(envelope, live)
    await sandboxes.open(envelopes[0], live)
    await sandboxes.open(envelopes[KEPT], live)
    assert len(reading.threads) == KEPT + 1

    await sandboxes.open(envelopes[0], live)
    assert len(reading.threads) == KEPT + 1
    await sandboxes.open(envelopes[1], live)
    assert len(reading.threads) == KEPT + 2


async def test_sandbox_is_read_anew_when_the_live_release_changes(sandboxes, reading, live, make_document, signing_key):
    """What guards its lanes is the live release's to say."""
    envelope = sandbox_of(make_document(), signing_key)
    await sandboxes.open(envelope, live)

    await sandboxes.open(envelope, replace(live, revision=2, digest="2" * 64))

    assert reading.revisions == [1, 2]


# --- guards -----------------------------------------------------------------------------------------------------------
def parsed(make_document, routing):
    return parse_document(make_document(0, routing=routing), digest="2" * 64, is_sandbox=True)


def test_lane_that_customers_use_keeps_its_guards(make_document, live):
    """It is the same upstream, so it is the same lane, whatever policies the sandbox has for it."""
    table = guarded_routing()
    table["breakers"]["b"] = breaker_policy(failure_rate=0.9)

    lanes = guarded_like(parsed(make_document, table), live).routing.routes["chat"].lanes

    assert [lane is live.routing.lanes[lane.id] for lane in lanes] == [True, True]


@pytest.mark.parametrize(
    "changes",
    [
        {"upstream_model": "gpt-4o-mini"},
        {"first_byte_timeout_seconds": 0.001},
        {"capabilities": ["chat"]},
        {"input_micros_per_million_tokens": 1},
    ],
)
def test_lane_that_the_sandbox_has_otherwise_has_no_breaker(make_document, live, changes):
    """Under the name of a live lane something else is asked: that may fail without holding customers back."""
    table = guarded_routing(**{EU: LANE | changes})

    lane = guarded_like(parsed(make_document, table), live).routing.lanes[EU]

    assert (lane.breaker, lane.probe) == (None, None)
    assert lane.quota_pool == live.routing.lanes[EU].quota_pool


def test_new_lane_of_a_known_account_takes_of_its_quota(make_document, live):
    """Also under a policy of another name: what the provider admits is admitted to customers and evals together. What
    it says of the new model's limits is not held to be the account's.
    """
    table = guarded_routing(**{NEW: LANE | {"model": "gpt-5", "quota": "candidate"}})
    table["quotas"]["candidate"] = quota_document(requests=6000)

    lane = guarded_like(parsed(make_document, table), live).routing.lanes[NEW]

    assert lane.breaker is None
    assert (lane.quota_pool, lane.quota.learn) == ("main/shared", False)


@pytest.mark.parametrize("changes", [{"base_url": "https://elsewhere.example/v1"}, {"secret": "env:NEW_KEY"}])
def test_lane_of_another_account_of_the_same_name_has_no_guards(make_document, live, changes):
    """Its 429s and its failures are not those of the account that customers use."""
    table = guarded_routing()
    table["accounts"]["main"] |= changes

    lanes = guarded_like(parsed(make_document, table), live).routing.lanes

    assert (lanes[EU].breaker, lanes[EU].quota) == (None, None)
    assert lanes[US] is live.routing.lanes[US]
