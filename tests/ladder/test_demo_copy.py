"""The words of the demo: what a fresh copy of Ballast shows when no model can answer."""

import jsonschema
import pytest

from controlplane.approvals.models import ChangeRequest
from controlplane.console.copy_content import copy_rows
from controlplane.console.management.commands.seed_demo import read_demo
from controlplane.ladder.models import Copy, CopyActivation
from controlplane.releases.models import Release
from dataplane.documents import Node
from dataplane.release import parse_document
from dataplane.signed_copy import parse_copy
from tests.factories import NOW

DEMO = read_demo(NOW.date(), simulator="http://127.0.0.1:8090", embedder="http://127.0.0.1:8070")
RUNGS = tuple(DEMO["ladder"]["copy"])
SCHEMA = DEMO["prompts"]["support-answer"]["parameters"]["response_format"]["json_schema"]["schema"]


def words_of(document):
    """Every text with its JSON, whatever the kind."""
    for said in document["locales"].values():
        yield from said if isinstance(said, list) else [said]


@pytest.mark.parametrize("slug", DEMO["copy"])
def test_words_of_the_demo_are_whole_in_both_languages(slug):
    """They parse, and whoever asked for JSON of the help centre's schema gets the text in it."""
    entry = DEMO["copy"][slug]
    document = {"kind": entry["kind"], **{key: entry["versions"][-1][key] for key in ("default_locale", "locales")}}

    parsed = parse_copy(slug, Node(document, "$"), version=1, digest="")

    assert parsed.locales == ("en", "de")
    for words in words_of(document):
        if words["json"] is None:
            placeholder = {"outage": "{{eta_minutes}}", "freshness": "{{as_of}}"}[entry["kind"]]
            assert placeholder in words["text"]
        else:
            jsonschema.validate(words["json"], SCHEMA)
            assert words["json"]["answer"] == words["text"]
            assert words["json"]["resolved"] is (entry["kind"] == "answers")


@pytest.mark.django_db
@pytest.mark.usefixtures("demo")
def test_demo_has_its_words_signed_before_a_route_falls_back_on_them():
    """Through the approvals, by who answers for them; from the first release with the stack on, its copy is there."""
    rows = copy_rows(list(Copy.objects.all()))
    assert {row["state"] for row in rows} == {"signed"}
    signed = {row["copy"].slug: {signature.name for signature in row["signatures"]} for row in rows}
    assert signed == {
        "help-centre-age": {"exec"},
        "help-centre-answers": {"exec", "legal"},
        "help-centre-outage": {"exec"},
        "help-centre-template": {"exec"},
        "withheld": {"exec", "legal"},
        **{slug: {"exec", "legal"} for slug in RUNGS},
    }
    used = {row["copy"].slug: [str(use) for use in row["uses"]] for row in rows}
    assert used.pop("withheld") == ["careful-answers of chat"]
    del used["help-centre-age"]  # a corpus names it, no route
    assert all("web-chat" in str(used.pop(slug)) for slug in RUNGS)
    assert "web-chat" in str(used["help-centre-answers"])
    assert all("help-centre of chat" in uses for uses in used.values())
    falls_back = [release for release in Release.objects.all() if "fallbacks" in _section(release, "routing")]
    assert falls_back
    assert all(DEMO["copy"].keys() <= _section(release, "copy").keys() for release in falls_back)
    assert not ChangeRequest.objects.open().filter(kind="ladder.policy").exists()
    assert not CopyActivation.objects.filter(change__isnull=True).exists()
    assert not ChangeRequest.objects.open().filter(kind="copy.version").exists()


@pytest.mark.django_db
@pytest.mark.usefixtures("demo")
def test_every_rung_of_the_demo_can_be_engaged_from_the_first_release_that_has_it():
    """By hand, by a trigger, and by an order on a host; and nothing is engaged to begin with."""
    with_ladder = [release for release in Release.objects.all() if _section(release, "ladder")]
    assert with_ladder
    for stored in with_ladder:
        release = parse_document(stored.content, digest=stored.digest)
        assert release.ladder["web-chat"].engageable == (1, 2, 3, 4, 5, 6)
        assert release.activations == {}
        assert _section(stored, "emergency")["web-chat"].keys() == set("123456")


def _section(release, name):
    return release.content["sections"].get(name)
