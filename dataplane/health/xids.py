"""NVIDIA's XIDs as a table: xids.toml beside this file says what each means and who can mend it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

BLAMES = frozenset({"application", "driver", "hardware", "bus"})
NEEDS = frozenset({"nothing", "reset", "drain", "replace"})


@dataclass(frozen=True, slots=True)
class Xid:
    """One row. `restart`: a restart of the container mends it. `needs`: what else, of NEEDS."""

    xid: int
    name: str
    means: str
    blame: str
    action: str
    restart: bool
    needs: str

    @property
    def finding(self) -> str:
        """The code of the finding that it makes."""
        if self.xid == 79:
            return "gpu_lost"
        if self.needs == "replace":
            return "remap_failed"
        if self.needs != "nothing":
            return "xid_reset"
        return "xid_application" if self.restart else "xid_noted"


@cache
def xid_table() -> dict[int, Xid]:
    """Return the table by number.

    Raises:
        ValueError: a row names a blame or a need that there is none of, or stands twice.
    """
    rows = tomllib.loads(files("dataplane.health").joinpath("xids.toml").read_text("utf-8"))["xid"]
    table = {row["xid"]: Xid(**row) for row in rows}
    if len(table) != len(rows):
        raise ValueError("an XID stands twice in xids.toml")
    for one in table.values():
        if one.blame not in BLAMES or one.needs not in NEEDS:
            raise ValueError(f"xid {one.xid}: blame {one.blame!r} or needs {one.needs!r} is none of the known ones")
    return table


def describe_xid(number: int) -> Xid:
    """Return the row of an XID; one that the table does not have is noted, and blamed on nobody in particular."""
    return xid_table().get(number) or Xid(
        number, "not in the table", "see NVIDIA's catalogue", "driver", "", False, "nothing"
    )
