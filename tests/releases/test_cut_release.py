import json

import pytest
from django.conf import settings
from django.db import DatabaseError, transaction

from controlplane.accounts.operations import change_tenant, create_tenant, issue_key
from controlplane.audit import operations as audit
from controlplane.audit.models import AuditEvent
from controlplane.releases import operations as releases
from controlplane.releases.errors import SigningKeyMissing, UnservableRelease
from controlplane.releases.models import Release
from controlplane.releases.operations import current_release, cut_release, publish_on_commit, push
from controlplane.releases.sections import all_sections
from controlplane.rollouts.operations import promote_canary
from dataplane.release import Envelope, parse_trusted_keys, verify
from tests.factories import EVERYBODY, NOW, SETUP, crew, make_deployment, make_tenant, run_canary, sign

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]


def trusted():
    return parse_trusted_keys((settings.DATA_DIR / "keys" / "trusted-keys.json").read_bytes())


def test_workers_accept_what_the_control_plane_cuts():
    """The stored bytes verify with the public key, parse, and follow each other."""
    run_canary(EVERYBODY)
    served = None

    for release in Release.objects.order_by("revision"):
        envelope = Envelope.from_json(release.envelope().to_json())
        served = verify(envelope, trusted=trusted(), current=served)

    assert served.revision == current_release().revision
    assert served.canary_for("support-answer").candidate == 2


def test_one_operation_is_one_release_with_every_reason():
    """Promotion moves what is live and ends the canary: workers never see the one without the other."""
    canary = run_canary(EVERYBODY)
    before = current_release().revision

    promote_canary(canary=canary, actor=crew.owner, now=NOW)

    release = current_release()
    assert release.revision == before + 1
    assert (
        release.content["sections"]["prompts"]["support-answer"]["live"],
        release.content["sections"]["canaries"],
    ) == (
        2,
        {},
    )


def test_reasons_of_nested_operations_are_joined_once():
    """An import that changes two tenants is one release that says so."""
    acme = make_tenant()
    before = current_release().revision

    @audit.operation
    def everything():
        change_tenant(tenant=acme, tier="vip", actor=SETUP, now=NOW)
        change_tenant(tenant=acme, tier="free", actor=SETUP, now=NOW)
        create_tenant(slug="globex", name="Globex", actor=SETUP, now=NOW)

    everything()

    assert current_release().revision == before + 1
    assert current_release().reason == "tenant acme changed; tenant globex created"


def test_nothing_new_is_no_release():
    """Publishing the state that is out already costs workers nothing."""
    make_deployment()
    before = current_release(), AuditEvent.objects.filter(action="release.cut").count()

    @audit.operation
    def publish():
        publish_on_commit(reason="again", actor=SETUP, now=NOW)

    publish()

    assert (current_release(), AuditEvent.objects.filter(action="release.cut").count()) == before


def test_a_failed_operation_leaves_no_release():
    """Neither the state, nor its release, nor an event of it."""
    tenant = make_tenant()
    before = current_release(), audit.head()

    @audit.operation
    def fail():
        issue_key(tenant=tenant, name="app", actor=SETUP, now=NOW)
        raise LookupError

    with pytest.raises(LookupError):
        fail()

    assert (current_release(), audit.head()) == before
    assert not tenant.api_keys.exists()


def test_an_operation_that_goes_on_after_a_failed_part_releases_what_is_left():
    """The part that failed is in no release, though it had asked for one."""
    tenant = make_tenant()

    @audit.operation
    def broken():
        issue_key(tenant=tenant, name="lost", actor=SETUP, now=NOW)
        raise LookupError

    @audit.operation
    def go_on():
        with pytest.raises(LookupError):
            broken()
        issue_key(tenant=tenant, name="kept", actor=SETUP, now=NOW)

    go_on()

    keys = current_release().content["sections"]["access"]["keys"]
    assert list(keys) == list(tenant.api_keys.values_list("secret_hash", flat=True))
    assert tenant.api_keys.get().name == "kept"


