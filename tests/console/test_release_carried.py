"""What pages say of releases is remembered by digest, within bounds, so that large documents are not read again."""

import gc

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.accounts import operations as accounts
from controlplane.console import release_carried
from controlplane.console.release_carried import carried, changes, parts
from controlplane.prompts.models import Prompt
from controlplane.releases.models import Release
from controlplane.releases.operations import current_release
from controlplane.remembered import Remembered
from tests.console.conftest import words
from tests.factories import NOW, crew, make_live_version


@pytest.fixture
def two(deployment, db):
    """The current release, and the one before it."""
    make_live_version(Prompt.objects.get(slug="support-answer"), "another")
    after = current_release()
    return Release.objects.get(revision=after.revision - 1), after


def documents_read(call):
    """How many documents of releases `call()` fetches."""
    with CaptureQueriesContext(connection) as queries:
        call()
    return sum('"releases_release"."document"' in query["sql"] for query in queries)


def test_as_many_as_there_is_room_for_are_remembered():
    """What was asked for longest ago goes first; what is not to be kept is made each time."""
    made = []
    remembered = Remembered[str](2)

    def get(key, **options):
        return remembered.get(key, lambda: made.append(key) or f"{key}!", **options)

    assert [get(key) for key in ("a", "b", "a", "c", "a", "b")] == ["a!", "b!", "a!", "c!", "a!", "b!"]
    assert made == ["a", "b", "c", "b"]
    get("big", keeps=lambda value: False)
    get("big", keeps=lambda value: False)
    assert made[4:] == ["big", "big"]


def test_pages_read_a_document_once(two, signed_in, monkeypatch):
    """Looked at again, a release and a comparison say the same without fetching what was signed."""
    for name in ("_CARRIED", "_CHANGES", "_PARTS"):
        monkeypatch.setattr(release_carried, name, Remembered(4))
    before, after = two
    browser = signed_in(crew.auditor)

    for url in (f"/releases/{after.revision}/", f"/releases/diff/?from={before.revision}&to={after.revision}"):
        first, again = [], []
        assert documents_read(lambda url=url, first=first: first.append(browser.get(url))) > 0
        assert documents_read(lambda url=url, again=again: again.append(browser.get(url))) == 0
        assert "support-answer goes from v1 to v2" in words(again[0])
        assert words(again[0]) == words(first[0])


def test_releases_are_told_apart_by_what_they_carry(two):
    """Each way of a comparison, and each document."""
    before, after = two

    assert carried(before).audit_head["seq"] < carried(after).audit_head["seq"]
    assert "support-answer goes from v1 to v2" in changes(before, after)
    assert "support-answer goes from v2 to v1" in changes(after, before)
    assert [part.title for part in parts(before, after) if part.changed] == ["Prompts"]
    assert any("for the first time" in line for line in changes(None, before))


def test_collector_is_as_it_was_after_a_document_is_read(two):
    """Reading pauses it; also where the document cannot be read."""
    _, after = two
    assert gc.isenabled()

    assert Release.objects.get(pk=after.pk).content["revision"] == after.revision
    with pytest.raises(ValueError, match=r"JSON|unexpected"):
        _ = Release(document="{").content

    assert gc.isenabled()


def test_what_going_back_would_bring_back_is_remembered_without_the_document(two, signed_in, monkeypatch):
    """The way to undo is looked for again without fetching documents; a key that was issued is no other state."""
    monkeypatch.setattr(release_carried, "_STATES", Remembered(8))
    before, live = two
    tenant = accounts.create_tenant(slug="acme", name="Acme", actor=crew.admin, now=NOW)
    accounts.issue_key(tenant=tenant, name="k", actor=crew.admin, now=NOW)
    newest = current_release()

    states = [release_carried.restorable(release) for release in (before, live, newest)]

    assert newest.revision > live.revision
    assert states[0] != states[1] == states[2]
    assert documents_read(lambda: release_carried.restorable(newest)) == 0
    assert {type(state) for state in states} == {str}
