"""Trying rules on stored answers: before a change of them can be approved, on exactly what it would put in force."""

from datetime import timedelta
from itertools import count

import pytest
from django.db import DatabaseError, transaction

from controlplane.accounts.models import Tenant
from controlplane.approvals.errors import NotPrepared, NotSeen
from controlplane.approvals.models import Decision, SignOff
from controlplane.approvals.operations import amend_change, apply_change, rebase_change, sign_off
from controlplane.audit.models import AuditEvent
from controlplane.routing.operations import propose_thresholds, routing_tables
from controlplane.routing.thresholds import VALIDATOR
from controlplane.telemetry.samples import AnswerSample
from controlplane.trials.errors import AlreadyTrying, NothingToTry
from controlplane.trials.models import STALLED_AFTER, ValidatorTrial
from controlplane.trials.operations import last_measured, trials_in_force, try_change, unmet
from controlplane.trials.runner import choose, run_trial
from controlplane.versioned.numbers import NewValue
from controlplane.work.models import Task
from tests.factories import NOW, break_glass, crew, make_routing, sign
from tests.validator_tables import document_with, policy, propose, rule, run_trials, store

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

WARN = rule("mail-too", on_failure="warn")
OUT = rule("mail-out", on_failure="repair")


def approve(change, *, has_seen=False, operator=None):
    change.refresh_from_db()
    return sign_off(
        change=change,
        operator=operator or crew.approver_one,
        role="approver",
        decision=Decision.APPROVE,
        digest=change.digest,
        has_seen=has_seen,
        now=NOW,
    )


def run(trial, **clocks):
    clocks = {"now": lambda: NOW, "clock": lambda: 0.0} | clocks
    run_trial(trial.pk, **clocks)
    trial.refresh_from_db()
    return trial


# --- before it is approved -------------------------------------------------------------------------------------------
def test_nobody_approves_a_validator_policy_before_it_was_tried():
    """Opening the change begins the trial; until that is done the approval is refused and says how far it is."""
    store("Write to ada@example.com", "Within 14 days")
    change = propose(document_with(careful=policy()))

    with pytest.raises(NotPrepared, match=r"'careful' is being tried: 0 of 0 stored answers so far") as refused:
        approve(change)
    run_trials()
    approve(change)

    assert len(refused.value.unmet) == 1
    assert [task.kind for task in Task.objects.all()] == ["trials.run"]
    assert SignOff.objects.filter(change=change).count() == 1


def test_what_the_trial_found_is_on_record_with_the_approval():
    """Counts and the digest of what was tried, beside the digest that was signed."""
    store("Write to ada@example.com", "Within 14 days", "Nothing here")
    change = propose(document_with(careful=policy()))
    run_trials()
    approve(change)

    said = AuditEvent.objects.filter(action="change.approve").latest("seq").data["trials"]

    trial = ValidatorTrial.objects.get()
    assert said == [trial.facts()]
    assert (said[0]["tried"], said[0]["would_block"], said[0]["digest"]) == (3, 1, trial.digest)


def test_who_requests_changes_needs_no_trial():
    """Only an approval rests on it."""
    change = propose(document_with(careful=policy()))

    sign(change, crew.approver_one, decision=Decision.REQUEST_CHANGES)

    assert unmet(change)


def test_a_later_edit_of_the_policy_is_not_what_was_tried():
    """The amended change begins a trial of its own, and is not approved before that is done."""
    store("Within 14 days")
    change = propose(document_with(careful=policy()))
    run_trials()
    other = routing_tables.submit(
        document=document_with(careful=policy(rule(on_failure="warn"))), rationale="r", actor=crew.oncall, now=NOW
    )
    change = amend_change(
        change=change, content=other.reference, content_digest=other.digest, actor=crew.oncall, now=NOW
    )

    with pytest.raises(NotPrepared):
        approve(change)
    run_trials()
    approve(change)

    assert ValidatorTrial.objects.count() == 2


def test_the_same_policy_for_another_route_is_tried_on_that_route():
    """What a policy finds in a chat says nothing of summaries."""
    make_routing(document_with(careful=policy()))
    store("Within 14 days")
    change = propose(document_with(routes=("chat", "summaries"), careful=policy()))

    (trial,) = ValidatorTrial.objects.all()

    assert (trial.routes, bool(unmet(change))) == (["chat", "summaries"], True)


def test_other_changes_of_routing_wait_for_no_trial():
    """A table whose validator policies, and the routes that use them, stay as they are; or that no route uses."""
    make_routing(document_with(careful=policy()))
    same = propose(document_with(deadline_ms=1000, careful=policy()))
    unused = propose(document_with(routes=(), deadline_ms=2000, careful=policy(), idle=policy()))

    approve(same)
    approve(unused)

    assert not ValidatorTrial.objects.exists()


