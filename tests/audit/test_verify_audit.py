from io import StringIO

import pgtrigger
import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection

from controlplane.releases.operations import current_release
from tests.factories import make_deployment

pytestmark = pytest.mark.django_db
TRUSTED = settings.DATA_DIR / "keys" / "trusted-keys.json"


@pytest.fixture(autouse=True)
def deployment():
    make_deployment()


def run(*arguments):
    """Return (exit status, stdout, stderr)."""
    out, err = StringIO(), StringIO()
    status = 0
    try:
        call_command("verify_audit", *map(str, arguments), stdout=out, stderr=err)
    except SystemExit as exc:
        status = exc.code
    return status, out.getvalue(), err.getvalue()


def truncate(after):
    with pgtrigger.ignore("audit.AuditEvent:append_only"), connection.cursor() as cursor:
        cursor.execute("DELETE FROM audit_auditevent WHERE seq > %s", [after])


def test_an_honest_record_exits_with_zero():
    """Count, head and anchors are printed; every release is an anchor."""
    status, out, err = run()

    assert (status, err) == (0, "")
    assert f"{current_release().revision} anchors checked, 0 findings" in out


def test_findings_are_named_and_exit_with_one():
    """A tail that was cut off is found by the releases that remember it."""
    truncate(after=5)

    status, out, err = run()

    assert status == 1
    assert "truncated" in err
    assert "5 events" in out


def test_a_release_file_finds_what_the_database_forgot(tmp_path):
    """Who empties both tables is found out by the signed release on a worker's disk."""
    release = current_release()
    path = tmp_path / "release.json"
    path.write_text(release.envelope().to_json())
    truncate(after=5)
    with pgtrigger.ignore("releases.Release:append_only"):
        type(release).objects.all().delete()

    assert run()[0] == 0
    status, _, err = run("--release-file", path, "--trusted-keys", TRUSTED)

    assert status == 1
    assert f"release.json (r{release.revision}) knows this event, the table does not" in err


@pytest.mark.parametrize(
    "spoil", [lambda text: text.replace("support", "retired"), lambda text: text[:100]], ids=["altered", "cut"]
)
def test_an_unsigned_anchor_is_refused(tmp_path, spoil):
    """A file that no trusted key signed proves nothing, so the command does not pretend that it did."""
    path = tmp_path / "release.json"
    path.write_text(spoil(current_release().envelope().to_json()))

    with pytest.raises(CommandError, match="is no anchor"):
        run("--release-file", path, "--trusted-keys", TRUSTED)


def test_a_release_file_needs_trusted_keys(tmp_path):
    """A signature checked against nothing is no signature."""
    with pytest.raises(CommandError, match="--trusted-keys"):
        run("--release-file", tmp_path / "release.json")
