"""The corpus pages over HTTP: how each stands against its promise, where a document is, and what on-call does."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from controlplane.console.changes import latest_changes
from controlplane.corpora import operations
from controlplane.corpora.breaches import watch_promises
from controlplane.corpora.models import (
    Corpus,
    CorpusMinute,
    Document,
    Dump,
    Namespace,
    NamespaceState,
    Pending,
    PromiseBreach,
    Reconciliation,
    RecoveryDrill,
    Source,
)
from controlplane.corpora.namespaces import drop_namespace
from controlplane.work import handlers
from controlplane.work.models import Task
from tests.console.conftest import said, words
from tests.corpora.kept_corpora import make_namespace, make_policy, policy_document
from tests.corpora_documents import BANNER, SLUG
from tests.factories import crew, make_copy, make_live_copy, make_operator

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("promised")]

LIST = "/corpora/"
PAGE = f"/corpora/{SLUG}/"
WHY = {"reason": "it burns"}
WHOLE_AND_BROKEN = (("d-whole", "complete"), ("d-broken", "failed"))


@pytest.fixture(scope="module")
def promised(deployment, lasting):
    """Two corpora that are promised."""
    with lasting():
        sources = {"cms": {"dsn_variable": "CMS_DATABASE_URL"}}
        make_policy(policy_document(sources=sources) | policy_document(slug="wiki", title="Wiki", tenants=["acme"]))


@pytest.fixture
def corpus(db):
    """One of them, served from its first namespace."""
    found = Corpus.objects.get(slug=SLUG)
    serve_from(make_namespace(found))
    return Corpus.objects.get(slug=SLUG)


def serve_from(namespace):
    operations.switch(namespace=namespace, actor=crew.oncall, now=timezone.now(), **WHY)


def make_document(corpus, number, **facts):
    now = timezone.now()
    facts = {"source_rev": 1, "is_deleted": False, "event_at": now, "accepted_at": now} | facts
    return Document.objects.create(corpus=corpus, source_key=f"faq/{number}", seq=number, **facts)


def leave_pending(corpus, document, *, minutes=0, **facts):
    """The document waits for the namespace that serves, since so long."""
    since = timezone.now() - timedelta(minutes=minutes)
    facts = {"first_seq": document.seq, "last_seq": document.seq, "since": since, "due_at": since} | facts
    return Pending.objects.create(namespace=corpus.live_namespace, document=document, **facts)


def write_minutes(corpus, count=5, **facts):
    minute = timezone.now().replace(second=0, microsecond=0)
    facts = {"lag_seconds": 2.0, "pending": 1, "poisoned": 0, "max_lag_seconds": 300.0} | facts
    for ago in range(count):
        at = minute - timedelta(minutes=ago)
        CorpusMinute.objects.create(corpus=corpus, minute=at, index_rev=10 - ago, **facts)


def make_dump(corpus, **facts):
    told = {"state": "complete", "actor": "ballast", "began_at": timezone.now()} | facts
    return Dump.objects.create(corpus=corpus, namespace=corpus.live_namespace, **told)


def make_drill(corpus, *, rto_seconds=480.0, **facts):
    now = timezone.now()
    facts = {"state": "passed", "ended_at": now - timedelta(days=3), "asked_at": now} | facts
    facts.setdefault("report", {"way": "restore"})
    return RecoveryDrill.objects.create(
        corpus=corpus, scenario="index_dropped", reason="r", actor="oncall", rto_seconds=rto_seconds, **facts
    )


def test_list_says_in_one_look_how_corpora_stand(corpus, signed_in):
    """Lag against promise, what waits, what serves, its tier in words, and that nobody has proven it comes back."""
    leave_pending(corpus, make_document(corpus, 1), minutes=2)
    leave_pending(corpus, make_document(corpus, 2), minutes=60, is_poisoned=True)
    Source.objects.create(corpus=corpus, name="cms", checked_at=timezone.now(), waiting=3)

    page = signed_in(crew.auditor).get(LIST)

    text = words(page)
    assert "Behind by 2 min, within the 5 min that is promised. 1 document could not be indexed" in text
    assert "Waiting 1 document, 3 at its sources; 1 poisoned" in text
    assert "Serves namespace 1 at revision 0, by text-embedding-3-small" in text
    assert "Standard: RPO 1 h, RTO 15 min; restored from the last dump. We accept 30 minutes of re-embed" in text
    assert "never proven" in text
    assert "Nothing of it is searchable yet: no namespace is being built, no document is here yet" in text  # of wiki
    assert page.context["sentence"].startswith("help-centre is incomplete. wiki is not searchable.")
    assert page.context["tone"] == "watch"


def test_stale_corpus_says_what_callers_get(corpus, signed_in):
    """Nothing while its banner is unsigned; then answers with the signed words."""
    leave_pending(corpus, make_document(corpus, 1), minutes=20)
    auditor = signed_in(crew.auditor)

    blocked = words(auditor.get(PAGE))
    make_live_copy(slug=BANNER, kind="freshness")
    told = words(auditor.get(PAGE))

    assert "Behind by 20 min, promised within 5 min: nothing is answered from it." in blocked
    assert "Nobody has signed words for its banner, so there are none to show; it blocks instead" in blocked
    assert "Behind by 20 min, promised within 5 min: its answers carry a banner." in told


def test_banner_is_shown_as_readers_get_it_in_every_language(corpus, signed_in):
    """With a sample of twice what is promised while nothing is stale."""
    make_live_copy(make_copy(BANNER, kind="freshness"), "{{corpus}} may lack what changed in the last {{lag}}.")

    page = signed_in(crew.auditor).get(PAGE)

    sample = page.context["banner"]
    assert sample.lag == "10 min"
    assert [(one.locale, one.text) for one in sample.banners] == [
        ("en", "Help centre may lack what changed in the last 10 min."),
        ("de", "Help centre may lack what changed in the last 10 min."),
    ]
    assert words(page).count("Help centre may lack what changed in the last 10 min.") == 4  # in both themes


def test_last_proven_restore_is_red_where_it_took_too_long(corpus, signed_in):
    """The newest that passed counts; longer than promised is no proof."""
    auditor = signed_in(crew.auditor)
    make_drill(corpus)

    kept = words(auditor.get(LIST))
    make_drill(corpus, rto_seconds=1200.0, ended_at=timezone.now() - timedelta(days=1))
    make_drill(corpus, state="failed")
    broken = auditor.get(LIST)

    assert "proven 3 d ago, in 8 min" in kept
    assert "proven 1 d ago, in 20 min" in words(broken)
    assert "help-centre and wiki never came back from a loss as promised in a drill" in broken.context["sentence"]


def test_sentence_says_that_nothing_is_amiss_only_where_corpora_came_back_too(corpus, signed_in):
    """Of one and of many: as fresh as promised is not enough where nobody ever saw it come back."""
    auditor = signed_in(crew.auditor)
    wiki = Corpus.objects.get(slug="wiki")
    serve_from(make_namespace(wiki))

    both = [auditor.get(LIST).context]
    make_drill(wiki)
    both.append(auditor.get(LIST).context)
    make_policy(policy_document())
    alone = [auditor.get(LIST).context]
    make_drill(corpus)
    alone.append(auditor.get(LIST).context)
    make_policy(policy_document() | policy_document(slug="wiki", title="Wiki"))
    both.append(auditor.get(LIST).context)

    never_came = "never came back from a loss as promised in a drill."
    assert [(one["tone"], one["sentence"]) for one in both] == [
        ("watch", f"Each of 2 corpora is as fresh as promised. {SLUG} and wiki {never_came}"),
        ("watch", f"Each of 2 corpora is as fresh as promised. {SLUG} {never_came}"),
        ("good", "Each of 2 corpora is as fresh as promised; nothing is amiss."),
    ]
    assert [(one["tone"], one["sentence"]) for one in alone] == [
        ("watch", f"{SLUG} is as fresh as promised. It {never_came}"),
        ("good", f"{SLUG} is as fresh as promised; nothing is amiss."),
    ]


def test_sentence_says_what_would_not_come_back(corpus, signed_in):
    """What is promised of its recovery and not kept is bad, however fresh it is."""
    make_policy(policy_document())
    make_drill(corpus)
    Corpus.objects.update(switched_at=timezone.now() - timedelta(hours=3))
    watch_promises(now=timezone.now())

    page = signed_in(crew.auditor).get(LIST)

    assert (page.context["tone"], page.context["sentence"]) == (
        "bad",
        f"{SLUG} is as fresh as promised. Its recovery is not as promised.",
    )


def test_charts_show_lag_under_the_promise_with_what_people_did(corpus, signed_in):
    """Over the same hours; gaps where nobody looked, and vertical lines where somebody acted."""
    write_minutes(corpus)
    operations.pause_queries(corpus=corpus, actor=crew.oncall, now=timezone.now(), **WHY)

    lag, pending, revision = signed_in(crew.auditor).get(PAGE).context["charts"]

    known = [value for value in lag.figure["data"][0]["y"] if value is not None]
    assert known == [2.0] * 5
    assert [one["text"] for one in lag.figure["layout"]["annotations"]] == ["promised: 5 min", "paused", "switched"]
    assert lag.figure["layout"]["yaxis"]["range"][1] > 300
    assert lag.figure["layout"]["xaxis"]["range"] == revision.figure["layout"]["xaxis"]["range"]
    assert pending.unit == "documents"
    assert [value for value in revision.figure["data"][0]["y"] if value is not None] == [6.0, 7.0, 8.0, 9.0, 10.0]


def test_queries_are_paused_and_resumed_in_two_clicks(corpus, signed_in):
    """The page says who and why; a second click changes nothing and says so."""
    browser = signed_in(crew.oncall)

    paused = browser.post(f"{PAGE}pause/", WHY)
    again = browser.post(f"{PAGE}pause/", WHY)
    page = browser.get(PAGE)
    resumed = browser.post(f"{PAGE}resume/", WHY)

    assert paused.url == PAGE
    assert said(paused)[0] == "Queries of help-centre are refused from now on"
    assert said(again)[-1] == "It was so already; nothing was changed"
    assert "Its queries are refused since oncall paused them just now: it burns." in words(page)
    assert 'data-dialog-open="resume"' in page.content.decode()
    assert said(resumed)[-1] == "Queries of help-centre are answered again"


def test_hand_on_a_corpus_is_among_the_last_changes_to_what_is_served(corpus, signed_in):
    """With why nobody had to sign, for whoever may look at corpora; a comparison changes nothing that is served."""
    now = timezone.now()
    operations.pause_queries(corpus=corpus, actor=crew.oncall, now=now, **WHY)
    operations.resume_queries(corpus=corpus, actor=crew.oncall, now=now, **WHY)
    operations.pin_snapshot(corpus=corpus, actor=crew.oncall, now=now, **WHY)

    changes = latest_changes(crew.auditor, limit=3)
    unseen = latest_changes(make_operator("nobody-yet"), limit=3)

    assert [str(one["text"]) for one in changes] == [
        f"Pinned corpus {SLUG} to {corpus.live_namespace.snapshot}",
        f"Resumed queries of corpus {SLUG}",
        f"Paused queries of corpus {SLUG}",
    ]
    assert {one["approved"] for one in changes} == {"needs no sign-off: one click takes it back"}
    assert unseen == []


def test_snapshot_is_pinned_by_its_name_or_as_it_is_now(corpus, signed_in):
    """What is no snapshot pins nothing."""
    browser = signed_in(crew.oncall)
    newest = str(corpus.live_namespace.snapshot)

    wrong = browser.post(f"{PAGE}pin/", WHY | {"snapshot": "yesterday"})
    gone = browser.post(f"{PAGE}pin/", WHY | {"snapshot": f"ns_{corpus.live_namespace_id}.99"})
    nothing = Corpus.objects.get(pk=corpus.pk).pinned
    pinned = browser.post(f"{PAGE}pin/", WHY)
    page = browser.get(PAGE)
    unpinned = browser.post(f"{PAGE}unpin/", WHY)

    assert "'yesterday' is no snapshot; nothing is pinned" in said(wrong)[0]
    assert "keeps revisions 0 to 0, not 99" in said(gone)[-1]
    assert nothing is None
    assert said(pinned)[-1].startswith(f"Everybody reads {newest} of help-centre from now on")
    assert f"Everybody reads {newest}, which oncall pinned just now: it burns." in words(page)
    assert said(unpinned)[-1] == "Everybody reads the newest state of help-centre again"


def test_namespace_is_built_switched_to_and_the_old_one_dropped(corpus, signed_in):
    """Each dialog says what it does to callers before the click; a half-built one serves nobody."""
    make_document(corpus, 1)
    browser = signed_in(crew.oncall)

    before = words(browser.get(PAGE))
    built = browser.post(f"{PAGE}rebuild/", WHY)
    early = browser.post(f"{PAGE}namespaces/2/switch/", WHY)
    Namespace.objects.filter(number=2).update(state=NamespaceState.READY)
    between = words(browser.get(PAGE))
    switched = browser.post(f"{PAGE}namespaces/2/switch/", WHY)
    dropped = browser.post(f"{PAGE}namespaces/1/drop/", WHY)

    assert "Its one document is embedded again by text-embedding-3-small over route embed" in before
    assert said(built)[0] == "help-centre namespace 2 is being built; switch to it once it is ready"
    assert "only a ready one for serving can serve" in said(early)[-1]
    assert (
        "Every query reads namespace 2, by text-embedding-3-small, from the next one on; none ever reads bo" in between
    )
    assert "Not indexed into it yet: 1. " in between
    assert "Switch back to namespace 1: the same act, as fast." in between
    assert said(switched)[-1] == "help-centre is served from namespace 2 from now on"
    assert said(dropped)[-1] == "Namespace 1 of help-centre is dropped"
    assert Corpus.objects.get(pk=corpus.pk).live_namespace.number == 2


def test_comparison_is_asked_for_and_what_others_found_stands_below(corpus, signed_in):
    """Kind by kind, and which documents."""
    before = handlers._handlers.get(operations.RECONCILE)
    handlers.register(handlers.Handler(operations.RECONCILE, lambda arguments, attempt: None))
    now = timezone.now()
    Reconciliation.objects.create(
        corpus=corpus,
        scope="store",
        namespace=corpus.live_namespace,
        actor="ballast",
        began_at=now,
        ended_at=now,
        compared=12_000,
        counts={"missing": 2, "wrong_model": 0, "stale": 1},
        findings=[{"kind": "missing", "source_key": "faq/7", "detail": "revision 3"}],
        repaired=3,
    )
    browser = signed_in(crew.oncall)

    asked = browser.post(f"{PAGE}reconcile/", WHY)
    text = words(browser.get(PAGE))
    if before is not None:
        handlers.register(before)

    assert said(asked)[0] == "help-centre is being compared; what is found stands below"
    assert "2 missing, 1 stale Which missing: faq/7 revision 3" in text
    assert "12 k" in text


def test_dump_is_made_and_read_whole_by_a_press_each(corpus, signed_in):
    """By who may drill; workers do both, and a dump that is not whole cannot be read."""
    whole, broken = (make_dump(corpus, name=name, state=state) for name, state in WHOLE_AND_BROKEN)
    owner, oncall = signed_in(crew.owner), signed_in(crew.oncall)

    page = oncall.get(PAGE).content.decode()
    asked = oncall.post(f"{PAGE}dumps/new/")
    read = oncall.post(f"{PAGE}dumps/{whole.name}/verify/")
    refused = oncall.post(f"{PAGE}dumps/{broken.name}/verify/")

    assert f"{PAGE}dumps/{whole.name}/verify/" in page
    assert f"{PAGE}dumps/{broken.name}/verify/" not in page
    assert "dumps/" not in owner.get(PAGE).content.decode()
    assert said(asked)[0] == "The dump is queued; it stands below once it is begun"
    assert said(read)[-1] == "d-whole is being read whole; what is found stands beside it"
    assert said(refused)[-1] == "dump 'd-broken' is failed"
    assert [one.kind for one in Task.objects.order_by("id")] == ["corpora.dump", "corpora.verify_dump"]


def test_namespaces_that_are_gone_are_only_counted(corpus, signed_in):
    """Every game day leaves two; those that are there stay in sight."""
    for _ in range(2):
        drop_namespace(make_namespace(corpus), now=timezone.now())
    make_drill(corpus)

    text = words(signed_in(crew.oncall).get(PAGE))

    assert "2 more were dropped." in text
    assert "Index dropped passed 8 min" in text


def test_document_is_found_by_its_key(corpus, signed_in):
    """Its newest revision, where which one is searchable, and what waits; an unknown key says so."""
    document = make_document(corpus, 7, source_rev=3)
    leave_pending(corpus, document)
    with connection.cursor() as cursor:
        table = corpus.live_namespace.table
        values = "1, %s, 'faq/7', 2, 0, 1, NULL, now(), now(), 't', '{}', '', 'm', '[1,0,0,0,0,0,0,0]'"
        cursor.execute(f"INSERT INTO {table} VALUES ({values})", [document.pk])  # noqa: S608 - a name of ours
    browser = signed_in(crew.auditor)

    found = words(browser.get(PAGE, {"key": "faq/7"}))
    unknown = words(browser.get(PAGE, {"key": "faq/8"}))

    assert "Newest revision 3" in found
    assert "Namespace 1 revision 2 in 1 passage newest one waits" in found
    assert "No change to faq/8 was ever taken" in unknown


def test_corpus_that_no_policy_names_any_more_keeps_its_page(corpus, signed_in):
    """Callers are told that it does not exist; its documents are kept, and it can still be paused."""
    make_policy(policy_document(slug="wiki"))

    page = signed_in(crew.oncall).get(PAGE)

    assert "No policy in force names it, so callers are told that it does not exist" in words(page)
    assert 'data-dialog-open="rebuild"' not in page.content.decode()


def test_acts_are_for_who_may_and_what_is_there(corpus, signed_in):
    """Looking is for everybody who works here; nothing is done without a reason."""
    owner, oncall = signed_in(crew.owner), signed_in(crew.oncall)
    acts = ("pause", "resume", "pin", "unpin", "rebuild", "reconcile", "namespaces/1/switch", "namespaces/1/drop")

    page = owner.get(PAGE)
    refused = {owner.post(f"{PAGE}{act}/", WHY).status_code for act in acts}
    missing = {oncall.post(f"/corpora/gone/{act}/", WHY).status_code for act in acts}
    mute = oncall.post(f"{PAGE}pause/")

    assert page.status_code == 200
    assert "data-dialog-open" not in page.content.decode().partition("<main")[2]
    assert refused == {403}
    assert missing == {404}
    assert oncall.get("/corpora/gone/").status_code == 404
    assert oncall.post(f"{PAGE}namespaces/9/switch/", WHY).status_code == 404
    assert said(mute)[0].startswith("Say why")
    assert Corpus.objects.get(pk=corpus.pk).paused_at is None


def test_stale_and_paused_corpora_are_on_fire(corpus, signed_in):
    """On the front page, with the way to where something can be done about it."""
    leave_pending(corpus, make_document(corpus, 1), minutes=20)
    wiki = Corpus.objects.get(slug="wiki")
    operations.pause_queries(corpus=wiki, actor=crew.oncall, now=timezone.now(), **WHY)

    page = signed_in(crew.approver_one).get("/")

    fires = {fire.title: (fire.tone, fire.url) for fire in page.context["fires"] if fire.act == "Corpus"}
    assert fires == {
        "Corpus help-centre is stale": ("bad", PAGE),
        "Corpus wiki is paused": ("bad", "/corpora/wiki/"),
    }
    assert "Behind by 20 min, promised within 5 min" in words(page)


def test_broken_promise_of_recovery_is_on_fire_and_says_since_when(corpus, signed_in):
    """On the front page, in the sentence of all corpora and beside its clause; what is kept again or over is not."""
    now = timezone.now()
    Dump.objects.create(
        corpus=corpus,
        namespace=corpus.live_namespace,
        name="d",
        state="complete",
        actor="ballast",
        began_at=now,
        as_of=now - timedelta(hours=3),
    )
    words_of = {
        "rpo": "The newest dump is 2 h old; 60 min is promised",
        "rto": "To restore it is predicted to take 20 min; 15 min is promised",
    }
    for clause, said_of in words_of.items():
        PromiseBreach.objects.create(corpus=corpus, clause=clause, words=said_of, since=now - timedelta(minutes=65))
    for clause, facts in (("freshness", {}), ("reembed", {"kept_since": now}), ("proven", {"ended_at": now})):
        PromiseBreach.objects.create(corpus=corpus, clause=clause, words="unseen", since=now, **facts)
    browser = signed_in(crew.approver_one)

    front, listed, page = (browser.get(path) for path in ("/", LIST, PAGE))

    (fire,) = [fire for fire in front.context["fires"] if fire.url == PAGE]
    assert (fire.tone, fire.title) == ("bad", "Recovery of corpus help-centre is not as promised")
    assert fire.text == ". ".join(f"{said_of} (found broken 1 h ago)" for said_of in words_of.values())
    assert listed.context["tone"] == "bad"
    assert "Recovery of help-centre is not as promised." in listed.context["sentence"]
    assert "Not as promised broken The newest dump is 2 h old" in words(listed)
    assert "is 3 h old; 1 h is promised; found broken 1 h ago" in words(page)
    assert words(page).count("found broken") == 1
    assert "unseen" not in words(front) + words(listed) + words(page)


def test_corpus_pages_take_as_many_queries_for_much_as_for_little(corpus, signed_in, queries):
    """However many corpora, namespaces, documents, minutes and records there are."""
    browser = signed_in(crew.oncall)
    pages = (LIST, PAGE, f"{PAGE}?key=faq/1", "/", "/palette.json")
    leave_pending(corpus, make_document(corpus, 1))
    for page in pages:
        browser.get(page)
    few = [queries(lambda page=page: browser.get(page)) for page in pages]
    make_policy(policy_document() | {f"c-{at}": policy_document()[SLUG] for at in range(4)})
    for at in range(2, 6):
        leave_pending(corpus, make_document(corpus, at))
        make_namespace(Corpus.objects.get(slug=SLUG))
        make_drill(corpus)
        make_dump(corpus, name=f"d-{at}")
        Reconciliation.objects.create(corpus=corpus, scope="store", actor="ballast", began_at=timezone.now())
    for clause in ("rto", "rpo", "reembed", "proven"):
        PromiseBreach.objects.create(corpus=corpus, clause=clause, words="w", since=timezone.now())
    write_minutes(corpus, 20)

    many = [queries(lambda page=page: browser.get(page)) for page in pages]
    assert all(now <= before for now, before in zip(many, few, strict=True)), (few, many)
