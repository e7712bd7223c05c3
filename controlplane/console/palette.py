"""What the command palette offers: pages, prompts, canaries, lanes, people and acts that are open to the reader."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final

from django.urls import reverse

from controlplane.accounts.access import may, may_somewhere
from controlplane.accounts.models import Operator
from controlplane.approvals.access import visible_changes
from controlplane.console.context import rooms
from controlplane.console.lane_content import lane_url
from controlplane.corpora.access import VIEW as VIEW_CORPORA
from controlplane.corpora.models import Corpus
from controlplane.evals.models import EvalSet
from controlplane.ladder.access import VIEW_LADDER
from controlplane.ladder.models import Copy
from controlplane.ladder.policies import ladder_policies
from controlplane.prompts.access import visible_prompts
from controlplane.rollouts.access import visible_canaries
from controlplane.routing.operations import routing_tables

# Of each kind; the palette is for reaching what people work on, the pages have the rest.
_MOST: Final = 200


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the palette. `hint` stands at its right end and is searched too."""

    label: str
    url: str
    group: str
    icon: str
    hint: str = ""

    def to_json(self) -> dict[str, str]:
        """Shape: {"label", "url", "group", "icon", "hint": str}."""
        return asdict(self)


def entries(operator: Operator) -> list[Entry]:
    """Everything on offer, in the order it is shown without a query; eleven queries beside those of permissions."""
    return [
        *_acts(operator),
        *(Entry(label, reverse(name), "Pages", icon) for label, name, icon, _ in rooms(operator)),
        *_canaries(operator),
        *_changes(operator),
        *_prompts(operator),
        *_surfaces(operator),
        *_copy(operator),
        *_corpora(operator),
        *_evals(operator),
        *_shadows(operator),
        *_lanes(operator),
        *_people(operator),
    ]


def _acts(operator: Operator) -> Iterator[Entry]:
    if may(operator, "releases.roll_back_release"):
        yield Entry("Roll back the last change", reverse("release-undo"), "Act", "arrow-counterclockwise")
    if may(operator, "releases.view_release"):
        yield Entry("Compare two releases", reverse("release-diff"), "Act", "file-diff")
    if may(operator, "routing.propose_routing"):
        yield Entry("Propose another routing table", reverse("routing-new"), "Act", "signpost-split")
    if may(operator, "ladder.view_copy"):
        yield Entry("Copy that users read, and who signed it", reverse("copies"), "Pages", "ladder")
    if may(operator, VIEW_LADDER):
        yield Entry("Ladder policy and its numbers", reverse("ladder-policy"), "Pages", "ladder")
        yield Entry("How much of the time rungs were on", reverse("ladder-capacity"), "Pages", "ladder")
        yield Entry("What users are promised, as they see it", reverse("fairness"), "Pages", "people")
    if may(operator, "ladder.propose_ladder"):
        yield Entry("Propose another ladder policy", reverse("ladder-policy-new"), "Act", "ladder")
    if may(operator, "ladder.write_copy"):
        yield Entry("Create a piece of copy", reverse("copy-new"), "Act", "ladder")
    if may(operator, VIEW_CORPORA):
        yield Entry("Corpus policy and its numbers", reverse("corpus-policies"), "Pages", "database")
    if may(operator, "corpora.propose_corpora"):
        yield Entry("Propose another corpus policy", reverse("corpus-policies-new"), "Act", "database")
    if may(operator, "routing.hold_lane"):
        yield Entry("Hold a lane", reverse("lane"), "Act", "lock-fill")
        yield Entry("Drill leaving a provider", reverse("drill-new"), "Act", "box-arrow-right")
    if may(operator, "routing.view_routingtable"):
        yield Entry("Thresholds and where they come from", reverse("thresholds"), "Pages", "sliders")
        yield Entry("Quotas and who waits", reverse("quotas"), "Pages", "hourglass-split")
        yield Entry("Answers in JSON and what was wrong with them", reverse("repairs"), "Pages", "braces")
        yield Entry("Validators and what they withhold", reverse("validators"), "Pages", "shield-check")
        yield Entry("Drills and what they showed", reverse("drills"), "Pages", "box-arrow-right")
    if may_somewhere(operator, "accounts.view_usage"):
        yield Entry("Retries and what they cost", reverse("usage-retries"), "Pages", "arrow-repeat")
        yield Entry("Find a stream", reverse("streams"), "Pages", "search")
        yield Entry("Find an idempotency key", reverse("idempotency-keys"), "Pages", "search")
        yield Entry("Billed against delivered tokens of streams", reverse("streams-drift"), "Pages", "graph-up")
    if may_somewhere(operator, "accounts.view_usage") or may_somewhere(operator, "accounts.redrive_deadletter"):
        yield Entry("Jobs and how they go", reverse("jobs"), "Pages", "hourglass-split")
    if may_somewhere(operator, "accounts.view_usage") or may_somewhere(operator, "accounts.complete_repair"):
        yield Entry("Broken answers that somebody can complete", reverse("repair-list"), "Pages", "braces")
    if may_somewhere(operator, "accounts.redrive_deadletter") or may(operator, "deadletters.view_redriveplan"):
        yield Entry("Redrives and how they go", reverse("redrive-plans"), "Pages", "arrow-repeat")
    if may(operator, "deadletters.view_retentionrule"):
        yield Entry("How long dead letters are kept", reverse("retention-rules"), "Pages", "hourglass-split")
    if may_somewhere(operator, "accounts.erase_subject"):
        yield Entry("Erase a data subject", reverse("erase-subject"), "Act", "x-lg")
    if may(operator, "evals.view_evalset"):
        yield Entry("Judges and how far to trust them", reverse("eval-judges"), "Pages", "clipboard-check")
        yield Entry("Eval runs and what they found", reverse("eval-runs"), "Pages", "clipboard-check")
    if may(operator, "evals.manage_evals"):
        yield Entry("Create an eval set", reverse("eval-set-new"), "Act", "plus-lg")
    if may(operator, "routing.view_routingtable"):
        yield Entry(
            "Promotions and what is signed of them", f"{reverse('shadows')}#checklists", "Pages", "clipboard-check"
        )
    if may(operator, "alerts.view_channel"):
        yield Entry("Alerts and who is told", reverse("alert-channels"), "Pages", "bell")
    if may(operator, "prompts.add_prompt"):
        yield Entry("Create a prompt", reverse("prompt-new"), "Act", "plus-lg")
    if may(operator, "accounts.add_tenant"):
        yield Entry("Create a tenant", reverse("tenant-new"), "Act", "building")
    if may(operator, "accounts.manage_access"):
        yield Entry("Create an operator", reverse("operator-new"), "Act", "people")
    if may(operator, "audit.export_audit"):
        yield Entry("Verify the audit record", f"{reverse('audit')}#verify", "Act", "shield-check")
    yield Entry("Issue an operator token for yourself", reverse("access-tokens"), "Act", "key")


