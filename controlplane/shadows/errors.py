"""Why an operation on shadows was refused."""


class ShadowError(Exception):
    """An operation on shadows was refused; nothing was changed."""

    code = "shadow_refused"


class UnknownShadow(ShadowError):
    """The table in force has no shadow policy of this name."""

    code = "unknown_shadow"


class ShadowIsKilled(ShadowError):
    """It is killed already."""

    code = "shadow_is_killed"


class ShadowRuns(ShadowError):
    """Nothing has killed it, so there is nothing to lift."""

    code = "shadow_runs"


class FleetUnreachable(ShadowError):
    """Redis, where the fleet's word on a shadow stands, cannot be reached."""

    code = "fleet_unreachable"


class NoReason(ShadowError):
    """A shadow is stopped, and let go on, for a reason, which everybody sees."""

    code = "no_reason"


class InvalidThresholds(ShadowError):
    """What evidence is to be held to is no such thing; `name` is which."""

    code = "invalid_thresholds"

    def __init__(self, name: str, fact: str) -> None:
        super().__init__(f"{name}: {fact}")
        self.name = name


class NothingToPromote(ShadowError):
    """The lane is no candidate of a shadow on this route, or was never asked there."""

    code = "nothing_to_promote"


class ChecklistExists(ShadowError):
    """The lane has an open or complete checklist for the route; `number` is its id."""

    code = "checklist_exists"

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class ChecklistIsOver(ShadowError):
    """It is complete, void, withdrawn or has been made use of: nothing is signed on it any more."""

    code = "checklist_is_over"


class SubjectChanged(ShadowError):
    """The policy or the lane is no more what the checklist was opened for, so its evidence is of something else."""

    code = "subject_changed"


class NotMet(ShadowError):
    """The evidence does not show what the item asks, so nobody can sign that it does."""

    code = "not_met"


class MayNotSign(ShadowError):
    """Who opened a checklist signs none of it, and nobody signs an item twice."""

    code = "may_not_sign"
