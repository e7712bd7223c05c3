import pytest
from django.utils import timezone

from controlplane.approvals.models import ChangeRequest
from controlplane.routing.models import RoutingTable
from tests.factories import crew, make_policy, make_routing, routing_document, sign

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def deployment():
    make_policy()
    make_routing()


def submit(caller, **changes):
    return caller.post("routing-tables", {"document": routing_document(**changes), "rationale": "slower model"})


def test_table_goes_from_document_to_force_and_back(as_operator):
    """Submitted and proposed by on-call, signed by two, applied, and returned from in one call."""
    oncall = as_operator(crew.oncall)

    submitted = submit(oncall, deadline_ms=9000)
    proposed = oncall.post(f"routing-tables/{submitted.body['number']}/propose", {"reason": "why"})
    sign(ChangeRequest.objects.get(pk=proposed.body["id"]), crew.approver_one, crew.approver_two, now=timezone.now())
    applied = oncall.post(f"changes/{proposed.body['id']}/apply")
    in_force = oncall.get(f"routing-tables/{submitted.body['number']}").body
    back = oncall.post("routing-tables/1/return-to", {"reason": "slower still"})

    assert (submitted.status, submitted.body["is_in_force"]) == (201, False)
    assert (proposed.status, applied.status) == (201, 200)
    assert in_force["is_in_force"]
    assert in_force["document"]["routes"]["chat"]["deadline_ms"] == 9000
    assert (back.status, back.body["is_in_force"]) == (200, True)


def test_table_in_force_is_not_submitted_again(as_operator):
    """The same document is a conflict and stores nothing."""
    answer = submit(as_operator(crew.oncall))

    assert (answer.status, answer.body["error"]["code"]) == (409, "same_content")
    assert RoutingTable.objects.count() == 1


def test_malformed_table_names_the_path(as_operator):
    """The refusal is the workers' own, with the path of the mistake."""
    document = routing_document()
    document["routes"]["chat"] = {**document["routes"]["chat"], "lanes": ["nowhere"]}

    answer = as_operator(crew.oncall).post("routing-tables", {"document": document, "rationale": "why"})

    assert (answer.status, answer.body["error"]["code"]) == (400, "invalid_routing")
    assert "routes.chat" in answer.body["error"]["message"]


def test_table_that_never_was_in_force_is_not_returned_to(as_operator):
    """Forward needs sign-offs."""
    oncall = as_operator(crew.oncall)
    number = submit(oncall, deadline_ms=9000).body["number"]

    answer = oncall.post(f"routing-tables/{number}/return-to", {"reason": "why"})

    assert (answer.status, answer.body["error"]["code"]) == (409, "never_in_force")


def test_list_takes_a_fixed_number_of_queries(as_operator, queries):
    """However many tables there are."""
    oncall = as_operator(crew.oncall)
    oncall.get("routing-tables")
    before = queries(lambda: oncall.get("routing-tables"))
    for deadline_ms in (9001, 9002, 9003):
        submit(oncall, deadline_ms=deadline_ms)

    assert queries(lambda: oncall.get("routing-tables")) == before
    assert [row["is_in_force"] for row in oncall.get("routing-tables").body["results"]] == [False, False, False, True]
