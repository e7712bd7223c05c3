"""The pages of answers that are to be JSON: how they came, what was wrong, and those that somebody completes."""

from datetime import timedelta
from uuid import uuid4

import orjson
import pytest
from django.utils import timezone

from controlplane.accounts.roles import Role
from controlplane.audit.models import AuditEvent
from controlplane.console.lists import PAGE_SIZE
from controlplane.console.palette import entries
from controlplane.console.repair_content import Groups, mode_chart, mode_rows, percent, rung_chart
from controlplane.console.repair_words import MODES, RUNGS, group_of, wanted_words
from controlplane.ledger.repairs import Repair
from controlplane.telemetry.operations import compact_rollups, merge_rollups
from controlplane.telemetry.outcomes import REPAIR
from controlplane.telemetry.outputs import Key, Place, Standing, read_outputs
from dataplane.aggregation import output_key
from dataplane.repair.labels import Mode, Rung
from tests.console.conftest import said, words
from tests.factories import crew, make_operator, make_policy, make_routing, make_tenant, routing_document
from tests.repair_rows import answer, asked, make_repair
from tests.worker_reports import NOON, report, rollup

PAGE = "/routing/repairs/"
LIST = "/usage/repairs/"
OPENAI, AZURE = "openai/us-east/main/gpt-4o", "azure/eu-west/eu/gpt-4o"
STRICT = Key("none", "r0_strict", "lossless")
FENCED = Key("fenced", "r1_extract", "lossless")
QUOTED = Key("wrong_type", "r3_coerce", "lossless")
CUT = Key("truncated", "r4_continue", "lossless")
FAILED = Key("missing_field", "r7_failed", "")
GUESSED = Key("truncated", "r2_syntax", "invented")


@pytest.fixture(scope="module", autouse=True)
def deployment(lasting):
    with lasting():
        make_policy()
        make_routing()


@pytest.fixture
def acme(db):
    make_tenant("globex")
    return make_tenant("acme")


def outputs(counts):
    return {output_key(REPAIR, key.name, key.outcome, key.label): number for key, number in counts.items()}


def counted(counts, *, at=None, **series):
    """A worker counted this, two minutes ago."""
    at = (at or timezone.now() - timedelta(minutes=2)).replace(second=0, microsecond=0)
    told = rollup(at, outputs=outputs(counts), **{"lane": OPENAI} | series)
    worker = "-".join(str(part) for part in series.values()) or "w"
    merge_rollups([report(told, worker=worker[:100])], now=timezone.now())
    compact_rollups(now=timezone.now())


# --- in words --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("counts", "tone", "text"),
    [
        ({}, "off", "No answer was to be JSON in the last hour, on a route that repairs it."),
        ({STRICT: 1}, "good", "100 % of 1 JSON answer in the last hour were right as they came; none failed."),
        (
            {STRICT: 12_179, FENCED: 148, CUT: 10, FAILED: 3},
            "watch",
            "98.7 % of 12,340 JSON answers in the last hour were right as they came; 1.2 % were repaired without loss, "
            "< 0.1 % were mended by a model and 3 failed.",
        ),
        (
            {STRICT: 9_999, QUOTED: 1},
            "good",
            "> 99.9 % of 10,000 JSON answers in the last hour were right as they came; < 0.1 % were repaired without "
            "loss and none failed.",
        ),
        (
            {STRICT: 50, GUESSED: 50},
            "watch",
            "50 % of 100 JSON answers in the last hour were right as they came; 50 % lost something or got something "
            "invented and none failed.",
        ),
        (
            {STRICT: 99, FAILED: 1},
            "bad",
            "99 % of 100 JSON answers in the last hour were right as they came; 1 failed.",
        ),
        ({STRICT: 1, FAILED: 1}, "watch", "50 % of 2 JSON answers in the last hour were right as they came; 1 failed."),
    ],
)
def test_how_answers_came_reads_as_one_sentence(counts, tone, text):
    """Its tone is that of the worst; a few answers are not enough to call it bad."""
    found = Groups.of(counts).sentence("in the last hour")

    assert (found.tone, found.text) == (tone, text)


