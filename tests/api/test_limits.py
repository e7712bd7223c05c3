"""How often the API may be called, by a clock; and that a guesser hurts nobody who shares their address."""

import pytest
from django.core.cache import cache
from django.http import HttpRequest
from django.test import Client
from redis import ConnectionError as RedisAway

from controlplane.accounts import operations as accounts
from controlplane.api import limits
from tests.api.conftest import Caller
from tests.factories import NOW, SETUP, crew

pytestmark = pytest.mark.django_db
START = 1_772_625_600.0  # the beginning of a minute


@pytest.fixture(autouse=True)
def counters(monkeypatch):
    """Empty counters, and the limits that the settings of tests lift."""
    cache.clear()
    monkeypatch.setattr(limits, "CALLS", 5)
    monkeypatch.setattr(limits, "STRANGERS", 3)


@pytest.fixture
def redis_away(monkeypatch):
    def away(*args, **kwargs):
        raise RedisAway("connection refused")

    for name in ("add", "incr", "get"):
        monkeypatch.setattr(cache, name, away, raising=False)


def calls(*times, who="a", limit=4):
    return [limits.count("caller", who, limit=limit, now=START + at) for at in times]


def test_window_is_full_after_as_many_calls_as_it_holds():
    """And says how many are left, and for how long there are no more."""
    standings = calls(0, 10, 20, 30, 40)

    assert [one.left for one in standings] == [3, 2, 1, 0, -1]
    assert [one.is_over for one in standings] == [False, False, False, False, True]
    assert standings[-1].reset_seconds == 20


@pytest.mark.parametrize(("later", "left"), [(60, 3 - 4), (75, 3 - 3), (90, 3 - 2), (119, 3), (120, 3), (600, 3)])
def test_window_slides(later, left):
    """At the turn of a minute the one before counts whole, in its middle half, at its end not at all: nobody gets twice
    the limit by calling around the turn.
    """
    calls(56, 57, 58, 59)

    [standing] = calls(later)

    assert standing.left == left


def test_each_caller_has_a_window_of_their_own():
    """One script's loop is not another's refusal."""
    assert [one.left for one in (*calls(0, 0), *calls(0, who="b"))] == [3, 2, 3]


def test_nobody_is_counted_while_redis_is_away(redis_away):
    """Everybody is let through, on purpose: docs/failure-modes.md."""
    assert calls(0) == [None]


def test_every_answer_says_how_the_caller_stands(as_operator):
    """Policy, what is left, and when there is more."""
    owner = as_operator(crew.owner)

    answers = [owner.get("roles") for _ in range(6)]

    assert [answer.status for answer in answers] == [200, 200, 200, 200, 200, 429]
    assert answers[0].headers["RateLimit-Policy"] == '"caller";q=5;w=60'
    assert [answer.headers["RateLimit"].split(";")[1] for answer in answers] == [
        "r=4",
        "r=3",
        "r=2",
        "r=1",
        "r=0",
        "r=0",
    ]
    assert 0 < int(answers[5].headers["Retry-After"]) <= 60
    assert answers[5].body["error"]["code"] == "throttled"


def test_limit_is_of_a_token_and_sessions_have_their_own():
    """A script that loops does not lock its operator out of the console."""
    script, other = (accounts.issue_token(operator=crew.owner, name="t", actor=SETUP, now=NOW).secret for _ in range(2))
    for _ in range(6):
        refused = Caller(script).get("roles").status
    browser = Client()
    browser.force_login(crew.owner, backend="django.contrib.auth.backends.ModelBackend")

    assert refused == 429
    assert Caller(other).get("roles").status == 200
    assert browser.get("/api/v1/roles").status_code == 200


def test_address_that_guesses_tokens_is_told_to_wait_and_a_good_token_from_it_is_served(as_operator):
    """A whole office may stand behind one address."""
    colleague = as_operator(crew.owner)

    guesses = [Caller(f"op-guess-{number}").get("me") for number in range(5)]
    nobody = Caller().get("me")

    assert [answer.status for answer in guesses] == [401, 401, 401, 429, 429]
    assert nobody.status == 429
    assert 0 < int(guesses[4].headers["Retry-After"]) <= 60
    assert colleague.get("me").status == 200


def test_agents_with_a_wrong_token_are_strangers_too(as_operator):
    """The one token that opens the current release is guessed no faster than others."""
    answers = [Caller("not the agent token").get("releases/current").status for _ in range(5)]

    assert answers == [401, 401, 401, 429, 429]


def test_wrong_token_is_refused_while_redis_is_away(redis_away):
    """What cannot be counted is no reason to let somebody in."""
    assert Caller("op-guess").get("me").status == 401


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
    ],
)
def test_network_of_an_ipv6_address_is_what_is_counted(address, counted):
    """Of which one household has more addresses than there are tokens."""
    request = HttpRequest()
    request.META["REMOTE_ADDR"] = address

    assert limits.address_of(request) == counted
