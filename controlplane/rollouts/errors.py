"""Why a canary was not planned, started, turned, promoted or rolled back; nothing was changed."""


class RolloutError(Exception):
    """An operation on a canary was refused."""

    code = "rollout_refused"


class InvalidPlan(RolloutError):
    """The stages, unit or versions do not make a canary; the message names the place."""

    code = "invalid_plan"


class CanaryNotPlanned(RolloutError):
    """Only a canary that has not started can be edited or started."""

    code = "canary_not_planned"


class CanaryNotRunning(RolloutError):
    """The canary is not running (any more): an automatic roll-back may have come first."""

    code = "canary_not_running"


class AnotherCanaryRuns(RolloutError):
    """A prompt has at most one running canary, so that every request belongs to one comparison."""

    code = "another_canary_runs"


class ControlMoved(RolloutError):
    """What is live is no longer the version that the canary would be compared with."""

    code = "control_moved"


class NotAtLastStage(RolloutError):
    """A canary is promoted from its last stage only."""

    code = "not_at_last_stage"


class KnobMoved(RolloutError):
    """Somebody turned the knob since the page was read; look again before turning it further."""

    code = "knob_moved"


class NotProven(RolloutError):
    """The stage waits for evidence that the candidate makes nothing worse."""

    code = "not_proven"
