"""Why a release was not cut or not returned to."""


class ReleaseError(Exception):
    """An operation on releases was refused; nothing was changed."""

    code = "release_refused"


class SigningKeyMissing(ReleaseError):
    """The signing key cannot be read; nothing can be released until it can."""

    code = "signing_key_missing"


class RotationRefused(ReleaseError):
    """The signing key cannot take this step now; the message says what stands in its way, a line each."""

    code = "rotation_refused"


class NothingToRollBack(ReleaseError):
    """The release is the current one, or its state is the current state."""

    code = "nothing_to_roll_back"


class UnservableRelease(ReleaseError):
    """What was decided does not make a release that workers would accept; nothing was changed."""

    code = "unservable_release"


class NothingToResume(ReleaseError):
    """What workers have seen is no newer than the current release."""

    code = "nothing_to_resume"
