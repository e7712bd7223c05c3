"""Black Friday at the press of a button: in the demo alone, by who may engage rungs, and over by itself."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from controlplane.accounts.roles import Role
from controlplane.console import demo_rush
from tests.factories import NOW, make_operator

URL = "/ladder/demo/black-friday/"


@pytest.fixture(autouse=True)
def quiet():
    demo_rush.end()
    yield
    demo_rush.end()


def test_rush_goes_from_phase_to_phase_and_is_over_by_itself():
    """The large models are full first, the small one later."""
    rush = demo_rush.begin(NOW)

    assert demo_rush.current(NOW) == rush
    assert rush.phase(NOW) is demo_rush.PHASES[0]
    assert rush.phase(NOW + timedelta(seconds=59)) is demo_rush.PHASES[0]
    assert rush.phase(NOW + timedelta(seconds=60)) is demo_rush.PHASES[1]
    assert demo_rush.current(rush.until) is None


def test_rush_that_is_ended_is_over_at_once():
    """Whoever has seen enough sends the shoppers home."""
    demo_rush.begin(NOW)

    demo_rush.end()

    assert demo_rush.current(NOW) is None


@pytest.mark.django_db
def test_button_begins_and_ends_a_rush_for_who_may_engage_rungs(client, settings):
    """And goes back to the ladder, which is what there is to see."""
    settings.DEMO = True
    client.force_login(make_operator("oncall", Role.ON_CALL))

    began = client.post(URL)
    under_way = demo_rush.current(timezone.now())
    ended = client.post(URL, {"act": "end"})

    assert began.status_code == ended.status_code == 302
    assert began.url == reverse("ladder")
    assert under_way is not None
    assert demo_rush.current(timezone.now()) is None


@pytest.mark.django_db
def test_button_is_for_the_demo_and_for_on_call(client, settings):
    """Elsewhere there is no such address."""
    settings.DEMO = True
    client.force_login(make_operator("owner", Role.PROMPT_OWNER))
    assert client.post(URL).status_code == 403
    assert client.get(URL).status_code == 405

    settings.DEMO = False
    client.force_login(make_operator("oncall", Role.ON_CALL))
    assert client.post(URL).status_code == 404
    assert demo_rush.current(NOW) is None
