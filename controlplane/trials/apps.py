from django.apps import AppConfig


class TrialsConfig(AppConfig):
    name = "controlplane.trials"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from controlplane.approvals import preparations
        from controlplane.routing.operations import KIND_NAME
        from controlplane.trials import operations, runner
        from controlplane.work import handlers

        preparations.register(KIND_NAME, operations.PREPARATION)
        handlers.register(handlers.Handler(operations.RUN, runner.run_work))
