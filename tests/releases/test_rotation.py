"""The signing key is rotated in steps, each of which waits for whoever needs the one before it."""

import shutil
from datetime import timedelta
from io import StringIO

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from django.conf import settings as configured
from django.core.management import CommandError, call_command
from django.db import DatabaseError, transaction
from django.utils import timezone

from controlplane.audit.models import AuditEvent
from controlplane.releases import rotation
from controlplane.releases.errors import RotationRefused
from controlplane.releases.models import Release, TrustStatement, Worker
from controlplane.releases.operations import current_release
from controlplane.releases.signing import signing_key_id
from controlplane.releases.trust import dependants_of, keys_of_the_past, trust
from controlplane.telemetry.models import LadderOrder
from dataplane.ladder.emergency import read_order
from dataplane.release import Envelope, UnknownKey, key_id_of, parse_trusted_keys, verify
from dataplane.trust import follow
from tests.factories import NOW, make_deployment
from tests.ladder.ladder_policies import make_ladder, make_words

pytestmark = pytest.mark.django_db

WORKERS = ("h1/agent", "h1/gateway-0", "h1/shadow")


@pytest.fixture(autouse=True)
def keys(settings, tmp_path):
    """Key files of this test's own, beginning with the ones that every test has."""
    for name in ("SIGNING_KEY_FILE", "TRUSTED_KEYS_FILE"):
        kept = getattr(settings, name)
        shutil.copy(kept, tmp_path / kept.name)
        setattr(settings, name, tmp_path / kept.name)
    make_deployment()
    return tmp_path


def hear(*names, release=None, at=NOW):
    """Workers say that they took the current release, or another."""
    release = release or current_release()
    for name in names:
        row, _ = Worker.objects.get_or_create(
            name=name,
            defaults={
                "kind": name.partition("/")[2].partition("-")[0],
                "host": "h1",
                "pid": 1,
                "boot": "b",
                "status": "serving",
                "started_at": NOW,
                "last_seen_at": at,
            },
        )
        Worker.objects.filter(pk=row.pk).update(revision=release.revision, digest=release.digest, last_seen_at=at)


def act(step, **facts):
    return step(actor="ballast", now=NOW, **facts)


def as_host_that_was_there():
    """What a host believes that began with the trusted keys file and heard the newest release."""

    envelopes = [Envelope.from_mapping(one) for one in current_release().content["sections"]["trust"]["statements"]]
    return follow(parse_trusted_keys(configured.TRUSTED_KEYS_FILE.read_bytes()), envelopes)


def test_rotation_from_end_to_end():
    """Each step cuts a release that every host accepts which took the ones before it; then the old key is nobody's."""
    old = signing_key_id()
    hear(*WORKERS)

    new = act(rotation.announce)
    announced = current_release()
    hear(*WORKERS)
    act(rotation.switch)
    switched = current_release()
    hear(*WORKERS)
    gone = act(rotation.retire)
    retired = current_release()

    assert (announced.key_id, switched.key_id, retired.key_id, gone) == (old, new, new, (old,))
    assert set(as_host_that_was_there().keys) == {new}
    assert [event.action for event in AuditEvent.objects.filter(action__startswith="signing_key").order_by("seq")] == [
        "signing_key.announced",
        "signing_key.switched",
        "signing_key.retired",
    ]
    assert not rotation.next_key_file().exists()
    assert not rotation.old_key_file().exists()
    with pytest.raises(UnknownKey):
        verify(announced.envelope(), trusted=as_host_that_was_there().keys, current=None)


def test_nobody_switches_before_every_worker_has_heard():
    """It names them; who is gone for good is named by whoever knows that."""
    hear(*WORKERS)
    act(rotation.announce)
    hear("h1/agent", "h1/shadow")

    with pytest.raises(RotationRefused, match=r"h1/gateway-0 has not taken r\d+.*--without"):
        act(rotation.switch)
    assert current_release().key_id == signing_key_id()
    act(rotation.switch, without=["h1/gateway-0"])

    assert current_release().key_id == signing_key_id()


