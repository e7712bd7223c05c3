"""The page of validators: what they withhold per rule, prompt version and lane, and what they are there for."""

from datetime import timedelta

import pytest
from django.utils import timezone

from controlplane.console.validator_content import Answers, reject_chart, rule_rows
from controlplane.routing.operations import routing_tables
from controlplane.telemetry.operations import compact_rollups, merge_rollups
from controlplane.telemetry.outcomes import VALIDATOR, VALIDATOR_TIME
from controlplane.telemetry.outputs import Key, Place, Standing, read_outputs
from dataplane.aggregation import output_key
from dataplane.validators.values import ABSTAINED, ANSWER
from tests.console.conftest import words
from tests.factories import crew, make_routing
from tests.validator_tables import document_with, policy, propose, rule, run_trials, store
from tests.worker_reports import report, rollup

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

PAGE = "/routing/validators/"
AZURE = "azure/eu-west/eu/gpt-4o"
MINUTE = timedelta(minutes=1)


def counted(**numbers):
    """Outputs of a rollup: how many answers each rule passed, blocked and so on, and what came of answers in all."""
    keys = {
        "passed": output_key(VALIDATOR, "no-mail@1", "pass"),
        "blocked": output_key(VALIDATOR, "no-mail@1", "block"),
        "unsure": output_key(VALIDATOR, "no-mail@1", "abstain", "block"),
        "unsure_open": output_key(VALIDATOR, "mail-too@2", "abstain", "warn"),
        "warned": output_key(VALIDATOR, "mail-too@2", "warn"),
        "fine": output_key(VALIDATOR, ANSWER, "pass"),
        "withheld": output_key(VALIDATOR, ANSWER, "block"),
        "withheld_unsure": output_key(VALIDATOR, ANSWER, "block", ABSTAINED),
        "mended": output_key(VALIDATOR, ANSWER, "repair"),
    }
    return {keys[name]: number for name, number in numbers.items()}


def count(outputs, *, ago=MINUTE, **series):
    at = timezone.now() - ago
    at -= timedelta(seconds=at.second % 10, microseconds=at.microsecond)
    merge_rollups([report(rollup(at, outputs=outputs, **series), worker=str(series))], now=timezone.now())
    compact_rollups(now=timezone.now() + MINUTE)


@pytest.fixture
def looked_at():
    """A table with a policy is in force, and 40 answers were looked at: 2 were withheld, one of them unsure."""
    make_routing(document_with(careful=policy(rule(), rule("mail-too", version=2, on_failure="warn"))))
    count(counted(passed=27, blocked=1, fine=26, withheld=1, mended=1, warned=3))
    count(counted(passed=11, unsure=1, fine=11, withheld_unsure=1), lane=AZURE, version=13)


def test_page_says_how_answers_went_and_where(looked_at, signed_in):
    """A sentence, how many of how many, and per rule, version and lane, the highest rate first."""
    page = signed_in(crew.auditor).get(PAGE)

    said = words(page)
    assert (
        "2 of 40 answers in the last hour were withheld and 1 had something taken out; at 1 a rule could not say."
        in said
    )
    assert "2 of 40 in the last hour: were not handed over" in said
    assert [
        (row.rule, row.version, row.prompt, row.place.lane, row.checked, row.rate_words) for row in page.context["rows"]
    ] == [
        ("no-mail", "1", "support-answer v13", AZURE, 12, "8.3 %"),
        ("no-mail", "1", "support-answer v12", "openai/eu-west/main/gpt-4o", 28, "3.6 %"),
        ("mail-too", "2", "support-answer v12", "openai/eu-west/main/gpt-4o", 3, "0 %"),
    ]
    assert page.context["sentence"].tone == "bad"


def test_page_can_be_narrowed_and_sorted(looked_at, signed_in):
    """To a prompt, a lane or a rule, by links and a form that keep one another."""
    browser = signed_in(crew.oncall)

    of_rule = browser.get(PAGE, {"rule": "mail-too"})
    of_lane = browser.get(PAGE, {"lane": AZURE, "sort": "checked"})
    of_nothing = browser.get(PAGE, {"rule": "gone", "lane": "gone"})

    assert {row.rule for row in of_rule.context["rows"]} == {"mail-too"}
    assert {row.place.lane for row in of_lane.context["rows"]} == {AZURE}
    assert "of lane azure/eu-west/eu/gpt-4o was withheld" in of_lane.context["sentence"].text
    assert "rule=mail-too" in of_rule.context["ranges"][1]["url"]
    assert len(of_nothing.context["rows"]) == 3


def test_chart_shows_what_each_rule_withholds(looked_at, signed_in):
    """Blocked, and kept back because it could not say; rules that withheld nothing are no lines."""
    chart = signed_in(crew.oncall).get(f"{PAGE}charts/rejected.json").json()

    assert [one["name"] for one in chart["data"]] == ["no-mail v1"]
    assert max(value for value in chart["data"][0]["y"] if value is not None) == 5.0
    assert signed_in(crew.oncall).get(f"{PAGE}charts/other.json").status_code == 404


def test_chart_has_at_most_six_lines():
    """The worst rules by themselves, and the rest as one; where nothing was withheld, one line that says so."""
    outputs = {output_key(VALIDATOR, f"r{n}@1", "block"): 10 - n for n in range(9)}
    count(outputs | {output_key(VALIDATOR, "calm@1", "pass"): 5})
    now = timezone.now()
    found = read_outputs(VALIDATOR, since=now - 10 * MINUTE, until=now)

    names = [one["name"] for one in reject_chart(found)["data"]]

    assert names == ["r0 v1", "r1 v1", "r2 v1", "r3 v1", "r4 v1", "other"]
    assert [one["name"] for one in reject_chart(found, rule="calm")["data"]] == ["every rule"]


