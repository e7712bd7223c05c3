"""Trials of validator policies over the API."""

from datetime import timedelta
from urllib.parse import urlencode

import pytest

from controlplane.telemetry.operations import merge_rollups
from controlplane.trials.models import ValidatorTrial
from tests.factories import crew
from tests.validator_tables import document_with, policy, propose, run_trials, store
from tests.worker_reports import NOON, report, rollup

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]


@pytest.fixture
def change():
    store("Write to ada@example.com", "Within 14 days")
    return propose(document_with(careful=policy()))


def approval(change, **fields):
    return {"role": "approver", "decision": "approve", "digest": change.digest, **fields}


def test_a_script_waits_for_the_trial_and_signs(change, as_operator):
    """Before it is done the approval is refused with what is missing; afterwards there are numbers, and no words."""
    approver = as_operator(crew.approver_one)

    waiting = approver.get(f"changes/{change.pk}/trials").body
    refused = approver.post(f"changes/{change.pk}/sign-off", approval(change))
    run_trials()
    done = approver.get(f"changes/{change.pk}/trials").body
    signed = approver.post(f"changes/{change.pk}/sign-off", approval(change))

    assert waiting["trials"][0]["state"] == "running"
    assert (refused.status, refused.body["error"]["code"]) == (409, "not_prepared")
    assert refused.body["error"]["unmet"] == waiting["unmet"]
    (trial,) = done["trials"]
    assert (trial["state"], trial["tried"], trial["would_block"]) == ("done", 2, 1)
    assert trial["rules"][0]["counts"] == {"pass": 1, "warn": 0, "repair": 0, "block": 1, "abstain": 0}
    assert trial["examples"][0]["spans"] == [{"where": "text", "start": 9, "end": 24, "what": "e-mail address"}]
    assert "ada@" not in str(done)
    assert (done["unmet"], done["to_see"], signed.status) == ([], [], 200)


def test_a_script_says_that_it_has_seen_that_nothing_is_known(as_operator):
    """A policy that there is nothing to try on."""
    change = propose(document_with(careful=policy()))
    run_trials()
    approver = as_operator(crew.approver_one)

    to_see = approver.get(f"changes/{change.pk}/trials").body["to_see"]
    refused = approver.post(f"changes/{change.pk}/sign-off", approval(change))
    signed = approver.post(f"changes/{change.pk}/sign-off", approval(change, has_seen=True))

    assert "nobody knows what 'careful' would block" in to_see[0]
    assert (refused.status, refused.body["error"]["code"], signed.status) == (409, "not_seen", 200)


def test_a_trial_is_begun_again_and_not_twice(change, as_operator):
    """By who carries the change on; a change without validators has nothing to try."""
    run_trials()
    author = as_operator(crew.oncall)
    other = propose(document_with(deadline_ms=1000))

    begun = author.post(f"changes/{change.pk}/trials", {})
    twice = author.post(f"changes/{change.pk}/trials", {})
    nothing = author.post(f"changes/{other.pk}/trials", {})

    assert (begun.status, begun.body["trials"][0]["state"]) == (202, "running")
    assert (twice.status, twice.body["error"]["code"]) == (409, "already_trying")
    assert (nothing.status, nothing.body["error"]["code"]) == (409, "nothing_to_try")
    assert ValidatorTrial.objects.count() == 2


def test_verdicts_are_read_by_rule_prompt_version_and_lane(as_operator):
    """And what came of answers in all, beside the rules that looked at them."""
    outputs = {"validator:no-mail@1:block:": 2, "validator:answer:block:": 2, "repair:none:r0_strict:lossless": 5}
    merge_rollups([report(rollup(NOON, outputs=outputs))], now=NOON)
    asked = {"since": (NOON - timedelta(hours=1)).isoformat(), "until": (NOON + timedelta(hours=1)).isoformat()}

    read = as_operator(crew.auditor).get(f"answers/validator-outcomes?{urlencode(asked)}")

    place = {"prompt": "support-answer", "version": 12, "lane": "openai/eu-west/main/gpt-4o"}
    said = {"verdict": "block", "effect": "", "count": 2}
    assert read.body["results"] == [{**place, "rule": "answer", **said}, {**place, "rule": "no-mail@1", **said}]
