"""What a caller asks of the state that it reads: whatever there is, at least its own write, exactly a snapshot, or no
older than so much. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dataplane.errors.requests import InvalidRequest
from dataplane.retrieval.tables import Snapshot, read_token

MEMBERS: Final = ("at_least", "snapshot", "max_lag_seconds")
MAX_LAG_SECONDS: Final = 366 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Mode:
    """At most one is given; none of them: whatever there is, as long as the corpus' policy has it.

    Attributes:
        at_least: The number of an accepted change: it, and all that was accepted before, must be searchable.
        snapshot: Exactly this.
        max_lag_seconds: The oldest change that is not searchable may be so old, if the policy has not less.
    """

    at_least: int | None = None
    snapshot: Snapshot | None = None
    max_lag_seconds: float | None = None

    @property
    def name(self) -> str:
        """As it is told: any, at_least, snapshot or max_lag."""
        if self.at_least is not None:
            return "at_least"
        if self.snapshot is not None:
            return "snapshot"
        return "any" if self.max_lag_seconds is None else "max_lag"


ANY: Final = Mode()


def read_mode(fields: Mapping[str, Any], *, path: str = "") -> Mode:
    """Read the members MEMBERS of a request, of which at most one may be given and not null.

    Shape: {"at_least": consistency token} | {"snapshot": name} | {"max_lag_seconds": number >= 0} | {}.
    Raises:
        InvalidRequest: naming the member, after `path`.
    """
    given = {name: fields[name] for name in MEMBERS if fields.get(name) is not None}
    if len(given) > 1:
        first, second, *_ = given
        raise InvalidRequest(f"give {first!r} or {second!r}, not both", param=f"{path}{second}")
    for name, value in given.items():
        param = f"{path}{name}"
        if name == "max_lag_seconds":
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_LAG_SECONDS:
                raise InvalidRequest(f"{param}: expected seconds between 0 and {MAX_LAG_SECONDS}", param=param)
            return Mode(max_lag_seconds=float(value))
        if name == "snapshot":
            snapshot = Snapshot.read(value) if isinstance(value, str) else None
            if snapshot is None:
                raise InvalidRequest(
                    f"{param}: {str(value)[:80]!r} is no snapshot; send back what an answer named as its own",
                    param=param,
                )
            return Mode(snapshot=snapshot)
        token = read_token(value) if isinstance(value, str) else None
        if token is None:
            raise InvalidRequest(
                f"{param}: {str(value)[:80]!r} is no consistency token; send what the write was answered with",
                param=param,
            )
        return Mode(at_least=token)
    return ANY
