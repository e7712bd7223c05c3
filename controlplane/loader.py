"""How Celery loads what its nodes need: as manage.py does, without looking for garbage among it."""

from typing import Any

from celery.loaders.app import AppLoader

from dataplane.collector import collector_paused


class Loader(AppLoader):
    """Celery's own, which sets up Django where a worker or beat begins."""

    def import_default_modules(self) -> Any:
        """Import all of it, and look for garbage from then on."""
        with collector_paused():
            return super().import_default_modules()
