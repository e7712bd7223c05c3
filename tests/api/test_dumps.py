"""Dumps over the API."""

import pytest

from controlplane.corpora.models import Dump
from controlplane.corpora.namespaces import switch
from controlplane.work.models import Task
from tests.corpora.kept_corpora import crew, make_corpus, make_namespace
from tests.factories import NOW

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]


@pytest.fixture
def namespace():
    return make_namespace(make_corpus(), fill=False)


def test_a_script_asks_for_a_dump_and_for_its_verification(namespace, as_operator):
    """Both are work that somebody does later; the list says what became of it."""
    switch(corpus=namespace.corpus, namespace=namespace, reason="r", actor=crew.oncall, now=NOW)
    oncall = as_operator(crew.oncall)

    asked = oncall.post("corpora/help-centre/dumps")
    Dump.objects.create(
        corpus=namespace.corpus, namespace=namespace, name="d-1", state="complete", actor="oncall", began_at=NOW
    )
    verifying = oncall.post("corpora/help-centre/dumps/d-1/verify")
    listed = oncall.get("corpora/help-centre/dumps").body
    one = oncall.get("corpora/help-centre/dumps/d-1").body

    assert (asked.status, verifying.status) == (202, 202)
    assert {str(task.pk): task.kind for task in Task.objects.all()} == {
        asked.body["work"]: "corpora.dump",
        verifying.body["work"]: "corpora.verify_dump",
    }
    assert listed["results"] == [one]
    assert (one["state"], one["namespace"], one["verified_at"]) == ("complete", 1, None)


def test_what_cannot_be_dumped_or_verified_is_refused_with_the_reason(namespace, as_operator):
    """Nothing serves, and the dump was never finished."""
    Dump.objects.create(corpus=namespace.corpus, namespace=namespace, name="d-1", actor="oncall", began_at=NOW)
    oncall = as_operator(crew.oncall)

    made = oncall.post("corpora/help-centre/dumps")
    verified = oncall.post("corpora/help-centre/dumps/d-1/verify")

    assert (made.status, made.body["error"]["code"]) == (409, "namespace_not_ready")
    assert (verified.status, verified.body["error"]["code"]) == (409, "dump_refused")
    assert not Task.objects.exists()


def test_who_only_looks_cannot_ask_for_dumps(namespace, as_operator):
    """The refusal names who can; an unknown corpus is none."""
    auditor = as_operator(crew.auditor)

    refused = auditor.post("corpora/help-centre/dumps")
    unknown = auditor.get("corpora/nothing/dumps")

    assert (refused.status, unknown.status) == (403, 404)
    assert auditor.get("corpora/help-centre/dumps").body["count"] == 0
