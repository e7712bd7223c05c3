from django.apps import AppConfig


class AlertsConfig(AppConfig):
    name = "controlplane.alerts"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from controlplane.alerts import delivery
        from controlplane.work import deaths, handlers

        handlers.register(
            handlers.Handler(delivery.DELIVER, delivery.run, work="webhook", max_attempts=20, is_urgent=True)
        )
        deaths.register(delivery.note_death)
