"""What the validators cost, and what gets past them: answers, streams, evil expressions, secrets cut in two and three.

    python -m benchmarks.validators [--rounds 300] [--skip-splits]

- A policy with a rule of every deterministic kind looks at answers of 1, 4 and 16 KB that it passes, which is the case
  that has to look at everything; the aim is a p99 below 5 ms at 4 KB. Times are those of the processor, so that what
  else a shared machine does stays out of them as far as it can.
- The same answers come as streams of four characters a piece, with a window of pii, secrets, check digits, terms and a
  pattern, and without one.
- Expressions and texts that are known to take a backtracking engine for ever are given to RE2 through a rule, and to
  Python's `re` in a process that is ended after two seconds.
- Every planted secret of fixtures/streams is streamed in one piece, in two at every place, and in three at every pair
  of places of its first characters, in prose and in JSON; what leaves must end before the secret.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.load import describe_machine, table
from dataplane.documents import Node
from dataplane.gateway import GC_THRESHOLD
from dataplane.validators import personal, secrets
from dataplane.validators.check import check
from dataplane.validators.checksums import LOOKALIKES
from dataplane.validators.policy import KINDS, ValidatorPolicy
from dataplane.validators.values import Layer, Output, Source, Verdict
from dataplane.validators.window import Blocked, StreamWindow

FIXTURES = Path(__file__).parent.parent / "fixtures" / "streams"
PIECE_CHARACTERS = 4  # of a stream; about a token
CUT_OFF_SECONDS = 2.0
SIZES = {"1 KB": 1_000, "4 KB": 4_000, "16 KB": 16_000}
PASSES = 3
WARM_UP = 20
PAIRS_WITHIN = 30  # characters of a secret, from three before its beginning on
EVIL = (
    (r"(a+)+$", "a" * 100_000 + "!"),
    (r"(a|aa)+$", "a" * 100_000 + "!"),
    (r"(.*a){12}$", "a" * 100_000 + "!"),
    (r"^(([a-z])+.)+[A-Z]([a-z])+$", "a" * 100_000),
    (r"^([a-zA-Z0-9])(([\-.]|[_]+)?([a-zA-Z0-9]+))*(@){1}[a-z0-9]+[.]{1}[a-z]{2,3}$", "a" * 100_000 + "!"),
    (r"\s+$", " " * 100_000 + "x"),
    (r"(?:\d+,?)+;", "1," * 50_000),
)


def threshold(value: float) -> dict[str, Any]:
    """A number as a policy carries it."""
    origin = {"origin": "guess", "note": "benchmark", "link": "", "author": "benchmark"}
    return {"value": value, "provenance": origin | {"on": "2026-01-02", "review_by": "2026-04-02"}}


def rule(kind: str, params: dict[str, Any]) -> dict[str, Any]:
    """A rule that blocks, with all the time that it wants."""
    decided = {"on_failure": "block", "on_error": "closed", "budget_ms": threshold(10_000)}
    return {"id": kind, "version": 1, "kind": kind, "params": params, **decided}


RULES = {
    "schema": {"schema": {"type": "string"}},
    "pattern": {
        "pattern": r"(?i)\binternal[- ]only\b|\bACME-\d{3,6}\b",
        "expect": "must_not_match",
        "what": "internal",
    },
    "terms": {"deny": [f"competitor {number}" for number in range(200)] + ["guarantee", "risk free", "medical advice"]},
    "numbers": {"money": {"gt": 0, "lt": 1_000_000}, "percent": {"ge": 0, "le": 2000}},
    "dates": {"prose": {"not_before": "1900-01-01"}},
    "units": {"forbid": ["oz", "lb"], "require": ["mg", "ml"], "about": ["dose"]},
    "checksums": {"kinds": list(LOOKALIKES)},
    "pii": {"classes": list(personal.CLASSES)},
    "secrets": {"classes": list(secrets.CLASSES)},
    "citations": {"form": "numbers", "minimum": 1},
    "support": {
        "numbers": 1,
        "dates": 1,
        "names": 0.5,
        "ngrams": {"words": 3, "share": 0.3},
        "question": True,
    },
}
# Decided elsewhere: to a window it is no rule at all.
JUDGE = {"judge": {"route": "judges"}}
ON_STREAMS = ("pattern", "terms", "checksums", "pii", "secrets")


def policy(*kinds: str) -> ValidatorPolicy:
    """A policy with rules of these kinds."""
    document = {
        "rules": [rule(kind, (RULES | JUDGE)[kind]) for kind in kinds],
        "streams": "window",
        "window_characters": threshold(2_000),
        "escalation": None,
        "regulated": True,
    }
    return ValidatorPolicy.parse("benchmark", Node(document, "$"))


def answers() -> list[str]:
    """Ordinary answers of a help desk, without those that are only about keys and cards."""
    return (FIXTURES / "ordinary_answers.txt").read_text().rstrip("\n").split("\n---\n")


def text_of(characters: int, turn: int, *, mark: str = "") -> str:
    """Ordinary answers, so many characters of them or some more, others each turn."""
    texts = answers()
    parts: list[str] = []
    while sum(map(len, parts)) < characters:
        parts.append(f"{texts[(turn * 7 + len(parts)) % len(texts)]}{mark}\n")
    return "".join(parts)


def output(characters: int, turn: int) -> Output:
    """An answer, and the sources that it was written from: one has all that it says in another order, one only some."""
    text = text_of(characters, turn, mark=" [1]")
    return Output(
        text,
        sources=(
            Source("a", "\n".join(reversed(text.replace(" [1]", "").split("\n")))),
            Source("b", text_of(characters // 2, turn + 1)),
        ),
    )


def quantiles(passes: list[list[float]]) -> tuple[str, str, str]:
    """The median and the 99th percentile of all that was measured, and the 99th percentile of the least that each
    answer took, in milliseconds.
    """
    every = sorted(seconds for one in passes for seconds in one)
    least = sorted(map(min, zip(*passes, strict=True)))
    each = (statistics.median(every), every[int(len(every) * 0.99)], least[int(len(least) * 0.99)])
    return f"{each[0] * 1e3:.3f}", f"{each[1] * 1e3:.3f}", f"{each[2] * 1e3:.3f}"


def time_checks(rules: ValidatorPolicy, characters: int, rounds: int) -> list[list[float]]:
    """Seconds of processor time of a check, once for each answer in each pass. So many texts are between two checks of
    one answer that nothing is remembered of it.
    """
    cases = [output(characters, turn) for turn in range(rounds + WARM_UP)]
    passes = []
    for _ in range(PASSES):
        taken = []
        for case in cases:
            started = time.thread_time()
            report = check(rules, case)
            taken.append(time.thread_time() - started)
            if report.verdict is not Verdict.PASS:
                raise SystemExit(f"an ordinary answer was not passed: {report.failed[0].to_json()}")
        passes.append(taken[WARM_UP:])  # the first ones build what RE2 has not built yet
    return passes


def reference() -> float:
    """Milliseconds of processor time of a loop that is always the same: how fast the machine is just now."""
    started = time.thread_time()
    total = 0
    for number in range(2_000_000):
        total += number & 7
    return (time.thread_time() - started) * 1e3


def print_checks(rounds: int) -> None:
    """Times of all rules together, of those that look at no source, and of each kind alone."""
    kinds = [kind for kind in RULES if kind != "schema"]
    alone = [kind for kind in RULES if KINDS[kind].layer is not Layer.GROUNDING]
    rows: list[tuple[str, ...]] = [
        ("processor ms per answer", *(f"{size} {name}" for size in SIZES for name in ("p50", "p99", "least p99")))
    ]
    for name, rules in (
        (f"all {len(RULES)} kinds", policy(*RULES)),
        (f"structure and rules, {len(alone)} kinds", policy(*alone)),
        *((kind, policy(kind)) for kind in kinds),
    ):
        cells: list[str] = []
        for characters in SIZES.values():
            cells += quantiles(time_checks(rules, characters, rounds // 3 if name in kinds else rounds))
        rows.append((name, *cells))
    print(table(rows))
    print(
        f"(least: of {PASSES} checks of the same answer, so that fewer pauses of the machine are in it; schema looks at"
    )
    print(" JSON only; aim: all kinds at 4 KB, p99 below 5 ms)\n")


def feed(window: StreamWindow, text: str) -> None:
    """Stream a text in small pieces."""
    for at in range(0, len(text), PIECE_CHARACTERS):
        window.feed(text[at : at + PIECE_CHARACTERS])
    if isinstance(window.finish(), Blocked):
        raise SystemExit(f"an ordinary answer was blocked: {window.report.to_json()['blocked_by']}")


def print_streams(rounds: int) -> None:
    """What a window costs a stream, per thousand characters, beside a stream without rules for it."""
    rows: list[tuple[str, ...]] = [
        (f"pieces of {PIECE_CHARACTERS} characters", "us per piece", "us per 1,000 characters")
    ]
    for name, rules in (
        ("no window", policy("judge")),
        ("pattern", policy("pattern")),
        ("secrets", policy("secrets")),
        ("pattern, terms, check digits, pii, secrets", policy(*ON_STREAMS)),
    ):
        best = []
        for turn in range(rounds // 3 + 5):
            text = output(2_000, turn).text
            started = time.thread_time()
            feed(StreamWindow(rules), text)
            best.append((time.thread_time() - started) / len(text))
        each = statistics.median(best[5:])
        rows.append((name, f"{each * PIECE_CHARACTERS * 1e6:.1f}", f"{each * 1000 * 1e6:.0f}"))
    print(table(rows))
    print()


def run_python(expression: str, text: str) -> None:
    """What a process of its own does."""
    re.search(expression, text)


def print_evil() -> None:
    """Evil expressions, on RE2 and on Python's engine."""
    rows: list[tuple[str, ...]] = [("expression, on 100,000 characters", "RE2, ms", "Python's re, ms")]
    for expression, text in EVIL:
        params = {"pattern": expression, "expect": "must_not_match", "what": "evil"}
        document = {
            "rules": [rule("pattern", params)],
            "streams": "hold",
            "window_characters": threshold(1),
            "escalation": None,
            "regulated": False,
        }
        rules = ValidatorPolicy.parse("evil", Node(document, "$"))
        started = time.thread_time()
        check(rules, Output(text))
        ours = time.thread_time() - started
        process = multiprocessing.get_context("spawn").Process(target=run_python, args=(expression, text))
        process.start()
        started = time.perf_counter()
        process.join(CUT_OFF_SECONDS)
        theirs = f"{(time.perf_counter() - started) * 1e3:.0f} at most"
        if process.is_alive():
            process.kill()
            process.join()
            theirs = f"more than {CUT_OFF_SECONDS * 1e3:.0f}"
        rows.append((expression[:40], f"{ours * 1e3:.2f}", theirs))
    print(table(rows))
    print()


