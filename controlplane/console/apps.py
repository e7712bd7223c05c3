import gc

from django.apps import AppConfig


class ConsoleConfig(AppConfig):
    name = "controlplane.console"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Look for garbage again where the process was started without, though not among what lasts as long as it."""
        if not gc.isenabled():
            gc.freeze()
            gc.enable()
