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


class UnknownLane(RoutingError):
    """The table in force has no lane of this id."""

    code = "unknown_lane"


class InvalidHold(RoutingError):
    """A hold needs an end, which is ahead and not too far."""

    code = "invalid_hold"


class UnknownPolicy(RoutingError):
    """The table in force has no such policy, or no route, of this name."""

    code = "unknown_policy"


class InvalidThreshold(RoutingError):
    """No such threshold, or a new value without saying where it comes from."""

    code = "invalid_threshold"


class InvalidDrill(RoutingError):
    """What was asked for is no drill: the message says what is missing or out of range."""

    code = "invalid_drill"


class UnknownProvider(RoutingError):
    """The table in force has no lane of this provider."""

    code = "unknown_provider"


class DrillUnderWay(RoutingError):
    """Another drill runs; what two measure at a time says nothing of either."""

    code = "drill_under_way"


class LaneIsHeld(RoutingError):
    """Somebody holds a lane of the drill already; a drill would put an end of its own in the place of theirs."""

    code = "lane_is_held"


class TenantsLeftOut(RoutingError):
    """Callers would have no lane left, and nobody said that this is accepted."""

    code = "tenants_left_out"


class NothingLearned(RoutingError):
    """The drill measured nothing that is a guess in the table in force."""

    code = "nothing_learned"


class RouteWithoutLanes(RoutingError):
    """Without the provider a route would have no lane."""

    code = "route_without_lanes"
