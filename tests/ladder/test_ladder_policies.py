from datetime import date, timedelta

import pytest

from controlplane.approvals.errors import NotApproved
from controlplane.approvals.kinds import check_rules
from controlplane.approvals.operations import apply_change, end_bypass
from controlplane.audit.models import AuditEvent
from controlplane.ladder.checks import policy_problems
from controlplane.ladder.errors import (
    InvalidLadder,
    InvalidThreshold,
    NeverInForce,
    RungIsEngaged,
    UnknownSurface,
    UnsignedRung,
)
from controlplane.ladder.models import LadderPolicy, RungStoodDown
from controlplane.ladder.policies import ladder_policies, propose_thresholds
from controlplane.ladder.thresholds import placed_thresholds, with_thresholds
from controlplane.ladder.uses import uses
from controlplane.releases.errors import UnservableRelease
from controlplane.routing.thresholds import Census
from controlplane.versioned.numbers import NewValue, path_of
from dataplane.ladder.policy import Ladder
from tests.dataplane.conftest import threshold
from tests.factories import (
    NOW,
    break_glass,
    built_in_rules,
    crew,
    make_copy,
    make_live_copy,
    make_routing,
    routing_document,
    sign,
)
from tests.ladder.ladder_policies import (
    SURFACE,
    engage,
    ladder_document,
    make_ladder,
    make_words,
    propose,
    put_in_force,
    section,
    served,
    submit,
)
from tests.ladders import rungs, trigger

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]


def test_policy_is_in_force_once_it_is_signed_and_applied():
    """And not before; workers read it, and which of its rungs nobody signed."""
    make_words(1, 2)
    policy, change = propose(ladder_document())
    with pytest.raises(NotApproved, match="2 more from approver"):
        apply_change(change=change, actor=crew.oncall, now=NOW)
    unsigned = section("ladder")
    sign(change, crew.approver_one, crew.approver_two)
    apply_change(change=change, actor=crew.oncall, now=NOW)

    surface = served().ladder[SURFACE]
    assert (unsigned, ladder_policies.active()) == ({}, policy)
    assert (surface.engageable, surface.rungs[3].route) == ((1, 2), "summaries")
    actions = AuditEvent.objects.filter(target=policy.audit_name).order_by("seq").values_list("action", flat=True)
    assert list(actions) == ["ladder.submitted", "ladder.activated"]


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ("policy", r"\$: expected an object"),
        (ladder_document(rungs={}), r"rungs: a ladder without rungs leads nowhere"),
        (ladder_document(rungs={"7": {"copy": "x"}}), r"'7' is no rung; there are 1 to 6"),
        (ladder_document(triggers={"load": trigger(leave=200)}), r"exit: 200 is not below 100"),
        (ladder_document(slug="x" * 101), r"at most 100 characters, not 101"),
    ],
)
def test_policy_that_no_worker_could_read_is_refused_with_its_path(document, place):
    """By the parser that every worker runs, before anything is stored."""
    with pytest.raises(InvalidLadder, match=place):
        submit(document)

    assert not LadderPolicy.objects.exists()


def test_broken_glass_puts_a_policy_in_force_for_a_while():
    """It lapses to what was approved; what was engaged meanwhile, and the older policy cannot carry, is stood down."""
    make_words()
    make_ladder(ladder_document(rungs={"1": rungs()["1"]}, triggers={}))
    policy, change = propose(ladder_document(rungs=rungs(cheaper="summaries")))
    debt = break_glass(change)
    apply_change(change=change, actor=crew.oncall, now=NOW)
    engage(4)
    kept = engage(1, tiers=["free"])
    later = NOW + timedelta(minutes=30)

    end_bypass(debt=debt, now=later)

    [ended] = RungStoodDown.objects.all()
    assert (ladder_policies.active().number, ended.activation.rung, ended.actor) == (1, 4, "ballast")
    assert "the surface has no rung 4" in ended.reason
    assert set(section("activations")) == {kept.name}
    with pytest.raises(NeverInForce):
        ladder_policies.return_to(version=policy, actor=crew.oncall, reason="again", now=later)


def test_policy_under_which_an_engaged_rung_could_not_be_is_refused_while_it_stands():
    """By its name, with the remedy; once its time is over nobody has to keep a rung for it."""
    make_words()
    make_ladder()
    row = engage(4)
    without = ladder_document(rungs={"1": rungs()["1"]}, triggers={})
    unsigned = ladder_document() | {}
    unsigned[SURFACE]["rungs"]["4"]["copy"] = "nobody-wrote-it"

    for document, why in (
        (without, "the surface has no rung 4"),
        (unsigned, "nobody has signed 'nobody-wrote-it' yet"),
    ):
        with pytest.raises(RungIsEngaged, match=rf"until 2026-03-04T13:00:00Z \({row.name}\), .*{why}; stand it down"):
            put_in_force(document)
    put_in_force(ladder_document(eta_seconds=threshold(60)))
    policy, change = propose(without | {"other": ladder_document(routes=["summaries"])[SURFACE]})
    sign(change, crew.approver_one, crew.approver_two)
    apply_change(change=change, actor=crew.oncall, now=NOW + timedelta(hours=1))

    assert (ladder_policies.active(), section("activations")) == (policy, {})


def test_ladder_of_routes_that_do_not_exist_is_never_released():
    """Neither put in force, nor left behind by a routing table without them."""
    with pytest.raises(UnservableRelease, match="'nowhere' is not a route"):
        make_ladder(ladder_document(routes=["nowhere"]))
    make_ladder()
    document = routing_document()
    del document["routes"]["summaries"]

    with pytest.raises(UnservableRelease, match="'summaries' is not a route"):
        make_routing(document)


