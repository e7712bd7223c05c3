"""Eval sets, leaks and judges over the API."""

from urllib.parse import urlencode

import pytest

from tests.eval_sets import (
    QUESTION,
    import_into,
    lines,
    make_judge_version,
    make_set,
    make_set_version,
    row,
    run_calibrations,
)
from tests.factories import crew, make_operator, make_prompt, make_version
from tests.validator_tables import rule

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

SET = {"slug": "golden", "name": "Help centre", "purpose": "golden", "residency": ["eu"]}
JUDGE = {"slug": "grounded", "name": "Rests on its sources", "score": "grounded"}
VERSION = {"kind": "deterministic", "params": {"rules": [rule()]}, "reason": "first"}


def send_rows(caller, slug, body, *, content_type="application/x-ndjson", **query):
    """The answer to an import."""
    return caller.client.generic(
        "POST",
        f"/api/v1/evals/sets/{slug}/versions?{urlencode(query)}",
        body,
        content_type=content_type,
        headers=caller.headers,
    )


def test_a_script_makes_a_set_and_imports_rows(as_operator):
    """JSON lines are sent as they are; what was imported is read back row by row."""
    owner = as_operator(crew.owner)

    made = owner.post("evals/sets", SET)
    imported = send_rows(owner, "golden", lines(row("a"), row("b")), reason="asked often")
    rows = owner.get("evals/sets/golden/versions/1/rows").body

    assert (made.status, made.body["residency"], made.body["capability"]) == (201, ["eu"], "chat")
    assert (imported.status_code, imported.json()["number"], imported.json()["rows_count"]) == (201, 1, 2)
    assert [one["document"] for one in rows["results"]] == [row("a"), row("b")]
    assert owner.get("evals/sets/golden/versions/1").body["reason"] == "asked often"


def test_every_bad_line_comes_back_at_once(as_operator):
    """And nothing is stored."""
    make_set()

    refused = send_rows(as_operator(crew.owner), "golden", b"{\n" + lines(row("a")) + b"[]\n", reason="r")

    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (400, "bad_rows")
    assert [problem["path"] for problem in error["problems"]] == ["line 1", "line 3"]
    assert as_operator(crew.owner).get("evals/sets/golden/versions").body["count"] == 0


def test_more_is_taken_than_other_bodies_may_have(as_operator):
    """Rows come line by line, so the limit on bodies that are read at once is not theirs."""
    make_set()
    many = [row(f"r{number}", variables={"question": f"{number} {'x' * 100_000}"}) for number in range(25)]

    imported = send_rows(as_operator(crew.owner), "golden", lines(*many), reason="r")

    assert (imported.status_code, imported.json()["rows_count"]) == (201, 25)


@pytest.mark.parametrize(
    ("body", "content_type", "reason", "status", "code"),
    [
        (b"", "application/x-ndjson", "r", 400, "bad_rows"),
        (lines(row()), "application/x-ndjson", "", 400, "invalid_set"),
        (lines(row()), "application/json", "r", 415, "unsupported_media_type"),
    ],
)
def test_an_import_without_rows_or_reason_is_refused(as_operator, body, content_type, reason, status, code):
    """Or one in another form."""
    make_set()

    refused = send_rows(as_operator(crew.owner), "golden", body, content_type=content_type, reason=reason)

    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)


def test_the_same_rows_twice_are_one_version(as_operator):
    """A script may be run again."""
    make_set()
    owner = as_operator(crew.owner)

    first, again = (send_rows(owner, "golden", lines(row()), reason="r").json() for _ in range(2))

    assert first == again
    assert owner.post("evals/sets", {**SET}).body["error"]["code"] == "name_taken"


def test_versions_are_compared(as_operator):
    """By the ids of their rows."""
    version = make_set_version("golden", row("a"), row("b"))
    import_into(version.set, row("b", variables={"question": "other"}), row("c"))

    found = as_operator(crew.auditor).get("evals/sets/golden/versions/1/diff/2").body

    assert found == {"before": 1, "after": 2, "added": ["c"], "removed": ["a"], "changed": ["b"]}


@pytest.mark.parametrize(
    ("purpose", "who", "sees"),
    [
        ("held_out", "owner", True),
        ("held_out", "admin", True),
        ("held_out", "approver_one", False),
        ("held_out", "oncall", False),
        ("held_out", "auditor", False),
        ("golden", "approver_one", True),
        ("safety", "auditor", True),
    ],
)
def test_held_out_words_are_for_who_looks_after_evals(as_operator, purpose, who, sees):
    """Everybody else who sees evals is told how many rows there are, and their hashes."""
    make_set_version("rows", row("a"), purpose=purpose)

    [one] = as_operator(getattr(crew, who)).get("evals/sets/rows/versions/1/rows").body["results"]

    assert (one["key"], len(one["row_hash"])) == ("a", 64)
    assert one["document"] == (row("a") if sees else None)


def test_the_author_of_one_prompt_sees_nothing_of_evals(as_operator):
    """Who owns one prompt only could tune it on what its score is measured by."""
    make_set_version("held-out", row(), purpose="held_out")
    author = as_operator(make_operator("author", "prompt-owner", on=make_prompt("theirs")))

    statuses = [author.get(path).status for path in ("evals/sets", "evals/leaks", "evals/judges")]

    assert statuses == [403, 403, 403]
    assert author.get("evals/sets/held-out").status == 404
    assert author.get("evals/sets/held-out/versions/1/rows").status == 404


