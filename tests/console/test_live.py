import asyncio
import json
import threading

import orjson
import pytest
import redis
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from channels.db import database_sync_to_async
from channels.layers import get_channel_layer
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore
from django.db import connection, connections

from controlplane import live
from controlplane.accounts.models import Operator
from controlplane.accounts.operations import grant_role, revoke_role
from controlplane.accounts.roles import Role
from controlplane.asgi import application
from controlplane.console.consumers import MAX_MESSAGE_BYTES, MAX_TOPICS, TRY_AGAIN, LiveConsumer
from controlplane.evals.placing import prompt_subject
from controlplane.evals.running import begin_run
from controlplane.prompts.models import Prompt
from controlplane.telemetry.management.commands.ingest import Ingest
from controlplane.telemetry.stream import ReportStream
from tests.canaries import running_canary
from tests.eval_runs import make_standard, run_pieces
from tests.eval_sets import make_set_version, row
from tests.factories import make_deployment
from tests.worker_reports import NOON, report, rollup

pytestmark = pytest.mark.django_db(transaction=True)

WAIT = 60
CANARY = "canary.support-answer-v13"


def operator(*grants, name="somebody"):
    """Somebody with these roles, each (role, target or None for everything), and their session."""
    person = Operator.objects.create_user(username=name)
    for role, target in grants:
        grant_role(operator=person, role=role, target=target, actor="admin", now=NOON)
    session = SessionStore()
    session[SESSION_KEY] = str(person.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = person.get_session_auth_hash()
    session.save()
    return person, session


class Page:
    """A browser's end of the line, through the whole ASGI application or straight to a consumer."""

    def __init__(self, session=None, *, origin=b"http://127.0.0.1:8000", consumer=None):
        headers = [(b"origin", origin), (b"host", b"127.0.0.1:8000")]
        if session is not None:
            headers.append((b"cookie", f"{settings.SESSION_COOKIE_NAME}={session.session_key}".encode()))
        scope = {
            "type": "websocket",
            "path": "/ws/live/",
            "query_string": b"",
            "headers": headers,
            "subprotocols": [],
        }
        if consumer:
            scope["session"] = session
        self.line = ApplicationCommunicator(consumer or application, scope)

    async def open(self):
        """Whether the line was accepted."""
        await self.line.send_input({"type": "websocket.connect"})
        answer = await self.line.receive_output(timeout=WAIT)
        return answer["type"] == "websocket.accept"

    async def __aenter__(self):
        assert await self.open()
        return self

    async def __aexit__(self, *_):
        await self.line.send_input({"type": "websocket.disconnect", "code": 1000})
        await self.line.wait(timeout=WAIT)
        await get_channel_layer().flush()

    async def say(self, content):
        text = content if isinstance(content, str) else json.dumps(content)
        await self.line.send_input({"type": "websocket.receive", "text": text})

    async def hear(self):
        """The next message that is not the clock."""
        async with asyncio.timeout(WAIT):  # the clock goes on, whatever was lost
            while True:
                message = await self.hear_all()
                if message.get("topic") != "clock":
                    return message

    async def known(self):
        """Wait for the first word of the clock: from then on this line hears what is said to its operator."""
        while (await self.hear_all()).get("topic") != "clock":
            pass

    async def hear_all(self):
        output = await self.line.receive_output(timeout=WAIT)
        assert output["type"] == "websocket.send", output
        return json.loads(output["text"])

    async def close_code(self):
        async with asyncio.timeout(WAIT):
            while True:
                output = await self.line.receive_output(timeout=WAIT)
                if output["type"] == "websocket.close":
                    return output["code"]

    async def subscribed(self, *topics):
        """Subscribe, wait until the line says that this is done, and return what was refused."""
        await self.say({"subscribe": [*topics]})
        refused = []
        while "refused" in (message := await self.hear()):
            refused.append(message["refused"])
        assert message == {"subscribed": [topic for topic in topics if topic not in refused]}
        return refused


make = database_sync_to_async(operator)


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """What is told is not given up after two seconds: where the machine pauses, a page must hear it all the same."""
    monkeypatch.setattr(live, "SEND_SECONDS", WAIT)


@pytest.fixture(autouse=True)
async def threads_let_go_of_the_database():
    """What a consumer asks, it asks in a thread, whose connection would outlive the test database."""
    yield
    await sync_to_async(connections.close_all)()


async def test_nobody_signed_in_is_turned_away_with_a_code_the_page_knows():
    """An anonymous page learns that it must sign in, not that the network failed."""
    async with Page() as page:
        assert await page.close_code() == 4401


async def test_another_sites_page_cannot_open_a_line():
    """The browser would send our visitor's cookie; the origin gives the page away."""
    _, session = await make((Role.AUDITOR, None))

    assert not await Page(session, origin=b"https://evil.example").open()


async def test_one_operator_has_so_many_lines_and_another_has_their_own(monkeypatch):
    """Who opens lines without end gets no more, until one is closed; nobody else notices."""
    monkeypatch.setattr("controlplane.console.consumers.MAX_LINES", 2)
    _, session = await make((Role.AUDITOR, None))
    _, other = await make((Role.PROMPT_OWNER, None), name="colleague")
    async with Page(session) as first:
        await first.known()
        async with Page(session) as second:
            await second.known()
            async with Page(session) as third, Page(other) as colleague:
                assert await third.close_code() == TRY_AGAIN
                await colleague.known()
        async with Page(session) as again:
            await again.known()


async def test_a_message_reaches_those_who_watch_its_topic():
    """What an operation tells after its commit is on the page at once."""
    _, session = await make((Role.AUDITOR, None))
    async with Page(session) as page:
        assert await page.subscribed("fleet", "reviews") == []

        await live.send("overview", {"not": "asked for"})
        await live.send("fleet", {"workers": []})

        assert await page.hear() == {"topic": "fleet", "data": {"workers": []}}


async def test_synchronous_code_tells_the_same_way():
    """`notify` is what operations call after their commit; a process that tells all day keeps its line open."""
    _, session = await make((Role.AUDITOR, None))
    async with Page(session) as page:
        await page.subscribed("reviews")

        assert await sync_to_async(live.notify)("reviews", {"n": 1})
        assert await page.hear() == {"topic": "reviews", "data": {"n": 1}}

        def by_notifier():
            notifier = live.Notifier()
            sent = [notifier.notify("reviews", {"n": n}) for n in (2, 3)]
            notifier.close()
            return sent

        assert await asyncio.to_thread(by_notifier) == [True, True]
        assert [(await page.hear())["data"]["n"] for _ in range(2)] == [2, 3]


async def test_a_topic_that_is_not_watched_any_more_stays_quiet():
    """A page that leaves a topic hears nothing of it."""
    _, session = await make((Role.AUDITOR, None))
    async with Page(session) as page:
        await page.subscribed("fleet", "reviews")
        await page.say({"unsubscribe": ["fleet"]})
        await page.subscribed("no-such-topic")

        await live.send("fleet", {})
        await live.send("reviews", {})

        assert (await page.hear())["topic"] == "reviews"


OF_THE_HOUSE = ("lanes", "quotas", "answers", "ladders", "corpora", "dead-letters")


@pytest.mark.parametrize(
    ("role", "on_prompt", "refused"),
    [
        (None, False, ["fleet", "overview", CANARY, "canary.none-such", *OF_THE_HOUSE]),
        (Role.AUDITOR, False, ["canary.none-such"]),
        (Role.PROMPT_OWNER, True, ["fleet", "overview", "canary.none-such", *OF_THE_HOUSE]),
        (Role.PROMPT_OWNER, "other", ["fleet", "overview", CANARY, "canary.none-such", *OF_THE_HOUSE]),
    ],
)
async def test_topics_are_given_by_the_same_permissions_as_pages(role, on_prompt, refused):
    """Who may not see a prompt hears nothing of its canary; what does not exist is refused the same way."""

    def prepare():
        canary = running_canary()
        other = Prompt.objects.create(slug="other", title="Other", route="chat", created_by="owner", created_at=NOON)
        target = {False: None, True: canary.prompt, "other": other}[on_prompt]
        return operator(*([(role, target)] if role else []))

    _, session = await database_sync_to_async(prepare)()
    async with Page(session) as page:
        topics = ("fleet", "overview", CANARY, "canary.none-such", "reviews", *OF_THE_HOUSE)
        assert await page.subscribed(*topics) == refused


@pytest.mark.parametrize(
    ("role", "on_prompt", "is_refused"),
    [
        (None, False, True),
        (Role.AUDITOR, False, False),
        (Role.PROMPT_OWNER, False, False),
        (Role.PROMPT_OWNER, True, True),
    ],
)
async def test_progress_of_evals_is_for_who_sees_evals(role, on_prompt, is_refused):
    """They are held on everything, so a role on one prompt hears nothing of them; and a run has a number."""

    def prepare():
        canary = running_canary()
        return operator(*([(role, canary.prompt if on_prompt else None)] if role else []))

    _, session = await database_sync_to_async(prepare)()
    async with Page(session) as page:
        refused = await page.subscribed("eval.7", "eval.none-such", "eval.", "reviews")

    assert refused == [*(["eval.7"] if is_refused else []), "eval.none-such", "eval."]


async def test_an_eval_run_is_followed_to_its_verdict():
    """How many rows of how many are asked, in growing numbers and no words of any row; the last message says what came
    of it. Another run's page hears nothing of it.
    """

    def prepare():
        make_deployment()
        version = make_set_version("golden", *(row(f"r{place:02}") for place in range(45)))
        make_standard(version)
        run = begin_run(subject=prompt_subject("support-answer", 1), set_version=version, actor="owner", now=NOON)
        return run.pk, operator((Role.AUDITOR, None))[1]

    run, session = await database_sync_to_async(prepare)()
    async with Page(session) as page, Page(session) as other:
        await page.subscribed(f"eval.{run}")
        await other.subscribed(f"eval.{run + 1}", "reviews")

        await database_sync_to_async(run_pieces)()

        heard = [await page.hear()]
        while heard[-1]["data"]["state"] != "done":
            heard.append(await page.hear())
        await live.send("reviews", {})
        assert (await other.hear())["topic"] == "reviews"
    assert {message["topic"] for message in heard} == {f"eval.{run}"}
    asked = [message["data"]["asked"] for message in heard]
    assert asked == sorted(asked)
    assert len(set(asked)) > 2
    assert {message["data"]["total"] for message in heard} == {45}
    assert {message["data"]["passed"] for message in heard[:-1]} == {None}
    last = heard[-1]["data"]
    assert (last["asked"], last["passed"], last["unanswered"]) == (45, True, 0)
    assert last["sentence"].startswith("grounded 45 of 45")
    assert "Question" not in json.dumps(heard)


async def test_one_page_holds_a_bounded_number_of_topics():
    """A page cannot make the server hold more than twenty topics for it, nor look up a thousand."""
    _, session = await make((Role.AUDITOR, None))
    async with Page(session) as page:
        await page.say({"subscribe": [f"canary.{n}" for n in range(MAX_TOPICS + 5)]})

        refused = [(await page.hear())["refused"] for _ in range(MAX_TOPICS + 5)]

        assert refused[-1] == f"canary.{MAX_TOPICS + 4}"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("x" * (MAX_MESSAGE_BYTES + 1), 1009),
        ("{not json", 1007),
        ("[1]", 1007),
        ('{"subscribe": "fleet"}', 1007),
        ('{"subscribe": [1]}', 1007),
    ],
)
async def test_what_is_no_subscription_ends_the_line(content, code):
    """Too long or not understood closes the line with a code that says which."""
    _, session = await make()
    async with Page(session) as page:
        await page.say(content)

        assert await page.close_code() == code


