"""Managed prompts through the gateway: which version serves whom, and what the headers say about it."""

from __future__ import annotations

import openai
import pytest

VARIABLES = {"company": "Globex", "question": "How do I get a refund?"}


@pytest.fixture
def prompt(client):
    """Ask for a managed prompt; gives the answer with its headers."""

    def _prompt(slug="support", *, version=None, headers=None, variables=VARIABLES, messages=(), **options):
        reference = {"id": slug, "variables": variables} | ({} if version is None else {"version": version})
        return client.chat.completions.with_raw_response.create(
            model=options.pop("model", "chat"),
            messages=list(messages),
            extra_body={"prompt": reference},
            extra_headers=headers,
            **options,
        )

    return _prompt


def test_live_version_serves_without_a_canary(prompt, gateway):
    """Without a version the live one serves, and the row and the header name it."""
    answer = prompt()

    assert answer.headers["ballast-prompt"] == "support@1"
    assert answer.headers["ballast-cohort"] == "none"
    assert answer.parse().choices[0].message.content
    (row,) = gateway.rows()
    assert (row["prompt"], row["version"], row["canary"], row["cohort"]) == ("support", 1, "", "none")


@pytest.mark.parametrize("version", [1, "1"])
def test_explicit_version_is_served_outside_any_comparison(prompt, version):
    """A pinned version, as a number or as OpenAI's text, belongs to no arm."""
    headers = prompt("trial", version=version, headers={"ballast-user": "ada"}).headers

    assert (headers["ballast-prompt"], headers["ballast-cohort"]) == ("trial@1", "none")


def test_candidate_of_a_canary_cannot_be_asked_for_by_number(prompt):
    """Nobody reads a candidate by naming it: only the cohort serves words that may not be signed yet."""
    with pytest.raises(openai.NotFoundError, match="carries 1") as caught:
        prompt("trial", version=2, headers={"ballast-user": "ada"})

    assert caught.value.code == "prompt_version_not_found"


def test_missing_version_is_not_found(prompt):
    """A version that the release does not carry is a 404 that lists those it does."""
    with pytest.raises(openai.NotFoundError, match="carries 1, 2, 3") as caught:
        prompt(version=9)

    assert caught.value.code == "prompt_version_not_found"


def test_same_user_always_gets_the_same_arm(prompt, gateway):
    """Cohorts stick to the user, whether named by header or body, and rows carry the canary."""
    seen = {}
    for user in ("ada", "bob", "eve", "kim", "lee", "max"):
        arms = {prompt("trial", headers={"ballast-user": user}).headers["ballast-cohort"] for _ in range(2)}
        arms.add(prompt("trial", user=user).headers["ballast-cohort"])
        assert len(arms) == 1
        seen[user] = arms.pop()

    assert set(seen.values()) == {"canary", "control"}
    assert {row["canary"] for row in gateway.rows(18)} == {"trial-2"}
    assert not any(row["user"] in seen for row in gateway.rows(18))


def test_request_without_a_user_is_served_control_and_kept_apart(prompt, gateway):
    """No unit: the header says control, telemetry says unkeyed."""
    assert prompt("trial").headers["ballast-cohort"] == "control"

    assert gateway.rows()[0]["cohort"] == "unkeyed"


def test_variables_that_do_not_fit_are_the_callers_mistake(prompt, gateway):
    """A missing variable is a 400 that names it, counted as rejected and without a usage row."""
    with pytest.raises(openai.BadRequestError, match="question") as caught:
        prompt(variables={"company": "Globex"})

    assert caught.value.code == "invalid_variables"
    (rollup,) = gateway.rollups()
    assert (rollup["rejected"], rollup["errors"]) == (1, 0)
    assert gateway.reports.rows == []


def test_version_parameters_win_over_the_callers(prompt, gateway):
    """A version that fixes max_tokens keeps its limit, whatever name the caller uses for another."""
    answer = prompt(max_completion_tokens=1).parse()

    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens > 1


def test_caller_may_set_what_the_version_leaves_open(prompt):
    """`stop` is not among the version's parameters, so the caller's cuts the answer."""
    whole = prompt().parse().choices[0].message.content

    cut = prompt(stop=[whole.split()[2]]).parse().choices[0].message.content

    assert len(cut) < len(whole)


def test_callers_messages_follow_the_prompts(prompt):
    """What the caller adds is the newest turn, so the answer is about it."""
    answer = prompt(messages=[{"role": "user", "content": "I forgot my password."}]).parse()

    assert answer.choices[0].message.content != prompt().parse().choices[0].message.content


def test_schema_of_a_version_is_checked(prompt, gateway):
    """A version's own response_format is measured like a caller's."""
    prompt(version=3).parse()

    gateway.rows()
    (rollup,) = gateway.rollups()
    assert (rollup["schema_checked"], rollup["schema_passed"]) == (1, 1)


def test_prompt_runs_on_its_own_route(prompt):
    """Where a prompt runs was approved with it: `model` cannot move it elsewhere."""
    assert prompt(model="claude").headers["ballast-lane"] == "openai/eu/main/gpt-4o"


def test_unknown_prompt_is_not_found(prompt):
    """An unknown slug is a 404 with its own code."""
    with pytest.raises(openai.NotFoundError) as caught:
        prompt("nothing")

    assert caught.value.code == "prompt_not_found"
