import pytest
from django.utils import timezone

from controlplane.approvals.models import ChangeRequest
from controlplane.ladder.models import Copy, CopyVersion
from tests.factories import (
    copy_document,
    crew,
    make_copy,
    make_copy_version,
    make_demo_copy,
    make_live_copy,
    make_policy,
    make_routing,
    routing_document,
    sign_copy,
)

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def policy():
    make_policy()


def test_copy_goes_from_nothing_to_live_and_back(as_operator):
    """Created, submitted and proposed by its owner, signed by exec, applied; and on-call goes back in one call."""
    owner, oncall = as_operator(crew.owner), as_operator(crew.oncall)
    piece = {"slug": "outage", "kind": "outage", "title": "Outage"}

    created, again = owner.post("copy", piece), owner.post("copy", piece)
    for text in ("first", "second"):
        body = {"document": copy_document(text=text), "rationale": "why"}
        submitted = owner.post("copy/outage/versions", body)
        proposed = owner.post(f"copy/outage/versions/{submitted.body['number']}/propose", {"reason": "why"})
        assert owner.get("copy/outage").body["live"] != {"number": submitted.body["number"]}
        sign_copy(ChangeRequest.objects.get(pk=proposed.body["id"]), now=timezone.now())
    live = owner.get("copy/outage").body
    back = oncall.post("copy/outage/versions/1/return-to", {"reason": "typo"})
    twice = oncall.post("copy/outage/versions/1/return-to", {"reason": "typo"})

    assert (created.status, created.body["live"], created.body["regulated"]) == (201, None, False)
    assert (again.status, again.body["error"]["code"]) == (409, "name_taken")
    assert (submitted.status, submitted.body["document"]) == (201, copy_document(text="second"))
    assert proposed.status == 201
    assert (live["live"]["number"], live["live"]["digest"]) == (2, submitted.body["digest"])
    assert (back.status, back.body["live"]["number"]) == (200, 1)
    assert (twice.status, twice.body) == (200, back.body)


def test_what_is_refused_says_why_by_its_code(as_operator):
    """Words without the path they need, words that exist, words that nobody signed, and what is not there."""
    owner, oncall = as_operator(crew.owner), as_operator(crew.oncall)
    copy = make_copy()
    live = make_live_copy(copy, "live")
    make_copy_version(copy, "unsigned")
    url = f"copy/{copy.slug}/versions"

    def submit(document):
        return owner.post(url, {"document": document, "rationale": "why"})

    malformed = submit(copy_document(text="{{when}}"))
    same = submit(live.document)
    unsigned = oncall.post(f"{url}/2/return-to", {"reason": "why"})
    proposed_live = owner.post(f"{url}/1/propose", {"reason": "why"})
    unreasoned, forbidden = oncall.post(f"{url}/1/return-to"), oncall.post(f"{url}/1/propose", {"reason": "why"})
    missing = [owner.get(path).status for path in ("copy/gone", f"{url}/9", "copy/gone/versions/1")]

    assert (malformed.status, malformed.body["error"]["code"]) == (400, "invalid_copy")
    assert "$.locales.en.text: placeholder 'when' does not exist" in malformed.body["error"]["message"]
    assert (same.status, same.body["error"]["code"]) == (409, "same_content")
    assert (unsigned.status, unsigned.body["error"]["code"]) == (409, "never_signed")
    assert (proposed_live.status, proposed_live.body["error"]["code"]) == (409, "live_already")
    assert (unreasoned.status, forbidden.status) == (400, 403)
    assert "Prompt owner or Admin" in forbidden.body["error"]["message"]
    assert missing == [404, 404, 404]
    assert CopyVersion.objects.count() == 2


def test_piece_says_where_it_is_shown(as_operator):
    """By which stack, below which routes."""
    make_demo_copy()
    make_routing(routing_document(fallbacks=True))

    used_by = as_operator(crew.auditor).get("copy/help-centre-template").body["used_by"]

    assert used_by == [{"stack": "help-centre", "noun": "fallback stack", "routes": ["chat"]}]


def test_lists_take_a_fixed_number_of_queries(as_operator, queries):
    """However many pieces and versions there are; no list carries the words themselves."""
    owner = as_operator(crew.owner)
    copy = make_copy()
    make_live_copy(copy, "v1")
    paths = ("copy", f"copy/{copy.slug}/versions")
    owner.get("copy")
    before = [queries(lambda path=path: owner.get(path)) for path in paths]
    for number in range(3):
        make_live_copy(slug=f"piece-{number}")
        make_live_copy(copy, f"other {number}")

    assert [queries(lambda path=path: owner.get(path)) for path in paths] == before
    pieces, versions = (owner.get(path).body["results"] for path in paths)
    assert {row["slug"]: row["live"]["number"] for row in pieces}[copy.slug] == 4
    assert [row["number"] for row in versions] == [4, 3, 2, 1]
    assert "document" not in versions[0]
    assert Copy.objects.count() == 4