def test_regulated_surface_shows_regulated_copy_only():
    """Words that legal did not sign are refused before they are served."""
    make_words(1)

    with pytest.raises(UnservableRelease, match="'rung-1' is no regulated copy, so legal does not sign it"):
        make_ladder(ladder_document(regulated=True))

    assert section("ladder") == {}


def test_words_that_legal_does_not_sign_never_come_to_a_regulated_surface():
    """Also where the ladder was there first: the signed words are refused, and the rung stays as it was."""
    make_ladder(ladder_document(regulated=True))
    copy = make_copy("rung-1", kind="rung")

    with pytest.raises(UnservableRelease, match="'rung-1' is no regulated copy"):
        make_live_copy(copy)
    with pytest.raises(UnsignedRung, match="'rung-1' is no regulated copy, so legal does not sign it"):
        engage(1)

    assert served().ladder[SURFACE].engageable == ()


def test_cheaper_route_has_to_take_chat():
    """Otherwise the rung would promise answers that nobody could give."""
    with pytest.raises(UnservableRelease, match="no lane of route 'embed' takes chat, so it could serve nobody"):
        make_ladder(ladder_document(rungs=rungs(cheaper="embed")))

    assert section("ladder") == {}


def test_regulated_words_are_signed_by_legal_and_then_served():
    """The same surface with regulated copy has its rung."""
    make_words(1, regulated=True)

    make_ladder(ladder_document(regulated=True))

    assert served().ladder[SURFACE].engageable == (1,)


def test_problems_of_a_policy_are_said_before_it_is_signed():
    """Errors forbid it; rungs whose words wait, and triggers that so stop below them, are only warned of."""
    make_words(1)
    make_live_copy(slug="rung-2", kind="outage")
    policy = ladder_document(routes=["nowhere"], rungs=rungs(cheaper="gone"))
    policy[SURFACE]["rungs"]["1"]["instruction"] = " "

    found = {problem.path.removeprefix('$["web-chat"].'): problem for problem in policy_problems(policy)}

    errors = {path: problem.message for path, problem in found.items() if problem.is_error}
    assert errors == {
        "routes[0]": "'nowhere' is not a route of the table in force",
        'rungs["1"].instruction': "it is empty, so the model is not told what changed",
        'rungs["2"].copy': "'rung-2' is copy of the kind 'outage', not 'rung'",
        'rungs["3"].route': "'gone' is not a route of the table in force",
    }
    assert "until it has, nobody and nothing engages rung 4" in found['rungs["4"].copy'].message
    assert "the trigger stops below it" in found["triggers.load.highest"].message


def test_numbers_are_proposed_one_by_one_with_where_they_come_from():
    """A policy that differs in them only, by whoever says so; the others keep their provenance."""
    make_ladder()
    new = NewValue(150, "load_test", "seen in the drill", "/drills/", date(2099, 1, 1))

    change = propose_thresholds(
        slug=SURFACE, changes={"triggers.load.enter": new}, reason="drill", actor=crew.oncall, now=NOW
    )

    policy = LadderPolicy.objects.get(number=change.content["number"])
    expected = ladder_document()
    expected[SURFACE]["triggers"]["load"]["enter"] = new.to_json(author="oncall", on=NOW.date())
    assert policy.document == expected
    assert change.content["regulated"] is False


def test_numbers_that_make_no_policy_are_refused():
    """An unknown surface or name, a number out of range, one that is unset; and all while no policy is in force."""
    new = NewValue(150, "load_test", "n", "/drills/", date(2099, 1, 1))

    def propose_one(slug=SURFACE, name="triggers.load.enter", value=new):
        propose_thresholds(slug=slug, changes={name: value}, reason="r", actor=crew.oncall, now=NOW)

    with pytest.raises(UnknownSurface, match="no ladder policy is in force"):
        propose_one()
    make_ladder()
    with pytest.raises(UnknownSurface, match="'gone' is not a surface of this policy; it has web-chat"):
        propose_one("gone")
    with pytest.raises(InvalidThreshold, match=r"'triggers\.load\.hunger' is not a threshold of surface 'web-chat'"):
        propose_one(name="triggers.load.hunger")
    with pytest.raises(InvalidThreshold, match="cannot do without 'eta_seconds'"):
        propose_one(name="eta_seconds", value=None)
    with pytest.raises(InvalidLadder, match=r'\$\["web-chat"\]\.triggers\.load\.exit'):
        propose_one(name="triggers.load.exit")
    assert LadderPolicy.objects.count() == 1


def test_every_number_of_a_ladder_has_a_place_in_its_document():
    """Each name leads to what the parser read there, also where a trigger's name has a dot."""
    document = ladder_document(triggers={"load.now": trigger()})
    ladder = Ladder.parse(document)

    placed = placed_thresholds(ladder)
    changed = with_thresholds(document, SURFACE, {one.name: threshold(one.threshold.value) for one in placed})

    assert changed == document
    assert path_of(SURFACE, "triggers.load.now.enter") == '$["web-chat"].triggers["load.now"].enter'
    assert path_of(SURFACE, "eta_seconds") == '$["web-chat"].eta_seconds'
    assert "of 16 thresholds" in Census.of(placed, today=NOW.date()).sentence


def test_approval_policy_may_speak_of_regulated_ladders():
    """So that legal signs those; a misspelt fact would never match."""
    rule = {"name": "n", "kind": "ladder.policy", "when": {"regulated": [True]}, "gates": {"apply": {"legal": 1}}}

    assert check_rules([rule, *built_in_rules()])


def test_copy_says_which_rungs_show_it():
    """With the routes of their surface."""
    make_ladder()

    found = uses()

    assert [str(use) for use in found["rung-3"]] == ["web-chat, rung 3 of chat"]
    assert [str(use) for use in found["help-answers"]] == ["web-chat, rung 5 of chat"]
