"""Why an answer is not sent, now or at all."""

from dataplane.destinations import DeliveryState


class DeliveryError(Exception):
    """An operation was refused; nothing was changed."""

    code = "delivery_refused"


class NothingToSend(DeliveryError):
    """The delivery cannot be sent again: it is under way, or what it would bring is gone."""

    code = "nothing_to_send"

    def __init__(self, job: str, state: str) -> None:
        why = "it is under way" if state in (DeliveryState.WAITING, DeliveryState.DELIVERING) else "its words are gone"
        super().__init__(f"the answer of {job} cannot be sent again: {why}")
        self.job = job
        self.state = state


class Refused(Exception):
    """The receiver will never take it; `status` is 0 where it is not HTTP that says so."""

    def __init__(self, fact: str, *, status: int = 0) -> None:
        super().__init__(fact)
        self.status = status
