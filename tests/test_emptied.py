"""What a test that commits leaves to the next."""

import pytest
from django.apps import apps
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.test import TransactionTestCase

from tests.emptied import KEPT
from tests.factories import make_deployment

pytestmark = pytest.mark.django_db(transaction=True)


def test_nothing_is_left_but_what_migrate_makes():
    """Rows that refuse to be deleted go too, and whatever points to others."""
    make_deployment()
    permissions = _permissions()
    assert len(_filled()) > len(KEPT) + 5

    TransactionTestCase()._fixture_teardown()

    assert _filled() == set(KEPT)
    assert _permissions() == permissions


@pytest.mark.parametrize("act", ["add", "remove", "rename"])
def test_what_migrate_makes_is_made_anew_where_a_test_has_changed_it(act):
    """No test finds a permission of another's, nor misses one."""
    before = _permissions()
    if act == "add":
        kind = ContentType.objects.get(app_label="accounts", model="operator")
        Permission.objects.create(content_type=kind, codename="fly", name="Can fly")
    elif act == "remove":
        Permission.objects.filter(codename="view_tenant").delete()
    else:
        Permission.objects.filter(codename="view_tenant").update(codename="see_tenant")
    assert _permissions() != before

    TransactionTestCase()._fixture_teardown()

    assert _permissions() == before


def _permissions() -> set[tuple[str, str]]:
    return set(Permission.objects.values_list("content_type__model", "codename"))


def _filled() -> set[str]:
    return {model._meta.db_table for model in apps.get_models() if model._meta.managed and model._base_manager.exists()}
