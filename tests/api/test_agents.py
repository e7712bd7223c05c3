import hmac

import pytest
from django.conf import settings

from controlplane.releases.operations import current_release
from dataplane.release import Envelope, parse_trusted_keys, verify
from tests.api.conftest import Caller
from tests.factories import crew, make_deployment, make_live_version, make_operator

pytestmark = pytest.mark.django_db
PATH = "releases/current"


@pytest.fixture
def agent():
    return Caller(settings.AGENT_TOKEN)


def trusted():
    return parse_trusted_keys((settings.SIGNING_KEY_FILE.parent / "trusted-keys.json").read_bytes())


def test_agent_fetches_what_workers_verify(agent):
    """The body is the signed envelope, byte for byte good."""
    make_deployment()

    answer = agent.get(PATH)

    release = verify(Envelope(**answer.body), trusted=trusted(), current=None)
    assert (answer.status, release.revision) == (200, current_release().revision)
    assert answer.headers["ETag"] == f'"{release.digest}"'
    assert "no-cache" in answer.headers["Cache-Control"]


@pytest.mark.parametrize("form", ['"{}"', 'W/"{}"', '"other", "{}"', "*"])
def test_agent_that_has_it_is_told_so_in_one_query(agent, form, queries):
    """The answer is 304 without a body, and the document is not even read."""
    make_deployment()
    etag = form.format(current_release().digest)

    answer = agent.get(PATH, **{"If-None-Match": etag})

    assert (answer.status, answer.body) == (304, None)
    assert answer.headers["ETag"] == f'"{current_release().digest}"'
    assert queries(lambda: agent.get(PATH, **{"If-None-Match": etag})) == 1


def test_older_agent_tokens_are_good_while_they_stand_beside_the_new_one(settings):
    """The console knows both, host after host is told of the new one, the old one is taken out: no host waits."""
    make_deployment()
    settings.AGENT_TOKEN, settings.OLD_AGENT_TOKENS = "a new agent token", [settings.AGENT_TOKEN]
    [old] = settings.OLD_AGENT_TOKENS

    meanwhile = [Caller(token).get(PATH).status for token in ("a new agent token", old, "some other token")]
    settings.OLD_AGENT_TOKENS = []

    assert meanwhile == [200, 200, 401]
    assert [Caller(token).get(PATH).status for token in ("a new agent token", old)] == [200, 401]


def test_agent_that_was_away_is_told_how_signing_keys_changed(agent, as_operator):
    """Each statement proves itself; before the first there is none."""
    make_deployment()

    answer = agent.get("releases/trust")

    assert (answer.status, answer.body["statements"]) == (200, [])
    assert answer.body["signing"] == current_release().key_id
    assert as_operator(make_operator("nobody")).get("releases/trust").status == 403
    assert Caller("").get("releases/trust").status == 401


def test_agent_with_an_older_release_gets_the_new_one(agent):
    """Another digest is another answer."""
    prompt = make_deployment()
    before = current_release().digest
    make_live_version(prompt, "Dear")

    answer = agent.get(PATH, **{"If-None-Match": f'"{before}"'})

    assert (answer.status, answer.body["digest"]) == (200, current_release().digest)


def test_before_the_first_release_there_is_none(agent):
    """404 in the envelope of every error."""
    answer = agent.get(PATH)

    assert (answer.status, answer.body["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("token", ["wrong", "", "ünïcode", "op-nobody"])
def test_wrong_token_is_refused(token):
    """Whatever is not the agents' token, nor an operator's, gets 401 and no release."""
    make_deployment()

    answer = Caller(token or " ").get(PATH)

    assert (answer.status, answer.body["error"]["code"]) == (401, "authentication_failed")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_no_token_is_refused():
    """401, in the same envelope."""
    assert Caller().get(PATH).status == 401


def test_empty_agent_token_admits_nobody(settings):
    """A deployment that forgot the token does not open the door to an empty one."""
    make_deployment()
    settings.AGENT_TOKEN = ""

    assert Caller(" ").get(PATH).status == 401


def test_tokens_are_compared_in_constant_time(agent, monkeypatch):
    """The comparison is hmac's, over the whole of both."""
    seen = []

    def compare(given, expected):
        seen.append((given, expected))
        return hmac.compare_digest(given, expected)

    monkeypatch.setattr("controlplane.api.views.agents.compare_digest", compare)
    agent.get(PATH)

    assert seen == [(settings.AGENT_TOKEN.encode(), settings.AGENT_TOKEN.encode())]


def test_agents_token_opens_nothing_else(agent):
    """It names no operator, so the rest of the API does not know it."""
    assert agent.get("me").status == agent.get("releases").status == 401


def test_operator_who_may_see_releases_gets_it_too(as_operator):
    """With view permission yes, without it a sentence."""
    make_deployment()

    assert as_operator(crew.auditor).get(PATH).status == 200
    assert as_operator(make_operator("nobody")).get(PATH).status == 403
