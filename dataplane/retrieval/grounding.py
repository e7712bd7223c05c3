"""Answers composed from a corpus: what is found goes before the model as numbered passages, and the caller is told what
its answer rests on, and how fresh that is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dataplane.access import Tenant
from dataplane.chat import Chat
from dataplane.errors.requests import InvalidRequest
from dataplane.journey import Journey
from dataplane.lane_fit import LaneFit
from dataplane.messages import ChatRequest, Json
from dataplane.retrieval.errors import CorpusUnavailable
from dataplane.retrieval.found import Chunk
from dataplane.retrieval.freshness import freshness_json
from dataplane.retrieval.policy import Corpus
from dataplane.retrieval.requests import MAX_QUERY_CHARACTERS, CorpusReference
from dataplane.retrieval.retriever import Retrieved, Retriever, corpus_of
from dataplane.timers import Deadline
from dataplane.validators.values import Source

PASSAGES: Final = "Passages:"
NOTHING: Final = "(nothing was found)"
# What of a chunk's metadata is cited with it, where it is there.
CITED: Final = ("title", "url")
PARAM: Final = "corpus.id"
_SYSTEM: Final = frozenset({"system", "developer"})


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What an answer rests on."""

    corpus: str
    retrieved: Retrieved

    def to_json(self) -> Json:
        """As an answer has it, in `ballast.corpus`.

        Shape: {"id": slug, "freshness": see `freshness_json`, "banner": see `Banner.to_json`, or null, "citations":
                [{"n": int from 1, "source_key", "source_rev", "ordinal", "score", "is_current", and those of "title"
                and "url" that the document has}]}; [n] in the answer means the citation of that number.
        """
        found = self.retrieved
        return {
            "id": self.corpus,
            "freshness": freshness_json(found.standing, found.judged),
            "banner": found.banner_json(),
            "citations": [_citation(n, chunk) for n, chunk in enumerate(found.chunks, 1)],
        }


class Grounding:
    """See the module. For all requests of a process."""

    def __init__(self, retriever: Retriever | None) -> None:
        """Without `retriever`, whoever names a corpus is refused."""
        self._retriever = retriever

    async def ground(self, journey: Journey, chat: Chat, reference: CorpusReference, deadline: Deadline) -> Chat:
        """Return the request with what was found for it, and note in `journey` what its answer rests on.

        Raises:
            CorpusNotFound, and what `Retriever.retrieve` does.
        """
        if self._retriever is None or journey.tenant is None:
            raise CorpusUnavailable("this gateway searches none")
        corpus = corpus_of(chat.release, journey.tenant, reference.slug, param=PARAM)
        found = await self._retriever.retrieve(
            journey,
            corpus,
            chat.question[-MAX_QUERY_CHARACTERS:],
            k=corpus.answering.chunks if reference.k is None else reference.k,
            mode=reference.mode,
            deadline=deadline,
            filters=reference.filters,
        )
        journey.knowledge = Knowledge(corpus.slug, found)
        request = _with_passages(chat.request, corpus, found.chunks)
        # With what was found it is longer, and not every lane may carry it.
        fit = LaneFit(request, providers=chat.release.routing.providers)
        journey.lanes = fit.from_first(journey.lanes)
        return Chat(request, chat.release, chat.route, fit, chat.is_repeatable)


def check_grounding(chat: Chat, reference: CorpusReference, tenant: Tenant) -> None:
    """Refuse a request for which nothing could be found, before anything is.

    Raises:
        CorpusNotFound: as `corpus_of`.
        InvalidRequest: no user says anything in it.
    """
    corpus_of(chat.release, tenant, reference.slug, param=PARAM)
    if not chat.question.strip():
        raise InvalidRequest("'corpus' needs a message of a user with text in it, to search for", param="corpus")


def _with_passages(request: ChatRequest, corpus: Corpus, chunks: tuple[Chunk, ...]) -> ChatRequest:
    """The request with the corpus' instructions and what was found, after what its system messages say."""
    lines = [f"[{n}] {_head(chunk)}{chunk.text}" for n, chunk in enumerate(chunks, 1)] or [NOTHING]
    told = {"role": "system", "content": "\n\n".join((corpus.answering.instructions, PASSAGES, *lines))}
    first = next((at for at, one in enumerate(request.messages) if one["role"] not in _SYSTEM), len(request.messages))
    sources = tuple(Source(f"[{n}]", chunk.text) for n, chunk in enumerate(chunks, 1))
    return request.changed(
        messages=[*request.messages[:first], told, *request.messages[first:]], sources=request.sources + sources
    )


def _head(chunk: Chunk) -> str:
    title = chunk.metadata.get("title")
    return f"{title}\n" if isinstance(title, str) and title else ""


def _citation(n: int, chunk: Chunk) -> Json:
    return {
        "n": n,
        "source_key": chunk.source_key,
        "source_rev": chunk.source_rev,
        "ordinal": chunk.ordinal,
        "score": round(chunk.score, 6),
        "is_current": chunk.is_current,
        **{name: chunk.metadata[name] for name in CITED if name in chunk.metadata},
    }
