"""The threshold pages over HTTP: numbers with their origin, other numbers through sign-offs, and what they would do."""

from datetime import date, timedelta

import pytest
from django.utils import timezone

from controlplane.approvals.models import ChangeRequest
from controlplane.routing.models import RoutingTable
from controlplane.routing.operations import routing_tables
from controlplane.telemetry.operations import merge_rollups
from tests.console.conftest import words
from tests.factories import NOW, crew, make_policy, make_routing, routing_document
from tests.validator_tables import document_with, policy, rule
from tests.worker_reports import report, rollup

OPENAI, AZURE, ANTHROPIC = routing_document()["routes"]["chat"]["lanes"]
PAGE = "/routing/breakers/hosted-chat/"


@pytest.fixture
def table(db):
    make_policy()
    return make_routing()


def typed(page="hosted-chat", **changes):
    """The form as it is shown, with other numbers; `name__part` for where one comes from."""
    policy = routing_document()["breakers"][page]
    scale = {"failure_rate": 100, "timeout_rate": 100, "dragging_rate": 100}
    numbers = {name: f"{one['value'] * scale.get(name, 1):g}" for name, one in policy.items()}
    asked = {name.replace("__", "-"): value for name, value in changes.items()}
    return numbers | {"reason": "the drill of Monday", "action": "submit"} | asked


def sourced(name, **parts):
    """Where another number for `name` comes from."""
    said = {"origin": "load_test", "note": "seen in the drill", "link": "/routing/", "review_by": date(2099, 1, 1)}
    return {f"{name}__{part}": value for part, value in (said | parts).items()}


def measured(lane, *, minutes_ago, attempts=40, errors=30, seq=1):
    """A minute of this lane, in which so many attempts failed."""
    at = timezone.now().replace(second=0, microsecond=0) - timedelta(minutes=minutes_ago)
    merge_rollups([report(rollup(at, lane=lane, requests=attempts, errors=errors), seq=seq)], now=timezone.now())


def test_policy_page_shows_each_number_with_its_origin_over_what_was_measured(table, signed_in):
    """Shares in percent; the line in force is in the chart; whoever may not propose sees no form."""
    measured(OPENAI, minutes_ago=3)

    page = signed_in(crew.oncall).get(PAGE)
    plain = signed_in(crew.legal).get(PAGE).content.decode()

    rows = {row.name: row for row in page.context["rows"]}
    assert len(rows) == 14
    assert (rows["failure_rate"].shown, rows["failure_rate"].tag) == ("50 %", "incident")
    assert (rows["drain_tokens_per_second"].is_overdue, rows["probes"].shown) == (True, "1")
    chart = page.context["charts"]["chart-failure-rate"].figure
    assert [line["y0"] for line in chart["layout"]["shapes"]] == [50]
    assert [trace["name"] for trace in chart["data"]] == sorted([OPENAI, AZURE, ANTHROPIC])
    assert 75 in next(trace["y"] for trace in chart["data"] if trace["name"] == OPENAI)
    assert chart["layout"]["yaxis"]["range"][1] > 75
    assert "INC-204" in plain
    assert '<input type="number"' not in plain


def test_changed_numbers_are_proposed_with_where_they_come_from(table, signed_in):
    """One table, one change request; what was not touched keeps its origin."""
    asked = typed(
        failure_rate="40", probes="2", **sourced("failure_rate"), **sourced("probes", origin="guess", link="")
    )

    answer = signed_in(crew.oncall).post(PAGE, asked)

    change = ChangeRequest.objects.get()
    assert (answer.url, change.reason) == (f"/reviews/{change.pk}/", "the drill of Monday")
    proposed = RoutingTable.objects.get(number=2).document["breakers"]["hosted-chat"]
    before = routing_document()["breakers"]["hosted-chat"]
    assert {name for name in before if proposed[name] != before[name]} == {"failure_rate", "probes"}
    assert (proposed["failure_rate"]["value"], proposed["probes"]["value"]) == (0.4, 2)
    assert proposed["probes"]["provenance"]["origin"] == "guess"
    assert proposed["failure_rate"]["provenance"]["author"] == "oncall"


def rate(value="40", **parts):
    """Another failure rate, and where it comes from."""
    return {"failure_rate": value, **sourced("failure_rate", **parts)}


@pytest.mark.parametrize(
    ("asked", "field", "refusal"),
    [
        ({"failure_rate": "40"}, "failure_rate-origin", "A changed number needs this"),
        (rate(link=""), "failure_rate-link", "A changed number needs this"),
        (rate(link="slides"), "failure_rate-link", "neither an http"),
        (rate(review_by="2020-01-01"), "failure_rate-review_by", "after today"),
        (rate("140"), "failure_rate", "is not above 0 and at most 1"),
        ({"probes": "1.5", **sourced("probes")}, "probes", "expected a whole number"),
        ({"failure_rate": "much"}, "failure_rate", "Enter a number"),
        (rate() | {"reason": ""}, "reason", "required"),
        ({}, "__all__", "Nothing differs"),
    ],
)
def test_mistake_stands_beside_its_field(table, signed_in, asked, field, refusal):
    """Nothing is stored, and what was typed is still there."""
    page = signed_in(crew.oncall).post(PAGE, typed(**asked))

    assert (page.status_code, RoutingTable.objects.count()) == (400, 1)
    assert refusal in page.context["form"].errors[field][0]
    for name in ("failure_rate", "probes"):
        if name in asked:
            assert f'value="{asked[name]}"' in page.content.decode()


