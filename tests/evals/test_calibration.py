from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import DatabaseError, connection, transaction
from django.test.utils import CaptureQueriesContext

from controlplane.audit.models import AuditEvent
from controlplane.evals.asking import open_for_judges
from controlplane.evals.calibration import RUN, calibrate, run_calibration, run_work
from controlplane.evals.errors import AlreadyCalibrating, NobodyToAsk, NothingToCalibrate, SameJudge
from controlplane.evals.judges import asking
from controlplane.evals.models import STALLED_AFTER, Calibration, JudgeVersion
from controlplane.work import handlers
from controlplane.work.models import Task
from tests.eval_sets import (
    FakeAsker,
    make_judge_version,
    make_set_version,
    row,
    run_calibrations,
)
from tests.factories import NOW
from tests.validator_tables import rule

pytestmark = pytest.mark.django_db

GOOD, BAD = "Within 30 days", "Ask ada@example.com"


def labelled(answer, label, count, *, judge="grounded"):
    """Rows with this answer, which people hold to be good or bad."""
    name = f"{answer.split()[0].lower()}-{'good' if label else 'bad'}"
    return [row(f"{name}-{number}", answer=answer, labels={judge: label}) for number in range(count)]


def of(good_passed, good_failed, bad_passed, bad_failed):
    """A set on which the judge of e-mail addresses comes to these counts."""
    rows = [
        *labelled(GOOD, True, good_passed),
        *labelled(BAD, True, good_failed),
        *labelled(GOOD, False, bad_passed),
        *labelled(BAD, False, bad_failed),
        row("unlabelled", answer=BAD),
        row("for-another", answer=BAD, labels={"safe": True}),
        row("plain"),
    ]
    return make_set_version("labels", *rows)


def begin(judge, rows, **fields):
    return calibrate(**{"judge_version": judge, "set_version": rows, "actor": "owner", "now": NOW, **fields})


@pytest.fixture
def nobody():
    """As where no gateway is set up."""
    asking.withdraw(open_for_judges)
    yield
    asking.provide(open_for_judges)


@pytest.fixture
def gateway():
    """What judges ask; `residency` and `purpose` are what it was asked with."""

    class Gateway:
        asker = FakeAsker(says='{"pass": true, "score": 1, "why": ""}')
        residency = purpose = None

        @contextmanager
        def open(self, residency, purpose):
            self.residency, self.purpose = residency, purpose
            yield self.asker

    made = Gateway()
    asking.provide(made.open)
    yield made
    asking.withdraw(made.open)


def test_a_judge_is_held_against_labels():
    """Only rows that somebody labelled for this judge count; the figures are those of the table."""
    judge, rows = make_judge_version(), of(20, 5, 10, 15)

    made = begin(judge, rows)
    run_calibrations()
    made.refresh_from_db()

    found = made.agreement
    assert (made.state, made.labelled, made.judged, made.abstained) == ("done", 50, 50, 0)
    assert (found.good_passed, found.good_failed, found.bad_passed, found.bad_failed) == (20, 5, 10, 15)
    assert made.kappa == pytest.approx(0.4)
    assert made.sentence == (
        "agrees with people on 35 of 50 answers, kappa 0.40; uncalibrated: needs kappa 0.6 on at least 50"
    )


@pytest.mark.parametrize(
    ("counts", "is_calibrated"),
    [((25, 0, 0, 25), True), ((20, 5, 5, 20), True), ((24, 1, 0, 24), False), ((20, 5, 6, 19), False)],
)
def test_a_judge_counts_from_a_kappa_and_a_number_of_labels_on(counts, is_calibrated):
    """0.6 on 50; 49 answers in full agreement are too few, and 0.56 on 50 is too little."""
    judge = make_judge_version()
    begin(judge, of(*counts))

    before = judge.is_calibrated
    run_calibrations()

    assert before is False
    assert judge.is_calibrated is is_calibrated


def test_the_newest_calibration_counts():
    """A worse one takes the word back; one that runs says nothing yet."""
    judge = make_judge_version()
    begin(judge, of(25, 0, 0, 25))
    run_calibrations()
    worse = make_set_version("newer", *labelled(BAD, True, 30), *labelled(BAD, False, 30))

    begin(judge, worse)
    while_it_runs = judge.is_calibrated
    run_calibrations()

    assert (while_it_runs, judge.is_calibrated) == (True, False)


def test_another_version_of_a_judge_is_uncalibrated():
    """However little it differs; the same again is no version."""
    begin(make_judge_version(), of(25, 0, 0, 25))
    run_calibrations()

    other = make_judge_version(params={"rules": [rule(version=2)]})

    assert not other.is_calibrated
    with pytest.raises(SameJudge, match="grounded v2 decides in exactly this way"):
        make_judge_version(params={"rules": [rule(version=2)]})


