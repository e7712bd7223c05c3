"""The corpus policy over HTTP: in words, number by number, and the way to another one and back."""

import pytest

from controlplane.approvals.models import ChangeRequest
from controlplane.console.corpus_policy_content import corpora_effects
from controlplane.console.forms.fields import as_yaml
from controlplane.corpora.models import CorpusPolicy
from controlplane.corpora.policies import corpus_policies
from dataplane.retrieval.policy import Corpora
from tests.console.conftest import said, words
from tests.corpora.kept_corpora import make_policy, policy_document
from tests.corpora_documents import BANNER, SLUG
from tests.dataplane.conftest import threshold
from tests.factories import crew, make_live_copy

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("promised")]

POLICIES = "/corpora/policies/"
NUMBERS = f"/corpora/{SLUG}/numbers/"


@pytest.fixture(scope="module")
def promised(deployment, lasting):
    """One corpus that is promised, the words of its banner unsigned."""
    with lasting():
        make_policy()


def slower(**changes):
    """Another policy: changes may take longer."""
    return policy_document(freshness={"max_lag_seconds": threshold(900)}, **changes)


def typed(browser, **changes):
    """The form of numbers as a browser sends it."""
    form = browser.get(NUMBERS).context["form"]
    data = {name: form[name].value() for name in form.fields if form[name].value() not in (None, "")}
    return data | {"reason": "why"} | changes


def test_policy_is_said_in_words_with_every_number_and_its_origin(signed_in):
    """How it is made findable, how old it may be, how it comes back; and that unsigned words make it block."""
    text = words(signed_in(crew.auditor).get(POLICIES))

    assert "Help centre corpus help-centre ; Standard: RPO 1 h, RTO 15 min" in text
    assert (
        "Once the oldest missing change is over 5 min old, nothing is answered from it: callers get corpus_stale, "
        f"since nobody has signed the words of {BANNER} that answers would carry" in text
    )
    assert "embedded by text-embedding-3-small in 8 dimensions over route embed; kept in pgvector" in text
    assert "After a loss it is restored from the last dump, and searchable again within 15 min" in text
    assert "We accept 30 minutes of re-embed, where that is what it takes" in text
    assert "4 of 4 thresholds are guesses" in text
    assert "nobody has signed 'help-centre-age' yet; until then, once stale, it is refused" in text
    assert "Propose another policy" not in text  # an auditor proposes nothing


def test_signed_words_are_what_a_stale_corpus_answers_with(signed_in):
    """Once somebody signed them, the same policy promises another thing."""
    make_live_copy(slug=BANNER, kind="freshness")

    text = words(signed_in(crew.auditor).get(POLICIES))

    assert f"its answers carry the signed words of {BANNER}" in text
    assert "nobody has signed" not in text


def test_other_policy_is_compared_then_submitted_for_review(signed_in):
    """A preview stores nothing and says in words what changes; a submission leads to its review."""
    browser = signed_in(crew.oncall)
    document = as_yaml(slower())

    preview = browser.post(f"{POLICIES}new/", {"document": document, "action": "preview"})
    kept = CorpusPolicy.objects.count()
    sent = browser.post(f"{POLICIES}new/", {"document": document, "reason": "it is calm", "action": "submit"})
    review = browser.get(sent.url)

    assert "Changes are searchable within 300 s → 900 s (guess)" in words(preview)
    assert kept == 1
    change = ChangeRequest.objects.get(kind="corpora.policy")
    assert sent.url == f"/reviews/{change.pk}/"
    assert "Changes are searchable within 300 s → 900 s (guess)" in words(review)
    assert "Its routes and words fit what is in force" in words(review)


@pytest.mark.parametrize(
    ("document", "refusal"),
    [
        ("help-centre: [", "not YAML or JSON"),
        ("help-centre: {}", "help-centre"),
        ("", "This field is required"),
        (as_yaml(policy_document(slug="policies")), "no corpus is called 'policies'"),
    ],
)
def test_document_that_is_none_is_refused_with_its_place(signed_in, document, refusal):
    """With nothing stored, and what was typed still there."""
    answer = signed_in(crew.oncall).post(f"{POLICIES}new/", {"document": document, "reason": "why", "action": "submit"})

    assert (answer.status_code, CorpusPolicy.objects.count()) == (400, 1)
    assert refusal in words(answer)


def test_policy_in_force_is_not_submitted_again(signed_in):
    """It says that it is in force and has exactly this content."""
    answer = signed_in(crew.oncall).post(
        f"{POLICIES}new/", {"document": as_yaml(policy_document()), "reason": "why", "action": "submit"}
    )

    assert (answer.status_code, CorpusPolicy.objects.count()) == (409, 1)
    assert "is in force and has exactly this content" in words(answer)


def test_earlier_policy_comes_back_in_one_click(signed_in):
    """What was approved before needs no sign-off."""
    make_policy(slower())
    browser = signed_in(crew.oncall)

    page = browser.get(f"{POLICIES}1/")
    back = browser.post(f"{POLICIES}1/return/", {"reason": "it was better"})

    assert "Return to policy 1" in words(page)
    assert said(back)[0] == "Corpus policy 1 is in force; the release is on its way to the workers"
    assert corpus_policies.active().number == 1


