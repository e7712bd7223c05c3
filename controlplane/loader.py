"""How Celery loads what its nodes need: as manage.py does, without looking for garbage among it."""

import gc
from typing import Any

from celery.loaders.app import AppLoader


class Loader(AppLoader):
    """Celery's own, which sets up Django where a worker or beat begins."""

    def import_default_modules(self) -> Any:
        """Import all of it, and look for garbage from then on."""
        was_on = gc.isenabled()
        gc.disable()
        try:
            return super().import_default_modules()
        finally:
            if was_on:
                gc.enable()
