from datetime import timedelta
from itertools import count

import pytest
from django.db import DatabaseError, transaction

from controlplane.audit.models import AuditEvent
from controlplane.evals.errors import AlreadyRunning, InvalidStandard, NoStandard, NothingToAsk, RunIsOver
from controlplane.evals.models import JudgeVersion
from controlplane.evals.placing import live_lane, prompt_subject
from controlplane.evals.runner import ROWS_PER_PIECE, run_piece
from controlplane.evals.running import begin_run, begun_before_switch, bury, cancel_run
from controlplane.evals.runs import OVER, STALLED_AFTER, TRANSITIONS, EvalAnswer, EvalRun, RunEvent, RunState
from controlplane.work.deaths import Death
from controlplane.work.models import Task
from dataplane.deadletters import Category, Failure
from tests.eval_runs import FakeGateway, answer, fresh, make_standard, messages_row, refusal, run_pieces
from tests.eval_sets import import_into, make_judge_version, make_set_version, row
from tests.factories import NOW, crew

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

MAIL = "Write to ada@example.com"
LANE = "openai/us-east/main/gpt-4o"


def make_rows(how_many):
    return [row(f"r{place:02}") for place in range(how_many)]


def begin(version=None, **fields):
    version = version or make_set_version("golden", *make_rows(3))
    if "judges" not in fields and not version.set.standards.exists():
        make_standard(version)
    usual = {"subject": prompt_subject("support-answer", 1), "set_version": version, "actor": crew.owner, "now": NOW}
    return begin_run(**(usual | fields))


def asks(body, name):
    """Whether a request asks the question of a row."""
    return body["prompt"]["variables"]["question"] == f"Question {name}"


def saying(**by_row):
    """A gateway that says this of these rows, and something good of all others."""

    def say(body):
        return next((said for name, said in by_row.items() if asks(body, name)), answer())

    return FakeGateway(says=say)


# --- beginning -------------------------------------------------------------------------------------------------------
def test_a_run_pins_all_that_it_is_of():
    """Subject, rows, judges and thresholds as they are now, under one digest; it waits for a worker."""
    run = begin()

    assert (run.state, run.total, run.judges, run.thresholds) == ("queued", 3, ["grounded@1"], {"grounded": 0.9})
    assert run.progress.to_json() == {"asked": 0, "total": 3, "per_second": None, "eta_seconds": None}
    assert [task.kind for task in Task.objects.filter(kind="evals.run")] == ["evals.run"]
    event = AuditEvent.objects.get(action="evals.run_begun")
    assert event.target == f"eval-run:{run.pk}"
    assert (event.data["digest"], event.data["set"]) == (run.digest, "eval-set:golden@1")


def test_exactly_the_same_is_not_run_twice_at_a_time():
    """Another subject is something else, and afterwards it may be run again."""
    version = make_set_version("golden", *make_rows(1))
    first = begin(version)

    with pytest.raises(AlreadyRunning, match=f"run {first.pk}"):
        begin(version)
    begin(version, subject=live_lane(LANE, prompt="support-answer"))
    run_pieces()
    begin(version)

    assert EvalRun.objects.count() == 3


def test_what_cannot_be_run_is_refused():
    """A set that nobody holds answers to anything of, a judge that is none, and rows that are not for the subject."""
    bare = make_set_version("bare", *make_rows(1))
    messages = make_set_version("messages", messages_row())

    with pytest.raises(NoStandard, match="'bare'"):
        begin_run(subject=prompt_subject("support-answer", 1), set_version=bare, actor="x", now=NOW)
    with pytest.raises(InvalidStandard, match="no version strange@1"):
        begin(bare, judges=["strange@1"])
    make_judge_version("grounded")
    with pytest.raises(NothingToAsk, match="no row of messages v1"):
        begin(messages, judges=["grounded@1"])
    with pytest.raises(NothingToAsk, match=LANE):
        begin(bare, subject=live_lane(LANE), judges=["grounded@1"])


# --- asking ----------------------------------------------------------------------------------------------------------
def test_a_run_asks_every_row_and_passes_by_its_shares():
    """Nine in ten were to pass and all do; answers are kept with scores, costs and lanes."""
    run = begin(make_set_version("golden", *make_rows(10)))

    run_pieces()
    run = fresh(run)

    assert (run.state, run.passed, run.asked, run.cost_micros) == ("done", True, 10, 1_000)
    assert run.sentence == "grounded 10 of 10, 90 % have to pass"
    kept = run.answers.select_related("row").order_by("row__position")
    assert [one.row.key for one in kept] == [f"r{place:02}" for place in range(10)]
    assert (kept[0].text, kept[0].lane, kept[0].latency_ms) == ("Within 30 days", "a/lane", 12.5)
    assert kept[0].scores[0] | {"why": ""} == {
        "judge": "grounded@1",
        "score": "grounded",
        "passed": True,
        "value": 1.0,
        "why": "",
        "applies": True,
    }


