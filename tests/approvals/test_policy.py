import pytest

from controlplane.approvals.errors import MalformedPolicy, PolicyMissing
from controlplane.approvals.kinds import check_rules
from controlplane.approvals.models import PolicyActivation
from controlplane.approvals.operations import activate_policy, submit_policy
from controlplane.approvals.policy import match, parse_rules
from tests.factories import NOW, built_in_rules, change_policy


def rules_with(**changes):
    """The built-in rules with the first one changed; a value of None takes the key out."""
    first = {**built_in_rules()[0], **changes}
    return [{key: value for key, value in first.items() if value is not None}, *built_in_rules()[1:]]


@pytest.mark.parametrize(
    ("rules", "place"),
    [
        (None, "rules: expected a list"),
        ([], "rules: expected a list with at least one rule"),
        ({}, "rules: expected a list"),
        (["x"], r"rules\[0\]: expected an object, got str"),
        (rules_with(name=None), r"rules\[0\]\.name"),
        (rules_with(name=""), r"rules\[0\]\.name"),
        (rules_with(kind=7), r"rules\[0\]\.kind"),
        (rules_with(why="x"), r"rules\[0\]: unknown key 'why'"),
        (rules_with(when=["legal"]), r"rules\[0\]\.when"),
        (rules_with(when={"change_class": "legal"}), r"rules\[0\]\.when"),
        (rules_with(when={"change_class": []}), r"rules\[0\]\.when"),
        (rules_with(gates=None), r"rules\[0\]\.gates: expected gate"),
        (rules_with(gates={}), r"rules\[0\]\.gates: expected gate"),
        (rules_with(gates={"public": 2}), r"rules\[0\]\.gates\.public: expected role"),
        (rules_with(gates={"public": {"boss": 1}}), r"rules\[0\]\.gates\.public: unknown role 'boss'"),
        (rules_with(gates={"public": {"approver": 0}}), r"gates\.public\.approver: expected 1 to 10 people, got 0"),
        (rules_with(gates={"public": {"approver": 11}}), "expected 1 to 10 people, got 11"),
        (rules_with(gates={"public": {"approver": True}}), "expected 1 to 10 people, got True"),
        (rules_with(gates={"public": {"approver": "2"}}), "expected 1 to 10 people, got '2'"),
        (rules_with(valid_hours=0), r"rules\[0\]\.valid_hours: expected 1 to 2160 hours, got 0"),
        (rules_with(valid_hours=True), "valid_hours"),
        (rules_with(valid_hours=1.5), "valid_hours"),
    ],
)
def test_a_malformed_policy_is_refused_with_its_place(rules, place):
    """Whoever wrote it reads where to look."""
    with pytest.raises(MalformedPolicy, match=place):
        parse_rules(rules)


@pytest.mark.parametrize(
    ("rules", "place"),
    [
        (rules_with(kind="prompt.rolout"), r"rules\[0\]\.kind: 'prompt.rolout' is not one of"),
        (rules_with(gates={"pubic": {"approver": 2}}), r"rules\[0\]\.gates\.pubic: 'prompt.rollout' has the gates"),
        (rules_with(gates={"apply": {"approver": 2}}), r"gates\.apply: .* internal, public, live"),
        (rules_with(when={"class": ["legal"]}), r"rules\[0\]\.when\.class: the facts of .* are: change_class"),
        (rules_with(when={"change_class": ["leagl"]}), r"when\.change_class: 'leagl' is not one of legal, minor, tone"),
        (rules_with(when={"change_class": [1]}), r"when\.change_class: 1 is not one of"),
    ],
)
def test_a_slip_of_the_pen_that_would_open_a_gate_is_refused(rules, place):
    """A gate that nobody passes asks for nothing; a condition that never holds leaves legal text to a milder rule."""
    with pytest.raises(MalformedPolicy, match=place):
        check_rules(rules)


@pytest.mark.parametrize("gates", [None, {"apply": {}}], ids=["no rule", "a rule that asks nobody"])
def test_a_policy_that_could_never_be_changed_by_people_is_refused(gates):
    """Without sign-offs on the policy itself it is either fixed for ever or anybody's."""
    rules = [rule for rule in built_in_rules() if rule["kind"] != "approval.policy"]
    if gates is not None:
        rules.append({"name": "policy", "kind": "approval.policy", "gates": gates})

    with pytest.raises(MalformedPolicy, match=r"none asks anybody about 'approval\.policy'"):
        check_rules(rules)


def test_the_first_rule_that_speaks_of_a_change_decides():
    """Order matters, and every condition of a rule must hold."""
    rules = parse_rules(
        [
            {"name": "both", "kind": "k", "when": {"a": [1], "b": [2]}, "gates": {"g": {}}},
            {"name": "one", "kind": "k", "when": {"a": [1, 3]}, "gates": {"g": {}}},
            {"name": "all", "kind": "k", "gates": {"g": {}}},
            {"name": "never reached", "kind": "k", "gates": {"g": {}}},
        ]
    )

    assert [match(rules, kind="k", facts=facts).name for facts in ({"a": 1, "b": 2}, {"a": 3}, {"b": 2}, {})] == [
        "both",
        "one",
        "all",
        "all",
    ]


def test_a_change_that_no_rule_speaks_of_is_refused():
    """What nobody thought of is never waved through."""
    with pytest.raises(PolicyMissing, match=r"'model\.swap'"):
        match(parse_rules(built_in_rules()), kind="model.swap", facts={})


def test_the_built_in_policy_is_sound():
    """What a fresh deployment starts with passes its own check."""
    assert len(check_rules(built_in_rules())) == len(built_in_rules())


@pytest.mark.django_db(transaction=True)
def test_steps_of_operations_change_nothing_by_themselves():
    """Called from a shell in autocommit they would leave a policy in force that no event speaks of."""
    change_policy(built_in_rules())
    policy = submit_policy(rules=built_in_rules(), rationale="r", actor="setup", now=NOW)

    with pytest.raises(RuntimeError, match="call the operation"):
        activate_policy(policy, actor="setup", reason="r", now=NOW)

    assert PolicyActivation.objects.count() == 1
