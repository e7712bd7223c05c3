from io import StringIO

import pytest
import yaml
from django.core.management import CommandError, call_command
from django.utils import timezone

from controlplane.accounts.models import Tenant
from controlplane.accounts.roles import Role
from controlplane.approvals import operations as approvals
from controlplane.approvals.models import ChangeRequest
from controlplane.audit.models import AuditEvent
from controlplane.prompts.models import Prompt, PromptVersion
from controlplane.rollouts.models import Canary
from controlplane.routing.models import RoutingTable
from tests.factories import copy_document, crew, make_deployment, make_live_copy, make_operator, make_tenant, sign
from tests.ladder.ladder_policies import ladder_document

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module", autouse=True)
def deployment(lasting):
    with lasting():
        make_deployment()
        make_tenant("acme", residency=["eu"])
        make_live_copy()
        make_operator("gitops", Role.PROMPT_OWNER, Role.ON_CALL, Role.ADMIN)


@pytest.fixture
def config(tmp_path):
    """The deployment's own configuration, for a test to edit and import."""
    return Config(tmp_path / "ballast.yaml")


class Config:
    def __init__(self, file):
        self.file = file
        out = StringIO()
        call_command("export_config", stdout=out)
        self.text = out.getvalue()
        self.value = yaml.load(self.text, Loader=yaml.CSafeLoader)

    def load(self, text=None, **options):
        self.file.write_text(text if text is not None else yaml.safe_dump(self.value))
        out, err = StringIO(), StringIO()
        try:
            call_command("import_config", str(self.file), stdout=out, stderr=err, **options)
        finally:
            self.problems = err.getvalue()
        return out.getvalue()

    def apply(self, **options):
        return self.load(**{"apply": True, "actor": "gitops", "reason": "commit 1a2b3c", **options})


def test_import_of_an_export_does_nothing(config):
    """The round trip finds no difference, not even when told to apply."""
    before = AuditEvent.objects.count()

    shown, applied = config.load(config.text), config.load(config.text, apply=True, actor="gitops")

    assert shown == applied == "The deployment is as the file says\n"
    assert AuditEvent.objects.count() == before


def test_import_only_shows_unless_told_to_apply(config):
    """Without --apply the plan is printed and nothing is changed."""
    before = AuditEvent.objects.count()
    config.value["tenants"]["acme"]["tier"] = "vip"

    shown = config.load()

    assert "+ tenants.acme: change tier 'standard' to 'vip'" in shown
    assert "Nothing was changed" in shown
    assert AuditEvent.objects.count() == before


def test_apply_needs_somebody_who_answers_for_it(config):
    """No actor, or one who does not exist: nothing happens."""
    config.value["tenants"]["acme"]["tier"] = "vip"

    with pytest.raises(CommandError, match="--actor NAME"):
        config.apply(actor=None)
    with pytest.raises(CommandError, match="no active operator"):
        config.apply(actor="ghost")

    assert Tenant.objects.get(slug="acme").tier == "standard"


def test_every_difference_goes_through_its_operation(config):
    """Tenants change at once; routing, policy and prompts wait for people, and nothing of them is live before."""
    live = Prompt.objects.get().live_version_id
    config.value["tenants"]["acme"]["tier"] = "vip"
    config.value["tenants"]["globex"] = {"name": "Globex", "tier": "free", "idempotency_hours": 36}
    config.value["copy"]["help-centre-outage"]["live"]["locales"]["en"]["text"] = "We are down for {{eta_minutes}} min"
    words = {"default_locale": "en", "locales": copy_document("answers")["locales"]}
    config.value["copy"]["faq"] = {"kind": "answers", "title": "FAQ", "regulated": True, "live": words}
    config.value["routing"]["routes"]["chat"]["deadline_ms"] = 9000
    config.value["approval_policy"][0]["valid_hours"] = 24
    config.value["prompts"]["support-answer"]["live"]["messages"][0]["content"] = "Dear {{name}}"
    config.value["prompts"]["greeting"] = {
        "title": "Greeting",
        "route": "chat",
        "live": {"change_class": "minor", "messages": [{"role": "user", "content": "Hi"}]},
    }

    said = config.apply()

    tenants = {tenant.slug: (tenant.tier, tenant.idempotency_hours) for tenant in Tenant.objects.all()}
    assert tenants == {"acme": ("vip", 24), "globex": ("free", 36)}
    opened = ChangeRequest.objects.open().order_by("id")
    assert [change.kind for change in opened] == [
        "copy.version",
        "copy.version",
        "routing.table",
        "approval.policy",
        "prompt.live",
        "prompt.rollout",
    ]
    assert all(f"CR-{change.pk}" in said for change in opened)
    assert {change.author for change in opened} == {"gitops"}
    assert {change.reason for change in opened} == {"commit 1a2b3c"}
    assert Canary.objects.get().state == "planned"
    assert Prompt.objects.get(slug="support-answer").live_version_id == live
    assert Prompt.objects.get(slug="greeting").live_version is None


