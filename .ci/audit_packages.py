"""Hold every installed package against the advisories that the package index knows.

`make check` runs it. A known vulnerability fails unless `known-vulnerabilities.toml` beside this file lists it with the
reason why it does not concern us and until when that is believed. A package that the service says nothing about was not
audited, and that fails, too: BALLAST_OFFLINE=1 is for machines that cannot reach it, and is said aloud.
"""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

LISTED = Path(__file__).with_name("known-vulnerabilities.toml")
# With us, not from anywhere: the environment's own tools are the machine's.
OWN = frozenset({"pip", "setuptools"})
SECONDS = 600


@dataclass(frozen=True, slots=True)
class Known:
    """A vulnerability that somebody looked at: why it does not concern us, and until when that is believed."""

    id: str
    package: str
    reason: str
    until: date


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is to be said, a line each, and whether the check has passed."""

    lines: tuple[str, ...]
    passed: bool


def read_known(text: str) -> list[Known]:
    """Read the list. Shape: [[vulnerability]] with id, package, reason, until.

    Raises:
        ValueError: an entry is not whole, or gives no reason.
    """
    found = []
    for entry in tomllib.loads(text).get("vulnerability", []):
        if set(entry) != {"id", "package", "reason", "until"} or not isinstance(entry["until"], date):
            raise ValueError(f"{entry!r} is not id, package, reason and until (a date)")
        if not str(entry["reason"]).strip():
            raise ValueError(f"{entry['id']} is listed without a reason")
        found.append(Known(entry["id"], entry["package"], entry["reason"], entry["until"]))
    return found


def judge(packages: Sequence[Mapping[str, Any]], known: Sequence[Known], *, today: date, is_offline: bool) -> Judgement:
    """What follows from pip-audit's report.

    Args:
        packages: Its `dependencies`: each with name, and version and vulns, or skip_reason.
    """
    by_id = {(one.package.lower(), one.id): one for one in known}
    lines, failed, met = [], False, set()
    for package in packages:
        for flaw in package.get("vulns", ()):
            ids = [flaw["id"], *flaw.get("aliases", ())]
            listed = next((by_id[key] for one in ids if (key := (package["name"].lower(), one)) in by_id), None)
            fixed = ", ".join(flaw.get("fix_versions", ())) or "no version yet"
            what = f"{package['name']} {package['version']}: {flaw['id']}, fixed in {fixed}"
            if listed is None:
                failed = True
                lines.append(f"VULNERABLE {what}; raise the pin, or say in {LISTED.name} why it does not concern us")
                continue
            met.add(listed)
            if listed.until < today:
                failed = True
                lines.append(f"VULNERABLE {what}; it was listed until {listed.until}: look again")
            else:
                lines.append(f"known {what}; {listed.reason} (until {listed.until})")
    skipped = [one["name"] for one in packages if "skip_reason" in one and one["name"] not in OWN]
    audited = len(packages) - len(skipped)
    if skipped or not packages:
        named = ", ".join(skipped[:5]) + (f" and {len(skipped) - 5} more" if len(skipped) > 5 else "")
        lines.append(f"NOT AUDITED: the service says nothing about {named or 'any package'}")
        lines.append(
            "BALLAST_OFFLINE=1: passed all the same; run `make audit` where the service can be reached"
            if is_offline
            else "set BALLAST_OFFLINE=1 where it cannot be reached, and run `make audit` where it can"
        )
        failed = failed or not is_offline
    else:
        lines += [f"{one.package} {one.id} is listed, and not found any more" for one in known if one not in met]
    lines.append(f"{audited} packages audited")
    return Judgement(tuple(lines), not failed)


def main() -> int:
    """Ask, judge, say it; 0 if it passed."""
    is_offline = os.environ.get("BALLAST_OFFLINE", "") == "1"
    known = read_known(LISTED.read_text())
    asked = [sys.executable, "-m", "pip_audit", "-s", "pypi", "--progress-spinner", "off", "--format", "json"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=SECONDS, check=False)  # noqa: S603 - ours
        packages = json.loads(said.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError) as exc:
        print(f"pip-audit gave no report: {type(exc).__name__}", file=sys.stderr)
        packages = []
    found = judge(packages, known, today=datetime.now(UTC).date(), is_offline=is_offline)
    print("\n".join(found.lines))
    return 0 if found.passed else 1


if __name__ == "__main__":
    sys.exit(main())
