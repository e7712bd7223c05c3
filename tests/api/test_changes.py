from datetime import timedelta

import pytest
from django.utils import timezone

from controlplane.accounts.roles import Role
from controlplane.approvals.models import ChangeRequest, SignOff
from controlplane.prompts import operations as prompts
from tests.factories import (
    break_glass,
    crew,
    make_canary,
    make_deployment,
    make_live_version,
    make_operator,
    make_prompt,
    make_version,
    run_canary,
    sign,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]


@pytest.fixture
def change():
    """A version waits to go live: two approvers are asked."""
    version = make_version(make_deployment(), "Dear")
    return prompts.propose_live(version=version, reason="why", actor=crew.owner, now=timezone.now())


def word(change, decision="approve", **fields):
    return {"role": "approver", "decision": decision, "digest": change.digest, **fields}


def test_change_goes_from_proposal_to_live_over_http(as_operator, change):
    """Two approvers sign what they read, the owner applies, and a release carries it."""
    for approver in (crew.approver_one, crew.approver_two):
        caller = as_operator(approver)
        seen = caller.get(f"changes/{change.pk}").body
        signed = caller.post(f"changes/{change.pk}/sign-off", word(change, digest=seen["current_digest"]))
        assert signed.status == 200
    owner = as_operator(crew.owner)

    applied = owner.post(f"changes/{change.pk}/apply")
    again = owner.post(f"changes/{change.pk}/apply")

    assert (applied.status, applied.body["state"]) == (200, "applied")
    assert (again.status, again.body["error"]["code"]) == (409, "change_closed")
    assert owner.get("prompts/support-answer").body["live_version"]["number"] == 2
    assert owner.get("releases").body["results"][0]["reason"].startswith("support-answer v2 live")


def test_change_says_where_it_stands(as_operator, change):
    """The answer lists each gate, what it misses, the words said, and what the reader may do."""
    sign(change, crew.approver_one, now=timezone.now())

    seen = as_operator(crew.approver_two).get(f"changes/{change.pk}").body

    (gate,) = seen["standings"]
    assert (gate["gate"], gate["is_open"]) == ("apply", False)
    assert (gate["needed"], gate["missing"]) == ({"approver": 2}, {"approver": 1})
    assert [(one["operator"], one["validity"]) for one in gate["signatures"]] == [("approver-one", "counts")]
    assert [one["operator_name"] for one in seen["sign_offs"]] == ["approver-one"]
    assert seen["your_actions"] == ["carry", "review", "sign_off", "view"]
    assert seen["current_digest"] == change.digest
    assert not seen["has_drifted"]


def test_apply_without_sign_offs_names_what_is_missing(as_operator, change):
    """The refusal carries the roles for a program and the sentence for a person."""
    answer = as_operator(crew.owner).post(f"changes/{change.pk}/apply")

    assert (answer.status, answer.body["error"]["code"]) == (409, "not_approved")
    assert answer.body["error"]["missing"] == {"approver": 2}


def test_author_cannot_sign(as_operator, change):
    """Even with the role, whoever wrote part of it is refused."""
    owner = make_operator("owner-and-approver", Role.APPROVER, Role.PROMPT_OWNER)
    ChangeRequest.objects.get(pk=change.pk)
    version = make_version(change.target_object(), "Yours", actor=owner)
    own = prompts.propose_live(version=version, reason="why", actor=owner, now=timezone.now())

    answer = as_operator(owner).post(f"changes/{own.pk}/sign-off", word(own))

    assert (answer.status, answer.body["error"]["code"]) == (403, "not_allowed_to_sign")
    assert not SignOff.objects.filter(change=own).exists()


def test_role_that_is_not_held_cannot_be_signed_as(as_operator, change):
    """An approver is not legal."""
    answer = as_operator(crew.approver_one).post(f"changes/{change.pk}/sign-off", word(change, role="legal"))

    assert (answer.status, answer.body["error"]["code"]) == (403, "not_allowed_to_sign")


@pytest.mark.parametrize("missing", ["digest", "role", "decision"])
def test_word_must_say_what_was_seen(as_operator, change, missing):
    """A sign-off without the digest that was read is none."""
    body = word(change)
    del body[missing]

    answer = as_operator(crew.approver_one).post(f"changes/{change.pk}/sign-off", body)

    assert (answer.status, list(answer.body["error"]["fields"])) == (400, [missing])


def test_stale_digest_is_a_conflict_until_rebased(as_operator, change):
    """Once what is live moved, the change says so, refuses the old digest, and takes the new one after a rebase."""
    make_live_version(change.target_object(), "Moved")
    approver, owner = as_operator(crew.approver_one), as_operator(crew.owner)

    drifted = approver.get(f"changes/{change.pk}").body
    refused = approver.post(f"changes/{change.pk}/sign-off", word(change))
    rebased = owner.post(f"changes/{change.pk}/rebase").body
    accepted = approver.post(f"changes/{change.pk}/sign-off", word(change, digest=rebased["current_digest"]))

    assert drifted["has_drifted"]
    assert (refused.status, refused.body["error"]["code"]) == (409, "drifted")
    assert not rebased["has_drifted"]
    assert accepted.status == 200


def test_rejected_change_does_not_come_back(as_operator, change):
    """The rejection is remembered by content, and said again when it is tried again."""
    approver = as_operator(crew.approver_one)

    rejected = approver.post(f"changes/{change.pk}/reject", {"reason": "misleading"})
    again = as_operator(crew.owner).post("prompts/support-answer/versions/2/propose-live", {"reason": "please"})

    assert (rejected.status, rejected.body["state"]) == (200, "rejected")
    assert (again.status, again.body["error"]["code"]) == (409, "digest_rejected")
    assert "misleading" in again.body["error"]["message"]


