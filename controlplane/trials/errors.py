"""Why rules were not tried."""


class TrialError(Exception):
    """A trial was refused; nothing was changed."""

    code = "trial_refused"


class NothingToTry(TrialError):
    """The change puts no validator policy in force that is new, different, or used by other routes."""

    code = "nothing_to_try"


class AlreadyTrying(TrialError):
    """Every policy of the change is being tried at this moment."""

    code = "already_trying"