@pytest.mark.parametrize(("status", "age"), [("stopped", timedelta(0)), ("serving", timedelta(hours=25))])
def test_worker_that_stopped_or_is_long_gone_is_not_waited_for(status, age):
    """It asks how keys changed when it is back."""
    hear(*WORKERS)
    Worker.objects.filter(name="h1/gateway-0").update(status=status, last_seen_at=NOW - age)
    act(rotation.announce)
    hear("h1/agent", "h1/shadow")

    act(rotation.switch)


def test_key_is_not_retired_before_it_was_replaced_and_everybody_took_the_replacement():
    """What the new one signed has to be served first."""
    hear(*WORKERS)
    with pytest.raises(RotationRefused, match="there is no old key"):
        act(rotation.retire)
    act(rotation.announce)
    hear(*WORKERS)
    act(rotation.switch)
    switched = current_release().revision

    with pytest.raises(RotationRefused) as refused:
        act(rotation.retire)

    assert [f"{name} has not taken r{switched}" in str(refused.value) for name in WORKERS] == [True] * 3
    assert len(trust().keys) == 2


def test_rung_that_is_engaged_on_a_host_keeps_the_old_key():
    """Its order may be signed with it: retired, the rung would stand down in the middle of an emergency."""
    hear(*WORKERS)
    act(rotation.announce)
    hear(*WORKERS)
    act(rotation.switch)
    hear(*WORKERS)
    until = NOW + timedelta(minutes=30)
    LadderOrder.objects.create(
        name="emergency-chat-6-aa",
        surface="chat",
        rung=6,
        at=NOW,
        until=until,
        reason="r",
        by="x",
        worker="h1/g",
        last_seen_at=NOW,
    )

    with pytest.raises(RotationRefused, match="order emergency-chat-6-aa is in force on a host until 12:30:00"):
        act(rotation.retire)
    rotation.retire(actor="ballast", now=until, without=WORKERS)

    assert len(trust().keys) == 1


def test_orders_for_emergencies_are_signed_anew_with_the_switch():
    """An order that hosts are given afterwards needs the new key alone."""
    make_words()
    make_ladder()
    hear(*WORKERS)
    act(rotation.announce)
    hear(*WORKERS)
    new = act(rotation.switch)

    orders = [one for rungs in current_release().content["sections"]["emergency"].values() for one in rungs.values()]
    assert orders
    for one in orders:
        read_order(Envelope.from_mapping(one), trusted={new: trust().keys[new]})


def test_next_key_may_be_brought_along(keys):
    """Where keys come from a vault, somebody puts it there; it is neither made nor overwritten."""
    made = Ed25519PrivateKey.generate()
    rotation.next_key_file().write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    assert act(rotation.announce) == key_id_of(made.public_key())
    assert rotation.next_key_file().stat().st_mode & 0o777 in {0o644, 0o600}


def test_key_that_is_made_is_readable_by_its_owner_only():
    """As the first one is."""
    act(rotation.announce)

    assert rotation.next_key_file().stat().st_mode & 0o777 == 0o600


def test_steps_may_be_repeated_after_a_crash():
    """Announcing twice is announcing once; files that changed places without a release get theirs."""
    hear(*WORKERS)
    first, second = act(rotation.announce), act(rotation.announce)
    hear(*WORKERS)
    rotation._change_places()
    before = Release.objects.count()

    act(rotation.switch)

    with pytest.raises(RotationRefused, match="no key is announced"):
        act(rotation.switch)
    assert first == second == signing_key_id()
    assert TrustStatement.objects.count() == 1
    assert Release.objects.count() == before + 1
    assert current_release().key_id == first


def test_no_second_rotation_begins_inside_the_first():
    """Nobody loses track of which key is which."""
    hear(*WORKERS)
    act(rotation.announce)
    hear(*WORKERS)
    act(rotation.switch)

    with pytest.raises(RotationRefused, match="still believed; retire it first"):
        act(rotation.announce)


def test_retired_key_never_comes_back(keys):
    """Not even by the file that it lay in."""
    old = settings_key()
    hear(*WORKERS)
    rotate()
    rotation.next_key_file().write_bytes(old)

    with pytest.raises(RotationRefused, match="was retired, and no host will ever believe it again"):
        act(rotation.announce)


