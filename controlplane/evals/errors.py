"""Why a set, a judge or a calibration was refused."""

from collections.abc import Iterable


class EvalError(Exception):
    """An operation on evals was refused; nothing was changed."""

    code = "eval_refused"


class InvalidSet(EvalError):
    """The facts of a set do not go together, such as a residency outside its tenant's."""

    code = "invalid_set"


class BadRows(EvalError):
    """Rows cannot be read; `problems` lists (line, what is wrong there) for the form, line 0 being the whole file."""

    code = "bad_rows"

    def __init__(self, problems: Iterable[tuple[int, str]]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(f"line {line}: {what}" if line else what for line, what in self.problems))


class InvalidJudge(EvalError):
    """A judge cannot be asked as it is described; `path` is where, as a JSON path."""

    code = "invalid_judge"

    def __init__(self, path: str, fact: str) -> None:
        super().__init__(f"{path}: {fact}")
        self.path = path
        self.fact = fact


class SameJudge(EvalError):
    """A version of the judge with exactly these parameters exists; use that one."""

    code = "same_judge"

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class NothingToCalibrate(EvalError):
    """No row of the set version has an answer that somebody labelled for this judge."""

    code = "nothing_to_calibrate"


class AlreadyCalibrating(EvalError):
    """The same judge version is being calibrated on the same set version at this moment."""

    code = "already_calibrating"


class NobodyToAsk(EvalError):
    """The judge needs a route of the gateway, and nothing here can ask one."""

    code = "nobody_to_ask"


class NoAnswer(EvalError):
    """A route that a judge needs gave no answer; the judge then says nothing of that row. `why` is the gateway's code,
    or one of `asking`.
    """

    code = "no_answer"

    def __init__(self, message: str, *, why: str = "") -> None:
        super().__init__(message)
        self.why = why


# --- runs ------------------------------------------------------------------------------------------------------------
class UnknownSubject(EvalError):
    """There is no such lane or version of a prompt to ask, or not any more."""

    code = "unknown_subject"


class InvalidStandard(EvalError):
    """What answers to a set are to be held to does not go together; `path` is where."""

    code = "invalid_standard"

    def __init__(self, path: str, fact: str) -> None:
        super().__init__(f"{path}: {fact}")
        self.path = path
        self.fact = fact


class NoStandard(EvalError):
    """Nobody has said yet which judges look at answers to the set, and what they have to find."""

    code = "no_standard"


class NothingToAsk(EvalError):
    """No row of the set can be asked of this subject, such as messages of a managed prompt."""

    code = "nothing_to_ask"


class AlreadyRunning(EvalError):
    """The same subject is being asked the same rows, and held to the same, at this moment; `number` is the run's."""

    code = "already_running"

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class RunIsOver(EvalError):
    """The run has ended; what it found is fixed."""

    code = "run_is_over"


class NothingToRun(EvalError):
    """Every run that the change waits for is done or under way, or it waits for none."""

    code = "nothing_to_run"
