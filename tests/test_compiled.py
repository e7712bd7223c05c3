"""Queries that are compiled once per process: they find what they would find anew."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.contrib.contenttypes.models import ContentType
from django.db import connection, connections
from django.db.models import CharField, DateTimeField
from django.test.utils import CaptureQueriesContext

from controlplane.accounts.models import RoleGrant, Tenant
from controlplane.accounts.roles import Role
from controlplane.compiled import compiled
from tests.factories import NOW, make_canary, make_operator, make_tenant

pytestmark = pytest.mark.django_db


def tenants_query():
    """A query of tenants by slug and tier, and how often it was built."""
    built = []

    @compiled(slug=CharField())
    def named(*tiers, slug):
        built.append(tiers)
        rows = Tenant.objects.filter(slug__gte=slug).order_by("slug")
        return rows.filter(tier__in=tiers) if tiers else rows

    return named, built


def test_query_is_built_once_and_given_its_values_each_time():
    """Every call asks once, with its own value, and gives whole rows."""
    make_tenant("acme"), make_tenant("globex")
    named, built = tenants_query()

    with CaptureQueriesContext(connection) as asked:
        found = [[one.slug for one in named(slug=slug)] for slug in ("a", "b", "h")]

    assert found == [["acme", "globex"], ["globex"], []]
    assert (len(asked), built) == (3, [()])
    assert all(f"'{slug}'" in query["sql"] for slug, query in zip("abh", asked, strict=True))


def test_what_is_fixed_is_a_query_of_its_own():
    """Arguments by position make another query, remembered beside the first; one that can find nothing is not asked."""
    make_tenant("acme", tier="vip"), make_tenant("globex", tier="free")
    named, built = tenants_query()

    @compiled(slug=CharField())
    def nothing(*, slug):
        return Tenant.objects.filter(slug=slug, pk__in=[])

    assert [one.slug for one in named("vip", slug="")] == ["acme"]
    assert [one.slug for one in named("vip", "free", slug="")] == ["acme", "globex"]
    assert [one.slug for one in named("vip", slug="b")] == []
    assert built == [("vip",), ("vip", "free")]
    with CaptureQueriesContext(connection) as asked:
        assert (nothing(slug="acme"), nothing.first(slug="acme"), nothing.count(slug="acme")) == ([], None, 0)
    assert not asked.captured_queries


def test_rows_are_what_the_query_gives():
    """Models with their parents, tuples, single values and counts come out as Django would give them."""
    canary = make_canary()

    @compiled()
    def with_prompt():
        return type(canary).objects.select_related("prompt").only("slug", "prompt__slug")

    @compiled()
    def stages():
        return type(canary).objects.values_list("slug", "stages")

    @compiled()
    def slugs():
        return type(canary).objects.values_list("slug", flat=True)

    with CaptureQueriesContext(connection) as asked:
        found = with_prompt.first()
        assert (found.slug, found.prompt.slug) == (canary.slug, canary.prompt.slug)
    assert len(asked) == 1
    assert found.get_deferred_fields() >= {"stages", "state"}
    assert stages() == [(canary.slug, canary.stages)]
    assert (slugs(), slugs.count()) == ([canary.slug], 1)


def test_time_may_be_moved_in_the_query():
    """What is before or after the given time by a while is asked by the database."""

    @compiled(now=DateTimeField())
    def young(*, now):
        return RoleGrant.objects.filter(granted_at__gt=now - timedelta(hours=1))

    make_operator("owner", Role.PROMPT_OWNER, now=NOW)

    assert young.count(now=NOW + timedelta(minutes=59)) == 1
    assert young.count(now=NOW + timedelta(minutes=60)) == 0


def test_threads_ask_on_connections_of_their_own():
    """What one thread compiled another asks on its own connection."""
    built = []

    @compiled(app=CharField())
    def models_of(*, app):
        built.append(app)
        return ContentType.objects.filter(app_label=app, model="operator").values_list("model", flat=True)

    def ask():
        try:
            return models_of(app="accounts"), connections["default"].connection.info.backend_pid
        finally:
            connections.close_all()

    here, pid = models_of(app="accounts"), connection.connection.info.backend_pid
    with ThreadPoolExecutor(1) as pool:
        found, elsewhere = pool.submit(ask).result()

    assert here == found == ["operator"]
    assert pid != elsewhere
    assert len(built) == 1
