"""The control plane's Celery application: pushes releases, lapses break-glass, compacts rollups."""

import os

from celery import Celery
from celery.signals import setup_logging

from controlplane.tracing import trace_workers
from controlplane.vitals import watch_celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")

app = Celery("controlplane", loader="controlplane.loader.Loader")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.Task.Request = "controlplane.task_metrics:CountedRequest"
watch_celery(app)
trace_workers()


@setup_logging.connect
def keep_logging(**_: object) -> None:
    """Have workers and beat log as the settings say; whoever answers this signal keeps Celery from its own way."""
