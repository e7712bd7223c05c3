"""Rungs that nobody may engage: without a policy, or without words that are signed."""

import pytest

from controlplane.ladder.errors import UnknownSurface, UnsignedRung
from controlplane.ladder.models import RungActivation
from controlplane.releases.operations import current_release
from tests.factories import make_copy_version, make_live_copy
from tests.ladder.ladder_policies import engage, hold, make_ladder, make_words

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]


def test_rung_without_signed_words_is_engaged_by_nobody():
    """Neither where its own words wait, nor where its answers do: each is named, and nothing is written."""
    make_words(1)
    make_copy_version(make_live_copy(slug="rung-5", kind="rung").copy, "other")
    make_ladder()
    before = current_release()

    with pytest.raises(
        UnsignedRung, match="rung 2 of surface 'web-chat' cannot be engaged: nobody has signed 'rung-2'"
    ):
        engage(2)
    with pytest.raises(UnsignedRung, match="nobody has signed 'help-answers' yet"):
        engage(5)

    assert (RungActivation.objects.count(), current_release()) == (0, before)
    assert engage(1).rung == 1


def test_nothing_is_engaged_before_the_first_policy():
    """There is no surface that could."""
    for put_down in (engage, hold):
        with pytest.raises(UnknownSurface, match="no ladder policy is in force"):
            put_down(1)
