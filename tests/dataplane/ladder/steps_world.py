"""A surface with two routes to serve it, a dear one and a cheap one, and requests that stand on its rungs."""

from __future__ import annotations

import hashlib
import json

from tests.dataplane.bench import BODY, Bench, event
from tests.dataplane.conftest import LANE, ROUTING, TENANT, copy_document
from tests.dataplane.stream_world import payloads_in
from tests.ladders import rung_copy, surface

DEAR, DEAR_US = "openai/eu/main/dear", "openai/us/main/dear"
CHEAP, CHEAP_US = "openai/eu/main/cheap", "openai/us/main/cheap"
VECTORS = "openai/eu/main/vectors"
LANES = {
    DEAR: LANE | {"model": "dear"},
    DEAR_US: LANE | {"model": "dear", "region": "us-east", "residency": "us"},
    CHEAP: LANE | {"model": "cheap"},
    CHEAP_US: LANE | {"model": "cheap", "region": "us-east", "residency": "us"},
    VECTORS: LANE | {"model": "vectors", "capabilities": ["embeddings"]},
}
TOOLS = [{"type": "function", "function": {"name": "track", "parameters": {"type": "object", "properties": {}}}}]
AS_JSON = {"type": "json_object"}
QUESTION = "How do I reset my password?"
BANNER = "Web chat answers more briefly; back to normal in about 15 min."
DETAIL = "We are very busy. Request req_1, position -."
EMBEDDING = b'{"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "usage": {"prompt_tokens": 2}}'
SAID = {
    "surface": "web-chat",
    "name": "Shorter answers",
    "rung": 1,
    "banner": BANNER,
    "locale": "en",
    "eta_seconds": 900,
    "copy": "rung-1@1",
}
HTML = '<p>We are <strong>very busy</strong>. See <a href="https://gw.example/status/web-chat">our status page</a>.</p>'
PROMPT = {"id": "support-answer", "variables": {"company": "Acme", "question": QUESTION}}


def piece(text):
    """A provider's event with a piece of the answer."""
    return event(choices=[{"delta": {"content": text}}])


PIECES = [piece("Hello, "), piece("you"), event(choices=[{"delta": {}, "finish_reason": "stop"}]), b"data: [DONE]\n\n"]


def ladder_document(make_document, *, cheap=(CHEAP,), route=None, routing=None, copy=None, **sections):
    """A release whose route `chat` is of the surface `web-chat`; `route` is what else it says, `cheap` the lanes of the
    route that rung 3 is served by, `copy` what is signed beside the rungs.
    """
    words = {
        slug: {"version": 2, "digest": "c" * 64, "document": copy_document(kind)}
        for slug, kind in (("help-answers", "answers"), ("template", "template"), ("outage", "outage"))
    }
    routes = {
        "chat": {"lanes": [DEAR, DEAR_US], "deadline_ms": 30_000, **(route or {})},
        "cheap": {"lanes": list(cheap), "deadline_ms": 1_000},
        "vectors": {"lanes": [VECTORS], "deadline_ms": 30_000},
    }
    tenants = {"acme": TENANT, "globex": TENANT | {"tier": "standard", "residency": []}}
    made = {
        "access": {
            "tenants": tenants,
            "keys": {
                hashlib.sha256(f"bk-{slug}".encode()).hexdigest(): {"tenant": slug, "id": f"k-{slug}"}
                for slug in tenants
            },
        },
        "routing": ROUTING | {"lanes": LANES, "routes": routes, **(routing or {})},
        "copy": (rung_copy() if copy is None else copy) | words,
        "ladder": {"web-chat": surface(routes=["chat", "vectors"])},
    }
    return make_document(**made | sections) | {"schema": 4}


class Standing(Bench):
    """A pipeline at which a rung is engaged by triggers, and what one request at it came to."""

    def __init__(self, document, *, rung=0, places=None, **options):
        super().__init__(document, **options)
        self.levels.engaged["web-chat"] = rung
        self.levels.places = places or {}

    @property
    def header(self):
        """The response's headers, as text."""
        return {name.decode(): value.decode() for name, value in self.reply.headers.items()}

    @property
    def body(self):
        """The body of a whole response."""
        return json.loads(self.reply.data)

    @property
    def chunks(self):
        """The chunks of a stream."""
        return [json.loads(one) for one in payloads_in(self.reply).values() if one != b"[DONE]"]

    @property
    def asked(self):
        """What lanes were asked, in order."""
        return [json.loads(call.body) for call, _, _ in self.transport.calls]

    @property
    def holds(self):
        """How many requests are in, and how many reserved places are taken."""
        held = self.ladder.in_flight("web-chat"), self.ladder.reserved("web-chat")
        return tuple(sum(counts.values()) for counts in held)


class Promises:
    """Answers later, or cannot."""

    def __init__(self, error=None):
        self.taken = []
        self._error = error

    async def answer(self, journey, reply, chat, stand):
        if self._error is not None:
            raise self._error
        self.taken.append((chat, stand))
        journey.outcome = "ok"
        await reply.send_whole(202, journey.headers((b"content-type", b"application/json")), b'{"job": "job_1"}')


def ask_for(**fields):
    """A question, with other fields beside."""
    return BODY | {"messages": [{"role": "user", "content": QUESTION}]} | fields
