"""Chats that are answered from a corpus: OpenAI's client, a live gateway, and the real PostgreSQL."""

from __future__ import annotations

import openai
import pytest

from tests.corpora_documents import SLUG
from tests.dataplane.gateway.conftest import run_gateway

from .searched_corpora import LANE, REFUND, ago, fill, searched_sections, vector_of

pytestmark = pytest.mark.django_db  # asks for the tables; what is written there is committed

PASSAGE = "How to get a refund for a parcel"


@pytest.fixture
def ask(client, namespaces):
    """Asks a question of a corpus; gives the answer, or the stream, with its headers."""

    def _ask(corpus=SLUG, *, words=REFUND, **options):
        raw = client.chat.completions.with_raw_response.create(
            model="chat", messages=[{"role": "user", "content": words}], extra_body={"corpus": corpus}, **options
        )
        return raw.parse(), raw.headers

    return _ask


def kinds(gateway, count):
    return [row["kind"] for row in gateway.rows(count)]


def test_answer_rests_on_what_the_corpus_says_and_cites_it(gateway, ask, namespaces):
    """The model is told the passages; the caller, which they were, of which revision, and how fresh."""
    answer, headers = ask()

    assert PASSAGE in answer.choices[0].message.content
    told = answer.ballast["corpus"]
    assert (told["id"], told["banner"], told["freshness"]["is_stale"]) == (SLUG, None, False)
    first = told["citations"][0]
    assert first.pop("score") > 0.5
    assert first == {
        "n": 1,
        "source_key": "refunds",
        "source_rev": 1,
        "ordinal": 0,
        "is_current": True,
        "title": "refunds",
    }
    assert headers["ballast-snapshot"] == told["freshness"]["snapshot"] == f"ns_{namespaces[SLUG]}.1"
    assert headers["ballast-lane"] != LANE
    # Neither is a retry of the other: what is tried again, and paid twice, is counted apart for each.
    assert [(row["kind"], row["attempt"], row["cause"]) for row in gateway.rows(2)] == [
        ("retrieval", 1, ""),
        ("primary", 1, ""),
    ]


def test_stream_begins_with_what_its_answer_rests_on(ask):
    """Its first event has the citations that its words will mean."""
    stream, headers = ask(stream=True)

    chunks = list(stream)
    words = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert PASSAGE in words
    assert [one["source_key"] for one in chunks[0].ballast["corpus"]["citations"]][:1] == ["refunds"]
    assert "ballast-snapshot" in headers


def test_answer_from_an_old_corpus_carries_its_signed_banner(ask, tables, namespaces):
    """In the language of whoever asks."""
    tables.pending(namespaces[SLUG], "refunds", since=ago(400))

    answer, _ = ask(extra_headers={"accept-language": "de"})

    told = answer.ballast["corpus"]
    assert told["banner"]["text"].startswith("Help centre kann 6 min alt sein")
    assert (told["freshness"]["is_stale"], told["citations"][0]["is_current"]) == (True, False)


def test_nothing_is_composed_from_a_corpus_that_blocks(gateway, ask, tables, namespaces):
    """No model is asked, and no signed answer stands in: the policy says that nothing is better than old."""
    tables.pending(namespaces["strict"], "refunds", since=ago(400))

    with pytest.raises(openai.APIStatusError) as refused:
        ask("strict")

    error = refused.value.response.json()["error"]
    assert (refused.value.status_code, error["code"]) == (503, "corpus_stale")
    assert error["freshness"]["lag_seconds"] >= 400
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert kinds(gateway, 1) == ["retrieval"]


def test_conversation_that_pins_a_snapshot_reads_what_it_read_first(ask, tables, namespaces):
    """Whatever changed since; who asks anew reads the change."""
    namespace = namespaces[SLUG]
    _, headers = ask()
    text = "How to get a refund for a parcel has changed: ask our shop"
    tables.chunks(namespace, "UPDATE {table} SET died = 2 WHERE source_key = 'refunds'")
    tables.run("UPDATE corpora_namespace SET index_rev = 2 WHERE id = %s", namespace)
    tables.chunk(namespace, "refunds", text, vector_of(text), rev=2, born=2, event_at=ago(1))

    pinned, _ = ask({"id": SLUG, "snapshot": headers["ballast-snapshot"], "k": 1})
    anew, _ = ask({"id": SLUG, "k": 1})

    revisions = [answer.ballast["corpus"]["citations"][0]["source_rev"] for answer in (pinned, anew)]
    assert revisions == [1, 2]


def test_corpus_switched_between_two_questions_is_read_whole_by_each(ask, tables, namespaces):
    """The second rests on the new namespace alone."""
    corpus = tables.run("SELECT id FROM corpora_corpus WHERE slug = %s", SLUG)[0][0]
    before, _ = ask()
    tables.serve(corpus, fill(tables, corpus, word="rebate"))

    after, _ = ask()

    assert PASSAGE in before.choices[0].message.content
    assert PASSAGE not in after.choices[0].message.content


@pytest.mark.parametrize(
    ("corpus", "status", "param"),
    [
        ("private", 404, "corpus.id"),
        ({"id": SLUG, "limit": 3}, 400, "corpus.limit"),
        ({"k": 3}, 400, "corpus.id"),
        ({"id": SLUG, "k": 51}, 400, "corpus.k"),
        ({"id": SLUG, "filter": {"title": None}}, 400, "corpus.filter.title"),
        ({"id": SLUG, "snapshot": "now"}, 400, "corpus.snapshot"),
        (["help-centre"], 400, "corpus"),
    ],
)
def test_corpus_that_cannot_be_asked_is_refused_before_anything_is(gateway, ask, corpus, status, param):
    """Nobody is billed for it, and the member is named."""
    with pytest.raises(openai.APIStatusError) as refused:
        ask(corpus)

    error = refused.value.response.json()["error"]
    assert (refused.value.status_code, error["param"]) == (status, param)
    assert gateway.reports.rows == []


def test_request_without_a_question_finds_nothing_to_search_for(ask):
    """It is refused, not answered from passages of anything."""
    with pytest.raises(openai.BadRequestError, match="needs a message of a user with text"):
        ask(words=" ")


def test_gateway_that_cannot_search_does_not_answer_from_what_a_model_remembers(simulator_url, simulator):
    """Without its database it refuses whoever names a corpus, and serves everybody else."""
    with (
        run_gateway(searched_sections(simulator_url)) as gateway,
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="bk-globex", max_retries=0, timeout=90) as client,
    ):
        question = [{"role": "user", "content": REFUND}]
        with pytest.raises(openai.APIStatusError) as refused:
            client.chat.completions.create(model="chat", messages=question, extra_body={"corpus": SLUG})
        plain = client.chat.completions.create(model="chat", messages=question)

    assert refused.value.response.json()["error"]["code"] == "corpus_unavailable"
    assert plain.choices[0].message.content