def _canaries(operator: Operator) -> Iterator[Entry]:
    for canary in visible_canaries(operator).filter(state__in=["running", "planned"])[:_MOST]:
        yield Entry(f"Canary {canary.slug}", canary.get_absolute_url(), "Canaries", "bezier2", canary.headline)


def _changes(operator: Operator) -> Iterator[Entry]:
    for change in visible_changes(operator).open()[:_MOST]:
        yield Entry(f"CR-{change.pk} {change.title}", reverse("review", args=[change.pk]), "Reviews", "inbox")


def _prompts(operator: Operator) -> Iterator[Entry]:
    submits = may(operator, "prompts.submit_version")
    for prompt in visible_prompts(operator)[:_MOST]:
        live = f"v{prompt.live_version.number} live" if prompt.live_version else "nothing live"
        yield Entry(prompt.slug, prompt.get_absolute_url(), "Prompts", "chat-square-text", f"{prompt.title} · {live}")
        if submits:
            url = reverse("version-new", args=[prompt.slug])
            yield Entry(f"Submit a version of {prompt.slug}", url, "Prompts", "plus-lg")


def _surfaces(operator: Operator) -> Iterator[Entry]:
    if not may(operator, VIEW_LADDER):
        return
    policy = ladder_policies.active()
    engages = may(operator, "ladder.engage_rung")
    for slug, surface in sorted(policy.document.items())[:_MOST] if policy else ():
        title, url = str(surface["title"]), reverse("ladder-surface", args=[slug])
        yield Entry(f"Ladder of {title}", url, "Ladder", "ladder", slug)
        if engages:
            yield Entry(f"Engage a rung of {title}", url, "Ladder", "arrow-up", slug)
            yield Entry(f"Stand down {title}", url, "Ladder", "arrow-down", slug)


def _copy(operator: Operator) -> Iterator[Entry]:
    if not may(operator, "ladder.view_copy"):
        return
    writes = may(operator, "ladder.write_copy")
    for copy in Copy.objects.all()[:_MOST]:
        hint = f"{copy.title} · {copy.get_kind_display().lower()}"
        yield Entry(copy.slug, copy.get_absolute_url(), "Ladder", "ladder", hint)
        if writes:
            yield Entry(f"Write {copy.slug}", reverse("copy-write", args=[copy.slug]), "Ladder", "pencil")


def _corpora(operator: Operator) -> Iterator[Entry]:
    if not may(operator, VIEW_CORPORA):
        return
    operates = may(operator, "corpora.operate_corpus")
    for corpus in Corpus.objects.all()[:_MOST]:
        url = corpus.get_absolute_url()
        yield Entry(f"Corpus {corpus.slug}", url, "Corpora", "database")
        if operates:
            pausing = "Resume" if corpus.paused_at else "Pause"
            yield Entry(f"{pausing} queries of {corpus.slug}", url, "Corpora", "pause-fill")
            yield Entry(f"Pin a snapshot of {corpus.slug}", url, "Corpora", "lock-fill")


def _evals(operator: Operator) -> Iterator[Entry]:
    if not may(operator, "evals.view_evalset"):
        return
    for found in EvalSet.objects.all()[:_MOST]:
        hint = f"{found.name} · {found.get_purpose_display().lower()}"
        yield Entry(found.slug, reverse("eval-set", args=[found.slug]), "Evals", "clipboard-check", hint)


def _shadows(operator: Operator) -> Iterator[Entry]:
    if not may(operator, "routing.view_routingtable"):
        return
    table = routing_tables.active()
    shadows = table.document.get("shadows", {}) if table else {}
    for slug, policy in sorted(shadows.items())[:_MOST]:
        hint = f"asks {', '.join(policy['lanes'])}"
        yield Entry(f"Shadow {slug}", reverse("shadow", args=[slug]), "Shadow", "layout-split", hint)


def _lanes(operator: Operator) -> Iterator[Entry]:
    if not may(operator, "routing.view_routingtable"):
        return
    table = routing_tables.active()
    for lane_id, lane in sorted(table.document["lanes"].items())[:_MOST] if table else ():
        yield Entry(f"Lane {lane_id}", lane_url(lane_id), "Lanes", "signpost-split", f"in {lane['residency']}")


def _people(operator: Operator) -> Iterator[Entry]:
    if not may(operator, "accounts.view_operator"):
        return
    for person in Operator.objects.filter(is_active=True)[:_MOST]:
        url = reverse("operator", args=[person.username])
        yield Entry(person.username, url, "People", "person", person.display_name)