def test_every_mode_and_rung_has_its_words_and_its_group():
    """Those of a worker that is newer than the console are shown by their own names."""
    assert set(MODES) == set(Mode)
    assert set(RUNGS) == set(Rung)
    assert [group_of(*pair) for pair in (("r0_strict", "invented"), ("r8_oracle", "lossy"), ("r5_surgeon", ""))] == [
        "changed",
        "changed",
        "model",
    ]


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (None, ""),
        ({}, ""),
        ({"type": "string"}, "text"),
        ({"type": ["integer", "null"]}, "a whole number or null"),
        ({"enum": ["orders", "refunds"]}, "one of orders, refunds"),
        ({"enum": list(range(9))}, "one of 0, 1, 2, 3, 4, 5, 6, 7, …"),
    ],
)
def test_what_a_schema_wants_is_said_in_words(schema, said):
    """Beside the field that somebody fills in."""
    assert wanted_words(schema) == said


def test_what_was_wrong_is_told_per_version_and_lane():
    """With its share of that version's answers there, and the rung that mends most of it."""
    here, there = Place("support-answer", 12, OPENAI), Place("", 0, AZURE)
    mended = {("r6_ask_again", "lossless"): 3, ("r2_syntax", "lossy"): 1, ("r2_syntax", "invented"): 1}
    standings = [
        Standing(there, "missing_field", 2, None, bad=2, unsure=0, outcomes={("r7_failed", ""): 2}),
        Standing(here, "truncated", 6, 100, bad=1, unsure=0, outcomes={**mended, ("r7_failed", ""): 1}),
    ]

    rows = mode_rows(standings)

    assert [(row.mode, row.place, row.count, row.share_words, row.failed) for row in rows] == [
        ("missing_field", there, 2, "100 %", 2),
        ("truncated", here, 6, "6 %", 1),
    ]
    assert [(row.remedy, row.mended) for row in rows] == [("nothing has yet", 0), ("asked for again", 3)]
    assert percent(0, 0) == "0 %"


def test_charts_draw_at_most_six_lines_and_leave_gaps(db):
    """Shares of all JSON answers of a moment; the modes beyond the most frequent are one line."""
    modes = [Key(mode, "r2_syntax", "lossless") for mode in list(Mode)[:9]]
    counts = {STRICT: 80, FAILED: 2} | {key: number for number, key in enumerate(modes, start=1)}
    merge_rollups([report(rollup(NOON, outputs=outputs(counts)))], now=NOON)
    found = read_outputs(REPAIR, since=NOON, until=NOON + timedelta(seconds=20))
    total = sum(counts.values())

    rungs, wrong = rung_chart(found), mode_chart(found)

    assert {trace["name"]: trace["y"] for trace in rungs["data"]} == {
        "unwrapped": [0, None],
        "syntax repaired": [round(100 * 45 / total, 4), None],
        "coerced to the schema": [0, None],
        "by a model": [0, None],
        "failed": [round(100 * 2 / total, 4), None],
    }
    assert len(wrong["data"]) == 6
    assert wrong["data"][-1]["name"] == "other"
    assert wrong["data"][-1]["y"] == [round(100 * (1 + 2 + 3 + 4 + 2) / total, 4), None]