def test_what_a_key_signed_before_it_was_retired_is_still_believed_here(keys, settings):
    """Dumps and reports outlive keys, also when nobody's file has the old one any more."""
    old = signing_key_id()
    hear(*WORKERS)
    rotate()
    settings.TRUSTED_KEYS_FILE.unlink()

    assert old in keys_of_the_past()
    assert old not in trust().keys


def test_compromised_key_is_replaced_at_once(keys):
    """Nobody is waited for; what it signed is believed by nobody any more, the past neither."""
    old = signing_key_id()
    hear(*WORKERS)
    before = current_release().revision

    was, new = rotation.replace_compromised(actor="ballast", reason="laptop stolen", now=NOW)

    assert (was, new) == (old, signing_key_id())
    assert [row.key_id for row in Release.objects.filter(revision__gt=before).order_by("revision")] == [old, new]
    assert set(as_host_that_was_there().keys) == {new}
    assert old not in keys_of_the_past()
    assert AuditEvent.objects.get(action="signing_key.compromised").data["reason"] == "laptop stolen"


def test_new_key_that_is_compromised_in_the_middle_of_a_rotation_is_replaced_all_the_same():
    """The one before it still signs nothing, and is retired in its own time."""
    first = signing_key_id()
    hear(*WORKERS)
    act(rotation.announce)
    hear(*WORKERS)
    second = act(rotation.switch)

    was, third = rotation.replace_compromised(actor="ballast", reason="r", now=NOW)

    assert (was, third) == (second, signing_key_id())
    assert set(as_host_that_was_there().keys) == {first, third}
    assert current_release().key_id == third


@pytest.mark.parametrize("which", ["next", "old"])
def test_key_that_does_not_sign_is_disowned_without_another(which):
    """Its private half is gone from here, too; nobody who signs now is touched."""
    hear(*WORKERS)
    first = signing_key_id()
    following = act(rotation.announce)
    if which == "old":
        hear(*WORKERS)
        act(rotation.switch)
    gone, stays = (following, first) if which == "next" else (first, following)

    assert rotation.replace_compromised(actor="ballast", reason="r", now=NOW, key_id=gone) == (gone, stays)
    assert set(as_host_that_was_there().keys) == {stays}
    assert gone not in keys_of_the_past()
    assert not rotation.next_key_file().exists()
    assert not rotation.old_key_file().exists()
    with pytest.raises(RotationRefused, match=f"no host believes {gone}"):
        rotation.replace_compromised(actor="ballast", reason="r", now=NOW, key_id=gone)


def test_statements_are_for_ever():
    """A statement that was changed or removed would not be one that hosts have."""
    act(rotation.announce)

    for write in (lambda: TrustStatement.objects.update(actor="x"), lambda: TrustStatement.objects.all().delete()):
        with pytest.raises(DatabaseError), transaction.atomic():
            write()


def test_command_says_where_it_stands_and_what_is_in_the_way(keys):
    """Step by step, in words."""
    old = signing_key_id()
    hear(*WORKERS, at=timezone.now())

    def say(*arguments):
        out = StringIO()
        call_command("rotate_signing_key", *arguments, stdout=out)
        return out.getvalue()

    begun = say("begin")
    status = say("status")
    with pytest.raises(CommandError, match="has not taken"):
        say("switch", "--without", "h1/agent")
    switched = say("switch", *(part for name in WORKERS for part in ("--without", name)))
    with pytest.raises(CommandError, match="say why with --reason"):
        say("compromised")
    new = signing_key_id()

    assert f"Key {new} is announced" in begun
    assert f"signs now:   {old}" in status
    assert "h1/gateway-0" in status
    assert f"signed with {new} from now on" in switched
    assert new in switched.partition("hold")[2]


def test_nothing_depends_on_a_key_that_nothing_was_asked_with():
    """Every app that registered is asked, and has nothing."""
    assert dependants_of("ab" * 8, switched_at=NOW, now=NOW) == []


def settings_key():

    return configured.SIGNING_KEY_FILE.read_bytes()


def rotate():
    act(rotation.announce)
    hear(*WORKERS)
    act(rotation.switch)
    hear(*WORKERS)
    act(rotation.retire)
    hear(*WORKERS)
