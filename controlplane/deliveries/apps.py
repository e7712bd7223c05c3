from django.apps import AppConfig


class DeliveriesConfig(AppConfig):
    name = "controlplane.deliveries"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from controlplane.deliveries import operations
        from controlplane.work import handlers

        handlers.register(handlers.Handler(operations.SEND_AGAIN, operations.run, is_atomic=True))
