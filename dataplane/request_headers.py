"""What callers ask for in the headers of a request: as work of which class it is done, and how long it may take. Pure.

Every refusal names the header.
"""

from __future__ import annotations

from dataplane.errors.requests import InvalidRequest
from dataplane.quota import INTERACTIVE, WORKLOADS, Workload
from dataplane.routing import MAX_DEADLINE_MS


def read_workload(header: str | None) -> Workload:
    """Return the class of the request: interactive unless the caller says batch.

    Raises:
        InvalidRequest: the header says something else.
    """
    if header is None:
        return INTERACTIVE
    for workload in WORKLOADS:
        if header == workload:
            return workload
    raise InvalidRequest(
        f"ballast-class is {header[:40]!r}; send interactive or batch, or leave it out", param="ballast-class"
    )


def check_queue(header: str | None) -> None:
    """Return if the caller asks to be told of its place in the queue as comments, or does not ask.

    Raises:
        InvalidRequest: the header says something else.
    """
    if header not in (None, "comments"):
        raise InvalidRequest("ballast-queue asks for comments, or is left out", param="ballast-queue")


def check_later(header: str | None) -> None:
    """Return if the caller takes the promise of an answer for one whatever it asked for, or does not say so.

    Raises:
        InvalidRequest: the header says something else.
    """
    if header not in (None, "accept"):
        raise InvalidRequest("ballast-later says accept, or is left out", param="ballast-later")


def read_deadline(header: str | None, *, default_ms: int) -> float:
    """Return how long the request may take, in milliseconds: what the caller says, else the route's figure.

    Raises:
        InvalidRequest: the header is no number between 1 and MAX_DEADLINE_MS.
    """
    if header is None:
        return default_ms
    try:
        value = float(header)
    except ValueError:
        value = 0.0
    if not 1 <= value <= MAX_DEADLINE_MS:
        raise InvalidRequest(
            f"ballast-deadline-ms is {header[:40]!r}; send milliseconds from 1 to {MAX_DEADLINE_MS}",
            param="ballast-deadline-ms",
        )
    return value
