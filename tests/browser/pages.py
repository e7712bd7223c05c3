"""Every page there is, from the URL resolver, with somebody who may open it and something to open it on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
from django.urls import URLPattern, URLResolver, get_resolver

from tests.end_to_end.stack import Stack

# Answers that are not pages: JSON, downloads, redirects of single sign-on, and what machines ask.
NOT_PAGES = frozenset(
    {
        "status",
        "palette",
        "names",  # what a field offers while a name is typed
        "canary-figures",
        "canary-rail",
        "canary-verdict",  # a part of the canary's page
        "fleet-figures",
        "repairs-chart",
        "validators-chart",
        "dead-letters-chart",
        "release-document",
        "black-friday",  # posted to
        "ladder-stand-down",  # these three take a tap; a link to them leads back to the page
        "ladder-end",
        "ladder-again",
        "ladder-postmortem",
        "ladder-capacity-export",
        "audit-anchor",
        "audit-export",
        "usage-retries-export",
        "streams-export",
        "stream-evidence",
        "idempotency-keys-export",
        "idempotency-evidence",
        "stream-try-begin",
        "stream-try-events",
        "stream-try-ack",
        "livez",
        "readyz",
        "startupz",
        "account_inactive",  # for people who are locked out; signed in, it leads on
        "account_reauthenticate",  # these three ask only who has a second factor, or signed in a while ago
        "mfa_authenticate",
        "mfa_reauthenticate",
        "mfa_deactivate_totp",  # these four exist for people with a second factor, who are walked in test_acts.py
        "mfa_view_recovery_codes",
        "mfa_generate_recovery_codes",
        "mfa_download_recovery_codes",
        "recovery-drill-report",
        "openid_connect_login",  # these three exist where an issuer is set
        "openid_connect_callback",
        "socialaccount_login_cancelled",
        "account_logout",  # the button in the menu posts to it
    }
)


@dataclass(frozen=True, slots=True)
class Page:
    """One page. `who` opens it; `path` from what the stack holds; `name` in the resolver, with what sets it apart."""

    name: str
    who: str
    path: Callable[[Stack], str]


def _fixed(path: str) -> Callable[[Stack], str]:
    return lambda stack: path


def _latest(sql: str, template: str) -> Callable[[Stack], str]:
    """The path with the columns of the query's first row in it."""
    return lambda stack: template.format(*stack.query(sql)[0])