def test_imported_ladder_waits_for_people_and_is_in_force_once_they_signed(config):
    """Asked for once; after the sign-offs the deployment is as the file says. What is no ladder names its place."""
    config.value["ladder"] = ladder_document(rungs={"7": {}})
    with pytest.raises(CommandError, match="1 of it cannot be imported"):
        config.apply()
    refused = config.problems
    config.value["ladder"] = ladder_document()
    config.apply()
    again = config.apply()
    change = ChangeRequest.objects.open().get()
    sign(change, crew.approver_one, crew.approver_two, now=timezone.now())
    approvals.apply_change(change=change, actor=crew.oncall, now=timezone.now())

    assert """ladder["web-chat"].rungs["7"]: '7' is no rung""" in refused
    assert (change.kind, change.author) == ("ladder.policy", "gitops")
    assert f"ladder: waits for people in CR-{change.pk}" in again
    assert config.load() == "The deployment is as the file says\n"


def test_second_import_of_the_same_file_opens_nothing_more(config):
    """What waits for people is said to wait; a pipeline may run as often as it likes."""
    config.value["routing"]["routes"]["chat"]["deadline_ms"] = 9000
    config.value["prompts"]["support-answer"]["live"]["messages"][0]["content"] = "Dear {{name}}"
    config.apply()
    changes, versions = ChangeRequest.objects.count(), PromptVersion.objects.count()

    again = config.apply()

    assert again.count("waits for people in CR-") == 2
    assert (ChangeRequest.objects.count(), PromptVersion.objects.count()) == (changes, versions)


def test_imported_routing_is_in_force_once_it_is_signed(config):
    """After the sign-offs the deployment is as the file says."""
    config.value["routing"]["routes"]["chat"]["deadline_ms"] = 9000
    config.apply()
    change = ChangeRequest.objects.open().get()
    sign(change, crew.approver_one, crew.approver_two, now=timezone.now())
    approvals.apply_change(change=change, actor=crew.oncall, now=timezone.now())

    assert config.load() == "The deployment is as the file says\n"


def test_withdrawn_content_is_proposed_again_without_a_copy(config):
    """The table that was submitted for it is used again."""
    config.value["routing"]["routes"]["chat"]["deadline_ms"] = 9000
    config.apply()
    approvals.withdraw_change(
        change=ChangeRequest.objects.open().get(), actor=crew.oncall, reason="later", now=timezone.now()
    )

    config.apply()

    assert RoutingTable.objects.count() == 2
    assert ChangeRequest.objects.open().count() == 1


def test_rejected_content_is_refused_before_anything_is_done(config):
    """A rejection is remembered, and the rest of the file is not imported around it."""
    config.value["routing"]["routes"]["chat"]["deadline_ms"] = 9000
    config.apply()
    approvals.reject_change(
        change=ChangeRequest.objects.open().get(), actor=crew.approver_one, reason="slow", now=timezone.now()
    )
    config.value["tenants"]["acme"]["tier"] = "vip"

    with pytest.raises(CommandError, match="nothing was changed"):
        config.apply()

    assert "routing: this content" in config.problems
    assert Tenant.objects.get(slug="acme").tier == "standard"


def test_actor_needs_the_permission_of_every_step(config):
    """One step that the actor could not take at the console undoes all the others."""
    make_operator("half", Role.ADMIN)
    config.value["tenants"]["acme"]["tier"] = "vip"
    config.value["prompts"]["support-answer"]["live"]["messages"][0]["content"] = "Dear {{name}}"

    with pytest.raises(CommandError, match="lack the permission to submit versions"):
        config.apply(actor="half")

    assert Tenant.objects.get(slug="acme").tier == "standard"
    assert not ChangeRequest.objects.open().exists()


