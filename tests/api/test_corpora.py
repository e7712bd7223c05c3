from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from controlplane.approvals.models import ChangeRequest
from controlplane.approvals.operations import apply_change
from controlplane.corpora import vectors
from controlplane.corpora.models import Corpus, CorpusMinute, CorpusPolicy, Document, NamespaceState, Pending
from controlplane.corpora.namespaces import mark_ready, switch
from controlplane.corpora.operations import RECONCILE
from controlplane.releases.operations import current_release
from controlplane.work import handlers
from tests.corpora.kept_corpora import make_corpus, make_namespace, policy_document
from tests.corpora_documents import SLUG
from tests.factories import crew, sign
from tests.qdrant_local import LocalQdrant

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

DRILL = {"origin": "load_test", "note": "seen in the drill", "link": "/corpora/", "review_by": "2099-01-01"}
WHY = {"reason": "it burns"}
PATH = f"corpora/{SLUG}"


def serve(corpus):
    namespace = make_namespace(corpus)
    switch(corpus=corpus, namespace=namespace, reason="r", actor=crew.oncall, now=timezone.now())
    return namespace


def test_policy_goes_from_nothing_to_in_force_and_back(as_operator):
    """Submitted and proposed by on-call, signed by two approvers, applied; and it goes back in one call."""
    oncall = as_operator(crew.oncall)
    for document in (policy_document(), policy_document(title="Help")):
        submitted = oncall.post("corpora/policies", {"document": document, "rationale": "why"})
        number = submitted.body["number"]
        proposed = oncall.post(f"corpora/policies/{number}/propose", WHY)
        change = ChangeRequest.objects.get(pk=proposed.body["id"])
        sign(change, crew.approver_one, crew.approver_two, now=timezone.now())
        apply_change(change=change, actor=crew.oncall, now=timezone.now())

    back = [oncall.post("corpora/policies/1/return-to", WHY) for _ in range(2)]

    assert (submitted.status, submitted.body["document"]) == (201, policy_document(title="Help"))
    assert (proposed.status, proposed.body["kind"]) == (201, "corpora.policy")
    assert [(answer.status, answer.body["is_in_force"]) for answer in back] == [(200, True), (200, True)]
    assert current_release().content["sections"]["corpora"] == policy_document()
    listed = oncall.get("corpora/policies").body["results"]
    assert [(row["number"], row["is_in_force"]) for row in listed] == [(2, False), (1, True)]


def test_policy_says_what_there_is_against_it(as_operator):
    """With its path, before anybody signs it: errors that forbid it, and what only does not work yet."""
    document = policy_document(tenants=["nobody"], residency=["mars"]) | policy_document(
        slug="wiki", embedding={"route": "gone"}
    )

    answer = as_operator(crew.oncall).post("corpora/policies", {"document": document, "rationale": "why"})

    assert sorted((one["path"], one["is_error"]) for one in answer.body["problems"]) == [
        ("$.wiki.embedding.route", True),
        ("$.wiki.freshness.banner", False),
        ('$["help-centre"].freshness.banner', False),
        ('$["help-centre"].residency', False),
        ('$["help-centre"].tenants[0]', False),
    ]


def test_single_thresholds_are_read_and_proposed(as_operator):
    """A new policy and its change request, with the rest as it was."""
    make_corpus()
    oncall = as_operator(crew.oncall)

    read = oncall.get(f"{PATH}/thresholds")
    new = {"recovery.rto_seconds": {"value": 1200, **DRILL}}
    proposed = oncall.patch(f"{PATH}/thresholds", {"thresholds": new, "reason": "why"})
    unknown = oncall.patch(f"{PATH}/thresholds", {"thresholds": {"recovery.speed": {"value": 1, **DRILL}}, **WHY})

    assert read.body["thresholds"]["recovery.rto_seconds"]["value"] == 900
    assert proposed.status == 201
    kept = CorpusPolicy.objects.get(number=2).document[SLUG]
    assert kept["recovery"]["rto_seconds"]["value"] == 1200
    assert kept["freshness"] == policy_document()[SLUG]["freshness"]
    assert (unknown.status, unknown.body["error"]["code"]) == (400, "invalid_threshold")
    assert oncall.get("corpora/gone/thresholds").status == 404


