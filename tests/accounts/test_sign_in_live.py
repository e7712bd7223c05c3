"""Open pages notice at once when their operator may no longer listen."""

import pytest
from channels.db import database_sync_to_async

from controlplane import live
from controlplane.accounts import operations as accounts
from controlplane.accounts.models import Operator
from controlplane.accounts.roles import Role
from tests.accounts.door import PASSWORD
from tests.console.test_live import (  # noqa: F401 - two of them are fixtures that every test here takes
    Page,
    operator,
    patient,
    threads_let_go_of_the_database,
)
from tests.factories import NOW, SETUP

pytestmark = pytest.mark.django_db(transaction=True)

SIGNED_OUT = 4401
make = database_sync_to_async(operator)


def lock_out(person):
    accounts.set_operator_active(operator=person, active=False, actor=SETUP, now=NOW)


def change_password(person):
    accounts.change_password(operator=person, password=PASSWORD, actor=SETUP, now=NOW)


@pytest.mark.parametrize("end", [lock_out, change_password])
async def test_line_is_cut_when_its_operator_is_locked_out_or_the_password_changes(end):
    """By the operation itself: the recheck every 30 s is only the floor."""
    person, session = await make((Role.ON_CALL, None))
    async with Page(session) as page:
        await page.known()
        await page.subscribed(live.FLEET)

        await database_sync_to_async(end)(person)

        assert await page.close_code() == SIGNED_OUT


async def test_line_loses_a_topic_when_the_role_is_revoked():
    person, session = await make((Role.ON_CALL, None))
    async with Page(session) as page:
        await page.known()
        await page.subscribed(live.FLEET)

        await database_sync_to_async(lambda: accounts.revoke_role(grant=person.grants.get(), actor=SETUP, now=NOW))()

        assert await page.hear() == {"refused": live.FLEET}


async def test_nobody_can_listen_to_what_is_said_to_another_line():
    """The topic of an operator is not for pages."""
    person, session = await make((Role.ADMIN, None))
    other = await database_sync_to_async(Operator.objects.create_user)(username="grace")
    async with Page(session) as page:
        topics = [live.operator_topic(person.pk), live.operator_topic(other.pk)]

        assert await page.subscribed(*topics) == topics


async def test_line_stays_shut_until_the_second_factor_is_set_up(settings):
    """The same rule as the pages'."""
    settings.REQUIRE_MFA = True
    _, session = await make((Role.ADMIN, None))
    page = Page(session)
    await page.open()

    assert await page.close_code() == SIGNED_OUT
