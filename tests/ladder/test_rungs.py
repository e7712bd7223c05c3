from datetime import timedelta

import pytest
from django.db import DatabaseError, IntegrityError, transaction

from controlplane.audit.models import AuditEvent
from controlplane.ladder.errors import InvalidActivation, UnknownSurface
from controlplane.ladder.models import CopyVersion, RungActivation, RungMode, RungStoodDown
from controlplane.ladder.rungs import known_regions, stand_down, stand_down_one
from controlplane.ladder.standing import as_workers_see, compile_activations, end_activation, live_activations
from controlplane.releases.operations import current_release, record_reports, roll_back_to, sandbox_document
from dataplane.ladder.activations import engaged_for
from tests.factories import NOW, crew, make_live_copy, make_tenant, routing_document
from tests.ladder.ladder_policies import (
    HOUR,
    SURFACE,
    engage,
    hold,
    ladder_document,
    put_in_force,
    section,
    served,
)
from tests.worker_reports import report

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ladder")]

MINUTE = timedelta(minutes=1)


def down(*, now=NOW, **asked):
    asked = {"surface": SURFACE, "reason": "it is over", "is_held_up": False} | asked
    return stand_down(actor=crew.oncall, now=now, **asked)


def in_force():
    """The rung and the mode of everything in the current release."""
    return sorted((one["mode"], one["rung"]) for one in section("activations").values())


def test_engaged_rung_is_in_the_release_at_once_with_its_signed_words():
    """Without a sign-off; the row keeps the policy and the words that stood then, and the record says who and why."""
    row = engage(5, tiers=["standard", "free", "free"], regions=["eu-west"])

    assert section("activations") == {
        row.name: {
            "surface": SURFACE,
            "mode": "engage",
            "rung": 5,
            "regions": ["eu-west"],
            "tiers": ["free", "standard"],
            "since": "2026-03-04T12:00:00Z",
            "until": "2026-03-04T13:00:00Z",
            "reason": "it burns",
            "by": "oncall",
        }
    }
    assert row.policy.number == 1
    words = {version.copy.slug: version.reference for version in CopyVersion.objects.select_related("copy")}
    assert row.words == {slug: words[slug] for slug in ("rung-5", "help-answers")}
    [event] = AuditEvent.objects.filter(target=f"surface:{SURFACE}")
    assert (event.action, event.actor, event.data["reason"]) == ("rung.engaged", crew.oncall.audit_name, "it burns")
    assert (event.data["rung"], event.data["words"]) == (5, row.words)


def test_workers_act_on_what_the_release_carries():
    """By their own parser and decider: the rung stands for whom it is for, until its time is over."""
    engage(3, tiers=["free"])
    hold(1)
    activations = served().activations[SURFACE]

    def rung(tier, now, level=0):
        return engaged_for(activations, level=level, region="eu-west", tier=tier, now=now).rung

    assert (rung("free", NOW), rung("vip", NOW), rung("vip", NOW, level=4)) == (3, 0, 1)
    assert (rung("free", NOW + HOUR), rung("vip", NOW + HOUR, level=4)) == (0, 4)
    assert sorted(as_workers_see(live_activations(NOW)), key=lambda one: one.id) == sorted(
        activations, key=lambda one: one.id
    )


def test_newest_word_on_a_surface_and_scope_stands():
    """Another rung for the same scope takes its place, and once that is over the older one does not come back."""
    engage(4, lasts=10 * HOUR)
    engage(2, lasts=HOUR, now=NOW + MINUTE)
    engage(6, tiers=["free"], now=NOW + MINUTE)
    hold(1, now=NOW + MINUTE)

    assert in_force() == [("engage", 2), ("engage", 6), ("hold", 1)]
    assert live_activations(NOW + 2 * HOUR) == []
    assert [row.rung for row in live_activations(NOW + MINUTE)] == [1, 6, 2]


