import json

import pytest

from controlplane.evals.errors import InvalidJudge, NobodyToAsk
from controlplane.evals.judges.kinds import judge_answer, read_judge
from controlplane.evals.judges.refusals import is_refusal
from controlplane.evals.judges.values import Answered, Score
from dataplane.documents import Node
from tests.eval_sets import SENTENCE, by_rules, read_row
from tests.validator_tables import number, rule

SUPPORT = rule("support", kind="support", params={"numbers": 1, "question": False})
SOURCES = [{"id": "help/refunds", "text": SENTENCE}]
REFUSAL = "I'm sorry, but I can't help with that request."


def expecting(check, **expected):
    return by_rules(expected=[check]), read_row(expected=expected)


def test_an_answer_passes_in_which_no_rule_finds_anything():
    """Every rule that finds something fails it, whatever it would do at the gateway, with its name and no words."""
    judge = by_rules(rule("no-mail"), rule("no-moron", kind="terms", on_failure="warn", params={"deny": ["moron"]}))
    row = read_row()

    good = judge.judge(row, Answered("Within 30 days"))
    bad = judge.judge(row, Answered("Write to ada@example.com, moron"))

    assert good == Score(True, 1.0)
    assert (bad.passed, bad.value) == (False, 0.0)
    assert "no-mail: e-mail address" in bad.why
    assert "ada@" not in bad.why


def test_value_is_the_share_of_what_was_found_right():
    """One of two rules."""
    judge = by_rules(rule("no-mail"), rule("no-moron", kind="terms", params={"deny": ["moron"]}))

    assert judge.judge(read_row(), Answered("You moron")).value == 0.5


def test_support_is_looked_for_in_the_row_s_sources():
    """A number that no source has is not grounded."""
    row = read_row(sources=SOURCES)

    assert by_rules(SUPPORT).judge(row, Answered("Within 30 days.")).passed is True
    assert by_rules(SUPPORT).judge(row, Answered("Within 60 days.")).passed is False


@pytest.mark.parametrize(
    ("sources", "text"), [([], "Within 60 days."), (SOURCES, REFUSAL), (SOURCES, "I cannot share that, 60 times.")]
)
def test_nothing_is_said_of_grounds_where_there_can_be_none(sources, text):
    """Without sources, and of refusals, which claim nothing; other rules are asked all the same."""
    row = read_row(sources=sources)

    alone = by_rules(SUPPORT).judge(row, Answered(text))
    among = by_rules(SUPPORT, rule()).judge(row, Answered(text))

    assert (alone.passed, alone.value) == (None, 0.0)
    assert "nothing that this judge looks at applies" in alone.why
    assert among.passed is True


def test_no_clock_decides():
    """A rule with hardly any budget says the same on a machine that stands still."""
    slow = rule("no-mail", budget_ms=number(0.000001))

    score = by_rules(slow).judge(read_row(), Answered("Write to ada@example.com. " + "word " * 5_000))

    assert score.passed is False


def test_rules_look_at_what_users_read_of_a_json_answer():
    """At the one member, or at all of it where the answer is not as it was asked for."""
    judge, row = by_rules(SUPPORT, prose_at="answer"), read_row(sources=SOURCES)
    as_asked = json.dumps({"answer": "Within 30 days.", "ticket": 4711})

    assert judge.judge(row, Answered(as_asked, is_json=True)).passed is True
    assert judge.judge(row, Answered('{"ticket": 4711}', is_json=True)).passed is False
    assert judge.judge(row, Answered("4711", is_json=True)).passed is False


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("Return it within 30 DAYS — for a full refund", True),
        ("within 30\ndays, a full réfund", True),
        ("within 30 days", False),
        ("within 300 days for a full refund", False),
    ],
)
def test_expected_texts_have_to_occur(text, passed):
    """As whole words, in any case and accent."""
    judge, row = expecting("contains", contains=["30 days", "full refund"])

    assert judge.judge(row, Answered(text)).passed is passed


@pytest.mark.parametrize(
    ("text", "passed", "why"),
    [
        ('{"topic": "refunds", "list": [1, {"a": null, "more": 1}], "more": 2}', True, ""),
        ('{"topic": "orders", "list": [1, {"a": null}]}', False, "json: $.topic is another value"),
        ('{"list": [1, {"a": null}]}', False, "json: $.topic is missing"),
        ('{"topic": "refunds", "list": [1]}', False, "json: $.list is no list of 2"),
        ('{"topic": "refunds", "list": [true, {"a": null}]}', False, "json: $.list[0] is another value"),
        ('{"topic": "refunds", "list": [1, null]}', False, "json: $.list[1] is no object"),
        ("refunds", False, "json: the answer is no JSON"),
    ],
)
def test_expected_json_is_a_part_of_the_answer(text, passed, why):
    """Objects may have more members; the path is told, and no value."""
    judge, row = expecting("json", json={"topic": "refunds", "list": [1, {"a": None}]})

    score = judge.judge(row, Answered(text))

    assert (score.passed, score.why) == (passed, why)


