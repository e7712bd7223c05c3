"""The demo's evals: sets, judges that were held against people, standards, and two runs that are over to look at."""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import yaml
from django.conf import settings

from controlplane.accounts.models import Operator
from controlplane.evals import operations as evals
from controlplane.evals.asking import Answered, Asker
from controlplane.evals.calibration import calibrate, run_calibration
from controlplane.evals.models import EvalSetVersion, JudgeVersion
from controlplane.evals.placing import Placed, prompt_subject
from controlplane.evals.rows import Row
from controlplane.evals.runner import run_piece
from controlplane.evals.running import begin_run
from controlplane.evals.runs import EvalRun
from controlplane.evals.standards import set_standard

FOLDER = settings.BASE_DIR / "fixtures" / "evals"
# Longer than the longest set takes at the rows of a piece.
MOST_PIECES = 20


def walk_evals(
    entry: dict[str, Any], people: dict[str, Operator], begin: datetime, ran: datetime
) -> Iterator[datetime]:
    """One story, as those of `seed_demo`: each step announces its time, and is taken when its turn has come.

    Args:
        entry: The demo file's member `evals`.
        begin: When sets and judges came; before any canary was planned, since these name them.
        ran: When the runs were made.
    """
    owner = people["owner"]
    yield begin
    versions = {slug: _import_set(slug, one, owner, begin) for slug, one in entry["sets"].items()}
    judges = yaml.safe_load((FOLDER / "judges.yaml").read_text())["judges"]
    made = {slug: _submit_judge(slug, one, owner, begin) for slug, one in judges.items()}
    labels = versions[entry["labels"]]
    for slug in entry["calibrated"]:
        calibration = calibrate(judge_version=made[slug], set_version=labels, actor=owner, now=begin)
        # Here and now, as trials are: no worker sees anything of it before all of the demo is there.
        run_calibration(calibration.pk, now=lambda: begin)
    at = begin + timedelta(minutes=20)
    yield at
    for slug, one in entry["sets"].items():
        if "standard" in one:
            set_standard(eval_set=versions[slug].set, **one["standard"], actor=owner, now=at)
    for number, one in enumerate(entry["runs"]):
        at = ran + timedelta(minutes=5 * number)
        yield at
        _run(one, versions[one["set"]], owner, at)


def _import_set(slug: str, entry: dict[str, Any], owner: Operator, at: datetime) -> EvalSetVersion:
    described = {name: entry[name] for name in ("name", "purpose", "description")}
    made = evals.create_set(slug=slug, **described, actor=owner, now=at)
    path: Path = FOLDER / f"{slug}.jsonl"
    return evals.import_rows(eval_set=made, rows=path.read_bytes(), reason=entry["reason"], actor=owner, now=at)


def _submit_judge(slug: str, entry: dict[str, Any], owner: Operator, at: datetime) -> JudgeVersion:
    described = {name: entry[name] for name in ("name", "score", "description")}
    judge = evals.create_judge(slug=slug, **described, actor=owner, now=at)
    reason = "To begin with; see docs/evals.md"
    return evals.submit_judge_version(
        judge=judge, kind=entry["kind"], params=entry["params"], reason=reason, actor=owner, now=at
    )


def _run(entry: dict[str, Any], version: EvalSetVersion, owner: Operator, at: datetime) -> None:
    run = begin_run(subject=prompt_subject(entry["prompt"], entry["number"]), set_version=version, actor=owner, now=at)
    asker = cast(Asker, _HelpCentre(entry["lane"], entry["otherwise"]))
    for piece in range(1, MOST_PIECES):
        moment = at + timedelta(seconds=4 * piece)
        run_piece(run.pk, piece, now=lambda: moment, clock=time.monotonic, open_asker=_opener(asker))  # noqa: B023 - called in this turn
        if EvalRun.objects.get(pk=run.pk).is_over:
            return
    raise RuntimeError(f"run {run.pk} did not end")


@dataclass(frozen=True, slots=True)
class _HelpCentre:
    """Stands in for the gateway, which is not up yet, and answers as the simulated models do when they are asked to be
    brief: with the first thing that the article says, or something general where there is none. They never refuse.
    """

    lane: str
    otherwise: str

    def ask(self, placed: Placed, row: Row) -> Answered:
        """As `Asker.ask`."""
        said, topic = self.otherwise, "other"
        if row.sources:
            said = row.sources[0].text.partition(". ")[0].removesuffix(".") + "."
            topic = row.sources[0].id.rpartition("/")[2]
        text = json.dumps({"answer": said, "topic": topic, "resolved": True})
        return Answered(
            text,
            is_json=True,
            schema=True,
            cost_micros=150 + 2 * len(said),
            latency_ms=380.0 + 3 * len(said),
            lane=self.lane,
        )


def _opener(asker: Asker) -> Any:
    """As `runner.OpenAsker`."""

    @contextmanager
    def opened(*, run: str, residency: Iterable[str]) -> Iterator[Asker]:
        yield asker

    return opened