def test_what_is_not_listed_is_left_alone(config):
    """Sections, tenants and prompts that the file does not speak of stay."""
    assert config.load("schema: 1\n") == "The deployment is as the file says\n"
    assert config.load("schema: 1\ntenants: {}\nprompts: {}\n") == "The deployment is as the file says\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schema: 1\nprompts: [", "line 2, column 11: expected the node content"),
        ("schema: 2\n", "schema: this build reads schema 1"),
        ("prompts: {}\n", "file: missing key 'schema'"),
        ("- schema\n", "file: expected an object"),
        ("schema: 1\nrouting:\n", "routing: expected an object"),
        ("schema: 1\ntennants: {}\n", "tennants: unknown key"),
        ("schema: 1\ntenants: {acme: {name: A, tier: gold}}\n", "tenants.acme.tier: 'gold' is not one of"),
        ("schema: 1\ntenants: {acme: {name: A, tier: vip, key: x}}\n", "tenants.acme.key: unknown key"),
        ("schema: 1\ntenants: {a: {name: A, tier: vip, idempotency_hours: 9}}\n", "hours: 9 is outside 24..72"),
        ("schema: 1\ntenants: {acme: {name: A, tier: vip}, acme: {name: B, tier: vip}}\n", "'acme' is given twice"),
        ("schema: 1\ntenants: {acme: {name: 2024-01-01, tier: vip}}\n", "tenants.acme.name: datetime.date"),
        ("schema: 1\ntenants: {1: {name: A, tier: vip}}\n", "tenants: key 1 is not a text"),
        ("schema: 1\nprompts: {p: {title: T, route: chat}}\n", "prompts.p: missing key 'live'"),
        ("schema: 1\nprompts: {p: !!python/name:os.system }\n", "python/name:os.system"),
    ],
)
def test_bad_file_is_refused_with_its_place(config, text, message):
    """One line that begins with the file and the path; nothing is changed."""
    before = AuditEvent.objects.count()

    with pytest.raises(CommandError) as refused:
        config.load(text, apply=True, actor="gitops")

    assert message in str(refused.value)
    assert str(refused.value).startswith(f"{config.file}: ")
    assert "\n" not in str(refused.value)
    assert AuditEvent.objects.count() == before


def test_content_that_nobody_could_serve_is_named_by_its_path(config):
    """A prompt, words, a route and a rule that are wrong are all listed, before anything is done."""
    config.value["prompts"]["support-answer"]["live"]["messages"][0]["content"] = "Dear {{nobody}}"
    config.value["routing"]["routes"]["chat"]["lanes"] = ["nowhere"]
    config.value["approval_policy"][0]["gates"] = {"publick": {"approver": 1}}

    config.value["copy"]["help-centre-outage"]["live"]["locales"]["en"]["text"] = "{{when}}"

    with pytest.raises(CommandError, match="4 of it cannot be imported"):
        config.apply()

    assert "prompts.support-answer.live.messages[0].content" in config.problems
    assert "copy.help-centre-outage.live.locales.en.text: placeholder 'when'" in config.problems
    assert "routing.routes.chat.lanes" in config.problems
    assert "rules[0].gates.publick" in config.problems


def test_what_no_operation_changes_is_said(config):
    """A prompt's route and a piece's kind are fixed when they are created, and neither stops having something live."""
    config.value["prompts"]["support-answer"]["route"] = "other"
    config.value["prompts"]["support-answer"]["live"] = None
    config.value["copy"]["help-centre-outage"] |= {"regulated": True, "live": None}

    with pytest.raises(CommandError, match="4 of it"):
        config.apply()

    assert "prompts.support-answer.route: 'chat' here, 'other' in the file" in config.problems
    assert "prompts.support-answer.live" in config.problems
    assert "copy.help-centre-outage.regulated: False here, True in the file" in config.problems
    assert "copy.help-centre-outage.live: there are live words here" in config.problems


def test_missing_file_is_one_clear_line(config):
    """Its name and why."""
    with pytest.raises(CommandError, match=r"absent\.yaml: cannot be read"):
        call_command("import_config", "absent.yaml")
