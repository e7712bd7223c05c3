"""What comes in has a bound, and is refused in words beyond it: bodies, depth, fields, YAML, and live lines."""

import asyncio
import json

import pytest
from asgiref.testing import ApplicationCommunicator
from django.db import transaction
from django.test import Client

from controlplane.accounts.roles import Role
from controlplane.api.gitops.document import MAX_CHARACTERS, MalformedConfiguration, read_configuration
from controlplane.api.parsers import MAX_DEPTH, is_deeper
from controlplane.evals.importing import MAX_BYTES
from controlplane.incoming import MAX_BODY_BYTES, BoundedBodies
from tests.factories import crew
from tests.permissions.api import TABLE as API
from tests.permissions.console import TABLE as CONSOLE
from tests.permissions.table import WHO
from tests.permissions.visitor import Visitor
from tests.permissions.world import make_world
from tests.test_permissions import _url

LARGE = 2_000_001
WRITES = [(table, row) for table in (API, CONSOLE) for row in table.rows if row.method != "GET"]
# Multi-part bodies may bring a file of up to 32 MiB; what is in them besides is bounded as a form is.
FIELDS = dict.fromkeys(("reason", "name", "title", "content", "text", "note", "slug", "comment", "url"), "x" * 200000)
DEEP = b'{"reason": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"


@pytest.fixture(scope="module")
def asked(django_db_setup, django_db_blocker):
    """`asked(row, body, media_type)`: the answers that everybody gets who may do that; nothing of it stays.

    Of who may not, `tests/test_permissions.py` asks; where that is everybody, an admin asks.
    """
    with django_db_blocker.unblock(), transaction.atomic():
        world = make_world()
        visitors = {role: Visitor(world.operators[role, "everywhere"]) for role in WHO}

        def ask(row, body, media_type):
            found = []
            may = [role for role, letter in zip(WHO, row.everywhere, strict=True) if letter == "+"]
            for role in may or [Role.ADMIN]:
                with transaction.atomic():
                    answer = visitors[role].generic(row.method, _url(row, world.mine), body, content_type=media_type)
                    transaction.set_rollback(True)
                if answer.status_code not in (403, 404):
                    found.append(answer)
            return found

        yield ask
        transaction.set_rollback(True)


pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(("table", "row"), WRITES, ids=[str(row) for _, row in WRITES])
def test_oversized_body_changes_nothing_and_is_told_so(asked, table, row):
    """Whoever may write there: 400 or 413 for too much, never a 5xx, and never a success."""
    if table is API:
        media_type, body = "application/json", json.dumps({"reason": "x" * LARGE}).encode()
        if row.name == "api:eval-set-versions":
            media_type, body = "application/x-ndjson", b"x" * (MAX_BYTES // 64)
    else:
        media_type, body = "application/x-www-form-urlencoded", b"reason=" + b"x" * LARGE

    for answer in asked(row, body, media_type):
        assert answer.status_code in (400, 413), (row, answer.status_code)


@pytest.mark.parametrize(("table", "row"), WRITES, ids=[str(row) for _, row in WRITES])
def test_texts_that_are_far_too_long_are_no_failure(asked, table, row):
    """200 kB in every field that there may be: refused by its bound, or told beside the field; never a 5xx."""
    if table is API:
        answers = asked(row, json.dumps(FIELDS).encode(), "application/json")
    else:
        body = "&".join(f"{name}={value}" for name, value in FIELDS.items()).encode()
        answers = asked(row, body, "application/x-www-form-urlencoded")

    for answer in answers:
        assert answer.status_code < 500, (row, answer.status_code)


@pytest.mark.parametrize("row", [row for table, row in WRITES if table is API], ids=str)
def test_json_that_is_nested_too_deep_is_a_bad_request(asked, row):
    """Not an error of a function that calls itself."""
    for answer in asked(row, DEEP, "application/json"):
        assert answer.status_code in (400, 415), (row, answer.status_code)


def test_form_of_too_many_fields_is_a_bad_request():
    """Of which each would be looked at. The check for forged forms reads every form before its view does."""
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(crew.admin, backend="django.contrib.auth.backends.ModelBackend")
    browser.get("/audit/")  # which gives it its cookie
    body = "&".join(f"f{number}=1" for number in range(1001))

    answer = browser.post("/audit/verify/", body, content_type="application/x-www-form-urlencoded")

    assert answer.status_code == 400


@pytest.mark.parametrize(("depth", "deeper"), [(1, False), (MAX_DEPTH, False), (MAX_DEPTH + 1, True)])
@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"a": inner}])
def test_depth_is_counted_in_lists_and_objects(depth, deeper, wrap):
    """Exactly; what is wide is not deep."""
    value = 1
    for _ in range(depth):
        value = wrap(value)

    assert is_deeper([value, *range(1000)][0], MAX_DEPTH) is deeper
    assert not is_deeper([[1]] * 10_000, MAX_DEPTH)


