"""What keeps work from being taken in, or from being done."""

from dataplane.deadletters import Category


class WorkError(Exception):
    """Work was refused; nothing was taken in."""

    code = "work_refused"


class UnserialisableArguments(WorkError):
    """The arguments are not what comes back from JSON: `path` is where."""

    code = "unserialisable"

    def __init__(self, kind: str, *, path: str, fact: str) -> None:
        super().__init__(f"work of kind {kind!r} cannot be kept: {path} {fact}; hand in what JSON can say")
        self.kind = kind
        self.path = path


class ArgumentsTooLarge(WorkError):
    """The arguments are more than a row should hold."""

    code = "arguments_too_large"

    def __init__(self, kind: str, *, found_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"the arguments for work of kind {kind!r} take {found_bytes} bytes, over {limit_bytes}; hand in a pointer"
        )
        self.kind = kind
        self.found_bytes = found_bytes
        self.limit_bytes = limit_bytes


class UnknownKind(WorkError):
    """No handler is registered for the kind."""

    code = "unknown_kind"

    def __init__(self, kind: str) -> None:
        super().__init__(f"nobody here does work of kind {kind!r}; register a handler in its app's ready()")
        self.kind = kind


class KeyTaken(WorkError):
    """The key names other work of the same kind, with other arguments."""

    code = "idempotency_mismatch"

    def __init__(self, kind: str, key: str) -> None:
        super().__init__(f"key {key!r} names other work of kind {kind!r}; hand in the same again, or under a new key")
        self.kind = kind
        self.key = key


class LeaseLost(Exception):
    """The work is somebody else's by now: what was done in its name in this transaction must not stay."""


class GiveUp(Exception):
    """Raised by a handler: trying again cannot help. `code` and `category` stand in the dead letter."""

    def __init__(self, message: str, *, code: str, category: Category) -> None:
        super().__init__(message)
        self.code = code
        self.category = category
