"""Who gets a version of a document, and what is in force of it, by the one mechanism that the documents share."""

import pytest
from django.core.exceptions import PermissionDenied
from django.http import Http404

from controlplane.corpora.access import policy_access as corpora_access
from controlplane.ladder.access import policy_access as ladder_access
from controlplane.routing.access import table_access
from tests.corpora.kept_corpora import make_policy as make_corpora
from tests.factories import crew, make_operator
from tests.ladder.ladder_policies import make_ladder

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

EACH = [
    pytest.param(table_access, table_access.versions.active, id="routing"),
    pytest.param(ladder_access, make_ladder, id="ladder"),
    pytest.param(corpora_access, make_corpora, id="corpora"),
]
ENTRIES = EACH[1:]


@pytest.mark.parametrize(
    "access", [pytest.param(ladder_access, id="ladder"), pytest.param(corpora_access, id="corpora")]
)
def test_before_the_first_version_there_is_nothing_in_force_to_read(access):
    """No row, no entries; who asks for an entry is told that it does not exist."""
    found = access.in_force(crew.oncall)

    assert (found.row, found.parsed) == (None, {})
    with pytest.raises(Http404):
        access.entry(crew.oncall, "web-chat", access.view)


@pytest.mark.parametrize(("access", "begin"), EACH)
def test_version_in_force_comes_with_what_it_says(access, begin):
    """To whoever may look; everybody who may look may look at all versions."""
    begin()

    found = access.in_force(crew.auditor)

    assert found.row == access.versions.active() == access.version(crew.auditor, found.row.number)
    assert found.parsed == access.versions.parse(found.row.document)
    assert found.row in access.visible(crew.auditor)


@pytest.mark.parametrize(("access", "begin"), EACH)
def test_who_may_look_but_not_propose_is_told_who_may(access, begin):
    """And who may not even look is told so of the whole, and of one version that it does not exist."""
    begin()
    stranger, number = make_operator("stranger"), access.versions.active().number

    assert (access.may_propose(crew.oncall), access.may_propose(crew.auditor)) == (True, False)
    assert access.version_to_propose(crew.oncall, number).number == number
    with pytest.raises(PermissionDenied, match="On-call or Admin"):
        access.version_to_propose(crew.auditor, number)
    with pytest.raises(PermissionDenied, match="On-call or Admin"):
        access.require_proposer(crew.auditor)
    for look in (access.in_force, access.visible):
        with pytest.raises(PermissionDenied):
            look(stranger)
    for look in (access.version, access.version_to_propose):
        with pytest.raises(Http404):
            look(stranger, number)
        with pytest.raises(Http404):
            look(crew.oncall, number + 99)


@pytest.mark.parametrize(("access", "begin"), ENTRIES)
def test_entry_of_what_is_in_force_is_found_by_its_slug(access, begin):
    """By who may look, for what they may do with it."""
    begin()
    (slug, entry), *_ = access.in_force(crew.oncall).parsed.items()

    assert access.entry(crew.oncall, slug, access.propose) == entry
    with pytest.raises(Http404, match="does not name 'gone'"):
        access.entry(crew.oncall, "gone", access.propose)
    with pytest.raises(PermissionDenied):
        access.entry(crew.auditor, slug, access.propose)
    with pytest.raises(Http404):
        access.entry(make_operator("stranger"), slug, access.view)