@pytest.mark.parametrize(("bad", "passed"), [(1, True), (2, False)])
def test_the_share_of_good_answers_decides(bad, passed):
    """Nine of ten meet nine in ten, eight do not."""
    run = begin(make_set_version("golden", *make_rows(10)))

    run_pieces(saying(**{f"r{place:02}": answer(MAIL) for place in range(bad)}))

    assert fresh(run).passed is passed


def test_no_answer_is_never_a_pass():
    """A row that got none and one whose answer was withheld count in every score, each as what it is."""
    run = begin(make_set_version("golden", *make_rows(10)))

    run_pieces(saying(r00=refusal("unauthorized", 401), r01=refusal("validation_failed", 502)))
    run = fresh(run)

    assert (run.state, run.passed, run.unanswered, run.withheld) == ("done", False, 1, 1)
    assert run.scores == {"grounded": {"passed": 8, "n": 10, "undecided": 0}}
    assert "1 of 10 rows got no answer" in run.sentence
    assert run.answers.get(row__key="r00").problem_code == "unauthorized"
    assert [one.is_unanswered for one in run.answers.order_by("row__position")[:3]] == [True, False, False]


def test_a_judge_that_is_not_for_a_row_does_not_count_it():
    """Rows without expectations are nothing to a judge of expectations; with no row at all, nothing passes."""
    expecting = make_judge_version("correct", params={"expected": ["contains"]})
    version = make_set_version("golden", row("a", expected={"contains": ["30 days"]}), row("b"))
    other = make_set_version("other", row("a"))
    run = begin(version, judges=[f"correct@{expecting.number}"])
    none = begin(other, judges=[f"correct@{expecting.number}"])

    run_pieces()

    (found,) = fresh(run).counts
    assert (found.passed, found.n, found.threshold, fresh(run).passed) == (1, 1, None, None)
    assert fresh(none).counts == []


def test_a_judge_that_cannot_say_passes_nothing():
    """A model that did not keep to the form: the row counts, undecided."""
    make_judge_version("polite", kind="model", params={"route": "summaries", "question": "Is it polite?"})
    run = begin(judges=["polite@1"])

    run_pieces(FakeGateway(says=lambda body: answer("no JSON" if "model" in body else "Hello")))
    run = fresh(run)

    assert run.scores == {"grounded": {"passed": 0, "n": 3, "undecided": 3}}
    assert run.cost_micros == 600


def test_nothing_passes_by_the_word_of_an_uncalibrated_judge():
    """However good the answers are."""
    make_judge_version("grounded")
    version = make_set_version("golden", *make_rows(3))
    make_standard(version, judges=["grounded@1"])
    run = begin(version)

    run_pieces()
    run = fresh(run)

    assert (run.state, run.passed) == ("done", False)
    assert run.problem == "grounded@1 uncalibrated, so nothing passes by their word"
    assert not JudgeVersion.objects.get().is_calibrated


def test_a_long_run_is_worked_off_in_pieces():
    """One at a time and each enqueues the next, so that other work has its turn."""
    begin(make_set_version("golden", *make_rows(2 * ROWS_PER_PIECE + 1)))

    run_pieces()

    assert Task.objects.filter(kind="evals.run").count() == 3
    assert EvalAnswer.objects.count() == 2 * ROWS_PER_PIECE + 1
    assert EvalRun.objects.get().is_done


def test_a_piece_ends_before_its_worker_does():
    """What is not begun by then is for the next one."""
    begin(make_set_version("golden", *make_rows(8)))
    ticks = iter([0.0, 0.0, 46.0, *[0.0] * 20])

    run_pieces(clock=lambda: next(ticks))

    assert Task.objects.filter(kind="evals.run").count() == 2
    assert EvalRun.objects.get().asked == 8


def test_a_piece_that_is_done_again_asks_nothing_twice():
    """Its worker died after the answers were kept, or two had it at a time."""
    run = begin(make_set_version("golden", *make_rows(5)))
    gateway = FakeGateway()

    for _ in range(3):
        run_piece(run.pk, 1, now=lambda: NOW, clock=lambda: 0.0, open_asker=gateway.open)

    assert (len(gateway.bodies), EvalAnswer.objects.count(), fresh(run).asked) == (5, 5, 5)
    assert AuditEvent.objects.filter(action="evals.run_ended").count() == 1


