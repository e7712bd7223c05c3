"""Evals at a live gateway on a live simulator: what is asked there, of what, and as whom."""

import copy
import time
from random import Random

import pytest
from django.utils import timezone

from controlplane.evals.gate import unmet
from controlplane.evals.placing import prompt_subject
from controlplane.evals.running import begin_run
from controlplane.prompts.models import Prompt
from controlplane.releases.operations import current_release
from controlplane.releases.signing import signing_key
from controlplane.routing.operations import routing_tables
from controlplane.work.runner import run_due
from dataplane.release import key_id_of
from dataplane.simulator.server import SimulatorSettings, build_config
from tests.dataplane.gateway.conftest import run_gateway, serve
from tests.eval_runs import fresh, make_standard, messages_row
from tests.eval_sets import make_set_version, row
from tests.factories import NOW, make_routing, make_version, routing_document
from tests.validator_tables import propose

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

LANE = "openai/us-east/main/gpt-4o"
CANDIDATE = "openai/us-east/main/help-centre"


@pytest.fixture(scope="module")
def simulator_url():
    """One simulator for these tests."""
    with serve(build_config(SimulatorSettings(seed=7))) as url:
        yield url


@pytest.fixture
def gateway(simulator_url, settings):
    """A gateway that serves what this deployment has released, with every account at the simulator."""
    document = routing_document() | {"shadows": {}}  # these need a secret of their own, and there is one
    del document["routes"]["chat"]["shadow"]
    for account in document["accounts"].values():
        where = account["base_url"].partition("://")[2].partition("/")[2]
        account |= {"base_url": f"{simulator_url}/{where}", "secret": "env:SIM_KEY"}
    for lane in document["lanes"].values():
        lane |= dict.fromkeys(["connect_timeout_seconds", "first_byte_timeout_seconds", "idle_timeout_seconds"], 60)
    make_routing(document)
    key = signing_key().public_key()
    trusted = {key_id_of(key): key}
    with run_gateway(current_release().content["sections"], trusted_keys=lambda: trusted) as gateway:
        settings.GATEWAY_URL = gateway.url
        yield gateway


def work_off():
    """Do what workers would do until nothing is due."""
    while run_due(rng=Random(7), now=timezone.now, clock=time.monotonic):
        pass


def test_a_version_that_nobody_is_served_is_asked_at_the_gateway(gateway):
    """Rows of a prompt version in no release get answers with their costs; nobody's customer is billed for them."""
    make_version(Prompt.objects.get(slug="support-answer"), "Answer briefly")
    sources = [{"id": "help/refunds", "text": "You can return most items within 30 days."}]
    rows = [row(f"r{place}", variables={"name": f"Ada {place}"}, sources=sources) for place in range(6)]
    version = make_set_version("golden", *rows)
    make_standard(version)
    run = begin_run(subject=prompt_subject("support-answer", 2), set_version=version, actor="owner", now=NOW)

    work_off()
    run = fresh(run)

    assert (run.state, run.asked, run.unanswered) == ("done", 6, 0), run.answers.first().problem
    assert run.cost_micros > 0
    answers = list(run.answers.all())
    assert all(answer.text and answer.lane and answer.latency_ms > 0 and answer.request_id for answer in answers)
    billed = gateway.rows(6)
    assert {(one["kind"], one["tenant"]) for one in billed} == {("eval", "ballast")}
    assert sum(one["cost_micros"] for one in billed) == run.cost_micros


def test_a_lane_of_a_change_is_asked_before_it_is_in_force(gateway):
    """The candidate alone answers, from its sandbox; then the change may be approved."""
    make_standard(make_set_version("golden", messages_row("a"), messages_row("b")))
    document = copy.deepcopy(routing_tables.active().document)
    copied = {"model": "help-centre", "upstream_model": document["lanes"][LANE]["upstream_model"]}
    document["lanes"][CANDIDATE] = document["lanes"][LANE] | copied
    document["routes"]["chat"]["lanes"].append(CANDIDATE)
    change = propose(document)
    before = unmet(change)

    work_off()

    run = change.eval_runs.get()
    assert (len(before), unmet(change)) == (1, []), run.sentence
    assert {answer.lane for answer in run.answers.all()} == {CANDIDATE}
    assert CANDIDATE not in routing_tables.active().document["lanes"]


def test_rows_that_are_pinned_reach_no_lane_elsewhere(gateway):
    """Of a set that may not leave the EU only lanes there answer, whatever the route prefers."""
    version = make_set_version("european", row(variables={"name": "Ada"}), residency=["eu"])
    make_standard(version)
    run = begin_run(subject=prompt_subject("support-answer", 1), set_version=version, actor="owner", now=NOW)

    work_off()

    lanes = routing_tables.active().document["lanes"]
    assert fresh(run).is_done
    assert [lanes[answer.lane]["residency"] for answer in run.answers.all()] == ["eu"]
