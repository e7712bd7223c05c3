"""A gentle stream of requests, as the demo's customers would send them; a rush of them when somebody asks for one."""

import asyncio
import contextlib
import json
import logging
import random
import signal
import uuid
from datetime import datetime
from typing import Any

import httpx
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from redis.exceptions import RedisError

from controlplane.console import demo_rush
from controlplane.console.management.demo_articles import Article, read_articles

logger = logging.getLogger(__name__)

QUESTIONS = (
    "Where is my parcel?",
    "How do I return a pair of shoes?",
    "Can I change the delivery address of my order?",
    "Why was I charged twice on my bill?",
    "How long does a refund take?",
    "I forgot my password and cannot sign in to my account.",
    "Do you ship to Norway?",
    "The invoice shows the wrong company name.",
    "My order says delivered but nothing came.",
    "How do I cancel my subscription?",
)
# What people type into the search of the help centre, which finds articles in other languages too.
SEARCHES = (
    *QUESTIONS,
    "Wo ist mein Paket?",
    "Wann bekomme ich mein Geld zurück?",
    "Kann ich auf Rechnung zahlen?",
    "Schickt ihr auch nach Norwegen?",
)
CORPUS = "help-centre"
# Beside each request, the share that searches the corpus.
SEARCHED = 0.1
# How often an editor looks through one of its articles and hands it in anew.
EDIT_EVERY_SECONDS = 60.0
EDITOR_TOKEN = "op-demo-owner"  # noqa: S105 - as the password of the demo
# The share of requests with an idempotency key, and of those the share that comes twice.
KEYED, DOUBLED = 0.1, 0.3
# Beside each request, the share that is handed in as a job by somebody who does not wait for it.
HANDED_IN = 0.02
# Of what is handed in, the share that its provider refuses: it fails for good and leaves a dead letter. So many come at
# once when the traffic begins, so that there is a group to look at.
REFUSED, REFUSED_AT_FIRST = 0.02, 3
REFUSED_QUESTION = "Where is my parcel? [[fault status:code=400]]"
# The share of answers whose JSON the simulated models break, each in one of the usual ways, and of those that say what
# they must not.
BROKEN, INDISCREET = 0.02, 0.004
WAYS = (*("fence",) * 4, *("prose",) * 2, *("trailing_comma",) * 2, "single_quotes", "missing_field")
SAYINGS = (
    '{"answer": "Write to jo.miller@example.com, she knows your case.", "topic": "orders", "resolved": false}',
    '{"answer": "The card on file is 4111 1111 1111 1111.", "topic": "billing", "resolved": true}',
)
# The share of a rush's shoppers who want an answer that comes later by e-mail.
WRITTEN_TO = 0.02
COUNTRIES = ("Germany", "France", "Spain", "Norway")
# Tenant key -> its share of the traffic and how many users it has.
CALLERS = {"bk-demo-acme": (3, 300), "bk-demo-globex": (5, 800), "bk-demo-initech": (2, 200), "bk-demo-staff": (1, 40)}


class Command(BaseCommand):
    help = "Send demo traffic to the gateway until stopped."
    requires_system_checks = ()  # those of `migrate` came before, and would load every page's code here

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--rate", type=float, default=4.0, help="requests per second (default 4)")
        parser.add_argument("--seed", type=int, default=None)

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEMO:
            raise CommandError("BALLAST_DEMO is not set: made-up traffic has no place beside real customers")
        asyncio.run(_send(rate=options["rate"], rng=random.Random(options["seed"])))  # noqa: S311 - made-up callers


