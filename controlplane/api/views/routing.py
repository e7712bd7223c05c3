"""Routing tables over HTTP."""

from typing import ClassVar, Final

from rest_framework import serializers

from controlplane.api.versions import NewVersion, VersionRow, version_views
from controlplane.routing.access import access_table, require_proposer, visible_tables
from controlplane.routing.models import RoutingTable
from controlplane.routing.operations import routing_tables


class TableRow(VersionRow[RoutingTable]):
    class Meta(VersionRow.Meta):
        model = RoutingTable


class Table(TableRow):
    document = serializers.DictField(help_text="The release's section 'routing': providers, accounts, lanes, routes")

    class Meta(TableRow.Meta):
        fields: ClassVar = [*TableRow.Meta.fields, "document"]


class NewTable(NewVersion):
    document = serializers.JSONField(help_text="{'providers', 'accounts', 'lanes', 'routes'}; secrets by reference")


TABLES: Final = version_views(
    routing_tables,
    name="routing",
    tag="routing",
    row=TableRow,
    whole=Table,
    new=NewTable,
    visible=visible_tables,
    access=access_table,
    access_to_propose=lambda operator, number: access_table(operator, number, "propose_routing"),
    require_proposer=require_proposer,
)
