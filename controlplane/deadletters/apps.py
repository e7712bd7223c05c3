from django.apps import AppConfig


class DeadLettersConfig(AppConfig):
    name = "controlplane.deadletters"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from controlplane.approvals.kinds import register
        from controlplane.deadletters import execution, operations, payloads, redrive
        from controlplane.work import deaths, handlers

        deaths.register(operations.bury)
        register(redrive.KIND)
        handlers.register(handlers.Handler(redrive.STEP, execution.run_step, work="redrive", max_attempts=20))
        handlers.register(handlers.Handler(payloads.DELETE, payloads.delete_objects, work="purge", max_attempts=20))