def test_a_worker_that_died_midway_is_followed_by_one_that_goes_on():
    """Rows that were kept stay kept, and their figures with them."""
    run = begin(make_set_version("golden", *make_rows(6)))
    dying = saying(r05=KeyboardInterrupt())

    with pytest.raises(KeyboardInterrupt):
        run_piece(run.pk, 1, now=lambda: NOW, clock=lambda: 0.0, open_asker=dying.open)
    before = fresh(run)
    gateway = FakeGateway()
    run_piece(run.pk, 1, now=lambda: NOW, clock=lambda: 0.0, open_asker=gateway.open)

    assert (before.state, before.asked) == ("running", 4)
    assert (len(gateway.bodies), fresh(run).asked, fresh(run).passed) == (2, 6, True)


# --- ending early ----------------------------------------------------------------------------------------------------
def test_a_cancelled_run_asks_nothing_more():
    """At once: what waits does nothing, what is under way is thrown away, and the run says who did it."""
    run, looks = begin(make_set_version("golden", *make_rows(12))), count()
    gateway = FakeGateway()

    def cancelling_clock():
        if next(looks) == 2:  # between the first rows and the next
            cancel_run(run=fresh(run), actor=crew.admin, now=NOW)
        return 0.0

    run_pieces(gateway, clock=cancelling_clock)
    run = fresh(run)

    assert (run.state, run.ended_by, run.asked) == ("cancelled", crew.admin.audit_name, 4)
    assert (len(gateway.bodies), run.answers.count()) == (8, 4)


def test_cancelling_before_a_worker_came_leaves_nothing_to_do():
    """The piece that waits finds it over; cancelling twice is refused."""
    run, gateway = begin(), FakeGateway()

    cancel_run(run=run, actor=crew.admin, now=NOW)
    run_pieces(gateway)

    assert (fresh(run).state, gateway.bodies) == ("cancelled", [])
    assert fresh(run).sentence == f"cancelled by {crew.admin.audit_name} after 0 of 3 rows"
    with pytest.raises(RunIsOver):
        cancel_run(run=run, actor=crew.admin, now=NOW)
    assert AuditEvent.objects.filter(action="evals.run_cancelled").count() == 1


def test_a_run_stops_at_its_cost_limit():
    """With what was asked until then, and saying so."""
    run = begin(make_set_version("golden", *make_rows(12)), max_cost_micros=700)

    run_pieces()
    run = fresh(run)

    assert (run.state, run.asked, run.cost_micros, run.passed) == ("failed", 8, 800, None)
    assert run.problem == "stopped at its cost limit: 800 of 700 microdollars are spent"


def test_a_gateway_that_answers_nobody_stops_the_run():
    """A whole piece without an answer is no finding about the subject; the rest is not asked."""
    run = begin(make_set_version("golden", *make_rows(2 * ROWS_PER_PIECE)))
    gateway = FakeGateway(says=lambda body: refusal("no_release", 401, "none yet"))

    run_pieces(gateway)
    run = fresh(run)

    assert (run.state, len(gateway.bodies)) == ("failed", ROWS_PER_PIECE)
    assert run.problem == "stopped: 20 rows one after the other got no answer, 20 of them for: no_release: none yet"


def test_what_cannot_be_asked_any_more_fails_the_run():
    """It is said why, and nothing waits for ever."""
    run = begin()

    def broken(**asked):
        raise RuntimeError("no such gateway")

    run_piece(run.pk, 1, now=lambda: NOW, clock=lambda: 0.0, open_asker=broken)

    assert (fresh(run).state, fresh(run).problem) == ("failed", "RuntimeError: no such gateway")
    assert AuditEvent.objects.filter(action="evals.run_failed").count() == 1


def test_a_run_whose_work_is_dead_is_failed():
    """Its worker died with it again and again; other work's death is nothing to it."""
    run = begin()
    task = Task.objects.get(kind="evals.run")

    def die(name):
        failure = Failure(Category.POISON, "poison", "its worker died 3 times in a row")
        bury(Death("task", name, task.pk, failure, bytes(task.arguments), 3, []), NOW)

    die("trials.run")
    before = fresh(run).state
    die("evals.run")

    assert before == "queued"
    assert (fresh(run).state, "died 3 times" in fresh(run).problem) == ("failed", True)


