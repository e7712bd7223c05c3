"""What delivering needs of the world: how far it may go, who knows names, whose certificates count."""

import ssl
from dataclasses import dataclass

from django.conf import settings

from controlplane.alerts import webhooks
from controlplane.alerts.networks import Reach
from dataplane.networks import Resolve, resolve


@dataclass(frozen=True, slots=True)
class Outside:
    """See the module.

    Attributes:
        tls: None: the authorities that everybody trusts.
        mails: Whether there is a mail server.
        seconds: For a webhook and its answer.
    """

    reach: Reach
    resolve: Resolve
    tls: ssl.SSLContext | None
    mails: bool
    seconds: float = webhooks.SECONDS


def configured() -> Outside:
    """As the settings have it."""
    reach = Reach(settings.ALERT_REACH)
    return Outside(reach=reach, resolve=resolve, tls=None, mails=settings.EMAIL_IS_CONFIGURED)
