from django.apps import AppConfig


class EvalsConfig(AppConfig):
    name = "controlplane.evals"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from controlplane.approvals import preparations
        from controlplane.evals import asking, calibration, gate, leaks, runner, running
        from controlplane.evals.judges import asking as judges
        from controlplane.prompts import operations as prompts
        from controlplane.releases import trust
        from controlplane.routing.operations import KIND_NAME as ROUTING
        from controlplane.work import deaths, handlers

        prompts.on_submission(leaks.look_in_prompt)
        for kind in leaks.PROMPT_KINDS:
            preparations.register(kind, leaks.PREPARATION)
        handlers.register(handlers.Handler(calibration.RUN, calibration.run_work))
        judges.provide(asking.open_for_judges)
        preparations.register(ROUTING, gate.PREPARATION)
        handlers.register(handlers.Handler(running.RUN, runner.run_work))
        deaths.register(running.bury)
        trust.register_dependants(running.begun_before_switch)