CHANGE = "SELECT id FROM approvals_changerequest WHERE kind = 'prompt.rollout' ORDER BY id DESC LIMIT 1"
CLOSED = "SELECT id FROM approvals_changerequest WHERE state = 'applied' ORDER BY id LIMIT 1"
CANARY = "SELECT slug FROM rollouts_canary WHERE state = '{}' ORDER BY id LIMIT 1"
REPLAY = (
    "SELECT c.slug, p.number FROM verdicts_replaypair p JOIN rollouts_canary c ON c.id = p.canary_id"
    " ORDER BY p.id LIMIT 1"
)
RELEASE = "SELECT revision FROM releases_release ORDER BY revision DESC LIMIT 1"
PAIR = "SELECT max(revision) - 1, max(revision) FROM releases_release"
PROMPT = "/prompts/support-answer/"
ROUTING_CHANGE = "SELECT id FROM approvals_changerequest WHERE kind = 'routing.table' ORDER BY id DESC LIMIT 1"
TRIAL = "SELECT change_id, id FROM trials_validatortrial ORDER BY id DESC LIMIT 1"
DRILL = "SELECT id FROM routing_drill ORDER BY id DESC LIMIT 1"
COPY = "/ladder/copy/"
SURFACE = "/ladder/surfaces/web-chat/"
CORPUS = "/corpora/help-centre/"
GAME_DAY = "SELECT id FROM corpora_recoverydrill ORDER BY id DESC LIMIT 1"
EPISODE = "SELECT floor(extract(epoch FROM since))::bigint FROM ladder_rungactivation ORDER BY id LIMIT 1"
LADDER_CHANGE = "SELECT id FROM approvals_changerequest WHERE kind = 'ladder.policy' ORDER BY id LIMIT 1"
REQUEST = "SELECT request_id FROM ledger_usagerow ORDER BY attempt DESC, at DESC LIMIT 1"
STREAM = "SELECT stream_id FROM ledger_streamtranscript ORDER BY at DESC LIMIT 1"
KEY = "SELECT record FROM ledger_idempotencyevidence WHERE event = 'replayed' ORDER BY id DESC LIMIT 1"
JOB = "SELECT id FROM ledger_job WHERE state = 'completed' ORDER BY id DESC LIMIT 1"
OPEN = "SELECT id FROM ledger_repair WHERE state = 'open' ORDER BY id DESC LIMIT 1"
COMPLETED = "SELECT id FROM ledger_repair WHERE state = 'completed' ORDER BY id DESC LIMIT 1"
GROUP = "SELECT fingerprint FROM deadletters_group WHERE category = 'dependency' AND kind = 'job' LIMIT 1"
LETTER = "SELECT id FROM deadletters_deadletter WHERE kind = 'job' AND state = 'open' ORDER BY id DESC LIMIT 1"
ASKED = "SELECT id FROM deadletters_redriveplan WHERE edit IS NOT NULL ORDER BY id LIMIT 1"
PLANNED = "SELECT id FROM deadletters_redriveplan WHERE state = 'planned' ORDER BY id LIMIT 1"
REDRIVE = "SELECT id FROM approvals_changerequest WHERE kind = 'deadletters.redrive' ORDER BY id LIMIT 1"
SIGNED = "SELECT id FROM approvals_changerequest WHERE kind = 'copy.version' ORDER BY id DESC LIMIT 1"
SAMPLE = "SELECT id FROM telemetry_shadowsample ORDER BY id LIMIT 1"
CHECKLIST = "SELECT id FROM shadows_promotionchecklist ORDER BY id LIMIT 1"
EVAL_RUN = (
    "SELECT run.id FROM evals_evalrun run JOIN evals_evalsetversion version ON version.id = run.set_version_id "
    "JOIN evals_evalset found ON found.id = version.set_id WHERE found.slug = '{}' ORDER BY run.id LIMIT 1"
)

