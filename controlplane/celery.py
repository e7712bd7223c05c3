"""The control plane's Celery application: pushes releases, lapses break-glass, compacts rollups."""

import os

from celery import Celery

from controlplane.vitals import watch_celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")

app = Celery("controlplane")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
watch_celery(app)
