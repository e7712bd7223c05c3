"""The room of shadows over HTTP: what each page says, the kill switch, samples and the checklist of a promotion."""

from datetime import timedelta

import pytest
import redis
from django.conf import settings
from django.utils import timezone

from controlplane.accounts.roles import Role
from controlplane.audit.models import AuditEvent
from controlplane.shadows import flags
from controlplane.shadows.models import ChecklistState, Item, PromotionChecklist
from controlplane.shadows.operations import policy_in_force
from controlplane.telemetry.operations import record_events
from controlplane.telemetry.shadows import ShadowSample, record_shadows
from dataplane.shadow.counting import MOMENTS, NOISE
from dataplane.shadow.switch import killed_key
from tests.console.conftest import said, words
from tests.factories import crew, make_operator, make_policy, make_routing, make_tenant
from tests.shadow_rows import CANDIDATE_LANE, POLICY, shadow_document, shadow_row, shadow_sample
from tests.worker_reports import report

ROOM, PAGE = "/shadow/", "/shadow/trial/"


@pytest.fixture(scope="module", autouse=True)
def deployment(lasting):
    with lasting():
        make_policy()
        make_routing(shadow_document())


@pytest.fixture
def policy(db, monkeypatch):
    """The policy in force; what a test tells the fleet of it is taken back."""
    monkeypatch.setattr(flags, "TIMEOUT_SECONDS", 60.0)
    found = policy_in_force(POLICY)
    yield found
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        client.delete(killed_key(found.digest))


def count(*rows, samples=(), worker="host-a/shadow"):
    record_shadows([report(shadow=rows, shadow_samples=samples, worker=worker)], now=timezone.now())


def now_row(policy, *, minutes=1, **fields):
    """Of so many minutes ago."""
    at = (timezone.now() - timedelta(minutes=minutes)).replace(second=0, microsecond=0)
    return shadow_row(at, digest=policy.digest, **fields)


def moments(n, **means):
    return {name: [n, n * means.get(name, 0.0), n * means.get(name, 0.0) ** 2] for name in MOMENTS}


def happened(kind, policy, *, seq=1, **data):
    said = {"policy": POLICY, "digest": policy.digest, **data}
    event = {"at": timezone.now().timestamp(), "kind": kind, "data": said}
    record_events([report(events=(event,), seq=seq)])


def test_room_says_how_each_shadow_does(signed_in, policy):
    """State, traffic, budget, and the candidate beside control with the noise floor under it."""
    count(
        now_row(policy, lane="", offered=230, discarded={"residency": 7, "queue_full": 3}),
        now_row(policy, asked=200, verdicts_agree=170, verdicts_differ=30, moments=moments(200, overlap=0.6)),
        now_row(policy, arm=NOISE, asked=100, verdicts_agree=99, verdicts_differ=1, moments=moments(100, overlap=0.8)),
    )

    text = words(signed_in(crew.oncall).get(ROOM))

    assert "Shadow trial asked 200 requests again in 24 h" in text
    assert "trial on chat running 10 % 200 200 3 7" in text
    assert "is judged otherwise on 15.0 % [10.7 … 20.6] of answers" in text
    assert "control is judged otherwise than itself on 1.0 % [0.2 … 5.4]" in text


def test_page_shows_figures_with_their_noise_floor(signed_in, policy):
    """What is beyond it is told apart from what is not; costs and latency are beside control's."""
    count(
        now_row(
            policy,
            asked=200,
            failed={"timeout": 4},
            rules={"no-prices@1:pass:block": 9},
            moments=moments(200, overlap=0.6, log2_cost=1.0, log2_latency=-1.0),
        ),
        now_row(policy, arm=NOISE, asked=100, moments=moments(100, overlap=0.6)),
    )

    text = words(signed_in(crew.auditor).get(PAGE))

    assert "Words differ 40.0 % [40.0 … 40.0] 40.0 % [40.0 … 40.0] +0.0 points [+0.0 … +0.0] within noise" in text
    assert "Cost of an answer 2.00 × control's" in text
    assert "Latency of an answer 0.50 × control's" in text
    assert "no-prices@1 pass block 9" in text
    assert "timeout 4" in text
    assert "Tools differ" not in text


def test_page_without_answers_says_what_is_missing(signed_in, policy):
    """Nothing is drawn from too few."""
    text = words(signed_in(crew.owner).get(PAGE))

    assert "0 of 30 answers compared so far" in text
    assert "No answer of a candidate was compared yet" in text


