"""What of a stream's cost is given back, and whether its five figures keep their order."""

import pytest

from controlplane.ledger import refunds
from controlplane.ledger.figures import Figures
from controlplane.ledger.refunds import Bill, UnknownRefund, credit_of


def bill(*figures, cost=1000, outcome="interrupted"):
    """The bill of a stream with these figures: billed, generated, buffered, delivered, acknowledged."""
    return Bill("5" * 32, "acme", "vip", "chat", "resumable", outcome, "", cost, Figures(*figures))


@pytest.mark.parametrize(
    ("rule", "of", "credit"),
    [
        ("none", bill(100, 100, 100, 0, 0), 0),
        ("undelivered", bill(100, 90, 90, 60, 20), 400),
        ("unacknowledged", bill(100, 90, 90, 60, 20), 800),
        ("undelivered", bill(100, 100, 100, 100, 100), 0),
        ("undelivered", bill(100, 90, 90, 60, 20, outcome="failed"), 400),
        ("undelivered", bill(100, 90, 90, 60, 20, outcome="cancelled"), 400),
        # What was completed is there to be read.
        ("unacknowledged", bill(100, 100, 100, 0, 0, outcome="completed"), 0),
        # Rounded down, never in favour of a sum that nobody paid.
        ("undelivered", bill(3, 3, 3, 2, 0, cost=100), 33),
        # Nothing was billed, or more was delivered than billed: nothing to give back.
        ("undelivered", bill(0, 0, 0, 0, 0), 0),
        ("undelivered", bill(100, 100, 100, 130, 0), 0),
        ("unacknowledged", bill(100, 0, 0, 0, 0, cost=0), 0),
    ],
)
def test_credit_is_the_share_of_the_cost_that_bought_nobody_anything(rule, of, credit):
    """Its cost times the billed tokens that did not arrive, over all billed tokens, unless it was completed."""
    assert credit_of(of, rule=rule) == credit


def test_company_may_decide_otherwise_but_never_beyond_the_bill(monkeypatch):
    """A rule of their own gets the bill; a name that nobody registered is no reason to give nothing."""
    monkeypatch.setattr(refunds, "_rules", dict(refunds._rules))
    refunds.register("vip-whole", lambda of: of.cost_micros * 2 if of.tier == "vip" else -5)
    refunds.register("undelivered", lambda of: 7)

    assert credit_of(bill(100, 90, 90, 60, 20), rule="vip-whole") == 1000
    assert credit_of(bill(100, 90, 90, 60, 20), rule="undelivered") == 7
    assert credit_of(bill(100, 90, 90, 60, 20, outcome="completed"), rule="vip-whole") == 0
    with pytest.raises(UnknownRefund, match="no refund rule 'gone' is registered, only none, unack"):
        credit_of(bill(1, 1, 1, 0, 0), rule="gone")


@pytest.mark.parametrize(
    ("figures", "breaches"),
    [
        (Figures(5, 4, 3, 2, 1), ()),
        (Figures(2, 2, 2, 2, 2), ()),
        (Figures(1000, 1200, 1200, 1200, 0), ("1,200 generated, more than 1,000 billed",)),
        (Figures(5, 5, 1, 3, 4), ("3 delivered, more than 1 buffered", "4 acknowledged, more than 3 delivered")),
    ],
)
def test_order_is_broken_where_a_figure_is_larger_than_the_one_before(figures, breaches):
    """Nothing may be delivered that was not billed; where it is, the words name both figures."""
    assert (figures.in_order, figures.breaches) == (not breaches, breaches)
