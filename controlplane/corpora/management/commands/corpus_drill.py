"""Begin a game day of a corpus, in a sandbox; workers run it."""

import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from controlplane.corpora.drills import start_drill
from controlplane.corpora.errors import CorpusError
from controlplane.corpora.models import Corpus, RecoveryDrill
from controlplane.corpora.records import DrillState
from controlplane.corpora.scenarios import SCENARIOS


class Command(BaseCommand):
    help = (
        "Begin a game day of a corpus in a sandbox: something is lost on purpose, and it is measured how long it takes "
        "to see that, to come back and to verify it. What serves takes no part."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--corpus", required=True, metavar="SLUG")
        parser.add_argument("--scenario", required=True, choices=sorted(SCENARIOS))
        parser.add_argument("--reason", default="asked for by command", metavar="TEXT")
        parser.add_argument("--actor", default="command", metavar="NAME", help="who answers for it, for the record")
        parser.add_argument("--wait", action="store_true", help="until it has ended; exit 1 unless it passed")

    def handle(self, *args: Any, **options: Any) -> None:
        corpus = Corpus.objects.filter(slug=options["corpus"]).first()
        if corpus is None:
            raise CommandError(f"there is no corpus {options['corpus']!r}")
        try:
            drill = start_drill(
                corpus=corpus,
                scenario=options["scenario"],
                reason=options["reason"],
                actor=options["actor"],
                now=timezone.now(),
            )
        except CorpusError as exc:
            raise CommandError(str(exc)) from exc
        self.stdout.write(f"drill {drill.pk} of {corpus.slug} is queued: {options['scenario']}")
        if options["wait"]:
            self._wait(drill)

    def _wait(self, drill: RecoveryDrill) -> None:
        told: set[str] = set()
        while True:
            drill.refresh_from_db()
            for step in drill.steps:
                if step["ended_at"] is not None and step["name"] not in told:
                    told.add(step["name"])
                    self.stdout.write(f"{step['name']}: {step['seconds']:.2f} s. {step['words']}")
            if drill.is_over:
                break
            time.sleep(0.5)
        if drill.state != DrillState.PASSED:
            raise CommandError(f"drill {drill.pk} {drill.get_state_display().lower()}: {drill.error}")
        predicted = "nothing" if drill.predicted_seconds is None else f"{drill.predicted_seconds:.2f} s"
        self.stdout.write(f"passed: back in {drill.rto_seconds:.2f} s, predicted {predicted}")
