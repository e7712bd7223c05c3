"""Whom judges ask. The gateway's address and its tokens are somebody else's, who hands them in at start-up."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final

from controlplane.evals.errors import NobodyToAsk
from controlplane.evals.judges.values import Asker

# From where rows may go (empty: anywhere) and what they are asked for, to whoever asks until it is over.
Open = Callable[[Sequence[str], str], AbstractContextManager[Asker]]
_opens: Final[list[Open]] = []


def provide(open_asker: Open) -> None:
    """Have judges ask through this; the last one counts."""
    _opens.append(open_asker)


def withdraw(open_asker: Open) -> None:
    """Have them ask as before it was handed in."""
    _opens.remove(open_asker)


def is_provided() -> bool:
    """Whether anybody can be asked."""
    return bool(_opens)


def asking(residency: Sequence[str], *, purpose: str) -> AbstractContextManager[Asker]:
    """Somebody to ask within a residency, in the name of `purpose`, such as 'calibration-7'.

    Raises:
        NobodyToAsk: nobody was handed in.
    """
    if not _opens:
        raise NobodyToAsk("no gateway is set up for judges to ask; use a deterministic judge, or set one up")
    return _opens[-1](residency, purpose)