def test_room_without_shadows_says_what_they_are_for(signed_in, db):
    """The first step is offered to whoever can take it."""
    document = shadow_document()
    del document["shadows"]
    document["routes"]["chat"]["shadow"] = None
    make_routing(document)

    assert "Propose a table" in words(signed_in(crew.oncall).get(ROOM))
    assert "Somebody with the role On-call or Admin" in words(signed_in(crew.owner).get(ROOM))


def test_kill_and_lift_are_one_click_with_a_reason(signed_in, policy):
    """The page then says who, when and why."""
    oncall = signed_in(crew.oncall)

    killed = oncall.post(f"{PAGE}kill/", {"reason": "too dear"})
    again = oncall.post(f"{PAGE}kill/", {"reason": "too dear"})
    text = words(oncall.get(PAGE))
    lifted = oncall.post(f"{PAGE}lift/", {"reason": "mended"})

    assert said(killed) == ["trial is killed; shadow processes obey within a second"]
    assert "is killed since" in said(again)[-1]
    assert "Too dear (oncall" in text
    assert "Killed shadow trial" in text
    assert "trial goes on" in said(lifted)[-1]
    assert oncall.post(f"{PAGE}kill/", {"reason": ""}).status_code == 302
    assert " running " in words(oncall.get(ROOM))


def test_only_who_holds_lanes_is_offered_the_switch(signed_in, policy):
    """Everybody else sees how it stands."""
    assert b"shadow/trial/kill/" in signed_in(crew.oncall).get(PAGE).content
    assert b"shadow/trial/kill/" not in signed_in(crew.auditor).get(PAGE).content
    assert signed_in(crew.auditor).post(f"{PAGE}kill/", {"reason": "r"}).status_code == 403


def test_what_stopped_it_is_told_before_the_release_has_it(signed_in, policy):
    """Killed by itself a moment ago, or at rest for the day."""
    happened("shadow.paused", policy, measured={"budget": "cost_micros", "day": f"{timezone.now():%Y-%m-%d}"})
    paused = words(signed_in(crew.oncall).get(ROOM))
    happened("shadow.killed", policy, seq=2, cause="cost_ratio", measured={"answers": 20, "ratio": 3.5})
    killed = words(signed_in(crew.oncall).get(ROOM))

    assert "paused until 0:00 UTC the day's budget of money is used up" in paused
    assert "killed by itself: 20 answers cost 3.50 times what control's did" in killed


def test_words_of_a_sample_are_for_who_may_read_them(signed_in, policy):
    """The list has numbers alone; whoever opens the words stands in the record."""
    make_tenant("acme", log_content=True)
    make_tenant("globex", log_content=False)
    kept = (shadow_sample(), shadow_sample("req_2", tenant="globex"))
    count(samples=kept)
    sample = ShadowSample.objects.get(tenant="acme")

    listed = words(signed_in(crew.auditor).get(PAGE))
    read = signed_in(crew.auditor).get(f"{PAGE}samples/{sample.pk}/")

    assert "50 % of words differ; no-prices@1: pass → block" in listed
    assert "Tuesday" not in listed
    assert "not kept" in listed
    assert "It left the our house on Monday Tuesday" in words(read)
    assert AuditEvent.objects.get(action="shadow.sample_read").data["request"] == "req_1"
    assert signed_in(crew.oncall).get(f"{PAGE}samples/{sample.pk}/").status_code == 404
    assert "not yours to read" in words(signed_in(crew.oncall).get(PAGE))


def test_pages_take_as_many_queries_however_much_there_is(signed_in, policy, queries):
    """What they sum up is summed where it is."""
    oncall = signed_in(crew.oncall)
    make_tenant("acme", log_content=True)
    count(now_row(policy, asked=1), samples=(shadow_sample(),))
    oncall.get(ROOM)
    few = [queries(lambda page=page: oncall.get(page)) for page in (ROOM, PAGE)]
    for minute in range(2, 12):
        rows = [now_row(policy, minutes=minute, asked=3), now_row(policy, minutes=minute, arm=NOISE, asked=1)]
        count(*rows, samples=(shadow_sample(f"req_{minute}"),), worker=f"host-{minute}/shadow")

    assert [queries(lambda page=page: oncall.get(page)) for page in (ROOM, PAGE)] == few


# --- promotions ------------------------------------------------------------------------------------------------------
MARGINS = dict.fromkeys(("schema_margin", "validators_margin", "tools_margin"), "5")
RATIOS = {"cost_ratio": "1.2", "latency_ratio": "1.25"}
THRESHOLDS = {"comparisons": "50", "days": "1", "residency_requests": "1"} | MARGINS | RATIOS