def test_a_table_opened_again_rests_on_the_trial_that_was_made():
    """A trial is of a policy and its routes: proposing the same again, or on another base, makes no other."""
    store("Within 14 days")
    first = propose(document_with(careful=policy()))
    run_trials()
    again = propose(document_with(deadline_ms=1000, careful=policy()))
    make_routing(document_with(deadline_ms=3000))
    rebase_change(change=first, actor=crew.oncall, now=NOW)

    assert (unmet(first), unmet(again), ValidatorTrial.objects.count()) == ([], [], 1)


def test_tried_on_nothing_is_approved_by_who_says_to_have_seen_that():
    """Nobody knows then what it would block, and the record says who took that on."""
    change = propose(document_with(careful=policy()))
    run_trials()

    with pytest.raises(NotSeen, match="nobody knows what 'careful' would block"):
        approve(change)
    approve(change, has_seen=True)

    assert "route chat" in AuditEvent.objects.filter(action="change.approve").latest("seq").data["seen"][0]


def test_a_trial_on_nothing_does_not_outlive_the_first_answer():
    """Once there is something to try the policy on, that is done first."""
    change = propose(document_with(careful=policy()))
    run_trials()
    store("Within 14 days")

    with pytest.raises(NotPrepared, match="now some are, so try it again"):
        approve(change, has_seen=True)
    try_change(change=change, actor=crew.oncall, now=NOW)
    run_trials()
    approve(change)


def test_broken_glass_does_not_wait_for_a_trial_and_says_so():
    """An incident does not wait; that the policy had not been tried is on record."""
    change = propose(document_with(careful=policy()))

    break_glass(change)
    apply_change(change=change, actor=crew.oncall, now=NOW)

    assert "is being tried" in AuditEvent.objects.get(action="break_glass.used").data["unmet"][0]
    assert routing_tables.active().document["routes"]["chat"]["validators"] == "careful"


def test_a_threshold_of_a_policy_is_a_change_of_it():
    """Another time budget is another policy: it is tried again."""
    make_routing(document_with(careful=policy()))
    new = {"no-mail.budget_ms": NewValue(5, "guess", "n", "", NOW.date() + timedelta(days=9))}

    change = propose_thresholds(kind=VALIDATOR, slug="careful", changes=new, reason="r", actor=crew.oncall, now=NOW)

    (trial,) = ValidatorTrial.objects.all()
    assert trial.document["rules"][0]["budget_ms"]["value"] == 5
    assert unmet(change)


# --- trying ----------------------------------------------------------------------------------------------------------
def test_a_trial_says_what_each_rule_would_have_done():
    """How often each rule gave which verdict, what came of an answer in all, how fast, and where the first of it is."""
    store("Write to ada@example.com or bo@example.com", "Within 14 days", "ada@example.com again")
    propose(document_with(careful=policy(rule(), WARN)))
    (trial,) = ValidatorTrial.objects.all()

    run(trial)

    counts = {one["rule"]: {name: n for name, n in one["counts"].items() if n} for one in trial.rules}
    assert counts == {"no-mail": {"block": 2, "pass": 1}, "mail-too": {"warn": 2, "pass": 1}}
    assert (trial.state, trial.available, trial.tried) == ("done", 3, 3)
    assert (trial.would_block, trial.would_repair, trial.would_warn, trial.abstained) == (2, 0, 0, 0)
    assert trial.micros_p99 >= trial.micros_p50 >= 0
    assert trial.sentence == "would have blocked 2 of 3"
    example = next(one for one in trial.examples if one["rule"] == "no-mail" and one["span_count"] == 2)
    assert AnswerSample.objects.get(pk=example["sample"]).text.startswith("Write to ada")
    assert [(span["start"], span["end"]) for span in example["spans"]] == [(9, 24), (28, 42)]
    assert "ada@" not in str(trial.examples)


def test_what_would_be_taken_out_and_warned_of_is_counted_apart():
    """The worst of an answer counts for it."""
    store("ada@example.com", "fine")
    propose(document_with(careful=policy(OUT, WARN)))
    (trial,) = ValidatorTrial.objects.all()

    assert run(trial).sentence == "would have blocked 0 of 2, taken something out of 1"