PAGES = (
    Page("overview", "owner", _fixed("/")),
    Page("prompts", "owner", _fixed("/prompts/")),
    Page("prompt-new", "owner", _fixed("/prompts/new/")),
    Page("prompt", "owner", _fixed(PROMPT)),
    Page("version-new", "owner", _fixed(f"{PROMPT}submit/")),
    Page("prompt-version", "owner", _fixed(f"{PROMPT}versions/3/")),
    Page("canary-plan", "owner", _fixed(f"{PROMPT}versions/1/canary/")),
    Page("reviews", "approver-one", _fixed("/reviews/")),
    Page("reviews, closed", "approver-one", _fixed("/reviews/?show=closed")),
    Page("review", "approver-one", _latest(CHANGE, "/reviews/{}/")),
    Page("review, applied", "approver-one", _latest(CLOSED, "/reviews/{}/")),
    Page("review, tried", "approver-one", _latest(TRIAL, "/reviews/{}/")),
    Page("review-trial", "auditor", _latest(TRIAL, "/reviews/{}/trials/{}/")),
    Page("canaries", "owner", _fixed("/canaries/")),
    Page("canary", "owner", _latest(CANARY.format("running"), "/canaries/{}/")),
    Page("replays", "owner", _latest(CANARY.format("running"), "/canaries/{}/replays/")),
    Page("replay", "owner", _latest(REPLAY, "/canaries/{}/replays/{}/")),
    Page("canary, rolled back", "owner", _latest(CANARY.format("rolled_back"), "/canaries/{}/")),
    Page("canary-edit", "owner", _latest(CANARY.format("planned"), "/canaries/{}/edit/")),
    Page("canary, planned", "owner", _latest(CANARY.format("planned"), "/canaries/{}/")),
    Page("review, copy", "exec", _latest(SIGNED, "/reviews/{}/")),
    Page("ladder", "oncall", _fixed("/ladder/")),
    Page("ladder-surface", "oncall", _fixed(SURFACE)),
    Page("ladder-engage", "oncall", _fixed(f"{SURFACE}rungs/3/")),
    Page("ladder-policy", "oncall", _fixed("/ladder/policy/")),
    Page("ladder-policy-new", "oncall", _fixed("/ladder/policy/new/")),
    Page("ladder-policy-version", "auditor", _fixed("/ladder/policy/1/")),
    Page("ladder-numbers", "oncall", _fixed("/ladder/policy/surfaces/web-chat/")),
    Page("ladder-capacity", "exec", _fixed("/ladder/capacity/")),
    Page("ladder-episode", "auditor", _latest(EPISODE, f"{SURFACE}episodes/{{}}/")),
    Page("review-ladder", "approver-one", _latest(LADDER_CHANGE, "/reviews/{}/ladder/")),
    Page("fairness", "legal", _fixed("/fairness/")),
    Page("copies", "exec", _fixed(COPY)),
    Page("copy-new", "owner", _fixed("/ladder/new-copy/")),
    Page("copy", "owner", _fixed(f"{COPY}help-centre-outage/")),
    Page("copy, answers", "legal", _fixed(f"{COPY}help-centre-answers/")),
    Page("copy-write", "owner", _fixed(f"{COPY}help-centre-template/write/")),
    Page("copy-write, answers", "owner", _fixed(f"{COPY}help-centre-answers/write/")),
    Page("copy-version", "oncall", _fixed(f"{COPY}help-centre-outage/versions/1/")),
    Page("corpora", "oncall", _fixed("/corpora/")),
    Page("corpus", "oncall", _fixed(CORPUS)),
    Page("corpus, as an auditor", "auditor", _fixed(f"{CORPUS}?key=parcel-lost")),
    Page("recovery-drill-new", "oncall", _fixed(f"{CORPUS}drills/new/")),
    Page("recovery-drill", "oncall", _latest(GAME_DAY, "/corpora/drills/{}/")),
    Page("recovery-drill-confirm", "admin", _latest(GAME_DAY, "/corpora/drills/{}/confirm/")),
    Page("corpus-numbers", "oncall", _fixed(f"{CORPUS}numbers/")),
    Page("corpus-policies", "oncall", _fixed("/corpora/policies/")),
    Page("corpus-policies-new", "oncall", _fixed("/corpora/policies/new/")),
    Page("corpus-policy", "auditor", _fixed("/corpora/policies/1/")),
    Page("routing", "oncall", _fixed("/routing/")),
    Page("routing-new", "oncall", _fixed("/routing/new/")),
    Page("routing-table", "oncall", _fixed("/routing/tables/1/")),
    Page("lane, all", "oncall", _fixed("/routing/lanes/")),
    Page("lane", "oncall", _fixed("/routing/lanes/?lane=openai/us-east/main/gpt-4o")),
    Page("quotas", "oncall", _fixed("/routing/quotas/")),
    Page("drills", "oncall", _fixed("/routing/drills/")),
    Page("drill-new", "oncall", _fixed("/routing/drills/new/?target=provider:azure")),
    Page("drill", "oncall", _latest(DRILL, "/routing/drills/{}/")),
    Page("thresholds", "oncall", _fixed("/routing/thresholds/")),
    Page("routing-policy", "oncall", _fixed("/routing/breakers/hosted-chat/")),
    Page("routing-policy, route", "legal", _fixed("/routing/routes/chat/")),
    Page("quotas, workers", "oncall", _fixed("/routing/quotas/?pool=anthropic-main/shared")),
    Page("routing-policy, quotas", "oncall", _fixed("/routing/quotas/shared/")),
    Page("repairs", "oncall", _fixed("/routing/repairs/?hours=24")),
    Page("repairs, of one lane", "legal", _fixed("/routing/repairs/?lane=openai/us-east/main/text-embedding-3-small")),
    Page("routing-policy, repairs", "oncall", _fixed("/routing/repairs/json-answers/")),
    Page("validators", "oncall", _fixed("/routing/validators/?hours=24")),
    Page("routing-policy, validators", "oncall", _fixed("/routing/validators/careful-answers/")),
    Page("routing-policy, streams", "oncall", _fixed("/routing/streams/resumable/")),
    Page("review-backtest", "approver-one", _latest(ROUTING_CHANGE, "/reviews/{}/backtest/")),
    Page("releases", "oncall", _fixed("/releases/")),
    Page("release", "oncall", _latest(RELEASE, "/releases/{}/")),
    Page("release-diff", "oncall", _latest(PAIR, "/releases/diff/?from={}&to={}")),
    Page("release-undo", "oncall", _fixed("/releases/undo/")),
    Page("usage", "admin", _fixed("/usage/")),
    Page("usage-retries", "admin", _fixed("/usage/retries/")),
    Page("usage-request", "admin", _latest(REQUEST, "/usage/requests/{}/")),
    Page("streams", "admin", _fixed("/usage/streams/")),
    Page("stream-try", "owner", _fixed("/usage/streams/try/")),
    Page("streams-drift", "admin", _fixed("/usage/streams/drift/")),
    Page("stream", "admin", _latest(STREAM, "/usage/streams/{}/")),
    Page("stream-transcript", "auditor", _latest(STREAM, "/usage/streams/{}/transcript/")),
    Page("idempotency-keys", "admin", _fixed("/usage/idempotency/")),
    Page("idempotency-key", "admin", _latest(KEY, "/usage/idempotency/{}/")),
    Page("jobs", "admin", _fixed("/usage/jobs/")),
    Page("job", "admin", _latest(JOB, "/usage/jobs/{}/")),
    Page("repair-list", "admin", _fixed("/usage/repairs/")),
    Page("repair", "oncall", _latest(OPEN, "/usage/repairs/{}/")),
    Page("repair, completed", "admin", _latest(COMPLETED, "/usage/repairs/{}/")),
    Page("repair-words", "auditor", _latest(OPEN, "/usage/repairs/{}/words/")),
    Page("dead-letters", "oncall", _fixed("/dead-letters/?hours=24")),
    Page("dead-letter-group", "oncall", _latest(GROUP, "/dead-letters/groups/{}/")),
    Page("dead-letter", "admin", _latest(LETTER, "/dead-letters/letters/{}/")),
    Page("redrive-new", "oncall", _latest(GROUP, "/dead-letters/groups/{}/redrive/")),
    Page("redrive-letter", "oncall", _latest(LETTER, "/dead-letters/letters/{}/redrive/")),
    Page("redrive-plans", "oncall", _fixed("/dead-letters/redrives/")),
    Page("redrive-plan", "oncall", _latest(ASKED, "/dead-letters/redrives/{}/")),
    Page("redrive-plan, planned", "auditor", _latest(PLANNED, "/dead-letters/redrives/{}/")),
    Page("review, redrive", "approver-one", _latest(REDRIVE, "/reviews/{}/")),
    Page("retention-rules", "admin", _fixed("/dead-letters/retention/")),
    Page("erase-subject", "admin", _fixed("/dead-letters/erasure/")),
    Page("evals", "owner", _fixed("/evals/")),
    Page("eval-set-new", "owner", _fixed("/evals/new/")),
    Page("eval-set", "owner", _fixed("/evals/sets/help-centre-golden/")),
    Page("eval-set, held out", "auditor", _fixed("/evals/sets/help-centre-held-out/")),
    Page("eval-set-version", "owner", _fixed("/evals/sets/judge-labels/versions/1/")),
    Page("eval-set-version, held out", "oncall", _fixed("/evals/sets/help-centre-held-out/versions/1/")),
    Page("eval-import", "owner", _fixed("/evals/sets/safety/import/")),
    Page("eval-standard", "owner", _fixed("/evals/sets/safety/standard/")),
    Page("eval-run-new", "owner", _fixed("/evals/sets/safety/run/")),
    Page("eval-judges", "owner", _fixed("/evals/judges/")),
    Page("eval-judge-new", "owner", _fixed("/evals/new-judge/")),
    Page("eval-judge", "owner", _fixed("/evals/judges/grounded/")),
    Page("eval-judge, uncalibrated", "auditor", _fixed("/evals/judges/declines/")),
    Page("eval-judge-version-new", "owner", _fixed("/evals/judges/safe/submit/")),
    Page("eval-runs", "owner", _fixed("/evals/runs/")),
    Page("eval-run", "owner", _latest(EVAL_RUN.format("safety"), "/evals/runs/{}/")),
    Page("shadows", "oncall", _fixed("/shadow/")),
    Page("shadow", "oncall", _fixed("/shadow/trial/")),
    Page("shadow-sample", "auditor", _latest(SAMPLE, "/shadow/trial/samples/{}/")),
    Page("checklist-new", "oncall", _fixed("/shadow/trial/promote/")),
    Page("checklist", "approver-two", _latest(CHECKLIST, "/shadow/checklists/{}/")),
    Page("access", "admin", _fixed("/access/")),
    Page("operator", "admin", _fixed("/access/people/owner/")),
    Page("operator-new", "admin", _fixed("/access/new-operator/")),
    Page("access-tenants", "admin", _fixed("/access/tenants/")),
    Page("tenant", "admin", _fixed("/access/tenants/acme/")),
    Page("tenant-new", "admin", _fixed("/access/new-tenant/")),
    Page("access-tokens", "admin", _fixed("/access/tokens/")),
    Page("alert-channels", "admin", _fixed("/access/alerts/")),
    Page("alert-channel", "admin", _fixed("/access/alerts/pager/")),
    Page("alert-channel-new", "admin", _fixed("/access/new-alert-channel/webhook/")),
    Page("alert-channel-new, e-mail", "admin", _fixed("/access/new-alert-channel/email/")),
    Page("audit", "auditor", _fixed("/audit/")),
    Page("styleguide", "owner", _fixed("/styleguide/")),
    Page("account_login", "", _fixed("/accounts/login/")),
    Page("account_change_password", "auditor", _fixed("/accounts/password/change/")),
    Page("mfa_index", "auditor", _fixed("/accounts/2fa/")),
    Page("mfa_activate_totp", "auditor", _fixed("/accounts/2fa/totp/activate/")),
)


def names_without_sample(client: httpx.Client) -> list[str]:
    """The URL names of console and sign-in that answer a GET and are neither in PAGES nor in NOT_PAGES."""
    known = {page.name.partition(",")[0] for page in PAGES} | NOT_PAGES
    return sorted(
        name
        for name, path in _console_urls(get_resolver())
        if name not in known and client.get(path).status_code != 405
    )


def _console_urls(resolver: URLResolver, prefix: str = "/") -> Iterator[tuple[str, str]]:
    """Names with a path made of dummy arguments; the API has no pages."""
    for pattern in resolver.url_patterns:
        here = prefix + str(pattern.pattern)
        if isinstance(pattern, URLPattern):
            yield str(pattern.name), _filled(here, pattern)
        elif not here.startswith("/api/") and pattern.namespace is None:
            yield from _console_urls(pattern, here)


def _filled(path: str, pattern: Any) -> str:
    for name, converter in pattern.pattern.converters.items():
        kind = type(converter).__name__.removesuffix("Converter").lower()
        kind = "str" if kind == "string" else kind
        path = path.replace(f"<{kind}:{name}>", {"int": "1", "uuid": str(UUID(int=0))}.get(kind, "x"))
    return path
