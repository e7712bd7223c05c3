import pytest

from controlplane.ladder.effects import effect_preview
from dataplane.ladder.policy import Ladder
from tests.dataplane.conftest import threshold
from tests.ladder.ladder_policies import SURFACE, ladder_document


def preview(rung, *, share=None, **asked):
    return effect_preview(Ladder.parse(ladder_document())[SURFACE], rung, share=share, **asked)


def test_preview_says_who_is_touched_and_who_is_exempt():
    """In one line, as people read it before they engage the rung."""
    assert preview(3, share=0.12).sentence == "12 % of traffic, VIP exempt up to 40 concurrent"
    assert preview(3, share=0.001, tiers=["free"]).sentence == "under 1 % of traffic"
    assert preview(6, share=1).sentence == "100 % of traffic, nobody exempt"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "all traffic of chat"),
        ({"tiers": ["free", "vip"]}, "traffic of VIP and Free, of which nobody measured how much it is"),
        ({"regions": ["us", "eu"]}, "traffic in eu and us, of which nobody measured how much it is"),
        ({"tiers": ["free"], "regions": ["eu"]}, "traffic of Free in eu, of which nobody measured how much it is"),
    ],
)
def test_traffic_that_nobody_measured_is_named_and_not_counted(asked, words):
    """An unknown share is no share of 0."""
    assert preview(1, **asked).touched == words


def test_each_rung_keeps_what_those_below_it_do():
    """Up to where no model answers at once: an answer that comes later is whole."""
    assert [line.partition(":")[0] for line in preview(3).changes] == ["Shorter answers", "No tools", "Cheaper model"]
    assert preview(3).changes[0] == (
        "Shorter answers: models are told to be brief and cut off at 200 tokens; answers in JSON stay whole"
    )
    assert "the lanes of route summaries answer" in preview(3).changes[2]
    assert [line.partition(":")[0] for line in preview(4).changes] == ["Answers later"]
    assert "only signed answers of help-answers are given" in preview(5).changes[0]
    assert preview(6).changes == (
        "Maintenance: every request is refused with the rung's words, and told 15 min where no end is set",
    )


def test_rung_that_a_surface_does_not_have_changes_nothing():
    """Only what is between is said."""
    document = ladder_document()
    del document[SURFACE]["rungs"]["2"]
    document[SURFACE]["promises"]["free"]["reserved_concurrency"] = threshold(5)

    effect = effect_preview(Ladder.parse(document)[SURFACE], 3, share=0.5)

    assert [line.partition(":")[0] for line in effect.changes] == ["Shorter answers", "Cheaper model"]
    assert effect.exempt == ("VIP exempt up to 40 concurrent", "Free exempt up to 5 concurrent")
