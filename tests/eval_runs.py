"""Runs of evals without a gateway: one that answers as a test says, and sets, judges and standards to run by."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx

from controlplane.evals.agreement import MIN_LABELLED
from controlplane.evals.asking import Asker
from controlplane.evals.calibration import calibrate
from controlplane.evals.models import EvalSetVersion, Judge, JudgeVersion
from controlplane.evals.runner import run_piece
from controlplane.evals.runs import EvalRun, EvalStandard
from controlplane.evals.standards import set_standard
from controlplane.work.models import Task
from tests.eval_sets import import_into, make_judge_version, make_set, row, run_calibrations
from tests.factories import NOW, SETUP

GATEWAY = "http://gateway.test"


def answer(content: str | None = "Within 30 days", **message: Any) -> dict[str, Any]:
    """The body of an answer."""
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": content, **message}}]}


def refusal(code: str, status: int, message: str = "no", **headers: str) -> httpx.Response:
    """A gateway's error."""
    body = {"error": {"type": "server_error", "code": code, "message": message}}
    return httpx.Response(status, json=body, headers={"ballast-request-id": "r-0", **headers})


@dataclass
class FakeGateway:
    """Answers each request with what `says` makes of its body, and remembers what it was asked, and by which token.

    Costs 100 microdollars a request.
    """

    says: Callable[[dict[str, Any]], Any] = lambda body: answer()
    bodies: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """As `httpx.MockTransport` asks it."""
        body = json.loads(request.content)
        self.bodies.append(body)
        self.paths.append(request.url.path)
        self.tokens.append(request.headers["authorization"].removeprefix("Bearer "))
        said = self.says(body)
        if isinstance(said, httpx.Response):
            return said
        if isinstance(said, BaseException):
            raise said
        headers = {
            "ballast-cost-micros": "100",
            "ballast-latency-ms": "12.5",
            "ballast-lane": "a/lane",
            "ballast-request-id": "r-1",
        }
        return httpx.Response(200, json=said, headers=headers)

    @contextmanager
    def open(self, *, run: str, residency: Iterable[str], **clocks: Any) -> Iterator[Asker]:
        """As `asking.open_asker`."""
        with httpx.Client(base_url=GATEWAY, transport=httpx.MockTransport(self)) as http:
            usual: dict[str, Any] = {"sleep": self.slept.append, "clock": lambda: 0.0, "now": lambda: NOW}
            yield Asker(http, run=run, residency=residency, rng=Random(7), **(usual | clocks))


def make_calibrated_judge(slug: str = "grounded", **version: Any) -> JudgeVersion:
    """A judge that people agreed with on as many answers as it takes; it fails e-mail addresses, unless told."""
    made = make_judge_version(slug, **version)
    labelled = [
        row(f"l{place}", answer="Write to ada@example.com" if place % 2 else "Fine", labels={slug: not place % 2})
        for place in range(MIN_LABELLED)
    ]
    calibrate(
        judge_version=made,
        set_version=import_into(make_set(f"labels-of-{slug}"), *labelled),
        actor=SETUP,
        now=NOW,
    )
    run_calibrations()
    return JudgeVersion.objects.with_calibration().get(pk=made.pk)


def make_standard(version: EvalSetVersion, **fields: Any) -> EvalStandard:
    """What answers to a set are held to: that nine in ten are without an e-mail address, by a calibrated judge."""
    if "judges" not in fields and not Judge.objects.filter(slug="grounded").exists():
        make_calibrated_judge()
    usual = {"judges": ["grounded@1"], "thresholds": {"grounded": 0.9}, "reason": "r", "actor": SETUP, "now": NOW}
    return set_standard(eval_set=version.set, **(usual | fields))


def messages_row(name: str = "m1", **fields: Any) -> dict[str, Any]:
    """A row's document that lanes can be asked."""
    return row(name, messages=[{"role": "user", "content": f"Question {name}"}], **fields)


def run_pieces(gateway: FakeGateway | None = None, **clocks: Any) -> None:
    """Do what workers would do about every piece of every run, until none is left."""
    usual: dict[str, Any] = {"now": lambda: NOW, "clock": lambda: 0.0, "open_asker": (gateway or FakeGateway()).open}
    done: set[Any] = set()
    while task := Task.objects.filter(kind="evals.run").exclude(pk__in=done).order_by("id").first():
        done.add(task.pk)
        told = json.loads(bytes(task.arguments))
        run_piece(told["run"], told["piece"], **(usual | clocks))


def fresh(run: EvalRun) -> EvalRun:
    """The run as the database has it."""
    return EvalRun.objects.with_set().get(pk=run.pk)
