from django.apps import AppConfig


class VerdictsConfig(AppConfig):
    name = "controlplane.verdicts"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from controlplane.rollouts import operations as rollouts
        from controlplane.verdicts import references, replay, watching
        from controlplane.work import handlers

        rollouts.ask_for_evidence(watching.why_not_yet)
        rollouts.ask_about_guardrails(references.what_is_wrong)
        handlers.register(handlers.Handler(replay.REPLAY, replay.run_work, work="replay", max_attempts=3))