def test_a_rule_that_runs_out_of_time_abstains_in_a_trial_too():
    """By the same budget as in a gateway; closed, it would have blocked."""
    store("fine")
    propose(document_with(careful=policy()))
    (trial,) = ValidatorTrial.objects.all()
    ticks = count(step=10)

    run(trial, cpu_clock=lambda: next(ticks))

    assert (trial.would_block, trial.abstained, trial.rules[0]["counts"]["abstain"]) == (1, 1, 1)


def test_judges_are_not_asked():
    """They cost money and time at a provider; the trial says of which rules it does not speak."""
    store("fine")
    judge = rule("judged", kind="judge", params={"route": "summaries"}, on_failure="warn")
    propose(document_with(careful=policy(rule(), judge)))
    (trial,) = ValidatorTrial.objects.all()

    run(trial)

    assert ([one["rule"] for one in trial.rules], trial.judges) == (["no-mail"], ["judged"])


def test_each_route_has_its_share_of_a_trial():
    """One route's many answers do not keep another's few out; what is left over goes to the newest."""
    store(*("chat",) * 8, name="c")
    store("one", "two", route="summaries", name="s", version=3)

    chosen = AnswerSample.objects.filter(pk__in=choose(["chat", "summaries"], most=6))

    assert sorted(chosen.values_list("request_id", flat=True)) == ["c0", "c1", "c2", "c3", "s0", "s1"]


def test_answers_of_a_tenant_that_took_its_consent_back_are_not_looked_at():
    """Not even by a rule."""
    store("ada@example.com")
    Tenant.objects.update(log_content=False)
    propose(document_with(careful=policy()))
    (trial,) = ValidatorTrial.objects.all()

    assert run(trial).tried == 0


def test_a_trial_ends_when_its_time_is_over():
    """What was tried by then counts, and how much that is, is said."""
    store(*("fine",) * 60)
    propose(document_with(careful=policy()))
    (trial,) = ValidatorTrial.objects.all()
    seconds = count(step=150)

    run(trial, clock=lambda: next(seconds))

    assert (trial.state, trial.tried, trial.available) == ("done", 50, 60)


def test_a_trial_that_cannot_be_made_says_so_and_can_be_made_again():
    """It stands in nobody's way: the next one may go well."""
    change = propose(document_with(careful=policy()))
    ValidatorTrial.objects.update(document={"rules": "none"})
    run_trials()

    with pytest.raises(NotPrepared, match="failed: MalformedRelease"):
        approve(change)
    try_change(change=change, actor=crew.oncall, now=NOW)
    run_trials()
    approve(change, has_seen=True)


def test_one_trial_at_a_time_unless_its_worker_is_gone():
    """Two clicks are one trial; one that has not moved for minutes does not keep anybody from beginning anew."""
    change = propose(document_with(careful=policy()))

    with pytest.raises(AlreadyTrying):
        try_change(change=change, actor=crew.oncall, now=NOW)
    try_change(change=change, actor=crew.oncall, now=NOW + STALLED_AFTER)

    assert ValidatorTrial.objects.count() == 2


def test_there_is_nothing_to_try_in_other_changes():
    """Asked for by hand, that is said."""
    change = propose(document_with(deadline_ms=1000))

    with pytest.raises(NothingToTry, match=f"CR-{change.pk}"):
        try_change(change=change, actor=crew.oncall, now=NOW)


def test_what_a_trial_found_cannot_be_changed():
    """People signed for it; a worker that comes to its end late changes nothing either."""
    store("fine")
    propose(document_with(careful=policy()))
    run_trials()
    (trial,) = ValidatorTrial.objects.all()
    store("ada@example.com", name="later")

    run(trial)
    with pytest.raises(DatabaseError), transaction.atomic():
        ValidatorTrial.objects.update(would_block=0)

    assert trial.tried == 1


def test_the_trial_of_a_policy_in_force_is_found():
    """Of exactly what is in force; and, for how long rules take, of what somebody wanted later too."""
    store("fine")
    propose(document_with(careful=policy()))
    run_trials()
    propose(document_with(careful=policy(rule(version=2))))
    run_trials()
    propose(document_with(careful=policy(rule(version=3))))

    in_force = trials_in_force(document_with(careful=policy()))

    assert in_force["careful"].document["rules"][0]["version"] == 1
    assert last_measured()["careful"].document["rules"][0]["version"] == 2
    assert trials_in_force(document_with()) == {}


def test_an_unknown_number_of_samples_needs_no_more_queries(django_assert_max_num_queries):
    """A review asks each time it is looked at: table, trials, and whether there is something to try now."""
    change = propose(document_with(one=policy(), two=policy(WARN)))
    run_trials()

    with django_assert_max_num_queries(4):
        unmet(change)
