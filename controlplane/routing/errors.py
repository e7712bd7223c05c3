"""Why a routing table was refused."""


class RoutingError(Exception):
    """An operation on routing was refused; nothing was changed."""

    code = "routing_refused"


class InvalidRouting(RoutingError):
    """The document is not a routing table; the message names the JSON path."""

    code = "invalid_routing"


class SameRouting(RoutingError):
    """The document is the table in force."""

    code = "same_content"


class NeverInForce(RoutingError):
    """The table was never in force, so going back to it is not a roll-back."""

    code = "never_in_force"


class AlteredTable(RoutingError):
    """The table's document is not what its digest says: somebody wrote to the table by hand. It is never in force."""

    code = "altered_table"
