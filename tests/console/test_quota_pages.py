"""The quota page over HTTP and its sentence, and where else the console shows quota policies."""

from datetime import timedelta

import pytest
from django.utils import timezone

from controlplane.console.quota_content import sentence_of
from controlplane.routing.models import RoutingTable
from controlplane.telemetry.operations import merge_rollups, record_events, record_quota_states
from controlplane.telemetry.quotas import Pool, QuotaStanding
from dataplane.routing import RoutingTable as Routing
from tests.console.conftest import words
from tests.factories import crew, make_policy, make_routing, make_tenant, routing_document
from tests.worker_reports import STILL_HEARD, quota_state, report, rollup

OPENAI = "openai/us-east/main/gpt-4o"
PAGE = "/routing/quotas/"
POLICY = "/routing/quotas/shared/"


@pytest.fixture(scope="module", autouse=True)
def deployment(lasting):
    with lasting():
        make_policy()
        make_routing()


@pytest.fixture
def table(db):
    return RoutingTable.objects.get()


def workers_say(*quotas, count=1, seq=1, name="host/gateway-{}"):
    """As many workers know this of their pools now, and are not silent so soon."""
    heard = timezone.now() + STILL_HEARD
    batch = [report(worker=name.format(at), seq=seq, sent_at=heard, quotas=quotas) for at in range(count)]
    record_quota_states(batch, now=heard)


def happened(*events, seq=1):
    """This happened in worker host/gateway-0: (seconds ago, kind, data)."""
    now = timezone.now()
    said = tuple(
        {"at": (now - timedelta(seconds=ago)).timestamp(), "kind": kind, "data": data} for ago, kind, data in events
    )
    record_events([report(worker="host/gateway-0", seq=seq, events=said)])


def pool(account="openai-main", policy="shared", **standing):
    """A pool that stands so; without words, within its limits."""
    facts = {"learned": {}, "limits": {}, "waiting": (0, 0), "eta": (0.0, 0.0), "paused_seconds": 0.0, "ramp": 1.0}
    facts |= {"in_flight": 0, "used_share": 0.4, "workers": 8, "alone": 0, **standing}
    classes = ("interactive", "batch")
    facts["waiting"] = dict(zip(classes, facts["waiting"], strict=True))
    facts["eta_seconds"] = dict(zip(classes, facts.pop("eta"), strict=True))
    name = f"{account}/{policy}"
    shared = Routing.parse(routing_document()).quotas["shared"]
    return Pool(name, account, shared, (OPENAI,), QuotaStanding(name, account, policy, **facts), 0, 0)


def unheard(account):
    known = pool(account)
    return Pool(known.name, account, known.policy, known.lanes, None, 0, 0)


@pytest.mark.parametrize(
    ("pools", "tone", "text"),
    [
        ([pool()], "good", "Account openai-main is within its limits; nobody waits."),
        ([pool(), pool("azure-eu")], "good", "Both accounts are within their limits; nobody waits."),
        ([pool("a"), pool("b"), pool("c")], "good", "All 3 accounts are within their limits; nobody waits."),
        (
            [pool(paused_seconds=11.2, waiting=(31, 120), eta=(13.6, None)), pool("azure-eu")],
            "bad",
            "Account openai-main is paused for 12 s more after a 429; 31 interactive and 120 batch requests wait, "
            "about 14 s for one who comes now.",
        ),
        (
            [
                pool("a", paused_seconds=90.0, used_share=1.2),
                pool("b", paused_seconds=0.3, ramp=0.1),
                pool("c", ramp=0.4),
            ],
            "bad",
            "Accounts a (1 min 30 s) and b (1 s) are paused after 429s. "
            "Account c is open to 40 % of its limits after a 429; nobody waits.",
        ),
        (
            [pool("a", ramp=0.1), pool("b", ramp=0.5)],
            "watch",
            "Accounts a (10 %) and b (50 %) open again after 429s; nobody waits.",
        ),
        (
            [pool(used_share=0.97, waiting=(0, 1), eta=(None, None))],
            "watch",
            "Account openai-main has used 97 % of a limit; 1 batch request waits.",
        ),
        (
            [pool(waiting=(1, 0), eta=(4.0, None)), pool("b", waiting=(1200, 3), eta=(3.0, 60.0))],
            "watch",
            "Both accounts are within their limits; 1,201 interactive and 3 batch requests wait, "
            "about 4 s for one who comes now.",
        ),
        (
            [pool(alone=2), pool(policy="bulk"), unheard("azure-eu")],
            "watch",
            "Both quotas are within their limits; nobody waits. No worker tells of account azure-eu. "
            "2 of 8 workers cannot ask the others and keep to their part of the limits.",
        ),
        (
            [pool(paused_seconds=3.0), pool(policy="bulk")],
            "bad",
            "Account openai-main/shared is paused for 3 s more after a 429; nobody waits.",
        ),
        (
            [unheard("a"), unheard("b")],
            "off",
            "No worker tells of accounts a and b: none serves a release with its quotas.",
        ),
    ],
)
def test_state_of_all_quotas_reads_as_one_sentence(pools, tone, text):
    """Who is paused, who waits and for how long, who is close to a limit, who is alone; the worst gives the tone."""
    said = sentence_of(pools)

    assert (said.tone, said.text) == (tone, text)


