"""Routing tables over HTTP."""

from typing import ClassVar, Final

from rest_framework import serializers

from controlplane.api.versions import NewVersion, VersionRow, version_views
from controlplane.routing.access import table_access
from controlplane.routing.models import RoutingTable


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
    table_access,
    name="routing",
    tag="routing",
    row=TableRow,
    whole=Table,
    new=NewTable,
)
