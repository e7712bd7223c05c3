from django.apps import AppConfig


class TelemetryConfig(AppConfig):
    name = "controlplane.telemetry"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from controlplane.releases import trust
        from controlplane.telemetry.ladder_states import orders_in_force

        trust.register_dependants(orders_in_force)
