"""After a restore the next release is newer than what workers have, and the record says what is gone."""

import json

import pytest
from django.core.management import CommandError, call_command

from controlplane.audit.models import AuditEvent
from controlplane.releases.errors import NothingToResume
from controlplane.releases.operations import current_release, resume_after_restore
from controlplane.releases.signing import signing_key
from dataplane.release import Envelope, parse_document, parse_trusted_keys, sign, verify
from tests.factories import NOW, crew, make_tenant

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]


def later(revision, *, key=None):
    """The envelope of a release that was cut after the backup, as a worker keeps it."""
    document = {**current_release().content, "revision": revision, "audit_head": {"seq": 4711, "hash": "a" * 64}}
    return sign(document, key or signing_key())


def seen(revision):
    envelope = later(revision)
    return parse_document(json.loads(envelope.document), digest=envelope.digest)


def test_next_release_is_newer_than_what_workers_have_although_nothing_changed():
    """They would refuse every other; what it carries is what the restored database says."""
    before = current_release()

    release = resume_after_restore(seen=seen(before.revision + 40), actor=crew.admin, reason="disk died", now=NOW)

    assert release.revision == before.revision + 41
    assert release.content["sections"] == before.content["sections"]
    assert current_release() == release


def test_record_says_what_is_gone():
    """How far the restored record reached, and the head that the lost release carried."""
    before = current_release()

    resume_after_restore(seen=seen(before.revision + 1), actor=crew.admin, reason="disk died", now=NOW)

    event = AuditEvent.objects.get(action="release.resumed")
    assert event.target == f"release:{before.revision + 1}"
    assert event.data["restored_revision"] == before.revision
    assert event.data["lost_head"] == {"seq": 4711, "hash": "a" * 64}


def test_nothing_is_resumed_where_nothing_was_lost():
    """A mistake changes nothing."""
    before = current_release()

    with pytest.raises(NothingToResume, match=f"r{before.revision} is current"):
        resume_after_restore(seen=seen(before.revision), actor=crew.admin, reason="disk died", now=NOW)

    assert current_release() == before


@pytest.fixture
def keys(tmp_path):
    """Whom workers trust."""
    from launcher.keys import keep_signing_key

    path = tmp_path / "trusted-keys.json"
    keep_signing_key(tmp_path / "other.pem", path)
    from django.conf import settings

    keep_signing_key(settings.SIGNING_KEY_FILE, path)
    return path


def run(path, keys, **more):
    call_command(
        "resume_after_restore", release_file=[path], trusted_keys=keys, actor="admin", reason="disk died", **more
    )


def test_command_takes_the_files_of_workers(tmp_path, keys, capsys):
    """The newest of them counts; --dry-run changes nothing, and says in what users go back."""
    path = tmp_path / "release.json"
    lost = later(current_release().revision + 7)
    path.write_text(lost.to_json())
    make_tenant("forgotten")  # whom the backup has, and nobody any more in what was lost
    before = current_release()

    run(path, keys, dry_run=True)
    unchanged, said = current_release(), capsys.readouterr().out
    run(path, keys)

    assert "differs from what they have in: access\n" in said
    assert unchanged == before
    release = current_release()
    assert release.revision == json.loads(lost.document)["revision"] + 1
    held = verify(Envelope.from_json(path.read_bytes()), trusted=parse_trusted_keys(keys.read_bytes()), current=None)
    # A worker that has the lost one takes it.
    assert verify(release.envelope(), trusted=parse_trusted_keys(keys.read_bytes()), current=held) is not held


def test_command_believes_no_file_that_is_not_signed(tmp_path, keys):
    """Anybody could have it skip revisions."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = tmp_path / "release.json"
    path.write_text(later(current_release().revision + 7, key=Ed25519PrivateKey.generate()).to_json())

    with pytest.raises(CommandError, match="is no release"):
        run(path, keys)