# --- how far ---------------------------------------------------------------------------------------------------------
def test_progress_says_how_fast_and_how_long_still(django_assert_num_queries):
    """Rows a second since a worker took it up; one query reads it."""
    run = begin(make_set_version("golden", *make_rows(10)))
    EvalRun.objects.filter(pk=run.pk).update(
        state="running", started_at=NOW, moved_at=NOW + STALLED_AFTER / 10, asked=4
    )

    with django_assert_num_queries(1):
        progress = EvalRun.objects.get(pk=run.pk).progress

    assert progress.to_json() == {"asked": 4, "total": 10, "per_second": 0.133, "eta_seconds": 45}


def test_a_run_that_nobody_moves_is_stalled():
    """Until its work comes back by itself."""
    run = begin()

    assert not run.is_stalled(NOW)
    assert run.is_stalled(NOW + STALLED_AFTER * 2)


def test_pages_are_told_of_every_step(monkeypatch, django_capture_on_commit_callbacks):
    """On the run's own topic: counts and a sentence, and no word of rows or answers."""
    told = []
    monkeypatch.setattr("controlplane.live.notify", lambda topic, data: told.append((topic, data)))
    run = begin()

    with django_capture_on_commit_callbacks(execute=True):
        run_pieces()

    assert {topic for topic, _ in told} == {f"eval.{run.pk}"}
    assert [(data["state"], data["asked"]) for _, data in told] == [("running", 0), ("running", 3), ("done", 3)]
    assert "30 days" not in str(told)


# --- what stays ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "change",
    [
        lambda run: EvalRun.objects.filter(pk=run.pk).update(passed=False),
        lambda run: EvalAnswer.objects.update(text="better"),
        lambda run: EvalAnswer.objects.all().delete(),
        lambda run: run.set_version.set.standards.update(thresholds={"grounded": 0.1}),
        lambda run: run.set_version.set.standards.all().delete(),
    ],
    ids=["result", "answer", "no answer", "standard", "no standard"],
)
def test_what_was_found_is_fixed(change):
    """The database itself refuses to change a run that is over, its answers, and what answers were held to."""
    run = begin()
    run_pieces()

    with pytest.raises(DatabaseError, match="Cannot"), transaction.atomic():
        change(run)


def test_what_a_run_is_of_is_fixed_from_the_beginning():
    """Nobody lowers a threshold while it asks."""
    run = begin()

    with pytest.raises(DatabaseError, match="Cannot"), transaction.atomic():
        EvalRun.objects.filter(pk=run.pk).update(thresholds={})


@pytest.mark.parametrize("state", RunState.values)
@pytest.mark.parametrize("event", list(RunEvent))
def test_every_step_is_in_the_table(state, event):
    """What is over stays over; nothing ends that nobody took up, but for what fails or is cancelled."""
    after = TRANSITIONS.get((RunState(state), event))

    assert (after is None) is (
        state in OVER or (state, event) in {("queued", RunEvent.ENDED), ("running", RunEvent.BEGUN)}
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "done"},
        {"state": "running", "ended_at": NOW},
        {"passed": True},
        {"asked": 4},
        {"started_at": NOW},
    ],
)
def test_the_database_keeps_runs_consistent(changes):
    """An end without a time, a time without an end, a pass before it, more rows than there are."""
    run = begin()

    with pytest.raises(DatabaseError), transaction.atomic():
        EvalRun.objects.filter(pk=run.pk).update(**changes)


def test_rows_of_another_version_are_another_run():
    """A set moves on; a run stays with the version that it asked."""
    version = make_set_version("golden", *make_rows(1))
    first = begin(version)
    second = begin(import_into(version.set, *make_rows(2)))

    assert first.digest != second.digest
    assert first.subject_digest == second.subject_digest


def test_a_run_that_began_before_another_key_signed_keeps_the_old_one():
    """Its requests bring what the old key signed, to their end; one that began afterwards needs it no more."""
    run = begin()
    waiting = begun_before_switch("ab" * 8, NOW, NOW)
    EvalRun.objects.filter(pk=run.pk).update(state=RunState.RUNNING, started_at=NOW)

    assert waiting == []
    assert begun_before_switch("ab" * 8, NOW, NOW) == []
    [line] = begun_before_switch("ab" * 8, NOW + timedelta(seconds=1), NOW)
    assert f"eval run {run.pk} began before" in line
    EvalRun.objects.filter(pk=run.pk).update(state=RunState.CANCELLED, ended_at=NOW)
    assert begun_before_switch("ab" * 8, NOW + timedelta(seconds=1), NOW) == []