def test_corpora_say_how_they_stand_against_what_is_promised(as_operator):
    """Unsigned words are never shown, so such a corpus is said to block; before anything is searchable nothing is."""
    corpus = make_corpus()
    owner = as_operator(crew.owner)

    (before,) = owner.get("corpora").body["results"]
    namespace = serve(corpus)
    now = timezone.now()
    document = Document.objects.create(
        corpus=corpus, source_key="faq/1", source_rev=1, is_deleted=False, event_at=now, accepted_at=now, seq=1
    )
    since = now - timedelta(minutes=20)
    Pending.objects.create(namespace=namespace, document=document, first_seq=1, last_seq=1, since=since, due_at=since)
    whole = owner.get(PATH).body

    assert (before["snapshot"], before["namespace"]) == (None, None)
    assert whole["promised"] == {
        "max_lag_seconds": 300.0,
        "on_breach": "block",
        "banner": "help-centre-age",
        "is_banner_signed": False,
        "tier": "standard",
        "strategy": "restore",
        "rpo_seconds": 3600.0,
        "rto_seconds": 900.0,
        "reembed_minutes": 30.0,
    }
    assert (whole["snapshot"], whole["namespace"]) == (str(namespace.snapshot), 1)
    assert whole["standing"]["is_stale"]
    assert whole["standing"]["lag_seconds"] >= 1200
    assert whole["standing"]["pending"] == 1
    assert [row["number"] for row in whole["namespaces"]] == [1]
    assert owner.get("corpora/gone").status == 404


def test_oncall_pauses_pins_and_takes_both_back(as_operator):
    """Each answers with the corpus as it stands then; a second time nothing happens."""
    serve(make_corpus())
    oncall = as_operator(crew.oncall)

    paused = [oncall.post(f"{PATH}/pause", WHY) for _ in range(2)]
    pinned = oncall.post(f"{PATH}/pin", WHY)
    gone = oncall.post(f"{PATH}/pin", WHY | {"snapshot": "ns_999999.1"})
    wrong = oncall.post(f"{PATH}/pin", WHY | {"snapshot": "yesterday"})
    freed = [oncall.post(f"{PATH}/{act}", WHY).body for act in ("resume", "unpin", "unpin")]

    assert [(answer.status, answer.body["paused"]["by"]) for answer in paused] == [(200, "oncall"), (200, "oncall")]
    assert paused[0].body["paused"] == paused[1].body["paused"]
    assert pinned.body["pinned"]["snapshot"] == pinned.body["snapshot"]
    assert (gone.status, gone.body["error"]["code"]) == (409, "snapshot_gone")
    assert (wrong.status, list(wrong.body["error"]["fields"])) == (400, ["snapshot"])
    assert (freed[-1]["paused"], freed[-1]["pinned"]) == (None, None)


def test_oncall_rebuilds_switches_and_drops(as_operator):
    """One namespace is built at a time, and a half-built one serves nobody."""
    corpus = make_corpus()
    serve(corpus)
    oncall = as_operator(crew.oncall)

    built = oncall.post(f"{PATH}/rebuild", WHY)
    twice = oncall.post(f"{PATH}/rebuild", WHY)
    early = oncall.post(f"{PATH}/switch", WHY | {"namespace": 2})
    mark_ready(corpus.namespaces.get(number=2), now=timezone.now())
    switched = oncall.post(f"{PATH}/switch", WHY | {"namespace": 2})
    serving = oncall.post(f"{PATH}/drop-namespace", WHY | {"namespace": 2})
    dropped = oncall.post(f"{PATH}/drop-namespace", WHY | {"namespace": 1})

    assert (built.status, built.body["number"], built.body["state"]) == (201, 2, NamespaceState.BUILDING)
    assert (twice.status, twice.body["error"]["code"]) == (409, "already_building")
    assert (early.status, early.body["error"]["code"]) == (409, "namespace_not_ready")
    assert switched.body["namespace"] == 2
    assert serving.status == 409
    assert [row["state"] for row in dropped.body["namespaces"]] == [NamespaceState.READY, NamespaceState.DROPPED]
    assert oncall.post(f"{PATH}/switch", WHY | {"namespace": 9}).status == 404