def test_stored_policy_is_proposed_once(signed_in):
    """A second change for the same target is refused in words."""
    browser = signed_in(crew.oncall)
    browser.post(f"{POLICIES}new/", {"document": as_yaml(slower()), "reason": "why", "action": "submit"})

    page = browser.get(f"{POLICIES}2/")
    again = browser.post(f"{POLICIES}2/propose/", {"reason": "why"})

    assert "Review CR-" in words(page)
    assert again.url == f"{POLICIES}2/"
    assert ChangeRequest.objects.filter(kind="corpora.policy").count() == 1


def test_single_numbers_are_proposed_with_where_they_come_from(signed_in):
    """Only what differs is changed; the rest of the policy stays as it is."""
    browser = signed_in(crew.oncall)
    name = "recovery.rto_seconds"
    source = {
        f"{name}-origin": "load_test",
        f"{name}-note": "10 min in the drill",
        f"{name}-link": "/corpora/",
        f"{name}-review_by": "2999-01-01",
    }

    sent = browser.post(NUMBERS, typed(browser, **{name: "1200"}, **source))

    proposed = CorpusPolicy.objects.get(number=2).document[SLUG]
    assert sent.url.startswith("/reviews/")
    assert proposed["recovery"]["rto_seconds"]["value"] == 1200
    assert proposed["recovery"]["rto_seconds"]["provenance"]["author"] == "oncall"
    assert proposed["freshness"] == policy_document()[SLUG]["freshness"]


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({}, "Nothing differs from what is in force"),
        ({"recovery.rto_seconds": "1200"}, "A changed number needs this"),
        (
            {
                "freshness.max_lag_seconds": "0",
                "freshness.max_lag_seconds-origin": "guess",
                "freshness.max_lag_seconds-note": "n",
                "freshness.max_lag_seconds-review_by": "2999-01-01",
            },
            "0 is outside 1..",
        ),
    ],
)
def test_numbers_that_cannot_be_are_refused_beside_their_field(signed_in, changes, refusal):
    """With nothing stored."""
    browser = signed_in(crew.oncall)

    answer = browser.post(NUMBERS, typed(browser, **changes))

    assert (answer.status_code, CorpusPolicy.objects.count()) == (400, 1)
    assert refusal in words(answer)


def test_policy_pages_are_for_who_may_and_what_is_there(signed_in):
    """Looking is for everybody who works here; proposing is not; what does not exist is not there."""
    owner, oncall = signed_in(crew.owner), signed_in(crew.oncall)

    assert owner.get(NUMBERS).status_code == 200
    assert owner.get(f"{POLICIES}new/").status_code == 403
    assert owner.post(NUMBERS, {"reason": "why"}).status_code == 403
    for act in ("propose", "return"):
        assert owner.post(f"{POLICIES}1/{act}/", {"reason": "why"}).status_code == 403
    assert oncall.get(f"{POLICIES}9/").status_code == 404
    assert oncall.get("/corpora/gone/numbers/").status_code == 404


def test_policy_pages_take_as_many_queries_for_much_as_for_little(signed_in, queries):
    """However many policies there are and corpora they have."""
    browser = signed_in(crew.oncall)
    pages = (POLICIES, NUMBERS, f"{POLICIES}1/")
    make_policy(slower())
    for page in pages:
        browser.get(page)
    few = [queries(lambda page=page: browser.get(page)) for page in pages]
    for number in range(4):
        make_policy(slower() | policy_document(slug=f"other-{number}"))

    many = [queries(lambda page=page: browser.get(page)) for page in pages]
    assert all(now <= before for now, before in zip(many, few, strict=True)), (few, many)


def test_effects_name_what_a_policy_gives_takes_and_moves():
    """A corpus, its readers, its model, its banner, its way back, and single numbers with where they come from."""
    before = Corpora.parse(policy_document())
    after = Corpora.parse(
        policy_document(
            tenants=["acme"],
            residency=["eu"],
            embedding={"dimensions": 16},
            freshness={"max_lag_seconds": threshold(60), "on_breach": "block", "banner": "other"},
            answering={"chunks": 8, "snapshot_hours": 48},
            recovery={"strategy": "rebuild", "dump_hours": 0},
            revisions="global",
        )
        | policy_document(slug="wiki", title="Wiki")
    )

    effects = {effect.sentence: effect.details for effect in corpora_effects(before, after)}

    assert list(effects) == [
        "Help centre has other readers or zones",
        "Help centre is made findable in another way: every document is embedded again, into a namespace beside the "
        "one that serves, until somebody switches",
        "Help centre: once it is stale, nothing is answered from it from now on",
        "Help centre: its banner is other, not help-centre-age",
        "Help centre: answers are composed in another way",
        "Help centre comes back in another way",
        "Help centre gets its changes in another way",
        "Numbers of Help centre move",
        "Wiki is a corpus: its first namespace is built once it is in force",
    ]
    assert effects["Help centre has other readers or zones"] == (
        "Asked by acme alone; its documents are embedded in eu only",
    )
    assert effects["Help centre: answers are composed in another way"] == (
        "Passages 4 → 8",
        "Snapshots are kept 24 h → 48 h",
    )
    (gone,) = corpora_effects(before, Corpora())
    assert gone.sentence == (
        "Help centre is promised no longer: callers are told that it does not exist; its documents stay"
    )
