"""Why a prompt or a version was refused."""


class PromptError(Exception):
    """An operation on a prompt was refused; nothing was changed."""

    code = "prompt_refused"


class InvalidVersion(PromptError):
    """The version cannot be served; `problems` lists (path, message) for the form."""

    code = "invalid_version"

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{path}: {message}" for path, message in problems))
        self.problems = problems


class SameAsBefore(PromptError):
    """A version with exactly this content exists; use that one."""

    code = "same_content"

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class NeverApproved(PromptError):
    """The version was never live, so going back to it is not a roll-back."""

    code = "never_live"


class LiveAlready(PromptError):
    """The version is live; there is nothing to propose."""

    code = "live_already"


class AlteredVersion(PromptError):
    """The version's content is not what its digest says: somebody wrote to the table by hand. It is never served."""

    code = "altered_version"
