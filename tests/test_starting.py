"""How processes start: without looking for garbage among what they import, and with it from then on."""

import gc

import pytest
from celery.loaders.app import AppLoader
from django.apps import apps

from controlplane.celery import app
from dataplane.collector import collector_paused


@pytest.fixture(autouse=True)
def collector():
    """It is as it was before, whatever a test does."""
    yield
    gc.enable()


@pytest.mark.parametrize("started_without", [True, False])
def test_collector_is_on_once_all_apps_are_ready(started_without):
    """What is there by then lasts as long as the process, so nobody looks at it again."""
    gc.unfreeze()
    if started_without:
        gc.disable()

    apps.get_app_config("console").ready()

    assert gc.isenabled()
    assert (gc.get_freeze_count() > 0) is started_without


def test_celery_node_looks_for_no_garbage_while_it_imports(monkeypatch):
    """And does so afterwards, also if that fails."""
    seen = []

    def fail(loader):
        seen.append(gc.isenabled())
        raise ImportError

    monkeypatch.setattr(AppLoader, "import_default_modules", fail)

    with pytest.raises(ImportError):
        app.loader.import_default_modules()

    assert (seen, gc.isenabled()) == ([False], True)


@pytest.mark.parametrize("is_on", [True, False])
def test_process_of_the_data_plane_leaves_the_collector_as_it_found_it(is_on):
    """Off within, whether it was on or not."""
    if not is_on:
        gc.disable()

    with collector_paused():
        within = gc.isenabled()

    assert (within, gc.isenabled()) == (False, is_on)
