"""Raising alerts: with the transaction, once for each occasion, to whoever wants it."""

import pytest
from django.db import transaction
from django.db.utils import InternalError, ProgrammingError

from controlplane.alerts import kinds, operations
from controlplane.alerts.models import Alert, Delivery
from controlplane.work.models import Task
from tests.alerts.channels import make_mailboxes, make_webhook, raise_one
from tests.deadletters.letters import sql
from tests.factories import NOW, crew

pytestmark = pytest.mark.django_db
URL = "https://127.0.0.1/hook"


def told():
    """Which channels are told of what."""
    return sorted(Delivery.objects.values_list("alert__kind", "channel__slug"))


def test_alert_goes_to_whoever_wants_it():
    """Those that want every kind, or this one; not the disabled, nor who wants something else."""
    make_webhook(URL, slug="all")
    make_webhook(URL, slug="this", events=[kinds.CANARY_ROLLED_BACK])
    make_mailboxes("a@example.com", slug="other", events=[kinds.CHANNEL_DISABLED])
    off = make_webhook(URL, slug="off").channel
    operations.set_enabled(channel=off, enabled=False, actor=crew.admin, now=NOW)

    alert = raise_one()

    assert told() == [("canary.rolled_back", "all"), ("canary.rolled_back", "this")]
    deliveries = Delivery.objects.values_list("pk", flat=True)
    assert {(task.kind, task.key) for task in Task.objects.all()} == {("alerts.deliver", str(pk)) for pk in deliveries}
    assert (alert.facts, alert.target) == ({"rail": "cost", "harm": 14.2}, "canary:answers-v2")


def test_one_occasion_is_told_once():
    """Whoever raises it again is given the one that is there; another kind under the same name is another occasion."""
    make_webhook(URL)

    first, again = raise_one(), raise_one(title="Said otherwise")
    raise_one(kind="breaker.storm")
    raise_one(dedupe="answers-v3")

    assert again == first
    assert again.title == "Canary answers-v2 was rolled back"
    assert (Alert.objects.count(), Delivery.objects.count(), Task.objects.count()) == (3, 3, 3)


def test_alert_is_undone_with_what_it_tells_of():
    """A roll-back that does not happen is told to nobody."""
    make_webhook(URL)

    with transaction.atomic():
        raise_one()
        transaction.set_rollback(True)

    assert not Alert.objects.exists()
    assert not Task.objects.exists()


def test_words_and_facts_of_any_kind_are_kept_as_far_as_they_can_be():
    """What decided must not fail because of what it says."""
    alert = raise_one(
        title=f"Two\nlines\x00 {'x' * 300}",
        facts={"p": float("nan"), "at": NOW, "arms": ("canary", "control"), "text": "a\x00b"},
    )
    alert.refresh_from_db()

    assert (len(alert.title), alert.title[:10], alert.title[-1]) == (200, "Two lines�", "…")
    assert alert.facts == {
        "p": "nan",
        "at": str(NOW),
        "arms": ["canary", "control"],
        "text": "a�b",
    }


@pytest.mark.parametrize("fields", [{"kind": "Canary"}, {"link": "//evil.example/"}, {"link": "x"}, {"dedupe": ""}])
def test_fault_of_the_caller_is_said_at_once(fields):
    """Whatever happened: it shows in the first test that raises it."""
    with pytest.raises(ValueError, match="an alert needs a kind, a path and an occasion"):
        raise_one(**fields)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE alerts_alert SET title = 'x'",
        "DELETE FROM alerts_alert",
        "DELETE FROM alerts_delivery",
        "DELETE FROM alerts_channel",
    ],
)
def test_the_record_refuses_to_be_rewritten(change):
    """By anybody, whatever code they run."""
    make_webhook(URL)
    raise_one()

    with pytest.raises((InternalError, ProgrammingError), match="pgtrigger"), transaction.atomic():
        sql(change)