def test_null_is_something_to_expect():
    """It is not the same as no expectation."""
    judge, row = expecting("json", json=None)

    assert judge.judge(row, Answered("null")).passed is True
    assert judge.judge(read_row(), Answered("null")).passed is None


@pytest.mark.parametrize(
    ("calls", "passed"),
    [
        ((("refund", '{"order": "A-1", "reason": "late"}'),), True),
        ((("refund", '{"order": "A-2"}'), ("refund", '{"order": "A-1"}')), True),
        ((("refund", '{"order": "A-2"}'),), False),
        ((("refund", "{"),), False),
        ((("cancel", '{"order": "A-1"}'),), False),
        ((), False),
    ],
)
def test_the_expected_function_is_called(calls, passed):
    """With the expected arguments at least."""
    judge, row = expecting("tool", tool={"name": "refund", "arguments": {"order": "A-1"}})

    assert judge.judge(row, Answered("", calls)).passed is passed


def test_a_function_may_be_expected_with_any_arguments():
    """The name alone."""
    judge, row = expecting("tool", tool={"name": "refund"})

    assert judge.judge(row, Answered("", (("refund", "{"),))).passed is True


@pytest.mark.parametrize("expected", [True, False])
@pytest.mark.parametrize(
    ("answer", "is_one"), [(Answered(REFUSAL), True), (Answered("No.", refused=True), True), (Answered("Yes"), False)]
)
def test_refusals_are_told_by_words_or_by_the_provider(expected, answer, is_one):
    """Whether there had to be one, or must not be."""
    judge, row = expecting("refuses", refuses=expected)

    assert judge.judge(row, answer).passed is (is_one is expected)


def test_the_schema_that_a_row_asks_for_is_satisfied():
    """One that asks for any JSON gets any."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    strict = read_row(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}})
    loose = read_row(response_format={"type": "json_object"})
    judge = by_rules(expected=["schema"])

    said = [judge.judge(strict, Answered(text)).passed for text in ('{"n": 1}', '{"n": "1"}', "n")]

    assert said == [True, False, False]
    assert judge.judge(loose, Answered("{}")).passed is True
    assert judge.judge(read_row(), Answered("prose")).passed is None


def test_only_what_the_judge_looks_at_counts():
    """A row may expect more than one judge asks about."""
    row = read_row(expected={"contains": ["x"], "refuses": False})

    assert by_rules(expected=["refuses"]).judge(row, Answered("y")).passed is True


@pytest.mark.parametrize(
    "text",
    [
        REFUSAL,
        "I'm sorry, I can’t assist with that.",
        "I cannot share anything about other customers.",
        "Unfortunately I am not able to provide card numbers.",
        "I won't write messages that deceive people.",
        "That is not something I can help with.",
        "I must decline.",
        "I'd rather not say.",
    ],
)
def test_refusals(text):
    """The usual ways to decline."""
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "You can return most items within 30 days of delivery for a full refund.",
        "Opened hygiene products and gift cards cannot be returned.",
        "Once it has been sent we can no longer change it.",
        "If you cannot help yourself, just reply here.",
        "I can help with orders, refunds, shipping, your account and billing.",
        "Thank you. " + "You can track it. " * 30 + "I can't help with customs.",
    ],
)
def test_what_a_shop_does_not_do_is_no_refusal(text):
    """Nor what an answer says after it has answered."""
    assert not is_refusal(text)


@pytest.mark.parametrize(
    ("kind", "params", "said"),
    [
        ("oracle", {}, "kind: 'oracle' is not one of"),
        ("deterministic", {}, "$: looks at nothing; give 'rules' or 'expected'"),
        ("deterministic", {"rules": []}, "$.rules: expected at least 1 element"),
        ("deterministic", {"rules": [rule(), rule()]}, "$.rules[1]: rule 'no-mail' is given twice"),
        ("deterministic", {"rules": [rule(kind="pii", params={"classes": ["x"]})]}, "$.rules[0].params.classes[0]"),
        (
            "deterministic",
            {"rules": [rule(kind="judge", params={"route": "chat"})]},
            "$.rules[0]: a model decides it; make a judge of kind 'model' of it",
        ),
        ("deterministic", {"expected": ["text"]}, "$.expected[0]: 'text' is not one of"),
        ("embedding", {"route": "embed", "threshold": 0}, "$.threshold: 0 is not above 0 and at most 1"),
        ("model", {"route": "chat"}, "$: missing key 'question'"),
        ("model", {"route": "chat", "question": "x" * 4001}, "$.question: 4001 characters, more than 4000"),
        ("model", None, "$: expected an object, got null"),
    ],
)
def test_a_judge_that_could_not_be_asked_is_refused(kind, params, said):
    """With the path of what is wrong."""
    with pytest.raises(InvalidJudge) as refused:
        read_judge(kind, Node(params, "$"))

    assert said in str(refused.value)


def test_what_asks_a_gateway_needs_one():
    """It is not passed over in silence."""
    judge = read_judge("model", Node({"route": "chat", "question": "Is it?"}, "$"))

    with pytest.raises(NobodyToAsk, match="route 'chat'"):
        judge_answer(judge, read_row(), Answered("x"))