def test_who_only_looks_is_refused_with_the_roles_that_may(as_operator):
    """By the sentence that every refusal has."""
    make_set()
    approver = as_operator(crew.approver_one)

    refused = approver.post("evals/sets", SET)

    assert refused.status == 403
    assert "manage eval sets and judges; it comes with the role Prompt owner or Admin" in str(refused.body)
    assert send_rows(approver, "golden", lines(row()), reason="r").status_code == 403


def test_what_is_not_there(as_operator):
    """Sets, versions, judges."""
    make_set()
    owner = as_operator(crew.owner)
    paths = ("sets/none", "sets/golden/versions/1", "sets/golden/versions/1/rows", "judges/none/versions")

    assert [owner.get(f"evals/{path}").status for path in paths] == [404] * 4
    assert send_rows(owner, "none", lines(row()), reason="r").status_code == 404


def test_leaks_are_listed(as_operator):
    """Which row stands in which prompt version, without a word of it."""
    make_set_version("held-out", row("curtains", variables={"question": QUESTION}), purpose="held_out")
    make_version(make_prompt("leaky"), QUESTION)

    [leak] = as_operator(crew.approver_one).get("evals/leaks").body["results"]

    assert (leak["set"], leak["set_number"], leak["row_key"]) == ("held-out", 1, "curtains")
    assert (leak["prompt"], leak["prompt_number"], leak["share"]) == ("leaky", 1, 1.0)
    assert "curtains look" not in str(leak)


def test_a_script_makes_a_judge_and_calibrates_it(as_operator):
    """Uncalibrated until it was held against labels, and then with its figures."""
    answers = {"Within 30 days": True, "Write to ada@example.com": False}
    rows = [
        row(f"{label}{number}", answer=answer, labels={"grounded": label})
        for answer, label in answers.items()
        for number in range(25)
    ]
    make_set_version("labels", *rows)
    owner = as_operator(crew.owner)

    owner.post("evals/judges", JUDGE)
    submitted = owner.post("evals/judges/grounded/versions", VERSION)
    begun = owner.post("evals/judges/grounded/versions/1/calibrations", {"set": "labels", "number": 1})
    twice = owner.post("evals/judges/grounded/versions/1/calibrations", {"set": "labels", "number": 1})
    run_calibrations()
    version = owner.get("evals/judges/grounded/versions/1").body

    assert (submitted.status, submitted.body["is_calibrated"], submitted.body["calibration"]) == (201, False, None)
    assert (begun.status, begun.body["state"], begun.body["labelled"]) == (202, "running", 50)
    assert (twice.status, twice.body["error"]["code"]) == (409, "already_calibrating")
    assert version["is_calibrated"] is True
    assert version["calibration"]["kappa"] == 1
    assert version["calibration"]["sensitivity"] == {
        "value": 1.0,
        "low": pytest.approx(0.8668, abs=1e-4),
        "high": pytest.approx(1),
    }
    assert owner.get("evals/judges/grounded/versions/1/calibrations").body["count"] == 1


@pytest.mark.parametrize(
    ("body", "status", "code", "said"),
    [
        (VERSION, 409, "same_judge", "grounded v1 decides in exactly this way"),
        ({**VERSION, "kind": "oracle"}, 400, "invalid_judge", "kind: 'oracle' is not one of"),
        ({**VERSION, "params": {}}, 400, "invalid_judge", "$: looks at nothing"),
    ],
)
def test_a_judge_that_is_none_is_refused(as_operator, body, status, code, said):
    """With the path, or the version that there is."""
    make_judge_version()

    refused = as_operator(crew.owner).post("evals/judges/grounded/versions", body)

    assert (refused.status, refused.body["error"]["code"]) == (status, code)
    assert said in refused.body["error"]["message"]


def test_a_calibration_needs_labels(as_operator):
    """Of a set that is there."""
    make_judge_version()
    make_set_version()
    owner = as_operator(crew.owner)

    unlabelled = owner.post("evals/judges/grounded/versions/1/calibrations", {"set": "golden", "number": 1})
    missing = owner.post("evals/judges/grounded/versions/1/calibrations", {"set": "golden", "number": 2})

    assert (unlabelled.status, unlabelled.body["error"]["code"]) == (409, "nothing_to_calibrate")
    assert missing.status == 404


def test_lists_take_as_many_queries_for_many_as_for_few(as_operator, queries):
    """Of sets, rows, leaks and versions of judges."""
    auditor = as_operator(crew.auditor)
    held_out = make_set_version("s0", row("a", variables={"question": QUESTION}), purpose="held_out")
    make_judge_version()
    make_version(make_prompt("p0"), QUESTION)
    paths = ("sets", "sets/s0/versions", "sets/s0/versions/1/rows", "leaks", "judges", "judges/grounded/versions")
    auditor.get("evals/sets")

    few = [queries(lambda path=path: auditor.get(f"evals/{path}")) for path in paths]
    for number in range(1, 4):
        make_set_version(f"s{number}", row("a", variables={"question": QUESTION}), purpose="held_out")
        make_version(make_prompt(f"p{number}"), QUESTION)
        make_judge_version(params={"rules": [rule(version=number + 1)]})
    many = [queries(lambda path=path: auditor.get(f"evals/{path}")) for path in paths]

    assert held_out.number == 1
    assert many == few
