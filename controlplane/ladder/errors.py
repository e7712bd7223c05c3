"""Why copy, a ladder policy, or a rung was refused."""


class CopyError(Exception):
    """An operation on signed copy was refused; nothing was changed."""

    code = "copy_refused"


class InvalidCopy(CopyError):
    """The document is no copy of its kind; the message names the JSON path."""

    code = "invalid_copy"


class SameCopy(CopyError):
    """A version with exactly these words exists; use that one."""

    code = "same_content"

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class LiveAlready(CopyError):
    """The version is live; there is nothing to propose."""

    code = "live_already"


class NeverSigned(CopyError):
    """Nobody signed the version: it was never live, and the change that would make it live has no signature."""

    code = "never_signed"


class AlteredCopy(CopyError):
    """The version's words are not what its digest says: somebody wrote to the table by hand. They are never shown."""

    code = "altered_copy"


class LadderError(Exception):
    """An operation on the ladder was refused; nothing was changed."""

    code = "ladder_refused"


class InvalidLadder(LadderError):
    """The document is no ladder policy; the message names the JSON path."""

    code = "invalid_ladder"


class SameLadder(LadderError):
    """The document is the policy in force."""

    code = "same_content"


class NeverInForce(LadderError):
    """The policy was never in force, so going back to it is not a roll-back."""

    code = "never_in_force"


class AlteredLadder(LadderError):
    """The policy's document is not what its digest says: somebody wrote to the table by hand. It is never in force."""

    code = "altered_ladder"


class InvalidThreshold(LadderError):
    """No such threshold, or one that the surface cannot do without."""

    code = "invalid_threshold"


class UnknownSurface(LadderError):
    """The policy in force has no such surface."""

    code = "unknown_surface"


class InvalidActivation(LadderError):
    """What was asked for is no activation: no such rung, region or tier, no end within a day, or no reason."""

    code = "invalid_activation"


class UnsignedRung(LadderError):
    """Some words of the rung are not signed by whoever has to; users never read unsigned words."""

    code = "unsigned_rung"


class RungIsEngaged(LadderError):
    """Under the policy an engaged rung could not be engaged; it has to be stood down first."""

    code = "rung_is_engaged"