def test_the_release_carries_the_head_of_the_record():
    """Its own cutting included, so that a worker's disk proves the record up to there."""
    make_tenant()
    release = current_release()
    head = release.content["audit_head"]

    event = AuditEvent.objects.get(seq=head["seq"])
    assert (event.action, event.target, event.hash) == ("release.cut", release.audit_name, head["hash"])


def test_every_release_is_what_its_sections_compile_to():
    """Nothing reaches workers that is not in the database, and nothing in it waits."""
    run_canary(EVERYBODY)

    assert current_release().content["sections"] == {section.name: section.compile() for section in all_sections()}


def test_the_same_state_gives_the_same_bytes():
    """Section for section, whatever the order in which rows come out of the database."""
    make_deployment()
    for slug in ("zeta", "alpha", "mid"):
        make_tenant(slug)

    first, second = (json.dumps([section.compile() for section in all_sections()], sort_keys=True) for _ in range(2))

    assert first == second


def test_a_release_that_workers_would_refuse_is_never_cut():
    """The workers' own parser is asked before anything is signed."""
    tenant = make_tenant()
    before = current_release()

    @audit.operation
    def spoil():
        type(tenant).objects.filter(pk=tenant.pk).update(tier="gold")
        publish_on_commit(reason="gold", actor=SETUP, now=NOW)

    with pytest.raises(UnservableRelease, match=r"\$\.sections\.access\.tenants\.acme\.tier"):
        spoil()
    assert current_release() == before


def test_without_its_key_nothing_is_changed(settings, tmp_path):
    """A state that cannot be signed is not kept either; the message names the variable."""
    tenant = make_tenant()
    settings.SIGNING_KEY_FILE = tmp_path / "absent.pem"

    with pytest.raises(SigningKeyMissing, match="BALLAST_SIGNING_KEY_FILE"):
        change_tenant(tenant=tenant, tier="vip", actor=SETUP, now=NOW)

    tenant.refresh_from_db()
    assert tenant.tier == "standard"


def test_a_release_is_cut_inside_an_operation_only():
    """Two at once would give one revision twice."""
    with pytest.raises(RuntimeError, match="outside an operation"):
        publish_on_commit(reason="x", actor=SETUP, now=NOW)


def test_a_release_is_immutable():
    """Rows are what workers verified; neither ORM nor SQL touches them."""
    make_tenant()

    with pytest.raises(DatabaseError, match="Cannot update"), transaction.atomic():
        Release.objects.update(reason="x")
    with pytest.raises(DatabaseError, match="Cannot update"), transaction.atomic():
        current_release().delete()


# --- push ------------------------------------------------------------------------------------------------------------
def test_a_release_is_pushed_once_its_operation_has_committed(monkeypatch, django_capture_on_commit_callbacks):
    """Not before: a state that is rolled back must never be on a worker."""
    pushed = []
    monkeypatch.setattr(releases, "push", lambda release: pushed.append(release.revision))

    with django_capture_on_commit_callbacks() as callbacks:
        make_tenant()
        assert pushed == []
    for callback in callbacks:
        callback()

    assert pushed == [current_release().revision]


def test_a_broker_that_is_away_fails_no_operation(monkeypatch, django_capture_on_commit_callbacks):
    """The change is made; agents fetch the release by themselves."""

    def refuse(*args, **kwargs):
        raise ConnectionError("broker is away")

    monkeypatch.setattr(releases.celery_app, "send_task", refuse)

    with django_capture_on_commit_callbacks(execute=True):
        tenant = make_tenant()

    assert tenant.pk
    assert push(current_release()) is False


def test_cutting_by_hand_takes_the_place_of_the_pending_release():
    """A roll-back cuts its own, and the operation does not end with a second."""
    tenant = make_tenant()
    before = current_release().revision

    @audit.operation
    def both():
        change_tenant(tenant=tenant, tier="vip", actor=SETUP, now=NOW)
        return cut_release(reason="by hand", actor=SETUP, now=NOW)

    assert both().revision == before + 1
    assert (current_release().revision, current_release().reason) == (before + 1, "by hand")


def test_sign_offs_alone_cut_no_release():
    """Words of people change nothing on workers until somebody acts on them."""
    canary = run_canary()
    before = current_release()

    sign(canary.change, crew.approver_one, crew.approver_two)

    assert current_release() == before