def test_withdrawn_change_is_closed_once(as_operator, change):
    """The author takes it back; the second time it is closed already."""
    owner = as_operator(crew.owner)

    first = owner.post(f"changes/{change.pk}/withdraw", {"reason": "later"})
    second = owner.post(f"changes/{change.pk}/withdraw", {"reason": "later"})

    assert (first.status, first.body["state"], first.body["closing_note"]) == (200, "withdrawn", "later")
    assert (second.status, second.body["error"]["code"]) == (409, "change_closed")


def test_rejecting_a_canarys_change_ends_the_canary(as_operator):
    """Nothing that was rejected keeps serving, whichever door the rejection came through."""
    canary = run_canary()

    as_operator(crew.approver_one).post(f"changes/{canary.change_id}/reject", {"reason": "harm"})

    canary.refresh_from_db()
    assert canary.state == "rolled_back"


def test_inbox_holds_what_waits_for_the_caller(as_operator, change):
    """Open, theirs to sign, not written by them, not signed as it stands; a word taken back makes it wait again."""
    one, two, owner = (as_operator(person) for person in (crew.approver_one, crew.approver_two, crew.owner))

    def waiting(caller):
        return [row["id"] for row in caller.get("changes?inbox=true").body["results"]]

    assert (waiting(one), waiting(two), waiting(owner)) == ([change.pk], [change.pk], [])
    one.post(f"changes/{change.pk}/sign-off", word(change))
    assert (waiting(one), waiting(two)) == ([], [change.pk])
    one.post(f"changes/{change.pk}/sign-off", word(change, "withdraw"))
    assert waiting(one) == [change.pk]


def test_inbox_of_an_approver_of_one_prompt_holds_no_others(as_operator, change):
    """An approver of another prompt neither sees nor is asked about it."""
    other = make_operator("other-approver", Role.APPROVER, on=make_prompt("other"))

    caller = as_operator(other)

    assert caller.get("changes").body["count"] == caller.get("changes?inbox=true").body["count"] == 0


def test_list_filters_and_takes_a_fixed_number_of_queries(as_operator, change, queries):
    """Filters narrow; the number of rows changes no number of queries."""
    caller = as_operator(crew.approver_one)
    caller.get("changes?inbox=true")
    before = [queries(lambda path=path: caller.get(path)) for path in ("changes", "changes?inbox=true")]
    for text in ("a", "b", "c"):
        version = make_version(change.target_object(), text)
        prompts.propose_live(version=version, reason="why", actor=crew.owner, now=timezone.now())

    after = [queries(lambda path=path: caller.get(path)) for path in ("changes", "changes?inbox=true")]

    assert after == before
    assert caller.get("changes?state=applied").body["count"] == 1
    assert caller.get("changes?target=prompt:nothing").body["count"] == 0


def test_glass_is_broken_reviewed_and_paid_once(as_operator):
    """On-call bypasses with reason and incident; another approver pays; neither can be done twice."""
    canary = make_canary()
    oncall, approver = as_operator(crew.oncall), as_operator(crew.approver_one)
    bypass = {"reason": "customers see an error", "incident": "INC-7", "minutes": 30}

    broken = oncall.post(f"changes/{canary.change_id}/break-glass", bypass)
    again = oncall.post(f"changes/{canary.change_id}/break-glass", bypass)
    unpaid = approver.get("break-glass?unpaid=true").body
    paid = approver.post(f"break-glass/{broken.body['id']}/review", {"note": "it was right"})
    twice = approver.post(f"break-glass/{broken.body['id']}/review", {"note": "it was right"})

    assert (broken.status, broken.body["incident"], broken.body["is_overdue"]) == (201, "INC-7", False)
    assert (again.status, again.body["error"]["code"]) == (409, "break_glass_refused")
    assert [row["id"] for row in unpaid["results"]] == [broken.body["id"]]
    assert (paid.status, paid.body["reviewed_by"]) == (200, "approver-one")
    assert (twice.status, twice.body["error"]["code"]) == (409, "break_glass_refused")
    assert approver.get("break-glass?unpaid=true").body["count"] == 0


def test_glass_is_not_broken_on_what_has_moved_since_it_was_read(as_operator):
    """A caller who says what they read bypasses that and nothing else."""
    canary = make_canary()
    body = {"reason": "customers see an error", "incident": "INC-7", "minutes": 30, "digest": "0" * 64}
    oncall = as_operator(crew.oncall)

    stale = oncall.post(f"changes/{canary.change_id}/break-glass", body)
    fresh = oncall.post(f"changes/{canary.change_id}/break-glass", body | {"digest": canary.change.digest})

    assert (stale.status, stale.body["error"]["code"]) == (409, "drifted")
    assert fresh.status == 201


@pytest.mark.parametrize(
    "body",
    [
        {"incident": "INC-7", "minutes": 30},
        {"reason": "why", "minutes": 30},
        {"reason": "why", "incident": "INC-7", "minutes": 241},
        {"reason": "why", "incident": "INC-7", "minutes": 0},
    ],
)
def test_bypass_says_why_for_what_and_how_long(as_operator, body):
    """Reason, incident and a time within four hours are required."""
    canary = make_canary()

    assert as_operator(crew.oncall).post(f"changes/{canary.change_id}/break-glass", body).status == 400


def test_debt_of_another_prompt_is_not_there(as_operator):
    """A debt is as visible as the change that it is owed for."""
    debt = break_glass(make_canary().change, lasts=timedelta(minutes=5))
    other = as_operator(make_operator("other-approver", Role.APPROVER, on=make_prompt("other")))

    assert other.get(f"break-glass/{debt.pk}").status == 404
    assert other.get("break-glass").body["count"] == 0