def test_quota_page_shows_each_account_with_its_limits_and_who_waits(table, signed_in):
    """Limits with units and whether they were learned, the 429s of the last quarter of an hour, and what happened."""
    now = timezone.now()
    merge_rollups([report(rollup(_bucket(now, 60), lane=OPENAI, requests=40, throttled=3))], now=now)
    waits = {"waiting": {"interactive": 31, "batch": 120}, "eta_seconds": {"interactive": 13.5, "batch": None}}
    learned = {"limits": {"requests": 8000, "concurrency": 200}, "learned": {"requests": 8000}}
    workers_say(
        quota_state(**waits, **learned, paused_seconds=590.0 - STILL_HEARD.total_seconds(), used_share=0.83),
        quota_state("azure-eu", ramp=0.4),
        count=2,
    )
    happened(
        (
            9,
            "quota.learned",
            {"pool": "openai-main/shared", "limit": "input_tokens", "declared": None, "learned": 8000},
        ),
        (8, "quota.paused", {"pool": "p", "account": "openai-main", "lane": OPENAI, "seconds": 20, "reason": "429"}),
        (7, "quota.alone", {"pool": "azure-eu/shared", "reason": "redis is away"}),
        (6, "quota.shared", {}),
        (5.5, "quota.paused", {"account": "openai-main", "lane": OPENAI, "seconds": 0, "reason": "429"}),
        (5, "quota.moved", {}),
        (86_500, "quota.alone", {"reason": "yesterday"}),
        (4, "breaker.changed", {"lane": OPENAI}),
    )
    browser = signed_in(crew.oncall)

    page = browser.get(PAGE)
    text = words(page)

    anthropic, azure, openai = page.context["rows"]
    assert [row.pool.account for row in (anthropic, azure, openai)] == ["anthropic-main", "azure-eu", "openai-main"]
    assert page.context["sentence"].tone == "bad"
    assert "31 interactive and 120 batch requests wait, about 14 s for one who comes now." in text
    assert [limit.words for limit in anthropic.limits] == [
        "10,000 requests in 1 min",
        "2,000,000 tokens in 1 min",
        "200 requests at once",
    ]
    assert (anthropic.state["text"], anthropic.used, anthropic.workers) == ("not heard of", "–", "none")
    assert (azure.state["text"], azure.pool.attempts) == ("open to 40 %", 0)
    assert openai.state["text"].startswith("paused, 9 min ")
    assert "8,000 requests in 1 min learned, not 10,000 200 requests at once declared 2 together" in text
    assert "31 interactive about 14 s 120 batch time not known" in text
    assert "83 %" in text
    assert "3 of 40 attempts 8,000 requests" in text
    assert [(event["text"], event["reason"], event["actor"]) for event in page.context["events"]] == [
        ("quota.moved", "", "host/gateway-0"),
        (
            f"Opened account openai-main anew, from a tenth, after a 429 on {OPENAI} that named no time",
            "429",
            "host/gateway-0",
        ),
        ("Shares … with the other workers again", "", "host/gateway-0"),
        (
            "Cannot share azure-eu/shared with the other workers; keeps to its part",
            "redis is away",
            "host/gateway-0",
        ),
        (f"Paused account openai-main for 20 s after a 429 on {OPENAI}", "429", "host/gateway-0"),
        ("Learned that openai-main/shared is admitted 8,000 input tokens; declared: nothing", "", "host/gateway-0"),
    ]


