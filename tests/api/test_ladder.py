from datetime import timedelta

import pytest
from django.utils import timezone

from controlplane.approvals.models import ChangeRequest
from controlplane.approvals.operations import apply_change
from controlplane.ladder.models import LadderPolicy, RungActivation
from controlplane.releases.operations import current_release
from tests.dataplane.conftest import threshold
from tests.factories import crew, sign
from tests.ladder.ladder_policies import SURFACE, ladder_document, make_ladder, make_words, section
from tests.ladders import rungs

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

DRILL = {"origin": "load_test", "note": "seen in the drill", "link": "/drills/", "review_by": "2099-01-01"}


def asked(*, lasts=timedelta(minutes=30), **fields):
    until = (timezone.now() + lasts).isoformat()
    return {"surface": SURFACE, "rung": 3, "until": until, "reason": "it burns"} | fields


def test_policy_goes_from_nothing_to_in_force_and_back(as_operator):
    """Submitted and proposed by on-call, signed by two approvers, applied; and it goes back in one call."""
    oncall = as_operator(crew.oncall)
    for document in (ladder_document(), ladder_document(title="Chat")):
        submitted = oncall.post("ladder/policies", {"document": document, "rationale": "why"})
        number = submitted.body["number"]
        proposed = oncall.post(f"ladder/policies/{number}/propose", {"reason": "why"})
        change = ChangeRequest.objects.get(pk=proposed.body["id"])
        sign(change, crew.approver_one, crew.approver_two, now=timezone.now())
        apply_change(change=change, actor=crew.oncall, now=timezone.now())

    back = [oncall.post("ladder/policies/1/return-to", {"reason": "typo"}) for _ in range(2)]

    assert (submitted.status, submitted.body["document"]) == (201, ladder_document(title="Chat"))
    assert (proposed.status, proposed.body["kind"]) == (201, "ladder.policy")
    assert [(answer.status, answer.body["is_in_force"]) for answer in back] == [(200, True), (200, True)]
    assert section("ladder")[SURFACE]["title"] == "Web chat"
    listed = oncall.get("ladder/policies").body["results"]
    assert [(row["number"], row["is_in_force"]) for row in listed] == [(2, False), (1, True)]


def test_policy_says_what_there_is_against_it(as_operator):
    """With its path, before anybody signs it."""
    make_words(1)
    document = ladder_document(rungs={"1": rungs()["1"], "3": {"copy": "rung-3", "route": "gone"}}, triggers={})

    answer = as_operator(crew.oncall).post("ladder/policies", {"document": document, "rationale": "why"})

    assert [(one["path"], one["is_error"]) for one in answer.body["problems"]] == [
        ('$["web-chat"].rungs["3"].route', True),
        ('$["web-chat"].rungs["3"].copy', False),
    ]


def test_ladder_says_which_rungs_are_signed_and_what_is_engaged(as_operator):
    """Nothing before the first policy; then each surface with its rungs, and why one cannot be engaged."""
    oncall = as_operator(crew.oncall)
    before = oncall.get("ladder")
    make_words(1, 3)
    make_ladder()
    engaged = oncall.post("ladder/activations", asked())

    now = oncall.get("ladder")

    assert (before.status, before.body) == (200, {"policy": None, "surfaces": []})
    [surface] = now.body["surfaces"]
    assert (now.body["policy"]["number"], surface["slug"], surface["triggers"]) == (1, SURFACE, ["load"])
    assert [row["number"] for row in surface["rungs"] if row["is_signed"]] == [1, 3]
    assert surface["rungs"][1]["missing"] == ["nobody has signed 'rung-2' yet"]
    assert [one["name"] for one in surface["activations"]] == [engaged.body["name"]]


def test_rung_is_engaged_previewed_held_and_stood_down(as_operator):
    """At once and in the release; the answers say who it is for, and which signed words stood then."""
    make_words()
    make_ladder()
    oncall = as_operator(crew.oncall)

    preview = oncall.post(f"ladder/surfaces/{SURFACE}/preview", {"rung": 3, "tiers": ["free", "vip"]})
    engaged = oncall.post("ladder/activations", asked(tiers=["free"]))
    held = oncall.post("ladder/activations", asked(mode="hold", rung=1))
    carried = set(section("activations"))
    one = oncall.post(f"ladder/activations/{engaged.body['id']}/stand-down", {"reason": "over"})
    again = oncall.post(f"ladder/activations/{engaged.body['id']}/stand-down", {"reason": "over"})
    oncall.post("ladder/activations", asked(rung=6))
    whole = oncall.post(f"ladder/surfaces/{SURFACE}/stand-down", {"reason": "over", "is_held_up": False})

    assert preview.status == 200
    assert preview.body["exempt"] == ["VIP exempt up to 40 concurrent"]
    assert len(preview.body["changes"]) == 3
    assert (engaged.status, engaged.body["by"], engaged.body["tiers"]) == (201, "oncall", ["free"])
    assert (engaged.body["words"]["rung-3"]["number"], engaged.body["stood_down"]) == (1, None)
    assert (held.status, held.body["mode"], held.body["words"]) == (201, "hold", {})
    assert carried == {engaged.body["name"], held.body["name"]}
    assert (one.status, one.body["stood_down"]["by"], again.body) == (200, "oncall", one.body)
    assert (whole.status, set(section("activations"))) == (200, {held.body["name"]})
    assert [row["rung"] for row in oncall.get("ladder/activations").body["results"]] == [6, 1, 3]
    assert oncall.get(f"ladder/activations/{engaged.body['id']}").body == one.body


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"surface": "gone"}, 404, "unknown_surface"),
        ({"rung": 2}, 409, "unsigned_rung"),
        ({"rung": 0}, 400, "invalid_activation"),
        ({"rung": 7}, 400, "invalid"),
        ({"lasts": timedelta(hours=25)}, 400, "invalid_activation"),
        ({"tiers": ["gold"]}, 400, "invalid"),
        ({"regions": ["Mars"]}, 400, "invalid_activation"),
        ({"mode": "sleep"}, 400, "invalid"),
        ({"reason": ""}, 400, "invalid"),
        ({"colour": "red"}, 400, "invalid"),
    ],
)
def test_rung_that_cannot_be_engaged_is_refused(as_operator, fields, status, code):
    """With a stable code, and nothing released."""
    make_words(1, 3)
    make_ladder()
    before = current_release()

    answer = as_operator(crew.oncall).post("ladder/activations", asked(**fields))

    assert (answer.status, answer.body["error"]["code"]) == (status, code)
    assert (current_release(), RungActivation.objects.count()) == (before, 0)


