"""The shape of the permission matrix: who gets which answer where.

Each row of a table is one method of one URL. Its three columns say what eight operators get, one letter each, in the
order of `WHO`:

    everywhere  the role granted on everything
    own         the role granted on one prompt and one tenant only, asking for those
    other       the same operators, asking for somebody else's

    +  gets through: any answer but 401, 403, 404 and 5xx; an empty body is often answered with 400, which will do
    -  is refused: 403
    .  is told that there is no such thing: 404
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from controlplane.accounts.roles import Role

WHO: tuple[Role | None, ...] = (
    Role.PROMPT_OWNER,
    Role.APPROVER,
    Role.ON_CALL,
    Role.EXEC,
    Role.LEGAL,
    Role.AUDITOR,
    Role.ADMIN,
    None,  # signed in, without any role
)


@dataclass(frozen=True, slots=True)
class Row:
    """One method of one URL.

    `arguments`: from a side of the world ('mine' or 'theirs') to the URL's arguments.
    `label`: tells rows for the same URL apart, such as a change of routing from a change of a prompt.
    """

    method: str
    name: str
    everywhere: str
    own: str
    other: str
    arguments: Callable[[Any], Mapping[str, Any]] = lambda side: {}
    body: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    def __str__(self) -> str:
        return f"{self.method} {self.name}" + (f" ({self.label})" if self.label else "")


@dataclass(frozen=True, slots=True)
class Table:
    """The rows for every URL whose view lives under `package`.

    `anonymous`: what nobody in particular gets; pages send them to the sign-in page, the API says 401.
    `public`: names of URLs that everybody may see, signed in or not; they need no row.
    """

    package: str
    rows: tuple[Row, ...]
    anonymous: int
    public: frozenset[str] = frozenset()