def test_rung_ends_by_itself_and_leaves_the_document_as_it_is():
    """Nothing has to be cut when it ends; what is over is left out once somebody writes the next word."""
    engage(1, tiers=["vip"])
    release = current_release()

    kept = (compile_activations(), current_release())
    engage(2, now=NOW + HOUR)

    assert kept == (release.content["sections"]["activations"], release)
    assert in_force() == [("engage", 2)]


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        (
            {"surface": "gone"},
            UnknownSurface,
            "'gone' is not a surface of Ladder policy 1, which is in force; it has web",
        ),
        ({"rung": 7}, InvalidActivation, "has no rung 7; it has 1, 2, 3, 4, 5, 6"),
        ({"rung": 0}, InvalidActivation, "has no rung 0"),
        ({"lasts": timedelta(0)}, InvalidActivation, "ends within 24 h"),
        ({"lasts": timedelta(hours=24, seconds=1)}, InvalidActivation, "is not between"),
        ({"reason": " "}, InvalidActivation, "a reason is needed"),
        ({"tiers": ["gold"]}, InvalidActivation, "'gold' is not a tier that exists; there are free, standard, vip"),
        ({"regions": ["Mars "]}, InvalidActivation, "'Mars ' is no name of a region"),
    ],
)
def test_rung_that_is_none_is_refused(asked, error, words):
    """Naming what exists; nothing is written, and nothing is released."""
    before = current_release()

    with pytest.raises(error, match=words):
        engage(**{"rung": 3, **asked})

    assert (RungActivation.objects.count(), current_release()) == (0, before)


def test_region_has_to_be_one_that_gateways_or_tenants_have():
    """Once gateways say where they are; before that any name of a region will do."""
    engage(1, regions=["mars"])
    told = report(worker="a", sent_at=NOW)
    told["state"]["region"] = "eu-west"
    record_reports([told, report(worker="b", sent_at=NOW)], now=NOW)
    make_tenant("far", region="us-east")

    with pytest.raises(InvalidActivation, match="'mars' is not a region that exists; there are eu-west, us-east"):
        engage(2, regions=["eu-west", "mars"])

    assert known_regions(NOW) == ["eu-west", "us-east"]
    assert engage(2, regions=["us-east", "eu-west"]).regions == ["eu-west", "us-east"]


def test_hold_keeps_triggers_down_and_says_so():
    """At nothing or at a rung, signed or not: no words are shown by it."""
    row = hold(0, tiers=["vip"])
    hold(2)

    assert in_force() == [("hold", 0), ("hold", 2)]
    assert row.words == {}
    assert list(AuditEvent.objects.filter(target=f"surface:{SURFACE}").values_list("action", flat=True)) == [
        "ladder.held",
        "ladder.held",
    ]
    with pytest.raises(InvalidActivation, match="held at a rung of 0 to 6, not at 7"):
        hold(7)


def test_one_tap_ends_everything_that_is_engaged():
    """Whatever its scope; holds stand, and a second tap does nothing."""
    engage(1)
    engage(4, tiers=["free"])
    hold(3, tiers=["vip"])

    ended = down(now=NOW + MINUTE)
    after, release = in_force(), current_release()
    again = down(now=NOW + MINUTE)

    assert sorted(one.activation.rung for one in ended) == [1, 4]
    assert (after, again, current_release()) == ([("hold", 3)], [], release)
    actions = list(AuditEvent.objects.filter(target=f"surface:{SURFACE}").values_list("action", flat=True))
    assert actions.count("rung.stood_down") == 2


def test_standing_down_what_triggers_hold_up_holds_them_too():
    """They would engage it again at once: for 15 min, or as long as is chosen, and in the same release."""
    engage(2)
    before = current_release().revision

    down(is_held_up=True)
    first, revision = section("activations"), current_release().revision
    down(is_held_up=True)
    down(is_held_up=True, minutes=30)
    longer = section("activations")
    down(is_held_up=True, minutes=5)

    [held] = first.values()
    assert (held["mode"], held["rung"], held["until"]) == ("hold", 0, "2026-03-04T12:15:00Z")
    assert revision == before + 1
    assert [one["until"] for one in longer.values()] == ["2026-03-04T12:30:00Z"]
    assert section("activations") == longer
    assert RungActivation.objects.filter(mode=RungMode.HOLD).count() == 2


