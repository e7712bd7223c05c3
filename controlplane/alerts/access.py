"""Who may see alerts and their channels, and who may manage those: held on the whole deployment."""

from typing import Final, Literal

from django.db.models import QuerySet

from controlplane.accounts.access import access, require
from controlplane.accounts.models import Operator
from controlplane.alerts.models import Alert, Channel

VIEW: Final = "alerts.view_channel"
MANAGE: Final = "alerts.manage_channels"

ChannelPermission = Literal["view_channel", "manage_channels"]


def visible_channels(operator: Operator) -> QuerySet[Channel]:
    """Every channel.

    Raises:
        PermissionDenied: the operator may not look at them.
    """
    require(operator, VIEW)
    return Channel.objects.all()


def visible_alerts(operator: Operator) -> QuerySet[Alert]:
    """Every alert, newest first; whoever sees the channels sees what they were told.

    Raises:
        PermissionDenied: the operator may not look at them.
    """
    require(operator, VIEW)
    return Alert.objects.all()


def access_channel(operator: Operator, slug: str, permission: ChannelPermission = "view_channel") -> Channel:
    """One channel.

    Raises:
        Http404: there is none, or the operator may not see it.
        PermissionDenied: they may see it, but not do this with it.
    """
    found = Channel.objects.filter(slug=slug).first()
    return access(operator, found, view=VIEW, permission=f"alerts.{permission}")