def test_who_writes_words_engages_none_and_who_engages_writes_none(as_operator):
    """Two permissions: a prompt owner is refused the rung, on-call the words, each naming who may."""
    make_words(1)
    make_ladder()

    engaged = as_operator(crew.owner).post("ladder/activations", asked(rung=1))
    written = as_operator(crew.oncall).post("copy/rung-1/versions", {"document": {"kind": "rung"}, "rationale": "why"})

    assert (engaged.status, written.status) == (403, 403)
    assert "On-call or Admin" in engaged.body["error"]["message"]


def test_thresholds_of_a_surface_are_read_and_others_proposed(as_operator):
    """A new policy, which differs in these numbers only, and its change request."""
    make_ladder()
    oncall = as_operator(crew.oncall)

    path = f"ladder/surfaces/{SURFACE}/thresholds"
    read = oncall.get(path)
    proposed = oncall.patch(path, {"thresholds": {"triggers.load.enter": {"value": 150, **DRILL}}, "reason": "drill"})
    refused = [
        oncall.patch(path, {"thresholds": changes, "reason": "r"})
        for changes in (
            {"hunger": {"value": 1, **DRILL}},
            {"triggers.load.exit": {"value": 150, **DRILL}},
            {"eta_seconds": None},
            {"eta_seconds": {"value": 60}},
        )
    ]

    assert read.body["thresholds"]["triggers.load.enter"]["value"] == 100
    assert read.body["thresholds"]["eta_seconds"]["provenance"]["origin"] == "guess"
    assert (proposed.status, proposed.body["kind"]) == (201, "ladder.policy")
    enter = LadderPolicy.objects.get(number=2).document[SURFACE]["triggers"]["load"]["enter"]
    assert (enter["value"], enter["provenance"]["author"]) == (150, "oncall")
    assert [(answer.status, answer.body["error"]["code"]) for answer in refused] == [
        (400, "invalid_threshold"),
        (400, "invalid_ladder"),
        (400, "invalid_threshold"),
        (400, "invalid"),
    ]
    assert LadderPolicy.objects.count() == 2


def test_what_is_not_there_is_said_not_to_be(as_operator):
    """Policies, activations and surfaces alike; what is no policy names its place, and what is in force is known."""
    make_ladder()
    oncall = as_operator(crew.oncall)

    missing = [
        oncall.get("ladder/policies/9").status,
        oncall.get("ladder/activations/9").status,
        oncall.get("ladder/surfaces/gone/thresholds").status,
        oncall.post("ladder/surfaces/gone/preview", {"rung": 1}).status,
        oncall.post("ladder/surfaces/gone/stand-down", {"reason": "r"}).status,
        oncall.post("ladder/activations/9/stand-down", {"reason": "r"}).status,
    ]
    document = ladder_document(eta_seconds=threshold(0))
    malformed = oncall.post("ladder/policies", {"document": document, "rationale": "why"})
    same = oncall.post("ladder/policies", {"document": ladder_document(), "rationale": "why"})

    assert missing == [404] * 6
    assert (malformed.status, malformed.body["error"]["code"]) == (400, "invalid_ladder")
    assert '$["web-chat"].eta_seconds' in malformed.body["error"]["message"]
    assert (same.status, same.body["error"]["code"]) == (409, "same_content")


def test_lists_take_a_fixed_number_of_queries(as_operator, queries):
    """However much is engaged, and however many policies there were."""
    make_words(1, 3)
    make_ladder()
    oncall = as_operator(crew.oncall)
    oncall.post("ladder/activations", asked(rung=1))
    paths = ("ladder", "ladder/policies", "ladder/activations")
    before = [queries(lambda path=path: oncall.get(path)) for path in paths]
    for tier in ("vip", "free"):
        row = oncall.post("ladder/activations", asked(tiers=[tier]))
        oncall.post(f"ladder/activations/{row.body['id']}/stand-down", {"reason": "r"})
        make_ladder(ladder_document(title=tier))
        oncall.post("ladder/activations", asked(rung=1, tiers=[tier]))

    assert [queries(lambda path=path: oncall.get(path)) for path in paths] == before
