"""Game days of corpora over HTTP: asked for, confirmed, called off, listed, and their signed report."""

from __future__ import annotations

import pytest
from django.utils import timezone

from controlplane.corpora import operations
from controlplane.corpora.drill_reports import sign_report
from controlplane.corpora.models import Corpus, RecoveryDrill
from tests.corpora.kept_corpora import make_namespace, make_policy, policy_document
from tests.corpora_documents import SLUG
from tests.factories import crew

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

LIST = f"corpora/{SLUG}/drills"
ONE = "corpora/drills/{}"
ASKED = {"scenario": "index_dropped", "reason": "the quarter"}


@pytest.fixture
def corpus(db):
    """One that is rebuilt where it is lost, and served."""
    make_policy(policy_document(recovery={"strategy": "rebuild"}))
    found = Corpus.objects.get(slug=SLUG)
    operations.switch(namespace=make_namespace(found), actor=crew.oncall, reason="r", now=timezone.now())
    return found


def test_one_is_asked_for_listed_and_called_off(corpus, as_operator):
    """202 with its row; 409 for a second; the list has it; called off it says by whom."""
    oncall = as_operator(crew.oncall)

    asked = oncall.post(LIST, ASKED)
    again = oncall.post(LIST, ASKED)
    pk = asked.body["id"]
    off = oncall.post(f"{ONE.format(pk)}/cancel", {"reason": "not today"})

    assert (asked.status, asked.body["state"]) == (202, "queued")
    assert (again.status, again.body["error"]["code"]) == (409, "drill_under_way")
    assert [one["id"] for one in oncall.get(LIST).body["results"]] == [pk]
    assert (off.body["state"], off.body["error"]) == ("cancelled", "oncall called it off: not today")
    assert oncall.get(f"{ONE.format(pk)}/report").status == 404


def test_one_on_what_serves_takes_two_people(corpus, as_operator):
    """The words of the first, and the same of somebody else."""
    typed = f"drill {SLUG} live"
    oncall, admin = as_operator(crew.oncall), as_operator(crew.admin)
    unsaid = oncall.post(LIST, ASKED | {"targets_live": True})
    asked = oncall.post(LIST, ASKED | {"targets_live": True, "typed": typed}).body
    confirm = f"{ONE.format(asked['id'])}/confirm"

    own = oncall.post(confirm, {"typed": typed})
    other = admin.post(confirm, {"typed": typed})

    assert unsaid.body["error"]["code"] == "words_not_typed"
    assert asked["state"] == "waiting"
    assert (own.status, own.body["error"]["code"]) == (409, "same_person")
    assert (other.body["state"], other.body["confirmed_by"]) == ("queued", "admin")


def test_report_comes_as_it_was_signed(corpus, as_operator):
    """The envelope, member by member."""
    envelope = sign_report({"drill": 1}).to_mapping()
    now = timezone.now()
    drill = RecoveryDrill.objects.create(
        corpus=corpus,
        scenario="index_dropped",
        state="passed",
        reason="r",
        actor="oncall",
        asked_at=now,
        ended_at=now,
        report={"drill": 1},
        report_signature=envelope,
    )

    assert as_operator(crew.auditor).get(f"{ONE.format(drill.pk)}/report").body == envelope
