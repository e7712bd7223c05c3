from django.apps import AppConfig


class ApiConfig(AppConfig):
    name = "controlplane.api"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from controlplane.api import schema  # noqa: F401 - registers how the schema names our tokens
