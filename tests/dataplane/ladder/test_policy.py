"""What a policy may say of a surface's ladder, and what is refused by the path at which it stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from dataplane.documents import MalformedRelease
from dataplane.ladder.policy import RUNGS, Ladder
from dataplane.ladder.signals import SIGNALS, Budget, Gauge
from tests.dataplane.conftest import threshold
from tests.ladders import rungs, surface, trigger

BURN = {"objective": threshold(0.99), "window_seconds": threshold(60)}
GPU = {"url": "http://vllm.internal:8000/metrics", "metric": "vllm:gpu_cache_usage_perc", "full": 1}


def test_policy_reads_back_as_it_was_written() -> None:
    """Six rungs with what each needs, triggers with theirs, and what tiers are promised."""
    triggers = {
        "load": trigger(),
        "burn": trigger(signal="error_budget_burn", enter=14.4, leave=6) | BURN,
        "gpu": trigger(signal="gpu_utilisation", enter=0.95, leave=0.8) | GPU,
    }
    ladder = Ladder.parse({"web-chat": surface(triggers=triggers)})

    read = ladder["web-chat"]
    assert (read.title, read.routes, read.regulated) == ("Web chat", ("chat",), False)
    assert {number: rung.name for number, rung in read.rungs.items()} == RUNGS
    assert read.rungs[1].max_output_tokens is not None
    assert (read.rungs[1].max_output_tokens.value, read.rungs[3].route, read.rungs[5].words) == (
        200,
        "cheap",
        ("rung-5", "help-answers"),
    )
    assert isinstance(read.triggers["burn"].source, Budget)
    assert read.triggers["burn"].budget is read.triggers["burn"].source
    assert read.triggers["gpu"].source == Gauge(GPU["url"], GPU["metric"], 1.0)
    assert read.triggers["load"].budget is None
    assert read.promises["vip"].reserved_concurrency.value == 40
    assert ladder.by_route() == {"chat": read}


def test_every_number_has_a_name_and_a_provenance() -> None:
    """So that a page can list them, and nobody has to wonder where one comes from."""
    triggers = {"burn": trigger(signal="error_budget_burn", enter=14.4, leave=6) | BURN}
    read = Ladder.parse({"web-chat": surface(triggers=triggers)})["web-chat"]

    named = dict(read.thresholds())

    assert set(named) == {
        "eta_seconds",
        "emergency_minutes",
        "rungs.1.max_output_tokens",
        *(f"triggers.burn.{name}" for name in ("enter", "exit", "sustain_seconds", "objective", "window_seconds")),
        *(f"pace.{name}" for name in ("step_seconds", "dwell_seconds", "calm_seconds", "longest_calm_seconds")),
        *(
            f"promises.{tier}.{name}"
            for tier in ("vip", "standard", "free")
            for name in ("reserved_concurrency", "served_share")
        ),
    }
    assert all(one.provenance.author == "oncall" for one in named.values())


def test_rung_can_be_engaged_only_once_all_its_words_are_signed() -> None:
    """Its own, and the answers that it gives."""
    ladder = Ladder.parse({"web-chat": surface()})

    some = ladder.with_words({"rung-1", "rung-4", "rung-5"})["web-chat"]

    assert ladder["web-chat"].engageable == (1, 2, 3, 4, 5, 6)
    assert some.engageable == (1, 4)
    assert some.unsigned == {2, 3, 5, 6}
    assert [some.nearest(number) for number in range(7)] == [0, 1, 1, 1, 4, 4, 4]


Path = tuple[str, ...]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("rungs",), {}, "a ladder without rungs leads nowhere"),
        (("rungs", "7"), {"copy": "rung-7"}, "'7' is no rung; there are 1 to 6"),
        (("rungs", "01"), {"copy": "rung-1"}, "'01' is no rung"),
        (("rungs", "١"), {"copy": "rung-1"}, "is no rung"),
        (("rungs", "4", "route"), "cheap", "unknown key; expected copy"),
        (("rungs", "1", "instruction"), "", "must not be empty"),
        (("rungs", "1", "instruction"), "x" * 2001, "2001 characters; at most 2000"),
        (("rungs", "1", "max_output_tokens"), threshold(0), "is outside 1..100000"),
        (("rungs", "2", "instruction"), None, "expected a string, got null"),
        (("routes",), [], "expected at least 1 element"),
        (("routes",), ["chat", "chat"], "'chat' is given twice"),
        (("title",), "", "must not be empty"),
        (("regulated",), 1, "expected true or false"),
        (("eta_seconds",), threshold(0), "is outside 1..86400"),
        (("emergency_minutes",), threshold(1441), "is outside 1..1440"),
        (("triggers", "load", "signal"), "mood", "'mood' is not one of"),
        (("triggers", "load", "exit"), threshold(100), "100 is not below 100, at which the trigger presses"),
        (("triggers", "load", "highest"), 7, "7 is outside 1..6"),
        (("triggers", "load", "enter"), 100, "expected an object, got a number"),
        (("triggers", "load", "url"), "http://x/", "unknown key"),
        (("pace", "longest_calm_seconds"), threshold(29), "shorter than calm_seconds"),
        (("pace", "dwell_seconds"), threshold(0), "is outside 1..86400"),
        (("promises", "gold"), {}, "'gold' is no tier; there are free, standard, vip"),
        (("promises", "vip", "served_share"), threshold(1.1), "is not above 0 and at most 1"),
        (("promises", "vip", "reserved_concurrency"), threshold(-1), "is outside 0"),
    ],
)
def test_policy_that_could_not_be_kept_is_refused_by_path(path: Path, value: Any, words: str) -> None:
    """Whoever writes it learns it then, not whoever needs it on the worst day of the year."""
    document: dict[str, Any] = {"web-chat": surface()}
    at: Any = document["web-chat"]
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value

    with pytest.raises(MalformedRelease, match=words) as refusal:
        Ladder.parse(document)

    assert refusal.value.path.startswith(f'$.sections.ladder["web-chat"].{path[0]}') or "web-chat" in refusal.value.path


def test_trigger_that_leads_to_a_rung_which_is_not_there_is_refused() -> None:
    """It would promise help that nobody wrote down."""
    only_two = {number: rung for number, rung in rungs().items() if number in "12"}

    with pytest.raises(MalformedRelease, match="it engages rungs up to 4, which the surface does not have"):
        Ladder.parse({"web-chat": surface(rungs=only_two)})


def test_route_of_two_surfaces_is_refused() -> None:
    """Its users would read two banners."""
    with pytest.raises(MalformedRelease, match="route 'chat' is of surface 'app' already; a route is of one"):
        Ladder.parse({"app": surface(), "web-chat": surface()})


@pytest.mark.parametrize("signal", SIGNALS)
def test_threshold_beyond_what_a_signal_can_read_is_refused(signal: str) -> None:
    """It would never press."""
    more: Mapping[str, Any] = {"error_budget_burn": BURN, "gpu_utilisation": GPU}.get(signal, {})
    document = surface(triggers={"t": trigger(signal=signal, enter=SIGNALS[signal] * 2, leave=0) | more})

    with pytest.raises(MalformedRelease, match="is not above 0 and at most"):
        Ladder.parse({"web-chat": document})


@pytest.mark.parametrize("url", ["file:///etc/passwd", "metrics", "http://", "ftp://x/"])
def test_gauge_that_is_no_web_address_is_refused(url: str) -> None:
    """Workers fetch it."""
    document = surface(triggers={"gpu": trigger(signal="gpu_utilisation", enter=0.9, leave=0.5) | GPU | {"url": url}})

    with pytest.raises(MalformedRelease, match=r"is no http\(s\) address"):
        Ladder.parse({"web-chat": document})