def planted() -> Iterator[tuple[str, str, bool]]:
    """Each planted secret: the text, the secret as it stands there, and whether the text is JSON."""
    for entry in json.loads((FIXTURES / "planted_secrets.json").read_text())["planted"]:
        secret = "".join(entry["secret"])
        prose = entry["prose"].replace("@@", secret, 1)
        yield prose, secret, False
        yield json.dumps({"id": 7, "answer": prose, "done": True}), json.dumps(secret)[1:-1], True


def leaks(rules: ValidatorPolicy, pieces: list[str], start: int, *, is_json: bool) -> bool:
    """Whether a character of what begins at `start` left."""
    window = StreamWindow(rules, is_json=is_json)
    left = 0
    for piece in pieces:
        outcome = window.feed(piece)
        if isinstance(outcome, Blocked):
            return left > start
        left += len(outcome.text)
    outcome = window.finish()
    return not isinstance(outcome, Blocked) or left > start


def print_splits() -> None:
    """Secrets cut at every place: how many streams, and how many of them let a character of one out."""
    rules = policy("secrets")
    counts = dict.fromkeys((1, 2, 3), 0)
    leaked = 0
    secrets_tried = 0
    for text, secret, is_json in planted():
        secrets_tried += 1
        start = text.index(secret)
        cuts: list[tuple[int, ...]] = [(), *((place,) for place in range(1, len(text)))]
        near = range(max(1, start - 3), min(len(text), start + PAIRS_WITHIN))
        cuts += [(first, second) for first in near for second in range(first + 1, near.stop)]
        for places in cuts:
            pieces = [text[begin:end] for begin, end in pairwise((0, *places, len(text)))]
            counts[len(pieces)] += 1
            leaked += leaks(rules, pieces, start, is_json=is_json)
    tried = sum(counts.values())
    streams = ", ".join(f"{count:,} in {pieces}" for pieces, count in counts.items())
    print(
        f"{secrets_tried} texts with a secret, streams by pieces: {streams}; "
        f"leaks: {leaked} of {tried:,} (95 % bound {3 / tried:.4%})"
    )


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--skip-splits", action="store_true")
    arguments = parser.parse_args()
    # As the gateway does, whose process this stands for.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 20)
    print(f"machine: {describe_machine()}")
    print(
        f"two million additions: {reference():.0f} ms; what others do here makes that more, and everything else too\n"
    )
    parts: list[Callable[[], None]] = [
        lambda: print_checks(arguments.rounds),
        lambda: print_streams(arguments.rounds),
        print_evil,
    ]
    for part in parts if arguments.skip_splits else [*parts, print_splits]:
        part()
    print(f"two million additions, at the end: {reference():.0f} ms")


if __name__ == "__main__":
    main()