# --- the page of answers ---------------------------------------------------------------------------------------------
def test_page_shows_how_answers_came_and_what_waits(acme, signed_in):
    """The sentence, a tile per outcome, what was wrong where, the policy in words, and answers without their words."""
    counted({STRICT: 97, FENCED: 2, FAILED: 1})
    counted({STRICT: 9, GUESSED: 1}, lane=AZURE, version=13)
    now = timezone.now()
    mine = make_repair(at=now - timedelta(minutes=4))
    make_repair(tenant="globex", at=now - timedelta(hours=30))  # its time is over
    browser = signed_in(crew.oncall)

    page = browser.get(PAGE)
    text = words(page)

    assert page.context["sentence"].text.startswith("96.4 % of 110 JSON answers in the last hour were right as they")
    assert [(tile["label"], tile["value"]) for tile in page.context["tiles"]] == [
        ("Right as they came", "96.4"),
        ("Repaired, nothing lost", "1.8"),
        ("Lossy or invented", "0.9"),
        ("Mended by a model", "0"),
        ("Failed", "0.9"),
    ]
    assert "96.4 % 106 of 110 in the last hour" in text
    assert "in a code fence support-answer v12 openai/us-east/main/gpt-4o 2 2 % of 100 unwrapped" in text
    assert "cut off support-answer v13 azure/eu-west/eu/gpt-4o 1 10 % of 10" in text
    assert "Handed over is what can have been meant in one way only" in text
    assert "Without one: summaries ." in text
    assert [line["row"] for line in page.context["lines"]] == [mine]
    assert "/topic" in text
    assert "secret" not in page.content.decode()
    assert 'data-live-refresh="answers"' in page.content.decode()
    assert 'href="/routing/repairs/" aria-current="page"' in browser.get(PAGE).content.decode()
    assert {"Answers in JSON and what was wrong with them", "Broken answers that somebody can complete"} <= {
        entry.label for entry in entries(crew.oncall)
    }


def test_page_is_narrowed_to_a_prompt_a_lane_and_a_period_and_sorted(acme, signed_in):
    """What is asked for stands in the sentence and is kept in every link; what is no choice is not heeded."""
    counted({STRICT: 5, FENCED: 5})
    counted({STRICT: 5}, lane=AZURE)
    counted({FAILED: 4}, at=timezone.now() - timedelta(hours=3))
    browser = signed_in(crew.legal)

    narrow = browser.get(f"{PAGE}?lane={AZURE}")
    day = browser.get(f"{PAGE}?hours=24&sort=failed")
    nothing = browser.get(f"{PAGE}?lane=nowhere&hours=5&sort=hunger")

    assert narrow.context["sentence"].text.startswith("100 % of 5 JSON answers in the last hour of lane azure/")
    assert "Every answer of that was right as it came" in words(narrow)
    other = narrow.context["ranges"][1]["url"]
    assert other == "?lane=azure%2Feu-west%2Feu%2Fgpt-4o&hours=24&sort=share"
    assert day.context["total"] == 19
    assert [row.mode for row in day.context["rows"]] == ["missing_field", "fenced"]
    assert nothing.context["total"] == 15
    week = browser.get(f"{PAGE}?hours=168").content.decode()
    assert ("data-live-refresh" in day.content.decode(), "data-live-refresh" in week) == (True, False)
    chart = browser.get(f"{PAGE}charts/rungs.json?lane={AZURE}&hours=1").json()
    assert chart["layout"]["meta"]["title"] == "Not right as they came"
    assert browser.get(f"{PAGE}charts/hunger.json").status_code == 404


def test_page_says_what_to_do_where_there_is_nothing(acme, signed_in):
    """No answers in the period, nobody's to see, no policy: each with the next step."""
    reader = signed_in(crew.legal)

    empty = words(reader.get(PAGE))
    make_routing(without_repairs())
    proposer, other = signed_in(crew.oncall).get(PAGE), reader.get(PAGE)

    assert "No JSON answers in this period" in empty
    assert "You may see no tenant's answers" in empty
    assert 'href="/routing/new/"' in proposer.content.decode()
    assert "Somebody with the role On-call or Admin proposes" in words(other)


def without_repairs():
    document = routing_document()
    document["routes"]["chat"]["repair"] = None
    del document["repairs"]
    return document


def test_page_takes_as_many_queries_for_much_as_for_little(acme, signed_in, queries):
    """However many answers, lanes and versions there are."""
    browser = signed_in(crew.oncall)
    counted({STRICT: 1})
    make_repair(at=timezone.now())
    browser.get(PAGE)
    few = queries(lambda: browser.get(PAGE))
    for version in range(8):
        counted({FENCED: 1, FAILED: 1}, version=version, lane=AZURE)
        make_repair(at=timezone.now())

    assert queries(lambda: browser.get(PAGE)) == few


# --- answers that somebody completes ---------------------------------------------------------------------------------
def listed(page):
    return [line["row"] for line in page.context["lines"]]


