"""The pages of eval sets: versions, rows and who may read them, imports, standards, leaks."""

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from controlplane.evals.models import EvalSet, EvalSetVersion
from controlplane.evals.runs import EvalStandard
from tests.console.conftest import said, words
from tests.eval_runs import make_calibrated_judge, make_standard
from tests.eval_sets import QUESTION, SENTENCE, import_into, lines, make_judge_version, make_set, make_set_version, row
from tests.evals.test_runs import begin
from tests.factories import crew, make_prompt, make_tenant, make_version

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

ROOM = "/evals/"


def of(slug, act=""):
    return f"/evals/sets/{slug}/{act}"


def held_out(*rows):
    curtains = row("curtains", variables={"question": QUESTION}, expected={"text": SENTENCE})
    return make_set_version("held-out", *(rows or (curtains,)), purpose="held_out")


# --- the room --------------------------------------------------------------------------------------------------------
def test_without_a_set_the_room_says_what_to_do_first(signed_in):
    """Who may make one is offered it; others are told who does."""
    owner, approver = (signed_in(one).get(ROOM) for one in (crew.owner, crew.approver_one))

    assert "There is no set of questions yet Make one, import some questions" in words(owner)
    assert "A prompt owner or an admin makes them here." in words(approver)
    assert "New set" not in words(approver)


def test_the_room_shows_what_each_set_is_held_to(signed_in):
    """Purpose, capability, version, rows, standard and last run; a set without rows says so."""
    version = make_set_version("golden", row("a"), row("b"), residency=["eu"])
    make_standard(version)
    run = begin(version)
    make_set("later")

    page = words(signed_in(crew.auditor).get(ROOM))

    assert f"golden golden Golden chat eu v1 2 grounded 90 % Run {run.pk}" in page
    assert "later later Golden chat anywhere no rows yet no standard yet none yet" in page


def test_a_leak_stands_above_everything(signed_in):
    """In the room and on the page of the set, by row and prompt version, without a word of either."""
    held_out()
    make_version(make_prompt("leaky"), f"Answer as here: {QUESTION}? Thirty days.")

    browser = signed_in(crew.approver_one)
    room, page = browser.get(ROOM), browser.get(of("held-out"))

    assert "leaky v1 has the words of a row of held-out (most of curtains: 100% of its question)" in words(room)
    assert "leaky v1 : curtains (question, 100 %)" in words(page)
    assert QUESTION not in room.content.decode() + page.content.decode()


def test_pages_take_as_many_queries_however_much_there_is(signed_in, queries):
    """Sets, versions, rows, runs, leaks and judges."""
    version = make_set_version("golden", row("a"))
    make_standard(version)
    begin(version)
    browser = signed_in(crew.owner)
    pages = (ROOM, of("golden"), of("golden", "versions/1/"), of("golden", "standard/"), of("golden", "run/"))

    def count():
        return [queries(lambda url=url: browser.get(url)) for url in pages]

    few = count()
    for number in range(2, 5):
        import_into(version.set, *(row(f"r{place}") for place in range(number)))
        make_standard(make_set_version(f"more-{number}", row("a")))
        make_judge_version(f"judge-{number}")
        begin(make_set_version(f"run-{number}", row("a")), judges=["grounded@1"])

    assert count()[0] == few[0]
    assert count()[3:] == few[3:]
    # A version more brings the one before it to be compared with: that is all.
    assert [many - before for many, before in zip(count()[1:3], few[1:3], strict=True)] == [0, 0]


# --- sets and rows ---------------------------------------------------------------------------------------------------
def test_a_set_is_made_and_its_rows_come_next(signed_in):
    """Pinned where its tenant is; what is wrong stands beside the field."""
    make_tenant("acme", residency=["eu"])
    browser = signed_in(crew.owner)
    asked = {"slug": "fresh", "name": "Fresh", "purpose": "golden", "capability": "chat", "tenant": "acme"}

    refused = browser.post("/evals/new/", asked | {"residency": "us"})
    made = browser.post("/evals/new/", asked)

    assert refused.status_code == 400
    assert "outside of where 'acme' is pinned: eu" in words(refused)
    assert made.url == of("fresh", "import/")
    assert EvalSet.objects.get().residency == ["eu"]


def test_every_wrong_line_is_named_and_nothing_is_stored(signed_in):
    """With its number; what was pasted stays in the form."""
    make_set("golden")
    pasted = '{"id": "a", "variables": {}}\nnot JSON\n{"id": "a", "variables": {"question": "x"}}'

    refused = signed_in(crew.owner).post(of("golden", "import/"), {"pasted": pasted, "reason": "r"})

    page = words(refused)
    assert refused.status_code == 400
    assert "Nothing was stored Line 2:" in page
    assert "Line 3: row 'a' stands in line 1 already" in page
    assert "not JSON" in page
    assert not EvalSetVersion.objects.exists()