def test_rebuild_is_refused_where_nobody_keeps_the_vectors(as_operator, monkeypatch):
    """None is set up under the policy's name, or it is away, which may pass."""
    monkeypatch.setattr(vectors, "_stores", {})
    make_corpus(store="qdrant")
    oncall = as_operator(crew.oncall)

    nowhere = oncall.post(f"{PATH}/rebuild", WHY)
    qdrant = LocalQdrant()
    qdrant.is_away = True
    vectors.register("qdrant", qdrant.vectors)
    away = oncall.post(f"{PATH}/rebuild", WHY)
    qdrant.is_away = False
    built = oncall.post(f"{PATH}/rebuild", WHY)

    assert (nowhere.status, nowhere.body["error"]["code"]) == (409, "vectors_nowhere")
    assert (away.status, away.body["error"]["code"]) == (503, "vectors_unavailable")
    assert built.status == 201


def test_comparison_is_handed_in_as_work(as_operator):
    """And answered with which."""
    before = handlers._handlers.get(RECONCILE)
    handlers.register(handlers.Handler(RECONCILE, lambda arguments, attempt: None))
    corpus = make_corpus()
    oncall = as_operator(crew.oncall)

    early = oncall.post(f"{PATH}/reconcile-store", WHY)
    serve(corpus)
    asked = oncall.post(f"{PATH}/reconcile-store", WHY)
    if before is not None:
        handlers.register(before)

    assert (early.status, early.body["error"]["code"]) == (409, "namespace_not_ready")
    assert asked.status == 202
    assert asked.body["task"]


def test_minutes_come_as_json_and_as_a_table(as_operator):
    """Of the period that is asked for, oldest first; what is no period is said to be none."""
    corpus = make_corpus()
    minute = timezone.now().replace(second=0, microsecond=0)
    for ago in (5, 1, 60 * 30):
        at = minute - timedelta(minutes=ago)
        CorpusMinute.objects.create(
            corpus=corpus, minute=at, lag_seconds=ago, pending=2, poisoned=0, index_rev=7, max_lag_seconds=300
        )
    auditor = as_operator(crew.auditor)

    found = auditor.get(f"{PATH}/minutes").body
    table = auditor.client.get(f"/api/v1/{PATH}/minutes?format=csv", headers=auditor.headers)
    wrong = auditor.get(f"{PATH}/minutes?since=2020-01-01T00:00:00Z")

    assert [row["lag_seconds"] for row in found["results"]] == [5.0, 1.0]
    lines = table.content.decode().splitlines()
    assert lines[0] == "minute,lag_seconds,max_lag_seconds,pending,poisoned,index_rev,namespace"
    assert [line.split(",")[1:] for line in lines[1:]] == [
        ["5.0", "300.0", "2", "0", "7", ""],
        ["1.0", "300.0", "2", "0", "7", ""],
    ]
    assert table["Content-Disposition"] == 'attachment; filename="corpus.csv"'
    assert wrong.status == 400


def test_corpora_take_as_many_queries_for_much_as_for_little(as_operator, django_assert_max_num_queries):
    """However many there are."""
    make_corpus()
    owner = as_operator(crew.owner)
    owner.get("corpora")
    with django_assert_max_num_queries(20) as few:
        owner.get("corpora")
    for number in range(5):
        Corpus.objects.create(slug=f"c-{number}", created_at=timezone.now())

    with django_assert_max_num_queries(len(few)):
        assert len(owner.get("corpora").body["results"]) == 6


def test_corpora_are_seen_by_everybody_and_acted_on_by_few(as_operator):
    """The refusal names what is missing."""
    serve(make_corpus())
    owner = as_operator(crew.owner)
    body = WHY | {"namespace": 1}
    acts = ("pause", "resume", "pin", "unpin", "rebuild", "switch", "drop-namespace", "reconcile-store")

    refused = [owner.post(f"{PATH}/{act}", body) for act in acts]

    assert {answer.status for answer in refused} == {403}
    assert "pause, pin, reconcile, rebuild and switch a corpus" in refused[0].body["error"]["message"]
    missing = [as_operator(crew.oncall).post(f"corpora/gone/{act}", body).status for act in acts]
    assert set(missing) == {404}