async def test_the_clock_tells_a_live_page_from_a_stale_one():
    """The time comes on connecting and again and again, through the same channel as everything else."""
    _, session = await make()
    async with Page(session, consumer=LiveConsumer.as_asgi(clock_seconds=0.01)) as page:
        ticks = [await page.hear_all() for _ in range(3)]

    assert {tick["topic"] for tick in ticks} == {"clock"}
    assert ticks == sorted(ticks, key=lambda tick: tick["data"]["now"])


async def test_a_revoked_role_ends_its_topics():
    """A page that stays open does not keep what its operator has lost."""
    person, session = await make((Role.AUDITOR, None))
    await database_sync_to_async(Operator.objects.create_user)(username="admin")
    async with Page(session, consumer=LiveConsumer.as_asgi(clock_seconds=0.01, recheck_seconds=0)) as page:
        await page.subscribed("fleet")

        def revoke():
            grant_role(
                operator=Operator.objects.get(username="admin"), role=Role.ADMIN, target=None, actor="x", now=NOON
            )
            revoke_role(grant=person.grants.get(), actor="admin", now=NOON)

        await database_sync_to_async(revoke)()

        assert await page.hear() == {"refused": "fleet"}


async def test_signing_out_elsewhere_ends_the_line():
    """When the session is gone, so is the line."""
    _, session = await make((Role.AUDITOR, None))
    async with Page(session, consumer=LiveConsumer.as_asgi(clock_seconds=0.01, recheck_seconds=0)) as page:
        await database_sync_to_async(session.delete)(session.session_key)

        assert await page.close_code() == 4401