# --- before Django ----------------------------------------------------------------------------------------------------
async def ask_app(headers, *parts, most=100, seconds=60.0, path="/api/v1/me", last=True):
    """The status and body with which an application behind the bound answers, and how much of the body it got."""
    got = []

    async def application(scope, receive, send):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            got.append(message["body"])
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    scope = {"type": "http", "path": path, "headers": headers}
    line = ApplicationCommunicator(BoundedBodies(application, most=most, seconds=seconds), scope)
    for number, part in enumerate(parts, start=1):
        more = number < len(parts) or not last
        await line.send_input({"type": "http.request", "body": part, "more_body": more})
    start, body = await line.receive_output(10), await line.receive_output(10)
    await line.wait(10)
    return start["status"], body["body"], b"".join(got)


async def test_body_within_its_bound_is_handed_on():
    """In as many parts as it came."""
    assert await ask_app([], b"a" * 60, b"a" * 40) == (200, b"ok", b"a" * 100)


async def test_stated_length_beyond_the_bound_is_refused_unread():
    """Nothing of it is kept on our disk."""
    status, body, got = await ask_app([(b"content-length", b"101")])

    assert (status, got) == (413, b"")
    assert json.loads(body)["error"]["code"] == "request_too_large"


async def test_body_that_grows_beyond_the_bound_is_refused_there():
    """Whatever length was stated, or none."""
    status, body, got = await ask_app([(b"content-length", b"7")], b"a" * 60, b"a" * 60)

    assert (status, len(got)) == (413, 60)
    assert b"100 bytes" in body


async def test_body_that_stops_coming_is_refused_in_time():
    """Half a request holds its place for a minute, not for ever."""
    status, body, _ = await ask_app([], b"a", seconds=0.05, last=False, path="/audit/")

    assert (status, body) == (408, b"the body was not complete within 0.05 s\n")


async def test_answer_of_a_whole_request_may_take_its_time():
    """The time is the body's alone: who waits for a long answer is no slow caller."""

    async def application(scope, receive, send):
        await receive()
        await asyncio.sleep(0.1)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"late"})

    scope = {"type": "http", "path": "/", "headers": []}
    line = ApplicationCommunicator(BoundedBodies(application, seconds=0.05), scope)
    await line.send_input({"type": "http.request", "body": b"", "more_body": False})

    assert (await line.receive_output(10))["status"] == 200


def test_bound_of_all_leaves_room_for_the_largest_file():
    """And for what a form has around it."""
    assert MAX_BODY_BYTES > MAX_BYTES + 1_000_000


# --- configuration files ----------------------------------------------------------------------------------------------
DOUBLED = [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
BOMB = "\n".join(["schema: 1", 'a: &a ["x"]', *DOUBLED])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (BOMB, "aliases are not taken here"),
        ("[" * 100_000, "nested too deep|expected"),
        ("a" * (MAX_CHARACTERS + 1), "at most 20,000,000 are read"),
        ("schema: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("schema: 1\ntenants: !!binary aGk=", "nothing that JSON knows"),
    ],
    ids=["a billion values", "depth", "length", "code", "bytes"],
)
def test_configuration_that_explodes_is_refused(text, what):
    """In a moment, and with words."""
    with pytest.raises(MalformedConfiguration, match=what):
        read_configuration(text)