def test_broken_answers_are_found_by_id_tenant_and_status(acme, signed_in, queries):
    """Newest first, by pages; as many queries for many as for few."""
    now = timezone.now()
    old = make_repair(at=now - timedelta(hours=3))
    done = make_repair(state="completed", at=now - timedelta(hours=2), missing=["/a", "/b", "/c", "/d"])
    other = make_repair(tenant="globex", state="expired", at=now - timedelta(hours=1), missing=[], prompt="")
    browser = signed_in(crew.admin)

    for query, found in (
        ("", [other, done, old]),
        ("tenant=acme", [done, old]),
        ("status=completed", [done]),
        ("status=completed&tenant=globex", []),
        (f"repair={old.name}", [old]),
        (f"repair={old.pk}", [old]),
        ("repair=rep_1", []),
        (f"before={done.pk}", [old]),
    ):
        assert listed(browser.get(f"{LIST}?{query}")) == found, query
    assert "and 1 more" in words(browser.get(LIST))
    assert "nothing; text is wrong" in words(browser.get(LIST))
    assert "No answer fits all of this" in words(browser.get(f"{LIST}?repair=x"))
    few = queries(lambda: browser.get(LIST))
    many = [make_repair(at=now - timedelta(seconds=number)) for number in range(PAGE_SIZE)]
    assert queries(lambda: browser.get(LIST)) == few
    assert listed(browser.get(LIST)) == many
    assert listed(browser.get(LIST + browser.get(LIST).context["older"])) == [other, done, old]


def test_broken_answers_of_another_tenant_are_none(acme, signed_in):
    """Neither in lists nor on pages of their own; on-call of one tenant completes that tenant's alone."""
    mine, theirs = (make_repair(tenant=slug, at=timezone.now()) for slug in ("acme", "globex"))
    reader = signed_in(make_operator("reader", Role.AUDITOR, on=acme))
    helper = signed_in(make_operator("helper", Role.ON_CALL, on=acme))

    for browser in (reader, helper):
        assert listed(browser.get(LIST)) == [mine]
        assert listed(browser.get(f"{LIST}?tenant=globex")) == [mine]  # not a choice of theirs
        assert [browser.get(f"{LIST}{one}/").status_code for one in (mine.pk, theirs.pk, uuid4())] == [200, 404, 404]
    assert reader.post(f"{LIST}{mine.pk}/", {}).status_code == 403
    assert helper.post(f"{LIST}{theirs.pk}/", {}).status_code == 404
    assert "may complete it" in words(reader.get(f"{LIST}{mine.pk}/"))
    assert signed_in(crew.owner).get(LIST).status_code == 403
    assert "No answer was beyond repair" in words(
        signed_in(make_operator("new", Role.ON_CALL, on=make_tenant("x"))).get(LIST)
    )


def test_page_of_an_answer_says_what_is_missing_and_nobodys_words(acme, signed_in):
    """With what the schema wants there; the words are a page of their own, for who may read them, and on record."""
    row = make_repair(at=timezone.now())
    oncall, auditor = signed_in(crew.oncall), signed_in(crew.auditor)
    path = row.get_absolute_url()

    page = oncall.get(path)
    read = auditor.get(f"{path}words/")

    assert "Waits to be completed: of text, 1 field is missing." in words(page)
    assert "/topic is missing ; the schema wants one of orders, refunds" in words(page)
    assert "secret" not in page.content.decode()
    assert oncall.get(f"{path}words/").status_code == 403
    assert f"{path}words/" not in page.content.decode()
    assert "secret words" in words(read)
    assert f"{path}words/" in auditor.get(path).content.decode()
    assert AuditEvent.objects.filter(action="repair.read", target=row.audit_name).count() == 1
    assert f"Read the words of answer …{row.name[-8:]} of acme" in words(oncall.get(path))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"missing": []}, "Waits to be completed: text is not what was asked for."),
        ({"missing": ["/a", "/b"]}, "of text, 2 fields are missing"),
        ({"state": "completed"}, "Completed by the caller, with API key 7"),
        ({"state": "completed", "completed_by": "operator:oncall"}, "Completed by oncall; the caller fetches it"),
        ({"state": "expired"}, "Nobody completed it in time."),
        ({"hours": -1}, "Nobody completed it in time."),
    ],
)
def test_page_of_an_answer_says_how_it_stands(acme, signed_in, fields, sentence):
    """One whose time is over is not offered to be completed, also before its words are deleted."""
    row = make_repair(at=timezone.now(), **fields)

    page = signed_in(crew.oncall).get(row.get_absolute_url())

    assert sentence in words(page)
    assert (page.context["form"] is None) == ("Waits" not in words(page))