def test_rows_come_from_a_file_or_are_pasted(signed_in):
    """The next version each, and the same rows again are told to be there."""
    make_set("golden")
    browser = signed_in(crew.owner)
    file = SimpleUploadedFile("rows.jsonl", lines(row("a"), row("b")))

    first = browser.post(of("golden", "import/"), {"file": file, "reason": "r"})
    second = browser.post(of("golden", "import/"), {"pasted": lines(row("a")).decode(), "reason": "r"})
    again = browser.post(of("golden", "import/"), {"pasted": lines(row("a")).decode(), "reason": "r"})

    assert (first.url, said(first)) == (of("golden", "versions/1/"), ["golden v1 has 2 rows"])
    assert second.url == again.url == of("golden", "versions/2/")
    assert said(again)[-1] == "golden v2 has exactly these rows already; nothing was stored"


@pytest.mark.parametrize(
    ("fields", "fact"),
    [
        ({"reason": "r"}, "Choose a file, or paste the rows"),
        ({"pasted": "{}"}, "This field is required"),
        ({"pasted": "{}", "file": True, "reason": "r"}, "not both"),
    ],
)
def test_an_import_without_rows_or_reason_is_refused(signed_in, fields, fact):
    """In words, beside the field."""
    make_set("golden")
    given = {name: SimpleUploadedFile("r", b"{}") if value is True else value for name, value in fields.items()}

    refused = signed_in(crew.owner).post(of("golden", "import/"), given)

    assert refused.status_code == 400
    assert fact in words(refused)


def test_versions_are_compared_by_the_ids_of_rows(signed_in):
    """With the one before, or the one that is asked for."""
    version = make_set_version("golden", row("a"), row("b"), row("c"))
    import_into(version.set, row("a"), row("b", answer="changed"), row("d"))
    import_into(version.set, row("a"))
    browser = signed_in(crew.approver_one)

    before = words(browser.get(of("golden", "versions/2/")))
    chosen = words(browser.get(of("golden", "versions/3/?against=1")))
    first = words(browser.get(of("golden", "versions/1/")))

    assert "From v1 to v2: 1 added, 1 removed, 1 changed" in before
    assert "Added d Removed c Changed b" in before
    assert "From v1 to v3: 2 removed" in chosen
    assert "From v" not in first


def test_words_of_held_out_rows_are_for_those_who_look_after_evals(signed_in):
    """Others see hashes, so that nobody tunes a prompt on them."""
    version = held_out()
    stored = version.rows.get()

    owner, approver = (signed_in(one).get(of("held-out", "versions/1/")) for one in (crew.owner, crew.approver_one))

    assert QUESTION in words(owner)
    assert f"says “{SENTENCE}”" in words(owner)
    assert "Its words are for those who look after evals" in words(approver)
    assert stored.row_hash in approver.content.decode()
    assert QUESTION not in approver.content.decode()
    assert SENTENCE not in approver.content.decode()


# --- standards -------------------------------------------------------------------------------------------------------
def test_a_standard_is_set_and_said_in_words(signed_in):
    """Percent at the page, shares in the record; the form starts from what is in force."""
    make_calibrated_judge()
    make_set_version("golden")
    browser = signed_in(crew.owner)
    asked = {"judges": ["grounded@1"], "threshold_grounded": "97.5", "routes": "chat", "max_cost": "2", "reason": "r"}

    made = browser.post(of("golden", "standard/"), asked | {"prompt": "support-answer"})

    standard = EvalStandard.objects.get()
    assert said(made) == ["Answers to golden are held to grounded 97.5 % from now on"]
    assert (standard.thresholds, standard.routes) == ({"grounded": 0.975}, ["chat"])
    assert (standard.prompt, standard.max_cost_micros) == ("support-answer", 2_000_000)
    page = words(browser.get(of("golden")))
    assert "A lane that can chat enters route chat only after it has passed." in page
    assert 'value="97.5"' in browser.get(of("golden", "standard/")).content.decode()


def test_a_standard_by_which_nothing_is_decided_is_refused(signed_in):
    """The form says why."""
    make_calibrated_judge()
    make_set_version("golden")

    refused = signed_in(crew.owner).post(
        of("golden", "standard/"), {"judges": ["grounded@1"], "max_cost": "2", "reason": "r"}
    )

    assert refused.status_code == 400
    assert "Not set thresholds: nothing hangs on any score" in words(refused)
    assert not EvalStandard.objects.exists()
