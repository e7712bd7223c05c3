"""`manage.py index`: make accepted changes searchable, as long as it runs.

Any number of these may run at once: what one has taken is leased to it, and comes back if it dies. It hears of changes
at once (LISTEN), and a look every two seconds is the floor.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from random import Random
from typing import Any, Final

import psycopg
from django.core.management.base import BaseCommand
from django.db import InterfaceError, OperationalError, connection
from django.utils import timezone

from controlplane.corpora import upkeep
from controlplane.corpora.embedding import Embedder, open_embedder
from controlplane.corpora.errors import NotEmbedded, VectorsNowhere, VectorsUnavailable
from controlplane.corpora.indexing import index_pending
from controlplane.corpora.models import Corpus, Namespace, NamespaceState
from controlplane.corpora.policies import promises
from controlplane.vitals import serve_vitals
from dataplane.pulse import Pulse
from dataplane.retrieval.policy import Corpus as Promised
from dataplane.retrieval.tables import CHANNEL
from dataplane.retry import backoff

POLL_SECONDS: Final = 2.0
MAX_BACKOFF_SECONDS: Final = 30.0
# So many batches of one namespace, and the next has its turn.
BATCHES_AT_ONCE: Final = 4
# A batch is embedded and written within this, with all that its lanes may take; a graph of many rows is built for
# hours.
TURN_SECONDS: Final = 600.0
BUILD_SECONDS: Final = 12 * 3600.0

logger = logging.getLogger(__name__)

# The database is away or restarting, or chose us as the victim of a deadlock: all worth another try.
_AWAY: Final = (OperationalError, InterfaceError, psycopg.OperationalError, psycopg.InterfaceError)

Open = Callable[[Promised], AbstractContextManager[Embedder]]


@dataclass(slots=True)
class Trouble:
    """Of a namespace that cannot be indexed now, or a corpus that cannot be given one."""

    failures: int = 0
    again_at: float = 0.0


class Indexer:
    """One indexer. `round` gives every namespace its turn; `run` goes round until `stop` is set.

    Args:
        monotonic: Seconds.
    """

    def __init__(
        self,
        *,
        owner: str,
        stop: threading.Event,
        open_with: Open = open_embedder,
        now: Callable[[], datetime] = timezone.now,
        monotonic: Callable[[], float] = time.monotonic,
        rng: Random | None = None,
        pulse: Pulse | None = None,
    ) -> None:
        self._owner = owner
        self._stop = stop
        self._open = open_with
        self._now = now
        self._monotonic = monotonic
        self._rng = rng or Random()  # noqa: S311 - jitter, not a secret
        self._troubles: dict[Corpus | Namespace, Trouble] = {}
        self._outages = 0
        self._pulse = pulse or Pulse(within_seconds=TURN_SECONDS)

    def run(self) -> None:
        """Go round until told to stop; an outage is waited out, and logged once."""
        while not self._stop.is_set():
            self._pulse.beat()
            try:
                if not self.round():
                    self._listen()
            except _AWAY as exc:
                self._outages += 1
                if self._outages == 1:
                    logger.warning("the database is away, changes wait: %s", exc)
                connection.close()
                self._stop.wait(min(0.1 * 2 ** min(self._outages - 1, 10), MAX_BACKOFF_SECONDS))
            else:
                self._outages = 0

    def round(self) -> int:
        """Give each namespace its turn. Returns how many documents were taken: where it is 0, nothing is due."""
        taken = 0
        promised = promises()
        for corpus in Corpus.objects.filter(slug__in=list(promised)):
            one = promised[corpus.slug]
            if self._is_due(corpus):
                self._ensure_namespaces(corpus, one)
            for namespace in upkeep.namespaces_to_index(corpus):
                if self._stop.is_set():
                    return taken
                self._pulse.beat()
                if self._is_due(namespace):
                    taken += self._turn(namespace, one)
            if corpus.live_namespace_id is None:
                upkeep.begin_serving(corpus, one, now=self._now())
        return taken

    def _ensure_namespaces(self, corpus: Corpus, promised: Promised) -> None:
        """Have a corpus given what it lacks; what it has is indexed whether that can be or not."""
        try:
            upkeep.ensure_namespaces(corpus, promised, now=self._now())
        except (VectorsNowhere, VectorsUnavailable) as exc:
            self._wait_out(corpus, f"{exc.code}: {exc}")
        else:
            self._troubles.pop(corpus, None)

    def _turn(self, namespace: Namespace, promised: Promised) -> int:
        # A namespace keeps the model that it was made for, whatever the policy wants by now.
        embedding = replace(promised.embedding, model=namespace.model, dimensions=namespace.dimensions)
        try:
            taken = self._index_some(namespace, replace(promised, embedding=embedding))
            if not taken and namespace.state == NamespaceState.BUILDING:
                self._pulse.beat(within_seconds=BUILD_SECONDS)
                upkeep.finish_building(namespace, now=self._now(), clock=self._monotonic)
        except _AWAY:
            raise
        except NotEmbedded as exc:
            self._wait_out(namespace, f"{exc.why}: {exc}")
            return 0
        except (VectorsNowhere, VectorsUnavailable) as exc:
            self._wait_out(namespace, f"{exc.code}: {exc}")
            return 0
        except Exception as exc:
            # Whatever it is, other corpora are none of its business.
            logger.exception("%s cannot be indexed", namespace)
            self._wait_out(namespace, type(exc).__name__)
            return 0
        if self._troubles.pop(namespace, None) is not None:
            logger.warning("%s can be indexed again", namespace)
        return taken

    def _index_some(self, namespace: Namespace, promised: Promised) -> int:
        total = 0
        with self._open(promised) as embedder:
            for _ in range(BATCHES_AT_ONCE):
                self._pulse.beat()
                done = index_pending(
                    namespace=namespace,
                    embedder=embedder,
                    owner=self._owner,
                    now=self._now(),
                    clock=self._monotonic,
                )
                total += done.taken
                if not done.taken or self._stop.is_set():
                    break
        return total

    # --- waiting ---
    def _listen(self) -> None:
        """Wait until somebody tells of a change, and not for long."""
        if self._stop.is_set():
            return
        connection.ensure_connection()
        with connection.cursor() as cursor:
            cursor.execute(f"LISTEN {CHANNEL}")
        for _ in connection.connection.notifies(timeout=POLL_SECONDS, stop_after=1):
            pass

    def _is_due(self, whose: Corpus | Namespace) -> bool:
        trouble = self._troubles.get(whose)
        return trouble is None or self._monotonic() >= trouble.again_at

    def _wait_out(self, whose: Corpus | Namespace, why: str) -> None:
        trouble = self._troubles.setdefault(whose, Trouble())
        trouble.failures += 1
        if trouble.failures == 1:
            logger.warning("%s waits: %s", whose, why)
        wait = backoff(min(trouble.failures, 10), base=1.0, cap=MAX_BACKOFF_SECONDS, rng=self._rng)
        trouble.again_at = self._monotonic() + wait


class Command(BaseCommand):
    help = "Make accepted changes of corpora searchable, until SIGTERM."
    requires_system_checks = ()  # those of `migrate` came before, and would load every page's code here

    def handle(self, *args: Any, **options: Any) -> None:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        owner = f"{socket.gethostname()}-{os.getpid()}"
        vitals = serve_vitals()
        logger.info("index %s begins", owner)
        try:
            vitals.begin()
            Indexer(owner=owner, stop=stop, pulse=vitals.pulse("index", within_seconds=TURN_SECONDS)).run()
        finally:
            connection.close()
        logger.info("index %s stopped", owner)
