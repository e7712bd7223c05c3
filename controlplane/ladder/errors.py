"""Why copy was refused."""


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
