from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "controlplane.accounts"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from controlplane.accounts import receivers  # noqa: F401 - connects them; needs loaded models
