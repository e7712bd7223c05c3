"""What the release, or the state of this worker and of its lanes, does not allow."""

from __future__ import annotations

from collections.abc import Mapping

from dataplane.errors import GatewayError


class NoRelease(GatewayError):
    """This worker holds no verified release yet, so it can admit nobody."""

    code = "no_release"

    def __init__(self) -> None:
        super().__init__("this worker holds no verified release yet; retry at another worker")


class NoEligibleLane(GatewayError):
    """Every lane of the route is excluded. `excluded` maps each lane id, in route order, to the reason."""

    code = "no_eligible_lane"

    def __init__(self, route: str, *, excluded: Mapping[str, str]) -> None:
        reasons = "; ".join(f"{lane!r}: {reason}" for lane, reason in excluded.items())
        super().__init__(f"route {route!r} has no lane for this request ({reasons})")
        self.route = route
        self.excluded = dict(excluded)


class BreakerOpen(GatewayError):
    """The breaker of a lane lets nothing through now. `open_seconds` None: an operator holds it open."""

    code = "circuit_open"

    def __init__(self, lane: str, *, open_seconds: float | None, forced: bool = False) -> None:
        if open_seconds is None:
            fact = "is held open by an operator; let it go, or route around it"
        elif open_seconds > 0:
            fact = f"is open for {open_seconds:.1f} s more; retry later or add a fallback to its route"
        else:
            fact = "is being probed by other requests; retry in a moment"
        super().__init__(f"lane {lane!r} {fact}")
        self.lane = lane
        self.open_seconds = open_seconds
        self.forced = forced


class NoLaneLeft(GatewayError):
    """Every lane that may serve the request is held back by its breaker, and nothing below answered.

    `held_back` maps each lane, in the order of the route, to the reason; `retry_after_seconds` is when the first of
    them is tried again, None when nobody can say.
    """

    code = "circuit_open"

    def __init__(self, route: str, *, held_back: Mapping[str, BreakerOpen]) -> None:
        reasons = "; ".join(error.message for error in held_back.values())
        super().__init__(f"route {route!r} has no lane left: {reasons}")
        self.route = route
        self.held_back = dict(held_back)
        waits = [error.open_seconds for error in held_back.values() if error.open_seconds is not None]
        self.retry_after_seconds = min(waits, default=None)


class QuotaExhausted(GatewayError):
    """What an account is admitted by its provider is used up, and to wait for more takes longer than the request may.

    `position` counts who goes before, this one included; it and `eta_seconds` are None while nobody can say.
    """

    code = "quota_exhausted"

    def __init__(
        self,
        *,
        account: str,
        policy: str,
        position: int | None,
        eta_seconds: float | None,
        waited_seconds: float,
        allowed_seconds: float,
    ) -> None:
        if eta_seconds is None:
            fact = f"nothing came free in {waited_seconds:.1f} s"
        else:
            fact = f"place {position} in the queue, about {eta_seconds:.1f} s to go"
        super().__init__(
            f"account {account!r} is at its limit (quota policy {policy!r}): {fact}, and this request may wait "
            f"{allowed_seconds:.1f} s; retry later, raise ballast-deadline-ms, or send it as a job"
        )
        self.account = account
        self.policy = policy
        self.position = position
        self.eta_seconds = eta_seconds
        self.waited_seconds = waited_seconds
        self.allowed_seconds = allowed_seconds
        self.retry_after_seconds = eta_seconds
        self.members = {"position": position, "eta_seconds": None if eta_seconds is None else round(eta_seconds, 2)}


class Draining(GatewayError):
    """This worker is stopping: it finishes what it has and admits nothing new."""

    code = "maintenance"

    def __init__(self) -> None:
        super().__init__("this worker is draining; retry at another worker")


class DeadlineExceeded(GatewayError):
    """The caller's or the route's deadline passed before there was an answer."""

    code = "deadline_exceeded"

    def __init__(self, *, deadline_ms: float, stage: str) -> None:
        super().__init__(
            f"the deadline of {deadline_ms:.0f} ms passed during {stage}; raise ballast-deadline-ms or retry"
        )
        self.deadline_ms = deadline_ms
        self.stage = stage
