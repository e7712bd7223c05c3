"""The status sentence, over a table of states of the house."""

from dataclasses import replace

import pytest

from controlplane.console.status import House, RunningCanary, status_of
from controlplane.verdicts.values import Ruling

ONE = (RunningCanary("support-answer", 13, "5 %"),)
TWO = (*ONE, RunningCanary("refund-policy", 2, "internal only"))
THREE = (*TWO, RunningCanary("greeting", 4, "25 %"))


@pytest.mark.parametrize(
    ("house", "text", "tone"),
    [
        (House(), "Nothing is released yet.", "off"),
        (House(revision=3), "r3 is released, but no worker reports.", "bad"),
        (House(revision=128, workers=6, in_sync=6), "Serving r128 on 6 of 6 workers.", "good"),
        (House(revision=1, workers=1, in_sync=1), "Serving r1 on 1 of 1 worker.", "good"),
        (House(revision=9, workers=6, in_sync=5), "Serving r9 on 5 of 6 workers: 1 behind.", "watch"),
        (House(revision=9, workers=6, in_sync=5, silent=1), "Serving r9 on 5 of 6 workers: 1 silent.", "watch"),
        (
            House(revision=9, workers=6, in_sync=3, refused=1, silent=1),
            "Serving r9 on 3 of 6 workers: 1 refused, 1 behind, 1 silent.",
            "bad",
        ),
        (
            House(revision=9, workers=2, in_sync=2, open_lanes=("openai/us",)),
            "Serving r9 on 2 of 2 workers. Lane openai/us is open.",
            "watch",
        ),
        (
            House(revision=9, workers=2, in_sync=1, open_lanes=("a", "b"), unpaid_debts=1),
            "Serving r9 on 1 of 2 workers: 1 behind. 2 lanes are open. 1 break-glass debt is unpaid.",
            "watch",
        ),
        (House(revision=9, workers=2, silent=2), "Serving r9 on 0 of 2 workers: 2 silent.", "bad"),
        (
            House(revision=128, workers=6, in_sync=6, canaries=ONE),
            "Serving r128 on 6 of 6 workers. Canary support-answer v13 at 5 %, not enough evidence yet.",
            "good",
        ),
        (
            House(sees_fleet=False, canaries=TWO),
            "Canaries support-answer v13 at 5 % and refund-policy v2 at internal only, not enough evidence yet.",
            "off",
        ),
        (House(sees_fleet=False, canaries=THREE), "3 canaries run: 3 not enough evidence yet.", "off"),
        (
            House(sees_fleet=False, canaries=(replace(TWO[0], ruling=Ruling.CLEAR), replace(TWO[1], ruling=None))),
            "Canary support-answer v13 at 5 %, not regressed. "
            "Canary refund-policy v2 at internal only, judged by people alone.",
            "off",
        ),
        (
            House(sees_fleet=False, canaries=(*ONE, *(replace(one, ruling=Ruling.CLEAR) for one in TWO))),
            "3 canaries run: 1 not enough evidence yet, 2 not regressed.",
            "off",
        ),
        (House(sees_fleet=False), "", "off"),
        (
            House(revision=8, workers=1, in_sync=1, unpaid_debts=1),
            "Serving r8 on 1 of 1 worker. 1 break-glass debt is unpaid.",
            "watch",
        ),
        (
            House(revision=8, workers=2, in_sync=1, refused=1, unpaid_debts=2),
            "Serving r8 on 1 of 2 workers: 1 refused. 2 break-glass debts are unpaid.",
            "bad",
        ),
    ],
)
def test_status_sentence_says_the_state_of_the_house_in_plain_words(house, text, tone):
    """One line, worst news first, and never a verdict that nobody measured."""
    status = status_of(house)

    assert (status.text, status.tone) == (text, tone)