async def test_a_report_in_redis_is_on_the_page():
    """From XADD to the WebSocket: stored, computed once, and pushed to who may see it."""
    client = redis.Redis.from_url(settings.REDIS_URL)
    client.delete("test:live:reports")
    now = NOON.replace(second=25)
    _, session = await make((Role.AUDITOR, None))
    await database_sync_to_async(running_canary)()

    def take_in():
        stream = ReportStream(settings.REDIS_URL, stream="test:live:reports", consumer="one")
        notifier = live.Notifier()
        try:
            return Ingest(stream, notify=notifier.notify, stop=threading.Event(), now=lambda: now).round()
        finally:
            notifier.close()
            stream.close()
            connection.close()

    async with Page(session) as page:
        await page.subscribed(CANARY, "fleet", "overview")
        client.xadd(
            "test:live:reports",
            {"batch": orjson.dumps(report(rollup(NOON.replace(second=20), requests=9), sent_at=now))},
        )

        assert await asyncio.to_thread(take_in) == 1

        heard = {}
        while len(heard) < 3:
            message = await page.hear()
            heard[message["topic"]] = message["data"]
    assert heard["fleet"]["workers"][0]["name"] == "host-a/gateway-0"
    assert heard["overview"]["totals"]["fleet"]["requests"]["value"] == 9
    assert heard[CANARY]["charts"]["requests"]["y"][1][-1] == 9
    client.delete("test:live:reports")
    client.close()
