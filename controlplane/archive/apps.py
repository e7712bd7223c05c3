from django.apps import AppConfig


class ArchiveConfig(AppConfig):
    name = "controlplane.archive"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from controlplane.alerts import kinds
        from controlplane.archive import operations

        kinds.register(operations.BEHIND, "The audit record is not exported as it should be")
