import pytest

from controlplane.approvals.operations import apply_change
from controlplane.releases.errors import UnservableRelease
from controlplane.releases.operations import current_release
from controlplane.routing.errors import InvalidRouting
from controlplane.routing.operations import routing_tables
from dataplane.release import MalformedRelease
from dataplane.routing import RoutingTable
from tests.factories import NOW, crew, routing_document, sign

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]


def submit(document):
    return routing_tables.submit(document=document, rationale="r", actor=crew.oncall, now=NOW)


def test_an_invalid_table_is_refused_with_its_path():
    """By the parser that every worker runs."""
    document = routing_document()
    document["routes"]["chat"] = {**document["routes"]["chat"], "lanes": ["nowhere"]}

    with pytest.raises(InvalidRouting, match=r"\$\.routes\.chat\.lanes\[0\]"):
        submit(document)


def test_a_table_without_the_route_of_a_live_prompt_is_never_released():
    """Workers would refuse it; the whole operation is undone, sign-offs or not."""
    document = routing_document()
    del document["routes"]["chat"]
    change = routing_tables.propose(version=submit(document), reason="r", actor=crew.oncall, now=NOW)
    sign(change, crew.approver_one, crew.approver_two)
    before = current_release()

    with pytest.raises(UnservableRelease, match="'chat' is not a route"):
        apply_change(change=change, actor=crew.oncall, now=NOW)

    change.refresh_from_db()
    assert (current_release(), change.state) == (before, "open")


def test_table_is_parsed_once_while_it_says_the_same():
    """Rows of one version share what workers would hold; one that somebody wrote to by hand is read as it is."""
    first, again, altered = (routing_tables.active() for _ in range(3))
    del altered.document["routes"]

    assert first.parsed() is again.parsed()
    assert first.parsed() == RoutingTable.parse(again.document)
    with pytest.raises(MalformedRelease):
        altered.parsed()
    assert again.parsed() is first.parsed()
