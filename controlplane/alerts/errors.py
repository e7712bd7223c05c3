"""Why a channel is not as somebody wants it, and why a delivery has to be tried again."""


class AlertError(Exception):
    """A channel's operation was refused; nothing was changed."""

    code = "alert_refused"


class InvalidChannel(AlertError):
    """The channel cannot be as it was described; `field` is what is wrong."""

    code = "invalid_channel"

    def __init__(self, field: str, fact: str) -> None:
        super().__init__(fact)
        self.field = field


class AddressRefused(InvalidChannel):
    """The receiver is at an address that alerts may not be sent to."""

    code = "address_refused"


class ChannelExists(AlertError):
    """A channel of that name exists."""

    code = "name_taken"


class ChannelDisabled(AlertError):
    """Nothing is sent to the channel."""

    code = "channel_disabled"


class NoSecret(AlertError):
    """The channel is no webhook, so nothing is signed for it."""

    code = "no_secret"


class SecretUnreadable(AlertError):
    """The stored secret was sealed under a secret key that is not known here any more."""

    code = "secret_unavailable"


class DeliveryFailed(ConnectionError):
    """The receiver could not be reached, or asked to be tried again. `status` is 0 where there was no answer."""

    code = "receiver_unavailable"

    def __init__(self, fact: str, *, status: int = 0) -> None:
        super().__init__(fact)
        self.status = status