def test_judges_are_listed_with_their_calibrations_in_two_queries():
    """However many there are."""
    rows = of(25, 0, 0, 25)
    for version in (1, 2, 3):
        begin(make_judge_version(params={"rules": [rule(version=version)]}), rows)
    run_calibrations()
    make_judge_version(params={"rules": [rule(version=4)]})

    with CaptureQueriesContext(connection) as captured:
        found = [(one.number, one.is_calibrated) for one in JudgeVersion.objects.with_calibration()]

    assert found == [(4, False), (3, True), (2, True), (1, True)]
    assert len(captured) == 2


def test_what_a_judge_says_nothing_of_is_counted_apart(gateway):
    """It is no agreement and no disagreement."""
    gateway.asker = FakeAsker(says="Yes, it passes.")
    judge = make_judge_version(kind="model", params={"route": "chat", "question": "?"})

    begin(judge, of(1, 1, 1, 1))
    run_calibrations()

    made = Calibration.objects.get()
    assert (made.state, made.judged, made.abstained, made.kappa) == ("done", 4, 4, None)
    assert "said nothing of 4" in made.sentence


def test_a_gateway_is_asked_within_the_set_s_residency(gateway):
    """Rule 9, and with a name under which its calls can be found."""
    judge = make_judge_version(kind="model", params={"route": "chat", "question": "?"})
    rows = make_set_version("labels", *labelled(GOOD, True, 2), residency=["eu"])

    made = begin(judge, rows)
    run_calibrations()

    assert (gateway.residency, gateway.purpose) == (["eu"], f"calibration-{made.pk}")
    assert gateway.asker.asked == ["chat", "chat"]


def test_a_judge_that_asks_needs_somebody_to_ask(nobody):
    """It is refused at once, not found out by a worker."""
    judge = make_judge_version(kind="embedding", params={"route": "embed", "threshold": 0.8})

    with pytest.raises(NobodyToAsk, match="grounded v1 asks a route of the gateway"):
        begin(judge, of(1, 0, 0, 1))


def test_what_cannot_be_begun():
    """Nothing is labelled for the judge; or it is being done, by a worker that lives."""
    judge, rows = make_judge_version(), of(1, 0, 0, 1)

    with pytest.raises(NothingToCalibrate, match="no row of golden v1 has an answer with a label for 'grounded'"):
        begin(judge, make_set_version())
    begin(judge, rows)
    with pytest.raises(AlreadyCalibrating):
        begin(judge, rows)
    again = begin(judge, rows, now=NOW + STALLED_AFTER + timedelta(seconds=1))

    assert Calibration.objects.count() == 2
    assert again.state == "running"


def test_it_is_handed_to_workers_and_recorded():
    """With its figures, and no words."""
    judge, rows = make_judge_version(), of(2, 0, 0, 2)
    made = begin(judge, rows)
    handler = handlers.find(RUN)

    handler.run({"calibration": made.pk}, handlers.Attempt(Task.objects.get(kind=RUN).pk, RUN, 1, ""))

    begun, done = (AuditEvent.objects.get(action=f"evals.{name}") for name in ("calibration_begun", "calibrated"))
    assert handler.run is run_work
    assert begun.target == done.target == "judge:grounded@1"
    assert begun.data == {"calibration": made.pk, "set": "eval-set:labels@1", "labelled": 4}
    assert (done.actor, done.data["kappa"], done.data["bad_failed"]) == ("owner", 1, 2)


def test_progress_is_told_on_the_way():
    """Every so many rows, with the time at which it was heard of last."""
    made = begin(make_judge_version(), of(30, 0, 0, 30))
    seen = []

    def now():
        seen.append(Calibration.objects.get().judged)
        return NOW

    run_calibration(made.pk, now=now)

    assert seen == [0, 25, 50]  # before each is told
    assert Calibration.objects.get().judged == 60


def test_what_fails_says_so(gateway):
    """Its worker's log has the rest; another one may be begun."""
    gateway.asker = None
    judge = make_judge_version(kind="model", params={"route": "chat", "question": "?"})
    rows = of(1, 0, 0, 1)
    begin(judge, rows)

    run_calibrations()

    made = Calibration.objects.get()
    assert (made.state, made.problem) == ("failed", "NobodyToAsk; it is in the log of the workers")
    assert AuditEvent.objects.filter(action="evals.calibration_failed").count() == 1
    assert begin(judge, rows).state == "running"


def test_a_second_worker_changes_nothing():
    """One that was held dead, and comes to its end all the same."""
    made = begin(make_judge_version(), of(2, 0, 0, 2))
    run_calibrations()
    events = AuditEvent.objects.count()

    run_calibration(made.pk, now=lambda: NOW + timedelta(hours=1))

    assert AuditEvent.objects.count() == events
    assert Calibration.objects.get().ended_at == NOW


@pytest.mark.parametrize("change", ["calibration", "delete", "judge"])
def test_results_and_judges_are_fixed(change):
    """The database itself refuses to change what gates rest on."""
    begin(make_judge_version(), of(2, 0, 0, 2))
    run_calibrations()
    changes = {
        "calibration": lambda: Calibration.objects.update(kappa=1),
        "delete": lambda: Calibration.objects.all().delete(),
        "judge": lambda: JudgeVersion.objects.update(kind="model"),
    }

    with pytest.raises(DatabaseError), transaction.atomic():
        changes[change]()