def fill_in(browser, row, **typed):
    return browser.post(row.get_absolute_url(), {"reason": "the customer told us", **typed})


def content_of(row):
    return orjson.loads(bytes(Repair.objects.get(pk=row.pk).payload))["body"]["choices"][0]["message"]["content"]


def test_somebody_completes_an_answer_by_filling_in_what_is_missing(acme, signed_in):
    """The page says so only once it is; text needs no quotes where the schema wants text, elsewhere JSON is JSON."""
    row = make_repair(at=timezone.now())
    browser = signed_in(crew.oncall)

    done = fill_in(
        browser,
        row,
        **{"field-0": "orders", "free-0-pointer": "/customer", "free-0": '{"name": "Zoë"}'},
        **{"free-1-pointer": "/parcels", "free-1": "3"},
    )

    assert (done.status_code, done.url) == (302, row.get_absolute_url())
    assert said(done) == [f"{row.name} is complete; the caller can fetch it"]
    assert orjson.loads(content_of(row)) == {
        "answer": "secret words",
        "parcels": 3,
        "topic": "orders",
        "customer": {"name": "Zoë"},
    }
    page = words(browser.get(row.get_absolute_url()))
    assert "Completed by oncall" in page
    assert f"Completed answer …{row.name[-8:]} of acme" in page
    assert "the customer told us" in page
    assert "Zoë" not in str(AuditEvent.objects.filter(target=row.audit_name).values_list("data", flat=True))


def test_text_that_looks_like_a_number_stays_text_where_the_schema_wants_text(acme, signed_in):
    """And quotes around it are no part of it."""
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in "ab"}, "required": ["a", "b"]}
    payload = {"body": answer("{}"), "asked": asked(schema=schema), "value": "{}"}
    row = make_repair(at=timezone.now(), payload=payload, missing=["/a", "/b"])

    fill_in(signed_in(crew.admin), row, **{"field-0": "0049", "field-1": '"12"'})

    assert orjson.loads(content_of(row)) == {"a": "0049", "b": "12"}


def test_answer_of_which_nothing_could_be_read_is_given_whole(acme, signed_in):
    """There are no fields to fill in then; numbers keep their text."""
    row = make_repair(
        at=timezone.now(), payload={"body": answer("I cannot say"), "asked": asked(), "value": None}, missing=["/topic"]
    )
    browser = signed_in(crew.oncall)
    page = browser.get(row.get_absolute_url())

    fill_in(browser, row, whole='{"answer": "a", "topic": "orders", "parcels": 1e0}')

    assert page.context["form"].known_fields == page.context["form"].free_fields == []
    assert "Nothing of it could be read, so all of it is needed" in words(page)
    assert content_of(row) == '{"answer": "a", "topic": "orders", "parcels": 1e0}'


@pytest.mark.parametrize(
    ("typed", "status", "words_of_it"),
    [
        ({}, 400, "Nothing was given; fill in a field, or all of it"),
        ({"field-0": "orders", "reason": ""}, 400, "This field is required"),
        ({"free-0": "x"}, 400, "Say where the value belongs"),
        ({"field-0": "orders", "whole": "{}"}, 400, "Give single fields or all of it, not both"),
        ({"whole": "{"}, 400, "not JSON: unexpected end of data"),
        ({"field-0": "weather"}, 409, "/topic is none of the choices that the schema gives"),
        ({"free-0-pointer": "/parcels", "free-0": "3"}, 409, "text is not what was asked for yet: /topic is missing"),
        ({"free-0-pointer": "parcels", "free-0": "3"}, 409, "'parcels' is no JSON pointer"),
    ],
)
def test_what_does_not_complete_an_answer_is_said_beside_the_fields(acme, signed_in, typed, status, words_of_it):
    """Nothing is stored, what was typed stays, and the page does not say that it is done."""
    row = make_repair(at=timezone.now())

    refused = fill_in(signed_in(crew.oncall), row, **typed)

    assert refused.status_code == status
    assert words_of_it in words(refused)
    assert "Waits to be completed" in words(refused)
    assert "Not completed; nothing was changed" in words(refused)
    assert Repair.objects.get(pk=row.pk).state == "open"