@pytest.mark.parametrize(
    ("asked", "field", "refusal"),
    [
        ({"no-mail.budget_ms": "0", **sourced("no-mail.budget_ms")}, "no-mail.budget_ms", "is not above 0"),
        ({"no-key.budget_ms": "60001", **sourced("no-key.budget_ms")}, "no-key.budget_ms", "at most 60000"),
        (
            {"no-key.budget_ms": "9", **sourced("no-key.budget_ms", link="slides")},
            "no-key.budget_ms-link",
            "neither an http",
        ),
        ({"window_characters": "0", **sourced("window_characters")}, "window_characters", "outside 1"),
    ],
)
def test_mistake_in_a_number_of_a_rule_stands_beside_that_rule(table, signed_in, asked, field, refusal):
    """Among those of all rules of its policy, and of the policy itself; none stands above the form."""
    make_routing(document_with(careful=policy(rule("no-mail"), rule("no-key"))))
    numbers = {"no-mail.budget_ms": "50", "no-key.budget_ms": "50", "window_characters": "400", "reason": "faster"}

    page = signed_in(crew.oncall).post(
        "/routing/validators/careful/", numbers | {name.replace("__", "-"): said for name, said in asked.items()}
    )

    assert (page.status_code, list(page.context["form"].errors)) == (400, [field])
    assert refusal in page.context["form"].errors[field][0]


def test_preview_says_what_the_numbers_would_have_done_and_stores_nothing(table, signed_in):
    """Both policies over the same stored minutes, lane by lane; no origin and no reason are needed to look."""
    measured(OPENAI, minutes_ago=90, errors=16)
    measured(OPENAI, minutes_ago=60, errors=0, seq=2)
    measured(OPENAI, minutes_ago=30, errors=30, seq=3)
    measured(AZURE, minutes_ago=30, attempts=3, errors=3, seq=4)

    page = signed_in(crew.oncall).post(PAGE, typed(failure_rate="30", action="preview", reason=""))

    assert (page.status_code, RoutingTable.objects.count()) == (200, 1)
    by_lane = {row.lane: row for row in page.context["replayed"]}
    openai = by_lane[OPENAI]
    assert (openai.before.openings, openai.after.openings, openai.problem) == (1, 2, "")
    assert openai.before.first > openai.after.first
    assert "Never enough attempts" in by_lane[AZURE].problem
    assert by_lane[ANTHROPIC].problem == "No attempts in 30 days"
    assert "good to minutes, not seconds" in words(page)


def test_review_of_changed_thresholds_shows_the_same_numbers(table, signed_in):
    """Fetched by themselves, since they take seconds; a change of anything else has none."""
    measured(OPENAI, minutes_ago=30, errors=16)
    signed_in(crew.oncall).post(PAGE, typed(failure_rate="30", **sourced("failure_rate")))
    change = ChangeRequest.objects.get()
    other = routing_tables.submit(
        document=routing_document(deadline_ms=9000), rationale="r", actor=crew.oncall, now=NOW
    )
    deadline = routing_tables.propose(version=other, reason="r", actor=crew.oncall, now=NOW)
    browser = signed_in(crew.approver_one)

    review = browser.get(f"/reviews/{change.pk}/").content.decode()
    backtest = browser.get(f"/reviews/{change.pk}/backtest/")

    assert f'hx-get="/reviews/{change.pk}/backtest/"' in review
    (replay,) = backtest.context["replays"]
    assert (replay.slug, replay.changed) == ("hosted-chat", ("Failure rate 50 % → 30 %",))
    openai = next(row for row in replay.rows if row.lane == OPENAI)
    assert (openai.before.openings, openai.after.openings) == (0, 1)
    assert "backtest" not in browser.get(f"/reviews/{deadline.pk}/").content.decode()
    assert "alters no number" in words(browser.get(f"/reviews/{deadline.pk}/backtest/"))


