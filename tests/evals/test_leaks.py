import pytest
from django.db import DatabaseError, connection, transaction
from django.test.utils import CaptureQueriesContext

from controlplane.approvals.errors import NotSeen
from controlplane.approvals.preparations import to_see
from controlplane.audit import operations as audit
from controlplane.audit.models import AuditEvent
from controlplane.evals.leaks import look_in_prompt
from controlplane.evals.models import LeakFinding, ProtectedText
from controlplane.prompts.operations import propose_live, submit_version
from tests.eval_sets import QUESTION, import_into, make_set, make_set_version, row
from tests.factories import NOW, VARIABLES, crew, make_canary, make_prompt, make_version, sign

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

LEAKING = f"Answer as in this example: {QUESTION}? Thirty days."


@pytest.fixture
def held_out():
    return make_set_version(
        "held-out", row("curtains", variables={"question": QUESTION}), row("other"), purpose="held_out"
    )


def test_a_submitted_prompt_is_looked_through(held_out):
    """What stands in it of a held-out row is found, told in the record without its words, and the version is kept."""
    version = make_version(make_prompt("leaky"), LEAKING)

    [found] = LeakFinding.objects.all()
    event = AuditEvent.objects.get(action="evals.leak_found")

    assert (found.set_version, found.row_key, found.place) == (held_out, "curtains", "question")
    assert (found.prompt_version, found.matched, found.share, found.at) == (version, 10, 1.0, NOW)
    assert (event.actor, event.target) == ("owner", "prompt:leaky@1")
    assert event.data == {"set": "eval-set:held-out@1", "rows": 1, "keys": ["curtains"], "share": 1}


def test_everything_that_a_model_is_sent_is_looked_at(held_out):
    """Also descriptions within parameters; samples for the console are sent to nobody."""
    schema = {"type": "object", "properties": {"a": {"type": "string", "description": QUESTION}}}
    fields = {
        "prompt": make_prompt("leaky"),
        "messages": [{"role": "system", "content": "Hello {{name}}"}],
        "variables_schema": VARIABLES,
        "change_class": "minor",
        "rationale": "r",
        "actor": crew.owner,
        "now": NOW,
    }

    submit_version(**fields, parameters={}, sample_variables={"name": QUESTION})
    told = LeakFinding.objects.count()
    as_format = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    submit_version(**fields, parameters={"response_format": as_format})

    assert (told, LeakFinding.objects.count()) == (0, 1)


def test_an_imported_set_is_looked_for_in_prompts_that_are_there():
    """The other way round: whichever came first."""
    version = make_version(make_prompt("leaky"), LEAKING)
    make_version(make_prompt("clean"), "Be brief.")

    make_set_version("held-out", row("curtains", variables={"question": QUESTION}), purpose="held_out")

    assert LeakFinding.objects.get().prompt_version == version


def test_rows_that_need_not_be_kept_apart_raise_no_alarm():
    """Golden rows may well be examples in a prompt, and nothing of them is kept to be looked for."""
    make_set_version("golden", row("curtains", variables={"question": QUESTION}))

    make_version(make_prompt("leaky"), LEAKING)

    assert LeakFinding.objects.count() == ProtectedText.objects.count() == 0


def test_a_row_that_was_taken_out_of_its_set_counts_no_more(held_out):
    """Leaked rows are replaced, and the next version of the set is clean: it is that which runs are made on."""
    change = make_canary(text=LEAKING).change
    before = to_see(change)

    import_into(held_out.set, row("fresh"))
    later = make_version(make_prompt("leaky"), LEAKING)

    assert len(before) == 1
    assert to_see(change) == []
    assert not LeakFinding.objects.filter(prompt_version=later).exists()


