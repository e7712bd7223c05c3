"""The corpus of the demo: its articles, what is promised of it, and what a second start does to it."""

import pytest
from django.core.management import call_command

from controlplane.console.management.commands.seed_demo import read_demo
from controlplane.console.management.demo_articles import corpora, hand_in, read_articles
from controlplane.corpora.accepting import Change, Fate, accept_changes
from controlplane.corpora.models import Corpus, CorpusPolicyActivation, Document
from controlplane.corpora.policies import promised
from controlplane.releases.models import Release
from dataplane.release import parse_document
from dataplane.retrieval.policy import Corpora
from tests.factories import NOW

SLUG = "help-centre"
DEMO = read_demo(NOW.date(), simulator="http://127.0.0.1:8090", embedder="http://127.0.0.1:8070")


def heads():
    return {
        one.source_key: (one.source_rev, one.seq, one.content_sha256) for one in Document.objects.order_by("source_key")
    }


def test_articles_are_whole_and_there_are_some_in_german():
    """Each has its own key, a link and a topic of the help centre, and 100 to 400 words."""
    articles = read_articles(SLUG)

    assert corpora() == (SLUG,)
    assert len(articles) == len({article.key for article in articles}) == 51
    assert sum(article.metadata["language"] == "de" for article in articles) == 9
    topics = DEMO["prompts"]["support-answer"]["parameters"]["response_format"]["json_schema"]["schema"]["properties"]
    for article in articles:
        assert article.metadata.keys() == {"title", "url", "language", "topic"}
        assert article.metadata["url"] == f"https://shop.example/help/{article.key}"
        assert article.metadata["topic"] in topics["topic"]["enum"]
        assert article.rev >= 1
        assert article.content.startswith(f"{article.metadata['title']}\n\n")
        assert 100 <= len(article.content.split()) <= 400


def test_what_an_editor_looked_through_says_so_in_its_own_language():
    """The note is a paragraph of its own at the end, so the rest of the article stays word for word."""
    articles = {article.key: article for article in read_articles(SLUG)}

    english, german = articles["returns"], articles["de-rueckgabe"]

    assert english.checked(NOW) == f"{english.content}\n\nLast checked: {NOW:%Y-%m-%d %H:%M} UTC"
    assert german.checked(NOW) == f"{german.content}\n\nZuletzt geprüft: {NOW:%Y-%m-%d %H:%M} UTC"


def test_policy_of_the_demo_names_a_route_that_embeds_by_one_model_in_the_promised_place():
    """Vectors of two models cannot be compared, and no document leaves its residency."""
    policy = Corpora.parse(DEMO["corpora"])[SLUG]

    lanes = DEMO["routing"]["routes"][policy.embedding.route]["lanes"]

    assert {DEMO["routing"]["lanes"][lane]["model"] for lane in lanes} == {policy.embedding.model}
    assert {DEMO["routing"]["lanes"][lane]["residency"] for lane in lanes} <= policy.residency
    assert DEMO["copy"][policy.freshness.banner]["kind"] == "freshness"


@pytest.mark.django_db
@pytest.mark.usefixtures("demo")
def test_demo_has_its_corpus_promised_through_the_approvals_and_its_articles_taken_in():
    """No release carries it before its banner is signed and its route is in force."""
    assert CorpusPolicyActivation.objects.get().change is not None
    assert promised(SLUG).title == "Help centre"
    assert Document.objects.filter(corpus__slug=SLUG, is_deleted=False).count() == 51
    carrying = [one for one in Release.objects.all() if one.content["sections"].get("corpora")]
    assert carrying
    for release in carrying:
        parsed = parse_document(release.content, digest=release.digest)
        assert parsed.corpora[SLUG].is_banner_signed


@pytest.mark.django_db
@pytest.mark.usefixtures("demo")
def test_second_start_changes_no_article_and_undoes_no_edit(settings):
    """What an editor changed meanwhile is newer than the file, and stands."""
    settings.DEMO = True
    article = read_articles(SLUG)[0]
    edit = Change(article.key, article.rev + 1, False, article.checked(NOW), article.metadata, NOW)
    accepted = accept_changes(corpus=Corpus.objects.get(slug=SLUG), changes=[edit], now=NOW)
    before = heads()

    call_command("seed_demo", verbosity=0)

    assert accepted.fates == (Fate.ACCEPTED,)
    assert heads() == before
    assert hand_in(now=NOW) == 0


@pytest.mark.django_db
@pytest.mark.usefixtures("demo")
def test_start_of_a_newer_version_takes_in_the_articles_that_it_changed():
    """Only those are news to the corpus."""
    changed = read_articles(SLUG)[0]
    Document.objects.filter(source_key=changed.key).update(source_rev=changed.rev - 1, content="As it was")

    taken = hand_in(now=NOW)

    assert taken == 1
    assert Document.objects.get(source_key=changed.key).content == changed.content
