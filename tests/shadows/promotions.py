"""A candidate that has shown what it must, and people who sign for it."""

from datetime import timedelta
from math import log2

import orjson

from controlplane.accounts.models import Tenant
from controlplane.evals.gate import runs_of_lane
from controlplane.evals.models import EvalSetVersion
from controlplane.evals.running import begin_run
from controlplane.evals.subjects import lane_subject
from controlplane.ledger.operations import record_usage
from controlplane.routing.operations import routing_tables
from controlplane.shadows.checklists import open_checklist, sign_item
from controlplane.shadows.models import Item, PromotionChecklist
from controlplane.shadows.operations import policy_in_force
from controlplane.telemetry.reports import parse_report
from controlplane.telemetry.shadows import record_shadows
from dataplane.shadow.counting import MOMENTS, NOISE
from tests.eval_runs import FakeGateway, answer, make_standard, messages_row, run_pieces
from tests.eval_sets import make_set_version
from tests.factories import NOW, SETUP, crew, make_routing
from tests.shadow_rows import CANDIDATE_LANE, POLICY, ROUTE, shadow_document, shadow_row, shadow_sample
from tests.worker_reports import report, usage_row

DAY = timedelta(days=1)


def ratios(n, *, cost=1.0, latency=1.0):
    """Moments of `n` answers that cost and took so many times what control's did, each alike."""
    named = {"log2_cost": log2(cost), "log2_latency": log2(latency), "overlap": 0.7}
    return {name: [n, n * named.get(name, 0.0), n * named.get(name, 0.0) ** 2] for name in MOMENTS}


def take(*rows, worker="host-a/shadow"):
    record_shadows([parse_report(orjson.dumps(report(shadow=rows, worker=worker)))], now=NOW)


def shadow_for_days(digest, *, days=3, each=500, noise=200, cost=1.0, latency=1.0, **fields):
    """So many comparisons a day of the candidate, and of control with itself, up to now."""
    rows = []
    for day in range(days):
        at = NOW - day * DAY
        found = fields | {"moments": ratios(each, cost=cost, latency=latency), "digest": digest}
        rows += [shadow_row(at, asked=each, **found)]
        rows += [shadow_row(at, arm=NOISE, asked=noise, moments=ratios(noise), digest=digest)]
    take(*rows)


def bill(*, requests=400, tenant="acme", lane=CANDIDATE_LANE):
    """So many requests that were asked of the lane."""
    record_usage(
        [
            usage_row(f"{tenant}-{number}", at=NOW, kind="shadow", lane=lane, route=ROUTE, tenant=tenant)
            for number in range(requests)
        ]
    )


def open_one(**fields):
    given = {"route": ROUTE, "lane": CANDIDATE_LANE, "reason": "cheaper and as good", "actor": crew.oncall, "now": NOW}
    return open_checklist(**given | fields)


def sign_all(checklist, *signers, now=NOW):
    for item in Item:
        for signer in signers:
            checklist = sign_item(checklist=checklist, item=item, operator=signer, now=now)
    return checklist


def pass_evals(lane=CANDIDATE_LANE, gateway=None):
    """A golden and a safety set with standards, and the lane's runs on them."""
    document = routing_tables.active().document
    for purpose in ("golden", "safety"):
        version = EvalSetVersion.objects.filter(set__slug=purpose).first() or make_set_version(
            purpose, messages_row("a"), messages_row("b"), purpose=purpose
        )
        standard = version.set.standards.first() or make_standard(version)
        subject = lane_subject(document, lane)
        begin_run(subject=subject, set_version=version, standard=standard, actor=SETUP, now=NOW)
    run_pieces(gateway)


def furnish(now):
    """Put a shadow in force in a running Ballast, as if it had run for three days, with an item signed once; it may
    be there already.

    For browsers: `now` is the moment at which they look.
    """
    if PromotionChecklist.objects.exists():
        return
    make_routing(shadow_document(routing_tables.active().document), now=now)
    digest = policy_in_force(POLICY).digest
    begin = now.replace(second=0, microsecond=0)
    rows = []
    for minutes in (2, 40, 90, 300, 24 * 60, 2 * 24 * 60):
        at = begin - timedelta(minutes=minutes)
        found = {"failed": {"upstream_timeout": 3}, "rules": {"no-prices@1:pass:block": 4}, "digest": digest}
        differ = {"verdicts_agree": 240, "verdicts_differ": 10}
        rows += [
            shadow_row(at, asked=250, moments=ratios(250, cost=1.1, latency=0.9), **found, **differ),
            shadow_row(at, arm=NOISE, asked=200, moments=ratios(200), digest=digest, verdicts_agree=193)
            | {"verdicts_differ": 7},
            shadow_row(at, lane="", offered=280, discarded={"residency": 20, "queue_full": 2}, digest=digest),
        ]
    samples = tuple(shadow_sample(f"req_shadow_{n}", now - timedelta(minutes=n), digest=digest) for n in (1, 2, 3))
    told = [report(shadow=tuple(rows), shadow_samples=samples, worker="walker/shadow", sent_at=now)]
    Tenant.objects.filter(slug="acme").update(log_content=True)
    record_shadows(told, now=now)
    record_usage(
        [
            usage_row(
                f"shadow-{number}", at=now, kind="shadow", lane=CANDIDATE_LANE, tenant="acme", prompt="", version=0
            )
            for number in range(400)
        ]
    )
    checklist = open_one(now=now, thresholds={"validators_margin": 5})
    sign_item(checklist=checklist, item=Item.COMPARISONS, operator=crew.approver_one, now=now)


def pass_evals_of_demo(now):
    """In a house with the demo, the candidate's runs on every set that gates: it says what each row expects."""
    expected = {}
    for met in runs_of_lane(routing_tables.active().document, CANDIDATE_LANE, route=ROUTE)[0]:
        version, standard = met.demand.held.version, met.demand.held.standard
        begin_run(subject=met.demand.subject, set_version=version, standard=standard, actor=SETUP, now=now)
        for row in version.rows.all():
            asked = row.document["variables"]["question"]
            expected[asked] = row.document.get("expected", {}).get("text", "I cannot help with that.")

    def say(body):
        said = expected[body["prompt"]["variables"]["question"]]
        return answer(orjson.dumps({"answer": said, "topic": "other", "resolved": True}).decode())

    run_pieces(FakeGateway(says=say), now=lambda: now)