def opened(client, **fields):
    return client.post(
        f"{PAGE}promote/", {"route": "chat", "lane": CANDIDATE_LANE, "reason": "as good", **THRESHOLDS, **fields}
    )


def test_checklist_is_opened_signed_and_given_up(signed_in, policy):
    """One opens, two others sign what is shown; what is not shown says so in the place of a button."""
    same = moments(100, overlap=0.6)
    count(now_row(policy, asked=100, moments=same), now_row(policy, arm=NOISE, asked=100, moments=same))
    oncall, one, two = (signed_in(who) for who in (crew.oncall, crew.approver_one, crew.approver_two))

    page = opened(oncall)["Location"]
    first = words(one.get(page))
    signed = one.post(f"{page}sign/cost/")
    again = one.post(f"{page}sign/cost/")
    refused = one.post(f"{page}sign/golden/")
    two.post(f"{page}sign/cost/")
    text = words(two.get(page))

    assert "0 of 9 items are signed by two people. Not shown yet:" in first
    assert "Cost met An answer costs 1.00 × [1.00 … 1.00] what control's does" in first
    assert "No golden set covers the lane" in first
    assert said(signed) == ["Signed 'cost'; its figures are frozen with your name"]
    assert "approver-one has signed 'cost' already" in said(again)[-1]
    assert "no golden set covers the lane" in said(refused)[-1]
    assert "1 of 9 items are signed by two people" in text
    assert "signed by two" in text
    oncall.post(f"{page}withdraw/", {"reason": "too early"})
    assert "Withdrawn by oncall: too early." in words(oncall.get(page))


def test_opener_who_may_sign_is_told_why_not(signed_in, policy):
    """An admin proposes and signs, but never the same promotion."""
    count(now_row(policy, asked=100, moments=moments(100)))
    admin = signed_in(crew.admin)

    page = opened(admin)["Location"]

    assert "you opened it, so two others sign" in words(admin.get(page))
    assert "opened checklist" in said(admin.post(f"{page}sign/comparisons/"))[-1]


def test_form_says_what_is_wrong_with_it(signed_in, policy):
    """Beside the field, or above where it is of the whole."""
    oncall = signed_in(crew.oncall)

    nothing = opened(oncall)
    count(now_row(policy, asked=1))
    wrong = opened(oncall, days="0", reason="")

    assert nothing.status_code == 400
    assert "was never asked anything" in words(nothing)
    assert wrong.status_code == 400
    assert "greater than or equal to 1" in words(wrong)
    assert oncall.get(f"{PAGE}promote/").status_code == 200


def test_void_checklist_says_what_changed(signed_in, policy):
    """At once, also before it has been ended by itself; whoever signed stays to be read, and counts for nothing."""
    count(now_row(policy, asked=100, moments=moments(100)))
    oncall = signed_in(crew.oncall)
    page = opened(oncall)["Location"]
    signed_in(crew.approver_one).post(f"{page}sign/cost/")
    make_routing(shadow_document(percent=11))

    text = words(oncall.get(page))

    assert "Void: shadow policy 'trial' decides otherwise now." in text
    assert "approver-one void just now" in text
    assert "waits for a signature" not in text
    assert PromotionChecklist.objects.get().state == ChecklistState.OPEN


def test_rail_and_palette_lead_here(signed_in, policy):
    """For whoever sees routing."""
    owner, nobody = signed_in(crew.owner), signed_in(make_operator("guest"))
    labels = [entry["label"] for entry in owner.get("/palette.json").json()["entries"]]

    assert "Shadow trial" in labels
    assert b'href="/shadow/"' in owner.get("/").content
    assert b'href="/shadow/"' not in nobody.get("/").content
    assert nobody.get(ROOM).status_code == 403


def test_unknown_things_are_missing(signed_in, policy):
    """No policy, no sample, no checklist of that name; no item of that name is signed."""
    oncall = signed_in(crew.oncall)

    for path in ("/shadow/other/", "/shadow/checklists/9/", f"{PAGE}samples/9/", "/shadow/other/promote/"):
        assert oncall.get(path).status_code == 404
    count(now_row(policy, asked=1))
    page = opened(oncall)["Location"]
    assert "no item 'mood'" in said(signed_in(make_operator("third", Role.APPROVER)).post(f"{page}sign/mood/"))[-1]
    assert len(Item) == 9