def test_page_says_what_each_rule_is_there_for_and_how_it_was_tried(signed_in):
    """With its layer and version, the time that it took in its last trial, and the words that stand for its answers."""
    store("ada@example.com", "fine")
    propose(document_with(careful=policy()))
    run_trials()
    make_routing(document_with(careful=policy()))

    page = signed_in(crew.oncall).get(PAGE)

    (one,) = page.context["policies"]
    assert one.rules[0].p99.endswith("ms")
    assert one.rules[0].url == f"{PAGE}careful/#no-mail.budget_ms"
    said = words(page)
    assert (
        "No e-mail address may be in the text. Otherwise the answer is withheld; if it cannot say within 50 ms" in said
    )
    assert "would have blocked 1 of 2" in said
    assert "Nobody wrote words for who does not get an answer" in said
    assert "Nothing looks at the answers of summaries" in said


def test_rule_that_looked_at_answers_says_how_long_it_took(signed_in):
    """What 99 % of them did not go beyond, of this version of the rule, in the period that is asked for."""
    make_routing(document_with(careful=policy()))
    took = {("no-mail@1", 200): 97, ("no-mail@1", 500): 2, ("no-mail@1", 50_000): 1, ("no-mail@0", 100_000): 50}
    count({output_key(VALIDATOR_TIME, name, str(bound)): number for (name, bound), number in took.items()})
    count({output_key(VALIDATOR_TIME, "no-mail@1", "100000"): 50}, ago=120 * MINUTE)

    (one,) = signed_in(crew.oncall).get(PAGE).context["policies"]

    assert one.rules[0].p99 == "≤ 0.50 ms"


def test_page_says_what_to_do_where_there_is_nothing(signed_in):
    """No answers yet; and no policy at all, to who may propose one and to who may not."""
    make_routing(document_with(careful=policy()))
    quiet = words(signed_in(crew.oncall).get(PAGE))
    make_routing(document_with())

    assert "No answer was looked at in the last hour" in quiet
    assert "No answers in this period" in quiet
    assert "Propose a table" in words(signed_in(crew.oncall).get(PAGE))
    assert "Somebody with the role On-call or Admin" in words(signed_in(crew.legal).get(PAGE))


def test_page_takes_as_many_queries_for_many_rules_as_for_one(looked_at, signed_in, queries):
    """Counted in the database, however much was counted."""
    browser = signed_in(crew.oncall)
    browser.get(PAGE)
    few = queries(lambda: browser.get(PAGE))
    for number in range(20):
        count({output_key(VALIDATOR, f"r{number}@1", "block"): 1}, version=number)

    assert queries(lambda: browser.get(PAGE)) == few


def test_numbers_of_a_rule_are_proposed_on_the_policys_page(signed_in):
    """Each rule has a number of its own there, beside those of all policies, with the sentences on what it does."""
    make_routing(document_with(careful=policy()))
    browser = signed_in(crew.oncall)
    source = {"origin": "guess", "note": "n", "link": "", "review_by": (timezone.now() + timedelta(days=9)).date()}
    typed = {"window_characters": "400", "no-mail.budget_ms": "5", "reason": "faster"}
    typed |= {f"no-mail.budget_ms-{name}": value for name, value in source.items()}

    shown = browser.get(f"{PAGE}careful/")
    proposed = browser.post(f"{PAGE}careful/", typed)
    refused = browser.post(f"{PAGE}careful/", {**typed, "no-mail.budget_ms": "90000"})

    assert "Time for no-mail" in words(shown)
    assert "Named by route chat" in words(shown)
    assert proposed.status_code == 302
    assert "no-mail: No e-mail address may be" not in words(shown)  # as a sentence of its own
    assert "no-mail: no e-mail address may be in the text" in words(shown)
    assert refused.status_code == 400
    assert routing_tables.active().document["validators"]["careful"]["rules"][0]["budget_ms"]["value"] == 50


@pytest.mark.parametrize(
    ("counts", "tone", "text"),
    [
        ({}, "off", "No answer was looked at now."),
        ({Key(ANSWER, "pass", ""): 1}, "good", "None of 1 answer now was withheld; every rule answered in time."),
        (
            {Key(ANSWER, "pass", ""): 5118, Key(ANSWER, "block", ""): 1, Key(ANSWER, "warn", ABSTAINED): 1},
            "watch",
            "1 of 5,120 answers now was withheld and 1 went out with a warning; at 1 a rule could not say.",
        ),
        ({Key(ANSWER, "pass", ""): 9, Key(ANSWER, "block", ""): 1}, "watch", "1 of 10 answers now was withheld; every"),
        ({Key(ANSWER, "pass", ""): 90, Key(ANSWER, "block", ""): 10}, "bad", "10 of 100 answers now were withheld; e"),
    ],
)
def test_sentence_says_how_bad_it_is(counts, tone, text):
    """Few answers prove nothing; a rule's own counts are not answers."""
    sentence = Answers.of({**counts, Key("r@1", "block", ""): 99}).sentence("now")

    assert (sentence.tone, sentence.text[: len(text)]) == (tone, text)


def test_rows_count_what_is_kept_back_unseen_as_withheld():
    """A rule that blocks when it cannot say withholds; one that only warns then does not."""
    said = {("pass", ""): 8, ("abstain", "block"): 1, ("abstain", "warn"): 1}

    (row,) = rule_rows([Standing(Place("p", 1, "l"), "a@1", 10, 10, bad=1, unsure=2, outcomes=said)])

    assert (row.rule, row.version) == ("a", "1")
    assert (row.checked, row.abstained, row.rejected, row.rate_words) == (10, 2, 1, "10 %")
