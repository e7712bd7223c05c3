"""Routing tables over HTTP."""

from typing import ClassVar

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import OperatorView, Reason, describe, read
from controlplane.api.versions import NewVersion, VersionRow, in_force
from controlplane.api.views.changes import ChangeRow
from controlplane.routing.access import access_table, require_proposer, visible_tables
from controlplane.routing.models import RoutingTable
from controlplane.routing.operations import routing_tables

TAG = "routing"


class TableRow(VersionRow[RoutingTable]):
    class Meta(VersionRow.Meta):
        model = RoutingTable


class Table(TableRow):
    document = serializers.DictField(help_text="The release's section 'routing': providers, accounts, lanes, routes")

    class Meta(TableRow.Meta):
        fields: ClassVar = [*TableRow.Meta.fields, "document"]


class NewTable(NewVersion):
    document = serializers.JSONField(help_text="{'providers', 'accounts', 'lanes', 'routes'}; secrets by reference")


class Tables(OperatorView):
    @describe("routing_list", "Routing tables, newest first", tag=TAG, pages_of=TableRow, refuses=(403,))
    def get(self, request: Request) -> Response:
        return self.page(visible_tables(self.operator).defer("document"), TableRow, **in_force(routing_tables))

    @describe(
        "routing_submit",
        "Submit an immutable routing table; it carries nothing until its change request is applied",
        tag=TAG,
        takes=NewTable,
        gives=Table,
        status=201,
        refuses=(403,),
    )
    def post(self, request: Request) -> Response:
        now = timezone.now()
        require_proposer(self.operator)
        table = routing_tables.submit(**read(NewTable, request), actor=self.operator, now=now)
        return Response(Table(table, context=in_force(routing_tables)).data, status=201)


class OneTable(OperatorView):
    @describe("routing_retrieve", "One routing table with its document", tag=TAG, gives=Table, refuses=(404,))
    def get(self, request: Request, number: int) -> Response:
        return Response(Table(access_table(self.operator, number), context=in_force(routing_tables)).data)


class ProposeTable(OperatorView):
    @describe(
        "routing_propose",
        "Open the change request that would put a table in force",
        tag=TAG,
        takes=Reason,
        gives=ChangeRow,
        status=201,
    )
    def post(self, request: Request, number: int) -> Response:
        now = timezone.now()
        table = access_table(self.operator, number, "propose_routing")
        change = routing_tables.propose(version=table, **read(Reason, request), actor=self.operator, now=now)
        return Response(ChangeRow(change).data, status=201)


class ReturnToTable(OperatorView):
    @describe(
        "routing_return_to",
        "Put a table in force again that was before; needs no sign-off",
        tag=TAG,
        takes=Reason,
        gives=TableRow,
    )
    def post(self, request: Request, number: int) -> Response:
        now = timezone.now()
        table = access_table(self.operator, number, "propose_routing")
        routing_tables.return_to(version=table, **read(Reason, request), actor=self.operator, now=now)
        return Response(TableRow(table, context=in_force(routing_tables)).data)
