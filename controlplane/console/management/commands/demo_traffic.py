"""A gentle stream of requests, as the demo's customers would send them."""

import asyncio
import logging
import random
import signal
import uuid
from typing import Any

import httpx
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

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
# The share of requests with an idempotency key, and of those the share that comes twice.
KEYED, DOUBLED = 0.1, 0.3
# Beside each request, the share that is handed in as a job by somebody who does not wait for it.
HANDED_IN = 0.02
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
    client = httpx.AsyncClient(base_url=base, timeout=70, limits=httpx.Limits(max_connections=64))
    async with client, asyncio.TaskGroup() as tasks:
        while not stop.is_set():
            drawn = _draw(rng)
            tasks.create_task(_ask(client, **drawn))
            if "idempotency-key" in drawn["headers"] and rng.random() < DOUBLED:
                tasks.create_task(_ask(client, **drawn))  # a form that was submitted twice
            if rng.random() < HANDED_IN:
                tasks.create_task(_hand_in(client, **_draw(rng)))
            try:
                await asyncio.wait_for(stop.wait(), timeout=rng.expovariate(rate))
            except TimeoutError:
                continue


def _draw(rng: random.Random) -> dict[str, Any]:
    """One request: who asks what, and whether they stream."""
    key = rng.choices(list(CALLERS), weights=[share for share, _ in CALLERS.values()])[0]
    user = f"user-{rng.randrange(CALLERS[key][1]):04d}"
    if rng.random() < 0.15:
        variables = {"order": f"A-{rng.randrange(1000, 9999)}", "country": rng.choice(COUNTRIES)}
        prompt, model = {"id": "refund-policy", "variables": variables}, "summaries"
    else:
        prompt, model = {"id": "support-answer", "variables": {"question": rng.choice(QUESTIONS)}}, "chat"
    body: dict[str, Any] = {"model": model, "messages": [], "prompt": prompt, "user": user}
    if rng.random() < 0.4:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    headers = {"authorization": f"Bearer {key}"}
    if rng.random() < KEYED:
        headers["idempotency-key"] = str(uuid.UUID(int=rng.getrandbits(128), version=4))
    return {"headers": headers, "body": body}


async def _ask(client: httpx.AsyncClient, *, headers: dict[str, str], body: dict[str, Any]) -> None:
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
            async for _ in response.aiter_raw():
                pass
    except httpx.HTTPError as exc:
        logger.info("demo request failed: %r", exc)


async def _hand_in(client: httpx.AsyncClient, *, headers: dict[str, str], body: dict[str, Any]) -> None:
    whole = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
    try:
        await client.post("/v1/jobs", json={"endpoint": "/v1/chat/completions", "body": whole}, headers=headers)
    except httpx.HTTPError as exc:
        logger.info("demo job cannot be handed in: %r", exc)
