"""Why a change was not signed, applied or bypassed. Each names what is missing; nothing was changed."""


class ApprovalError(Exception):
    """An operation on a change request was refused."""

    code = "approval_refused"


class PolicyMissing(ApprovalError):
    """No rule of the active policy speaks of this kind of change: nobody could approve it, so it is refused."""

    code = "policy_missing"


class MalformedPolicy(ApprovalError):
    """The rules of a policy are not in the published shape; the message names the place."""

    code = "malformed_policy"


class ChangeClosed(ApprovalError):
    """The change request was applied, rejected or withdrawn before."""

    code = "change_closed"


class AlreadyOpen(ApprovalError):
    """An open change request asks for the same; `number` is its number."""

    code = "already_open"

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class Drifted(ApprovalError):
    """What the reviewer saw is no longer what would be applied; its sign-offs are void."""

    code = "drifted"


class NotAllowedToSign(ApprovalError):
    """The operator wrote part of the change, or does not hold the role they would sign as."""

    code = "not_allowed_to_sign"


class NotPrepared(ApprovalError):
    """Something has to be looked into before anybody approves the change; `unmet` says what, a sentence each."""

    code = "not_prepared"

    def __init__(self, message: str, unmet: tuple[str, ...]) -> None:
        super().__init__(message)
        self.unmet = unmet


class NotSeen(ApprovalError):
    """Something could not be found out about the change, and the approver did not say that they have seen that."""

    code = "not_seen"


class NotApproved(ApprovalError):
    """Sign-offs are missing; `missing` says how many from which role."""

    code = "not_approved"

    def __init__(self, message: str, missing: dict[str, int]) -> None:
        super().__init__(message)
        self.missing = missing


class DigestRejected(ApprovalError):
    """The same content was rejected before, and a rejection is remembered."""

    code = "digest_rejected"


class BreakGlassRefused(ApprovalError):
    """A bypass was refused: an unpaid debt, no effect that could lapse, or an empty reason or incident."""

    code = "break_glass_refused"