def test_surface_that_the_policy_lost_can_be_stood_down():
    """Workers pass it over; a name that never was one is a slip of the pen."""
    engage(2)
    put_in_force(ladder_document(slug="other"))
    passed_over = (in_force(), served().activations)

    down(is_held_up=True)

    assert passed_over == ([("engage", 2)], {})
    assert in_force() == []
    with pytest.raises(UnknownSurface, match="'gone' is not a surface"):
        down(surface="gone")
    with pytest.raises(InvalidActivation, match="a reason is needed"):
        down(reason=" ")


def test_one_activation_is_ended_by_itself():
    """Twice it does nothing, nor does ending one that was replaced or is over; a hold is let go the same way."""
    replaced, row, other, held = engage(1), engage(2), engage(3, tiers=["free"]), hold(0)
    args = {"reason": "done", "actor": crew.oncall}

    ended = [stand_down_one(activation=one, now=NOW, **args) for one in (row, row, replaced, held)]
    over = stand_down_one(activation=other, now=NOW + HOUR, **args)

    assert [one is not None for one in ended] == [True, False, False, True]
    assert (over, RungStoodDown.objects.count()) == (None, 2)
    assert in_force() == [("engage", 3)]


def test_words_that_change_while_a_rung_is_engaged_are_shown():
    """The release carries the newer signed words; the row keeps which stood when it was engaged."""
    row = engage(1)
    version = make_live_copy(CopyVersion.objects.get(copy__slug="rung-1").copy, "more careful words")

    shown = served().copy["rung-1"]

    assert (shown.version, shown.rung["en"].banner) == (version.number, "more careful words")
    assert RungActivation.objects.get(pk=row.pk).words["rung-1"]["number"] == 1


def test_rolling_a_release_back_stands_nothing_down():
    """An older release knew nothing of the fire; on-call's word stands until its own end."""
    old = current_release()
    put_in_force(ladder_document(title="Another title"))
    engage(2)

    roll_back_to(release=old, actor=crew.oncall, reason="bad", now=NOW)

    assert in_force() == [("engage", 2)]
    assert section("ladder")[SURFACE]["title"] == "Web chat"


def test_log_of_rungs_is_a_record():
    """No row is changed or taken back, nothing ends before it began, and nobody engages no rung."""
    row = engage(1)
    down()
    for edit in (
        lambda: RungActivation.objects.update(reason="never happened"),
        lambda: RungStoodDown.objects.update(reason="x"),
        lambda: RungStoodDown.objects.all().delete(),
    ):
        with pytest.raises(DatabaseError, match="Cannot"), transaction.atomic():
            edit()
    fields = {"surface": SURFACE, "reason": "r", "actor": "a", "at": NOW, "since": NOW, "policy": row.policy}
    for wrong in (
        {"mode": RungMode.ENGAGE, "rung": 0, "until": NOW + HOUR},
        {"mode": RungMode.HOLD, "rung": 0, "until": NOW},
        {"mode": RungMode.ENGAGE, "rung": 7, "until": NOW + HOUR},
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            RungActivation.objects.create(**fields, **wrong)
    with pytest.raises(IntegrityError), transaction.atomic():
        RungStoodDown.objects.create(activation=row, reason="r", actor="a", at=NOW)


def test_step_of_an_operation_is_not_taken_by_itself():
    """Called from a shell it would end something that no event speaks of."""
    with pytest.raises(RuntimeError, match="call the operation"):
        end_activation(engage(1), reason="r", actor="mallory", now=NOW)


def test_section_takes_a_fixed_number_of_queries(django_assert_num_queries):
    """However much is engaged: it is compiled inside every operation that releases anything."""
    for tier in ("vip", "standard", "free"):
        for rung in (1, 2, 3):
            engage(rung, tiers=[tier])

    with django_assert_num_queries(4):
        assert len(compile_activations()) == 3


def test_eval_of_a_table_without_the_ladders_routes_is_asked_all_the_same(ladder):
    """No eval enters a ladder, so what people try out need not have what one names; what is engaged is not in it."""
    engage(rung=1)
    routes = {"trial": routing_document()["routes"]["summaries"]}

    sandbox = sandbox_document({"routing": routing_document() | {"routes": routes}, "prompts": {}})

    assert (sandbox["sections"]["ladder"], sandbox["sections"]["activations"]) == ({}, {})