def _bucket(now, seconds_ago):
    at = now - timedelta(seconds=seconds_ago)
    return at.replace(second=at.second // 10 * 10, microsecond=0)


def test_workers_of_one_quota_are_listed_where_it_is_asked_for(table, signed_in):
    """Those that are alone first, with what each gave out; the address says whose, so that it stays open while live."""
    workers_say(quota_state(paused_seconds=30.0, waited_ms_p50=120.4, waited_ms_p95=2400.0), count=2)
    workers_say(quota_state(is_alone=True, ramp=0.3), name="host/lone")
    browser = signed_in(crew.auditor)

    page = browser.get(f"{PAGE}?pool=openai-main/shared")

    assert [row.said.worker for row in page.context["workers"]] == ["host/lone", "host/gateway-0", "host/gateway-1"]
    assert [row.waited for row in page.context["workers"]][:2] == [("–", "–"), ("120 ms", "2,400 ms")]
    assert "host/lone alone open to 30 % 5 20 0 – –" in words(page)
    assert "1 of 3 alone" in words(page)
    assert 'hx-get="/routing/quotas/?pool=openai-main/shared"' in page.content.decode()
    assert "host/lone" not in words(browser.get(PAGE))
    assert browser.get(f"{PAGE}?pool=gone/shared").status_code == 404


def test_page_without_a_quota_says_what_one_is_for_and_the_first_step(db, signed_in):
    """To whoever may propose a table with a way there, to others with whom to ask."""
    document = routing_document()
    for lane in document["lanes"].values():
        lane.pop("quota", None)
    make_routing(document)

    proposer, reader = (signed_in(one).get(PAGE) for one in (crew.oncall, crew.legal))

    assert "a 429 pauses everybody at once" in words(proposer)
    assert 'href="/routing/new/"' in proposer.content.decode()
    assert "Somebody with the role On-call or Admin proposes" in words(reader)
    assert "Policies that no lane names: shared" in words(reader)
    lane = words(signed_in(crew.oncall).get(f"/routing/lanes/?lane={OPENAI}"))
    assert "none: nobody waits for what its account is admitted; its 429s are met by each worker for itself" in lane


def test_quota_page_takes_as_many_queries_for_much_as_for_little(table, signed_in, queries):
    """However many workers, pools and events there are."""
    browser = signed_in(crew.oncall)
    page = f"{PAGE}?pool=openai-main/shared"
    workers_say(quota_state())
    browser.get(page)
    few = queries(lambda: browser.get(page))
    workers_say(quota_state(), quota_state("azure-eu"), quota_state("anthropic-main"), count=30, seq=2)
    happened(*((at, "quota.shared", {}) for at in range(40)))

    assert queries(lambda: browser.get(page)) == few


def test_quota_policy_says_what_it_does_and_its_numbers_are_changed_like_any_other(table, signed_in):
    """Every number with its origin and the lanes under it; one that goes with no other is refused beside its field."""
    browser = signed_in(crew.oncall)
    policy = routing_document()["quotas"]["shared"]
    shares = ("headroom", "batch_share")
    numbers = {
        name: f"{one['value'] * (100 if name in shares else 1):g}"
        for name, one in policy.items()
        if isinstance(one, dict)
    }
    source = {"origin": "incident", "note": "they said so", "link": "/routing/", "review_by": "2099-01-01"}

    def changed(name, value):
        asked = {f"{name}-{part}": said for part, said in source.items()}
        return browser.post(POLICY, {**numbers, name: value, **asked, "reason": "r", "action": "submit"})

    page = browser.get(POLICY)
    refused = changed("vip_concurrency", "200")
    review = browser.get(changed("batch_share", "25").url)

    rows = {row.name: row for row in page.context["rows"]}
    assert (len(rows), rows["requests"].shown, rows["batch_share"].shown) == (16, "10,000 per window", "20 %")
    assert rows["window_seconds"].words.meaning == "Over which the provider counts"
    assert rows["requests"].tag == "vendor"
    assert "While interactive callers wait, batch work gets 20 % of what is given out" in words(page)
    assert len(page.context["lanes"]) == 5
    assert refused.status_code == 400
    assert "leaves nobody else any" in refused.context["form"].errors["vip_concurrency"][0]
    assert "Quota policy shared: Share of batch work 20 % → 25 %" in words(review)
    assert "batch work gets 25 % of what is given out" in words(review)


def test_routing_page_says_whom_a_tenant_takes_along_and_where_each_may_go(db, signed_in):
    """A tenant reaches the accounts that workers choose for it, and the page names those lanes alone."""
    make_tenant("globex")
    document = routing_document()
    for number in range(3):
        document["accounts"][f"more-{number}"] = document["accounts"]["openai-main"]
        lane = document["lanes"][OPENAI] | {"account": f"more-{number}"}
        document["lanes"][f"openai/us-east/{number}/gpt-4o"] = lane
        document["routes"]["chat"]["lanes"].append(f"openai/us-east/{number}/gpt-4o")
    document["routes"]["chat"]["accounts_per_tenant"] = 2
    make_routing(document)
    browser = signed_in(crew.admin)

    page = browser.get("/routing/")

    said = "each tenant reaches 2 of 4 accounts; one that exhausts its own takes along 17 % of the others"
    assert f"Of lanes that differ by their account alone, {said}." in words(page)
    assert said in words(browser.get("/routing/routes/chat/"))
    assert "Quota policies: shared" in words(page)
    (tenant,) = page.context["tenants"]
    chat = next(reach for reach in tenant["reaches"] if reach.route == "chat")
    assert len(chat.lanes) == 4
    assert sum(lane.startswith("openai/") for lane in chat.lanes) == 2