@pytest.mark.parametrize("way", ["canary", "live"])
def test_whoever_approves_the_prompt_says_that_they_have_seen_it(held_out, way):
    """By either way to users; the record of the approval says what they saw."""
    if way == "canary":
        change = make_canary(text=LEAKING).change
    else:
        version = make_version(make_prompt("leaky"), LEAKING)
        change = propose_live(version=version, reason="r", actor=crew.owner, now=NOW)
    name = "support-answer v2" if way == "canary" else "leaky v1"

    [said] = to_see(change)

    assert said == (
        f"{name} has the words of a row of held-out set 'held-out' (most of 'curtains': 100% of its question), so what "
        "it scores there says nothing"
    )
    with pytest.raises(NotSeen, match="held-out"):
        sign(change, crew.approver_one)


def test_a_clean_prompt_asks_for_nothing(held_out):
    """And costs its review one query."""
    change = make_canary(text="Be brief.").change

    with CaptureQueriesContext(connection) as captured:
        said = to_see(change)

    assert (said, len(captured)) == ([], 1)
    sign(change, crew.approver_one)


def test_looking_takes_one_query_however_many_sets_there_are(held_out):
    """Submitting stays quick."""
    version = make_version(make_prompt("clean"), "Be brief and say in two sentences what happens next and when.")
    for number in range(3):
        make_set_version(f"more-{number}", row(f"r{number}", variables={"question": QUESTION}), purpose="held_out")

    with CaptureQueriesContext(connection) as captured:
        audit.operation(lambda: look_in_prompt(version, actor=crew.owner, now=NOW))()

    assert len([one for one in captured if "evals_" in one["sql"]]) == 1


def test_importing_keeps_nobody_waiting_while_it_stores():
    """Rows, runs of words and the look-up of their foreign keys are through before the operations' lock is taken."""
    eval_set = make_set("held-out", purpose="held_out")

    with CaptureQueriesContext(connection) as captured:
        import_into(eval_set, row("curtains", variables={"question": QUESTION}))

    said = [one["sql"] for one in captured]
    locked = next(place for place, sql in enumerate(said) if "pg_advisory_xact_lock" in sql)
    for before in ('INTO "evals_evalrow"', "INTO evals_protectedrun", "SET CONSTRAINTS ALL IMMEDIATE"):
        assert [place < locked for place, sql in enumerate(said) if before in sql] == [True]


def test_a_prompt_that_comes_while_rows_are_stored_is_looked_through_too():
    """After the long look through all prompts, and before the version is there to be looked for in new ones."""
    eval_set, prompt = make_set("held-out", purpose="held_out"), make_prompt("leaky")
    came = []

    def meanwhile(execute, sql, *rest):
        if "INTO evals_protectedrun" in sql and not came:
            came.append(make_version(prompt, LEAKING))
        return execute(sql, *rest)

    with connection.execute_wrapper(meanwhile):
        import_into(eval_set, row("curtains", variables={"question": QUESTION}))

    assert [one.prompt_version for one in LeakFinding.objects.all()] == came


def test_findings_stay():
    """Nobody rubs out that it was seen."""
    make_set_version("held-out", row("curtains", variables={"question": QUESTION}), purpose="held_out")
    make_version(make_prompt("leaky"), LEAKING)

    for change in (lambda: LeakFinding.objects.update(share=0), lambda: LeakFinding.objects.all().delete()):
        with pytest.raises(DatabaseError), transaction.atomic():
            change()

    assert LeakFinding.objects.count() == 1


def test_several_rows_of_a_set_are_one_sentence():
    """With the one of which most is there."""
    other = "My mother lives on a small island and wonders how many days her parcel is going to need until it is there"
    import_into(
        make_set("held-out", purpose="held_out"),
        row("curtains", variables={"question": QUESTION}),
        row("island", variables={"question": other}),
    )

    change = make_canary(text=f"{LEAKING} {' '.join(other.split()[:14])}").change

    assert "has the words of 2 rows of held-out set 'held-out' (most of 'curtains': 100%" in to_see(change)[0]
