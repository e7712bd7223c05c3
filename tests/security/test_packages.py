"""What comes from elsewhere: packages held against advisories, and files of other people that the console serves."""

import hashlib
import importlib.util
import re
import tomllib
from datetime import date
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VENDOR = ROOT / "static" / "vendor"
TODAY = date(2026, 3, 4)
FLAW = {"id": "PYSEC-2026-1", "aliases": ["CVE-2026-1"], "fix_versions": ["2.0"]}


@pytest.fixture(scope="module")
def audit():
    spec = importlib.util.spec_from_file_location("audit_packages", ROOT / ".ci" / "audit_packages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package(name="example", *, vulns=(), skipped=False):
    return {"name": name, "skip_reason": "not found"} if skipped else {"name": name, "version": "1", "vulns": [*vulns]}


def known(audit, *, id="CVE-2026-1", name="Example", until=TODAY):
    return audit.Known(id, name, "only its server", until)


def test_packages_without_advisories_pass(audit):
    """And it says how many were looked at."""
    found = audit.judge([package(), package("other")], [], today=TODAY, is_offline=False)

    assert (found.passed, found.lines) == (True, ("2 packages audited",))


def test_known_vulnerability_fails_and_says_what_fixes_it(audit):
    """Also where the machine is said to be offline: it was not."""
    for is_offline in (False, True):
        found = audit.judge([package(vulns=[FLAW])], [], today=TODAY, is_offline=is_offline)

        assert not found.passed
        assert "VULNERABLE example 1: PYSEC-2026-1, fixed in 2.0" in found.lines[0]


@pytest.mark.parametrize(("until", "passes"), [(TODAY, True), (date(2026, 3, 3), False)])
def test_listed_vulnerability_passes_until_its_date(audit, until, passes):
    """By any of its names; afterwards somebody looks again."""
    found = audit.judge([package(vulns=[FLAW])], [known(audit, until=until)], today=TODAY, is_offline=False)

    assert found.passed is passes


@pytest.mark.parametrize("entry", [{"id": "CVE-2026-2"}, {"name": "another"}])
def test_list_is_of_one_vulnerability_of_one_package(audit, entry):
    """Another one of the same package, or the same of another, is not meant."""
    assert not audit.judge([package(vulns=[FLAW])], [known(audit, **entry)], today=TODAY, is_offline=False).passed


@pytest.mark.parametrize("packages", [[], [package(), package("silent", skipped=True)]])
def test_what_was_not_audited_did_not_pass(audit, packages):
    """A service that cannot be reached knows no vulnerability either."""
    strict, offline = (audit.judge(packages, [], today=TODAY, is_offline=is_offline) for is_offline in (False, True))

    assert (strict.passed, offline.passed) == (False, True)
    assert any("NOT AUDITED" in line for line in offline.lines)


def test_entry_that_is_not_found_any_more_is_named(audit):
    """So that the list gets shorter again."""
    found = audit.judge([package()], [known(audit)], today=TODAY, is_offline=False)

    assert "Example CVE-2026-1 is listed, and not found any more" in found.lines


@pytest.mark.parametrize(
    "text",
    [
        '[[vulnerability]]\nid = "a"\npackage = "b"\nreason = ""\nuntil = 2026-01-01',
        '[[vulnerability]]\nid = "a"\npackage = "b"\nuntil = 2026-01-01',
        '[[vulnerability]]\nid = "a"\npackage = "b"\nreason = "c"\nuntil = "never"',
    ],
)
def test_list_without_reason_or_date_is_refused(audit, text):
    """Nothing is waved through."""
    with pytest.raises(ValueError, match=r"without a reason|is not id"):
        audit.read_known(text)


def test_list_that_is_kept_is_one(audit):
    """It is read at each check."""
    assert isinstance(audit.read_known((ROOT / ".ci" / "known-vulnerabilities.toml").read_text()), list)


def test_every_version_is_pinned():
    """What is audited is what is installed."""
    for name in ("requirements.txt", "requirements-dev.txt"):
        lines = [line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
        loose = [line for line in lines if line and not line.startswith("-r ") and not re.search(r"==[\w.]+$", line)]

        assert loose == []


def test_vendored_files_are_those_that_were_listed():
    """Each package with version, licence and source, each file with its digest: none more, none less, none altered."""
    listed = tomllib.loads((VENDOR / "vendored.toml").read_text())["package"]

    found = {}
    for one in listed:
        folder = VENDOR / f"{one['name']}-{one['version']}"
        assert one["licence"]
        assert one["source"]
        assert (folder / "LICENSE").is_file()
        found |= {f"{folder.name}/{name}": digest for name, digest in one["files"].items()}
    on_disk = {
        path.relative_to(VENDOR).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.rglob("*")
        if path.is_file() and path.parent != VENDOR
    }

    assert found == on_disk


def test_pages_load_vendored_files_that_exist():
    """At the version that is listed."""
    folders = {path.name for path in VENDOR.iterdir() if path.is_dir()}
    sources = [*(ROOT / "templates").rglob("*.html"), *(ROOT / "static" / "css").glob("*.css")]
    sources += [*(ROOT / "static" / "js").glob("*.js")]

    used = {name for file in sources for name in re.findall(r"vendor/([\w.-]+)/", file.read_text())}

    assert used
    assert used <= folders