def test_route_has_its_own_numbers(table, signed_in):
    """Held against what its lanes did, in the unit of the chart; they are proposed in the same way."""
    browser = signed_in(crew.admin)

    page = browser.get("/routing/routes/chat/")
    numbers = {"first_token_seconds": "4", "whole_answer_seconds": "25", "latency_open_share": "50"}
    source = {name.replace("__", "-"): value for name, value in sourced("first_token_seconds").items()}
    browser.post("/routing/routes/chat/", {**numbers, **source, "reason": "r", "action": "submit"})

    assert [row.shown for row in page.context["rows"]] == ["6 s", "25 s", "50 %"]
    assert page.context["charts"]["chart-first-token-seconds"].figure["layout"]["shapes"][0]["y0"] == 6000
    assert RoutingTable.objects.get(number=2).document["routes"]["chat"]["first_token_seconds"]["value"] == 4
    assert [row.shown for row in browser.get("/routing/routes/embed/").context["rows"]] == ["not set"] * 3


def test_limit_is_set_and_unset_where_a_policy_may_do_without(table, signed_in):
    """A number in an empty field needs its origin, an emptied field only the reason; others must keep a number."""
    browser, page = signed_in(crew.oncall), "/routing/quotas/shared/"
    form = browser.get(page).context["form"]
    as_shown = {name: form[name].value() for name in form.fields if "-" not in name} | {"reason": "a new contract"}
    source = {name.replace("__", "-"): value for name, value in sourced("input_tokens").items()}

    def propose(**changes):
        return browser.post(page, as_shown | changes | {"action": "submit"})

    without_origin = propose(input_tokens="90000")
    without_headroom = propose(headroom="")
    review = browser.get(propose(input_tokens="90000", requests="", **source).url)

    before, after = (RoutingTable.objects.get(number=number).document["quotas"]["shared"] for number in (1, 2))
    assert (before["input_tokens"], bool(before["requests"])) == (None, True)
    assert "A changed number needs this" in without_origin.context["form"].errors["input_tokens-origin"][0]
    assert (without_headroom.status_code, "headroom" in without_headroom.context["form"].errors) == (400, True)
    assert (after["input_tokens"]["value"], after["requests"]) == (90_000, None)
    assert before | {"input_tokens": 0, "requests": 0} == after | {"input_tokens": 0, "requests": 0}
    assert "Requests 10,000 per window → none" in words(review)


def test_stream_policy_says_what_it_does_and_its_numbers_are_changed_in_the_same_way(table, signed_in):
    """With the routes that name it; a number that its words do not go with is refused beside its field."""
    browser = signed_in(crew.oncall)
    numbers = {"retention_seconds": "3600", "abandon_seconds": "30", "continuations": "2", "reason": "r"}

    def changed(name, value):
        source = {key.replace("__", "-"): said for key, said in sourced(name).items()}
        return browser.post("/routing/streams/resumable/", {**numbers, name: value, **source, "action": "submit"})

    page = browser.get("/routing/streams/resumable/")
    refused = changed("continuations", "0")
    review = browser.get(changed("abandon_seconds", "12.5").url)

    text = words(page)
    assert "Stream policy resumable" in text
    assert "Named by route chat" in text
    assert "unread for 30 s, it is cancelled" in text
    assert [row.shown for row in page.context["rows"]] == ["3,600 s", "30 s", "2 times"]
    assert {lane["id"] for lane in page.context["lanes"]} == {OPENAI, AZURE, ANTHROPIC}
    assert (refused.status_code, page.context["charts"]) == (400, {})
    assert "on_cut 'continue' never happens" in refused.context["form"].errors["continuations"][0]
    proposed = RoutingTable.objects.get(number=2).document["streams"]["resumable"]
    assert proposed == routing_document()["streams"]["resumable"] | {"abandon_seconds": proposed["abandon_seconds"]}
    assert proposed["abandon_seconds"]["value"] == 12.5
    assert "Stream policy resumable: Given up after 30 s → 12.5 s" in words(review)
    assert "unread for 12.5 s, it is cancelled" in words(review)
    assert "Streams resumable" in words(browser.get("/routing/routes/chat/"))
    assert "Streams end with the caller's connection" in words(browser.get("/routing/routes/summaries/"))
    assert "Named by route chat" in words(browser.get("/routing/retries/patient/"))


def test_list_has_every_threshold_with_overdue_reviews_first(table, signed_in):
    """And by origin behind tabs."""
    browser = signed_in(crew.auditor)

    every = browser.get("/routing/thresholds/").context["rows"]
    guesses = browser.get("/routing/thresholds/?origin=guess").context["rows"]

    overdue = [row.is_overdue for row in every]
    assert overdue == sorted(overdue, reverse=True)
    assert any(overdue)
    assert {row.placed.provenance.origin for row in guesses} == {"guess"}
    assert len(browser.get("/routing/thresholds/?origin=hearsay").context["rows"]) == len(every)
    assert every[0].url.startswith("/routing/breakers/hosted-chat/#")


def test_policy_or_route_that_is_not_there_is_not_found(table, signed_in):
    """And only proposers propose."""
    browser = signed_in(crew.owner)

    assert browser.get("/routing/breakers/gone/").status_code == 404
    assert browser.get("/routing/routes/gone/").status_code == 404
    assert browser.post(PAGE, typed()).status_code == 403