def test_answer_that_is_open_no_more_is_not_completed(acme, signed_in):
    """Whoever opened the form before is told when they send it."""
    row = make_repair(at=timezone.now(), state="completed")

    late = fill_in(signed_in(crew.oncall), row, **{"field-0": "orders"})

    assert said(late) == ["Nothing was changed: the answer is open no more"]


def test_answer_with_another_broken_part_waits_for_that_too(acme, signed_in):
    """The page says which part is next, and is done when the last is."""
    calls = answer(arguments=("{}", '{"answer": "b"}'))
    payload = {"body": calls, "asked": asked(is_tool=True), "value": '{"answer": "a"}'}
    row = make_repair(at=timezone.now(), at_part="tool_calls[0]", payload=payload)
    browser = signed_in(crew.oncall)

    half = fill_in(browser, row, **{"field-0": "orders"})
    page = words(browser.get(row.get_absolute_url()))
    whole = fill_in(browser, row, **{"field-0": "refunds"})

    assert said(half) == ["tool_calls[0] is right now, and tool_calls[1] is not; complete that too"]
    assert "Waits to be completed: of tool_calls[1], 1 field is missing." in page
    assert "Completed tool_calls[0] of answer" in page
    assert said(whole) == [f"{row.name} is complete; the caller can fetch it"]


# --- the policy ------------------------------------------------------------------------------------------------------
def test_repair_policy_is_shown_and_its_numbers_are_changed_like_any_other(acme, signed_in):
    """With money as people write it; its routes name it, and what is there for nobody is said on its page."""
    browser = signed_in(crew.oncall)
    policy = "/routing/repairs/json-answers/"
    source = {"origin": "incident", "note": "it was not enough", "link": "/routing/", "review_by": "2099-01-01"}
    numbers = {"max_calls": "2", "max_output_tokens": "2000", "max_cost_micros": "0.05", "open_seconds": "86400"}
    asked = {f"max_cost_micros-{part}": said for part, said in source.items()}

    page = browser.get(policy)
    proposed = browser.post(policy, {**numbers, **asked, "reason": "r", "action": "submit"})
    refused = browser.post(policy, {**numbers, "max_calls": "0", "reason": "r", "action": "submit"})

    shown = {row.name: row.shown for row in page.context["rows"]}
    assert shown == {
        "max_calls": "2",
        "max_output_tokens": "2,000 tokens",
        "max_cost_micros": "0.02 USD",
        "open_seconds": "86,400 s",
    }
    assert "So long somebody can complete an answer that was beyond repair" in words(page)
    assert "The lane that answered is asked once more, and told what is wrong" in words(page)
    assert page.context["routes"] == ["chat"]
    assert "Cost of calls 0.02 USD → 0.05 USD" in words(browser.get(proposed.url))
    assert refused.status_code == 400
    assert "repaired where nothing is lost, with a model's help" in words(browser.get("/routing/"))
    assert "Answers in JSON json-answers" in words(browser.get("/routing/routes/chat/"))
    assert "Answers in JSON go out as they came" in words(browser.get("/routing/routes/summaries/"))


def test_policy_that_hands_over_what_nobody_wrote_warns_of_it(acme, signed_in):
    """On its own page and on that of answers."""
    document = routing_document()
    document["repairs"]["json-answers"]["labels"] = ["lossless", "lossy", "invented"]
    make_routing(document)
    browser = signed_in(crew.legal)

    for path in ("/routing/repairs/json-answers/", PAGE):
        assert "Callers are handed values that the model did not write" in words(browser.get(path)), path
