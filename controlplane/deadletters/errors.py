"""Why an operation on dead letters was refused."""

from uuid import UUID


class DeadLetterError(Exception):
    """An operation on dead letters was refused; nothing was changed."""

    code = "dead_letter_refused"


class LetterMoved(DeadLetterError):
    """The letter does not stand where the operation starts from (any more)."""

    code = "letter_moved"

    def __init__(self, letter: UUID, *, state: str, event: str) -> None:
        super().__init__(f"dead letter {letter} is {state}, from where it cannot be {event}; look at it again")
        self.letter = letter
        self.state = state


class PayloadPurged(DeadLetterError):
    """The letter's payload is gone, so nobody can read it, or hand its work in again."""

    code = "payload_purged"

    def __init__(self, letter: UUID) -> None:
        super().__init__(f"the payload of dead letter {letter} is purged; what it said is not kept anywhere")
        self.letter = letter


class NotHeld(DeadLetterError):
    """Nobody holds the letter."""

    code = "not_held"

    def __init__(self, letter: UUID) -> None:
        super().__init__(f"dead letter {letter} is not held; there is nothing to release")
        self.letter = letter


class HeldAlready(DeadLetterError):
    """Somebody holds the letter."""

    code = "held_already"

    def __init__(self, letter: UUID, *, by: str) -> None:
        super().__init__(f"dead letter {letter} is held by {by!r}; one hold is released before the next begins")
        self.letter = letter
        self.by = by


class HoldInThePast(DeadLetterError):
    """The hold would be over before it begins."""

    code = "hold_in_the_past"

    def __init__(self) -> None:
        super().__init__("the hold would end before it begins; name a later moment, or none")


class NoReason(DeadLetterError):
    """What is done to other people's data is done for a reason that stands in the record."""

    code = "no_reason"

    def __init__(self) -> None:
        super().__init__("no reason is given; say why, for the audit record")


class BadRetention(DeadLetterError):
    """The rule is none: it names an unknown tenant or category, or too many days."""

    code = "bad_retention"


class NoSubject(DeadLetterError):
    """Nobody's data can be erased: who is not said."""

    code = "no_subject"

    def __init__(self) -> None:
        super().__init__("a data subject is a user of a tenant; name both")


class BadEdit(DeadLetterError):
    """The edit is none, or makes no request of what it is for; the message says why."""

    code = "bad_edit"


class BadPlan(DeadLetterError):
    """The plan would be none: it names no letter, or too many, or numbers out of range."""

    code = "bad_plan"


class PlanMoved(DeadLetterError):
    """The plan does not stand where the operation starts from (any more)."""

    code = "plan_moved"

    def __init__(self, title: str, *, state: str, event: str) -> None:
        super().__init__(f"the redrive of {title} is {state}; it cannot be {event} from there; look at it again")
        self.state = state


class NothingWouldRun(DeadLetterError):
    """The dry run found no letter whose work could be done."""

    code = "nothing_would_run"

    def __init__(self, title: str) -> None:
        super().__init__(f"of {title}, no letter's work would run now; see why on the plan, then dry-run it again")


class NeedsSignOff(DeadLetterError):
    """What has tools, or is edited, is never handed in again on one person's word, whatever the policy asks for."""

    code = "needs_sign_off"

    def __init__(self, title: str, *, why: str) -> None:
        super().__init__(f"the redrive of {title} {why}: somebody other than its author signs it off first")
