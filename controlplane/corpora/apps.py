from typing import Final

from django.apps import AppConfig
from django.conf import settings

# What goes through all of a corpus, however large it is.
HOURS: Final = 6 * 3600.0


class CorporaConfig(AppConfig):
    name = "controlplane.corpora"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from controlplane.alerts import kinds
        from controlplane.approvals.kinds import register
        from controlplane.corpora import (
            breaches,
            capturing,
            drilling,
            drills,
            dump_keeping,
            indexing,
            policies,
            reconciling_work,
            vectors,
        )
        from controlplane.releases.sections import Section
        from controlplane.releases.sections import register as register_section
        from controlplane.work import handlers
        from dataplane.retrieval.policy import QDRANT

        if settings.QDRANT_URL:
            from controlplane.corpora import qdrant  # some 80 MiB, which only who has one is to pay

            vectors.register(QDRANT, qdrant.from_settings)
        kinds.register(breaches.BROKEN, "A promise of a corpus' freshness or recovery is broken")
        kinds.register(breaches.KEPT, "A promise of a corpus that was broken is kept again")
        kinds.register(drills.FAILED, "A recovery drill of a corpus did not come back")
        register(policies.KIND)
        register_section(Section("corpora", policies.corpus_policies.compile, policies.corpus_policies.restore))
        handlers.register(
            handlers.Handler(indexing.INDEX_AGAIN, indexing.run_again, work=indexing.WORK, is_atomic=True)
        )
        handlers.register(
            handlers.Handler(dump_keeping.DUMP, dump_keeping.run_dump, max_attempts=3, limit_seconds=HOURS)
        )
        handlers.register(
            handlers.Handler(dump_keeping.VERIFY, dump_keeping.run_verification, max_attempts=3, limit_seconds=HOURS)
        )
        handlers.register(handlers.Handler(drills.KIND, drilling.run_work, max_attempts=3, limit_seconds=HOURS))
        handlers.register(handlers.Handler(capturing.TAKE_AGAIN, capturing.take_again, work=capturing.LETTER))
        reconcile = handlers.Handler(
            reconciling_work.RECONCILE,
            reconciling_work.run_work,
            work="reconcile",
            limit_seconds=HOURS,
            max_attempts=reconciling_work.MAX_ATTEMPTS,
        )
        handlers.register(reconcile)
