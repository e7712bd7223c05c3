"""What stops the launcher, said in one line."""


class LauncherError(Exception):
    """The copy cannot start or go on; the message is the one line that a person reads, without credentials."""


class StopRequested(BaseException):
    """A signal asked the launcher to stop while it was still starting; not an error, so not an Exception."""
