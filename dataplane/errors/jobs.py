"""Work that may wait."""

from __future__ import annotations

from dataplane.errors import GatewayError


class JobNotFound(GatewayError):
    """The tenant has no such job."""

    code = "job_not_found"

    def __init__(self, job: str) -> None:
        super().__init__(f"job {job[:64]!r} does not exist; POST /v1/jobs gives the id of each")
        self.job = job


class JobErased(GatewayError):
    """What the job asked and what it was answered were erased on purpose; nothing brings them back."""

    code = "job_erased"

    def __init__(self, job: str) -> None:
        super().__init__(
            f"the words of job {job[:64]!r} were erased, as the data of the user whom it was for; do not ask again"
        )
        self.job = job


class JobQueueFull(GatewayError):
    """The tenant has as many jobs in the queue as one may have."""

    code = "job_queue_full"

    def __init__(self, *, limit: int) -> None:
        super().__init__(f"{limit} jobs of yours are queued, the most that may be; hand in more when some have ended")
        self.limit = limit
        self.members = {"limit": limit}


class JobsUnavailable(GatewayError):
    """Jobs can neither be stored nor looked up now; nothing was accepted. `reason` says why."""

    code = "jobs_unavailable"

    def __init__(self, reason: str) -> None:
        super().__init__(f"jobs cannot be stored or looked up now: {reason}; nothing was accepted, retry in a moment")
        self.reason = reason


class JobTokenRefused(GatewayError):
    """What a runner shows for a job is not signed by a key of this gateway, has expired, or is for something else."""

    code = "job_token_refused"

    def __init__(self) -> None:
        super().__init__(
            "the token is for another job, has expired, or was signed with another key; runners and gateways share "
            "the file BALLAST_CURSOR_KEYS_FILE"
        )