async def _send(*, rate: float, rng: random.Random) -> None:
    """Send requests at Poisson times until SIGTERM or SIGINT; failures are the gateway's to count, not ours to hide."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    base = f"http://127.0.0.1:{settings.GATEWAY_PORT}"
    client = httpx.AsyncClient(base_url=base, timeout=70, limits=httpx.Limits(max_connections=400))
    simulator = httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.SIMULATOR_PORT}", timeout=5)
    console = httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{settings.CONSOLE_PORT}",
        headers={"authorization": f"Bearer {EDITOR_TOKEN}"},
        timeout=30,
    )
    async with client, simulator, console, asyncio.TaskGroup() as tasks:
        refused = 0
        rushing = _Rushing(simulator)
        tasks.create_task(rushing.watch(stop))
        tasks.create_task(_edit_regularly(console, stop, rng))
        while not stop.is_set():
            # The gateway may not be there yet.
            if refused < REFUSED_AT_FIRST:
                refused += await _hand_in(client, **_refused(_draw(rng)))
            drawn = _draw(rng) if rng.random() >= rushing.extra_share else _draw_shopper(rng)
            tasks.create_task(_ask(client, **drawn))
            if "idempotency-key" in drawn["headers"] and rng.random() < DOUBLED:
                tasks.create_task(_ask(client, **drawn))  # a form that was submitted twice
            if rng.random() < SEARCHED:
                tasks.create_task(_search(client, **_draw_search(rng)))
            if rng.random() < HANDED_IN:
                handed_in = _draw(rng)
                tasks.create_task(_hand_in(client, **(_refused(handed_in) if rng.random() < REFUSED else handed_in)))
            try:
                await asyncio.wait_for(stop.wait(), timeout=rng.expovariate(rate * rushing.factor))
            except TimeoutError:
                continue


class _Rushing:
    """Whether there is a rush, looked up once a second, and what it does to the simulated providers."""

    def __init__(self, simulator: httpx.AsyncClient) -> None:
        self.factor = 1.0
        self._simulator = simulator
        self._phase: demo_rush.Phase | None = None
        self._rules: list[int] = []

    @property
    def extra_share(self) -> float:
        """Which part of the traffic comes because of the rush."""
        return 1.0 - 1.0 / self.factor

    async def watch(self, stop: asyncio.Event) -> None:
        """Follow what somebody asks for, until stopped; then leave the simulator as it was."""
        while not stop.is_set():
            try:
                now = timezone.now()
                rush = await asyncio.to_thread(demo_rush.current, now)
                await self._enter(None if rush is None else rush.phase(now))
            except (httpx.HTTPError, RedisError) as exc:
                logger.info("the rush cannot be followed: %r", exc)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), timeout=1.0)
        with contextlib.suppress(httpx.HTTPError):
            await self._enter(None)

    async def _enter(self, phase: demo_rush.Phase | None) -> None:
        if phase is self._phase:
            return
        self._phase, self.factor = phase, 1.0 if phase is None else phase.rate
        for known in self._rules:
            await self._simulator.delete(f"/admin/faults/{known}")
        self._rules = []
        for model, milliseconds in () if phase is None else phase.slow.items():
            rule = {"fault": f"latency:ms={milliseconds}", "model": model, "for_seconds": demo_rush.RUSH_SECONDS}
            answer = await self._simulator.post("/admin/faults", json=rule)
            self._rules += [one["id"] for one in answer.raise_for_status().json()["rules"]]


def _draw_shopper(rng: random.Random) -> dict[str, Any]:
    """One question of the rush: plain, in the web chat, by somebody who may be answered later."""
    key = rng.choices(list(CALLERS), weights=[share for share, _ in CALLERS.values()])[0]
    user = f"shopper-{rng.randrange(100_000):05d}"
    body: dict[str, Any] = {
        "model": "chat",
        "messages": [{"role": "user", "content": rng.choice(QUESTIONS)}],
        "user": user,
    }
    if rng.random() < 0.4:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    headers = {"authorization": f"Bearer {key}"}
    if rng.random() < WRITTEN_TO:
        headers["ballast-deliver"] = f"mailto:{user}@shop.example"
    return {"headers": headers, "body": body}


def _draw(rng: random.Random) -> dict[str, Any]:
    """One request: who asks what, and whether they stream."""
    key = rng.choices(list(CALLERS), weights=[share for share, _ in CALLERS.values()])[0]
    user = f"user-{rng.randrange(CALLERS[key][1]):04d}"
    if rng.random() < 0.15:
        variables = {"order": f"A-{rng.randrange(1000, 9999)}", "country": rng.choice(COUNTRIES)}
        prompt, model = {"id": "refund-policy", "variables": variables}, "summaries"
    else:
        question = rng.choice(QUESTIONS) + _slip(rng)
        prompt, model = {"id": "support-answer", "variables": {"question": question}}, "chat"
    body: dict[str, Any] = {"model": model, "messages": [], "prompt": prompt, "user": user}
    if rng.random() < 0.4:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    # The web chat looks at the status before it reads the answer as JSON.
    headers = {"authorization": f"Bearer {key}", "ballast-later": "accept"}
    if rng.random() < KEYED:
        headers["idempotency-key"] = str(uuid.UUID(int=rng.getrandbits(128), version=4))
    return {"headers": headers, "body": body}


def _draw_search(rng: random.Random) -> dict[str, Any]:
    """One search of the corpus: whose users search, and for what."""
    key = rng.choices(list(CALLERS), weights=[share for share, _ in CALLERS.values()])[0]
    return {
        "headers": {"authorization": f"Bearer {key}"},
        "body": {"corpus": CORPUS, "query": rng.choice(SEARCHES)},
    }


def _slip(rng: random.Random) -> str:
    """What has the bundled simulator answer as models do on a bad day; mostly nothing."""
    drawn = rng.random()
    if drawn < BROKEN:
        return f" [[fault malformed_answer:kind={rng.choice(WAYS)}]]"
    if drawn < BROKEN + INDISCREET:
        return f" [[fault {json.dumps({'name': 'say', 'text': rng.choice(SAYINGS)})}]]"
    return ""


def _refused(drawn: dict[str, Any]) -> dict[str, Any]:
    """The request of the same caller, of a kind that the bundled simulator refuses with 400."""
    prompt = {"id": "support-answer", "variables": {"question": REFUSED_QUESTION}}
    return {**drawn, "body": {**drawn["body"], "model": "chat", "prompt": prompt}}


async def _ask(client: httpx.AsyncClient, *, headers: dict[str, str], body: dict[str, Any]) -> None:
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
            async for _ in response.aiter_raw():
                pass
    except httpx.HTTPError as exc:
        logger.info("demo request failed: %r", exc)


async def _hand_in(client: httpx.AsyncClient, *, headers: dict[str, str], body: dict[str, Any]) -> bool:
    """Hand a request in as a job; False: nobody took it."""
    whole = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
    try:
        answer = await client.post(
            "/v1/jobs", json={"endpoint": "/v1/chat/completions", "body": whole}, headers=headers
        )
    except httpx.HTTPError as exc:
        logger.info("demo job cannot be handed in: %r", exc)
        return False
    return answer.is_success


async def _search(client: httpx.AsyncClient, *, headers: dict[str, str], body: dict[str, Any]) -> None:
    try:
        await client.post("/v1/retrieve", json=body, headers=headers)
    except httpx.HTTPError as exc:
        logger.info("demo search failed: %r", exc)


async def _edit_regularly(console: httpx.AsyncClient, stop: asyncio.Event, rng: random.Random) -> None:
    """Have an editor look through one article after the other, until stopped."""
    articles = read_articles(CORPUS)
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), timeout=EDIT_EVERY_SECONDS)
            return
        try:
            await _edit(console, rng.choice(articles), at=timezone.now())
        except (httpx.HTTPError, ValueError, LookupError) as exc:  # also what answers that is no console of ours
            logger.info("a demo article cannot be edited: %r", exc)


async def _edit(console: httpx.AsyncClient, article: Article, *, at: datetime) -> None:
    """Hand an article in that was looked through, as the revision after the one that its corpus has."""
    answer = await console.get(f"/api/v1/corpora/{CORPUS}/documents/{article.key}")
    head = answer.json() if answer.is_success else {"deleted": True}
    if head["deleted"]:  # somebody wanted to see that it stays away
        return
    change = {
        "key": article.key,
        "rev": head["rev"] + 1,
        "op": "upsert",
        "content": article.checked(at),
        "metadata": article.metadata,
        "event_time": at.isoformat(),
    }
    await console.post(f"/api/v1/corpora/{CORPUS}/changes", json={"changes": [change]})
