"""The pages of jobs over HTTP: found, told in a sentence, without their words, and shown to who may see."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from controlplane.accounts.roles import Role
from controlplane.console.lists import PAGE_SIZE
from controlplane.console.palette import entries
from tests.console.conftest import words
from tests.factories import crew, make_operator, make_tenant
from tests.job_rows import make_job

LIST = "/usage/jobs/"


@pytest.fixture
def acme(db):
    make_tenant("globex")
    return make_tenant("acme")


def listed(page):
    return [job for job, *_ in page.context["lines"]]


def test_jobs_are_found_by_id_tenant_and_status(acme, signed_in, queries):
    """Newest first, by pages; as many queries for many as for few."""
    now = timezone.now()
    old = make_job(at=now - timedelta(hours=3))
    failed = make_job(state="failed", at=now - timedelta(hours=2), error_code="invalid_request")
    other = make_job(tenant="globex", state="running", at=now - timedelta(hours=1), cancel_asked=True)
    browser = signed_in(crew.auditor)

    for query, found in (
        ("", [other, failed, old]),
        ("tenant=acme", [failed, old]),
        ("status=failed", [failed]),
        ("status=failed&tenant=globex", []),
        (f"job={old.name}", [old]),
        (f"job={old.pk}", [old]),
        ("job=job_1", []),
        (f"before={failed.pk}", [old]),
    ):
        assert listed(browser.get(f"{LIST}?{query}")) == found, query
    assert "invalid_request" in words(browser.get(LIST))
    assert "asked to stop" in words(browser.get(LIST))
    assert "No job fits all of this" in words(browser.get(f"{LIST}?job=x"))
    few = queries(lambda: browser.get(LIST))
    many = [make_job(at=now - timedelta(seconds=number)) for number in range(PAGE_SIZE)]
    assert queries(lambda: browser.get(LIST)) == few
    older = browser.get(LIST).context["older"]
    assert listed(browser.get(LIST)) == many
    assert listed(browser.get(LIST + older)) == [other, failed, old]
    assert "Jobs and how they go" in {entry.label for entry in entries(crew.auditor)}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "Waits for its turn."),
        (
            {"epoch": 1, "error_code": "quota_exhausted"},
            "Waits for its turn after 1 attempt; the last one brought quota",
        ),
        ({"epoch": 2, "not_before": datetime(2099, 1, 1, tzinfo=UTC)}, "Waits to be tried again after 2 attempts."),
        ({"state": "running", "cancel_asked": True}, "Runs, attempt 1; it was asked to stop."),
        ({"state": "completed", "usage": {"prompt_tokens": 12, "completion_tokens": 3}}, "Answered after 1 attempt."),
        ({"state": "failed", "epoch": 3, "error_code": "unauthorized"}, "Failed after 3 attempts with unauthorized."),
        ({"state": "cancelled", "epoch": 0}, "Cancelled before it was tried."),
        ({"state": "cancelled"}, "Cancelled after 1 attempt."),
        ({"state": "expired"}, "Its time was over before there was an answer, after 1 attempt."),
    ],
)
def test_page_of_a_job_says_what_became_of_it_and_nobodys_words(acme, signed_in, fields, sentence):
    """Whatever its state; and words that are in the row stay there."""
    job = make_job(**fields)

    page = signed_in(crew.auditor).get(f"{LIST}{job.pk}/")

    assert sentence in words(page)
    assert job.name in words(page)
    assert "secret" not in page.content.decode()
    if job.usage:
        assert "12 in, 3 out" in words(page)


def test_jobs_of_another_tenant_are_none(acme, signed_in):
    """Neither in the list nor on a page of their own."""
    mine, theirs = make_job(), make_job(tenant="globex")
    reader = signed_in(make_operator("reader", Role.AUDITOR, on=acme))

    assert listed(reader.get(LIST)) == [mine]
    assert listed(reader.get(f"{LIST}?tenant=globex")) == [mine]  # not a choice of theirs
    assert [reader.get(f"{LIST}{job}/").status_code for job in (mine.pk, theirs.pk, uuid4())] == [200, 404, 404]
    assert signed_in(crew.owner).get(LIST).status_code == 403
    assert "No job has been handed in" in words(
        signed_in(make_operator("new", Role.AUDITOR, on=make_tenant("x"))).get(LIST)
    )
