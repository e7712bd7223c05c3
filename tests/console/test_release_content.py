"""What a release carries, in words and side by side."""

import pytest

from controlplane.console.release_content import section_differences, summary, words


def prompt(live, *versions, route="chat"):
    return {"live": live, "route": route, "versions": {str(number): {"digest": "d"} for number in (live, *versions)}}


def canary(*stages):
    reach = [{"stage": stage, "weight": 100} for stage in stages]
    return {"prompt": "p", "candidate": 2, "control": 1, "not_after": None, "reach": reach}


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ({}, {"prompts": {"p": prompt(1)}}, "p is served for the first time, v1"),
        ({"prompts": {"p": prompt(1)}}, {"prompts": {}}, "p is no longer served; v1 was live"),
        ({"prompts": {"p": prompt(4)}}, {"prompts": {"p": prompt(2)}}, "p goes from v4 to v2"),
        (
            {"prompts": {"p": prompt(1)}},
            {"prompts": {"p": prompt(1, route="eu")}},
            "p takes route eu instead of chat",
        ),
        (
            {"prompts": {"p": prompt(1, 2)}},
            {"prompts": {"p": prompt(1, 3)}},
            "p carries v3 and drops v2; v1 stays live",
        ),
        ({}, {"canaries": {"c": canary("1 %")}}, "canary c starts at 1 %"),
        ({"canaries": {"c": canary("1 %")}}, {}, "canary c ends; it was at 1 %"),
        (
            {"canaries": {"c": canary("1 %", "5 %")}},
            {"canaries": {"c": canary("1 %")}},
            "canary c goes from 5 % to 1 %",
        ),
        (
            {"routing": {"routes": {"chat": {"lanes": ["a", "b"]}}}},
            {"routing": {"routes": {"chat": {"lanes": ["b", "a"]}}}},
            "route chat changes: b → a",
        ),
        (
            {"routing": {"routes": {"chat": {"lanes": ["a"], "retry": "patient", "streams": None}}}},
            {"routing": {"routes": {"chat": {"lanes": ["b"], "streams": "kept", "fallback": None}}}},
            "route chat changes: b, loses retry policy patient, takes stream policy kept",
        ),
        (
            {"routing": {"routes": {"chat": {"lanes": ["a"]}}}},
            {"routing": {"routes": {"chat": {"lanes": ["a"], "accounts_per_tenant": 2}}}},
            "route chat changes: each tenant reaches 2 accounts",
        ),
        (
            {"routing": {"lanes": {"x": {"breaker": "b", "quota": "shared"}}}},
            {"routing": {"lanes": {"x": {"breaker": "b", "probe": "idle", "quota": None}}}},
            "lane x changes: takes probe policy idle, loses quota policy shared",
        ),
        ({"routing": {}}, {"routing": {"quotas": {"shared": {}}}}, "quota policy shared is added"),
        (
            {"routing": {"routes": {"chat": {"lanes": ["a"], "repair": "json-answers"}}}},
            {"routing": {"routes": {"chat": {"lanes": ["a"], "repair": None}}}},
            "route chat changes: loses repair policy json-answers",
        ),
        (
            {"routing": {"repairs": {"json-answers": {"streams": "whole"}}}},
            {"routing": {"repairs": {"json-answers": {"streams": "incremental"}}}},
            "repair policy json-answers changes",
        ),
        ({"routing": {"lanes": {"x": {}}}}, {"routing": {"lanes": {}}}, "lane x is removed"),
        ({"routing": {}}, {"routing": {"breakers": {"slow": {}}}}, "breaker policy slow is added"),
        (
            {"routing": {"streams": {"kept": {"refund": "none"}}}},
            {"routing": {"streams": {"kept": {"refund": "undelivered"}}}},
            "stream policy kept changes",
        ),
        (
            {},
            {"lane_overrides": {"x": {"mode": "open", "until": "2026-03-04T13:00:00Z"}}},
            "lane x is held open until 2026-03-04T13:00:00Z",
        ),
        ({"lane_overrides": {"x": {"mode": "open"}}}, {"lane_overrides": {}}, "lane x is let go"),
        (
            {"access": {"tenants": {"acme": {"tier": "vip"}}}},
            {"access": {"tenants": {"acme": {"tier": "free"}}}},
            "tenant acme changes: tier",
        ),
        ({}, {"access": {"keys": {"h": {"tenant": "acme"}}}}, "1 API key of acme is admitted"),
        (
            {"access": {"keys": {"h": {"tenant": "acme"}, "i": {"tenant": "acme"}}}},
            {},
            "2 API keys of acme are refused from now on",
        ),
    ],
)
def test_each_change_between_releases_reads_as_one_line(before, after, line):
    """An operator reads what will happen, not a diff of JSON."""
    assert words(before, after) == [line]


def test_equal_releases_give_no_words_and_no_differences():
    """Silence means: nothing changes."""
    sections = {"prompts": {"p": prompt(1)}, "routing": {"routes": {}}}

    assert words(sections, sections) == []
    assert not any(part.changed for part in section_differences(sections, sections))


def test_differences_stand_under_their_section_and_their_thing():
    """Unchanged prompts are left out; a section without changes says so by being empty."""
    before = {"prompts": {"p": prompt(1), "q": prompt(1)}, "canaries": {}}
    after = {"prompts": {"p": prompt(2), "q": prompt(1)}, "canaries": {}}

    canaries, prompts = section_differences(before, after)

    assert (canaries.title, canaries.changed) == ("Canaries", False)
    assert [one.title for one in prompts.differences] == ["p"]


def test_summary_counts_credentials_and_never_names_them():
    """Hashes of keys are for workers."""
    told = summary({"access": {"tenants": {"acme": {}}, "keys": {"hash": {"tenant": "acme"}}}, "ladder": {}})

    assert (told["tenants"], told["keys"], told["others"]) == (1, 1, ["ladder"])
    assert "hash" not in str(told)
