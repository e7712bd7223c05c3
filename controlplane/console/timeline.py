"""What people and workers did as a timeline: in words, with a link to where it happened."""

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.urls import reverse

from controlplane.audit.models import AuditEvent
from controlplane.console.templatetags.ballast import short_id
from controlplane.telemetry.models import WorkerEvent
from dataplane.jobs import ID_PREFIX as JOB_PREFIX
from dataplane.repair.kept import ID_PREFIX

# Action -> (words, tone, icon). `{field}` comes from the event's data, `{target}` is its target.
WORDS: dict[str, tuple[str, str, str]] = {
    "prompt.created": ("Prompt created", "off", "plus-lg"),
    "prompt.version_submitted": ("Submitted {target}", "info", "file-earmark-text"),
    "prompt.live": ("{target} went live", "good", "broadcast"),
    "canary.planned": ("Planned {target}", "off", "bezier2"),
    "canary.plan_changed": ("Changed the plan of {target}", "watch", "pencil"),
    "canary.started": ("Started {target} at {stage}", "info", "play-fill"),
    "canary.knob_turned": ("Turned {target} from {before} to {after}", "info", "sliders"),
    "canary.promoted": ("Promoted {target}", "good", "check-lg"),
    "canary.rolled_back": ("Rolled back {target}", "bad", "arrow-counterclockwise"),
    "canary.withdrawn": ("Gave up {target}", "off", "x-lg"),
    "change.opened": ("Opened {target}", "off", "inbox"),
    "change.amended": ("Changed the content of {target}; sign-offs are void", "watch", "pencil"),
    "change.rebased": ("Took the digest of {target} anew; sign-offs are void", "watch", "arrow-repeat"),
    "change.approve": ("Signed off {target} as {role}", "good", "check-lg"),
    "change.request_changes": ("Asked for changes to {target}", "watch", "chat-square-text"),
    "change.withdraw": ("Took the sign-off of {target} back", "watch", "x-lg"),
    "change.trial_begun": ("Began to try {policy} on stored answers", "info", "play-fill"),
    "change.applied": ("{target} applied", "good", "check-lg"),
    "change.rejected": ("{target} rejected", "bad", "x-lg"),
    "change.withdrawn": ("{target} withdrawn", "off", "x-lg"),
    "break_glass.used": ("Broke the glass on {target} ({incident})", "bad", "exclamation-triangle-fill"),
    "break_glass.reviewed": ("Reviewed {target}", "good", "check-lg"),
    "break_glass.lapsed": ("{target} lapsed", "watch", "hourglass-split"),
    "policy.submitted": ("Submitted {target}", "info", "file-earmark-text"),
    "policy.activated": ("{target} is in force", "good", "shield-check"),
    "routing.submitted": ("Submitted {target}", "info", "file-earmark-text"),
    "routing.activated": ("{target} is in force", "good", "signpost-split"),
    "lane.held": ("Held {target} {mode} until {until}", "bad", "lock-fill"),
    "lane.let_go": ("Let {target} go, which was held {before}", "good", "arrow-repeat"),
    "drill.started": ("Started {target}, leaving {subject} for {minutes} min", "watch", "box-arrow-right"),
    "drill.ended": ("Ended {target}, leaving {subject}, before its time", "good", "arrow-repeat"),
    "drill.measured": ("Measured {target}, leaving {subject}", "info", "graph-up"),
    "corpus.drill_asked": ("Asked for {target} of {corpus}", "info", "play-fill"),
    "corpus.drill_confirmed": ("Confirmed {target}, which {asked_by} asked for", "watch", "check-lg"),
    "corpus.drill_cancelled": ("Called {target} off", "off", "x-lg"),
    "corpus.drill_passed": ("Passed {target}: {corpus} came back", "good", "check-lg"),
    "corpus.drill_failed": ("Failed {target}: {error}", "bad", "exclamation-triangle-fill"),
    "alert_channel.created": ("Made {target}", "off", "plus-lg"),
    "alert_channel.changed": ("Changed {target}", "watch", "pencil"),
    "alert_channel.secret_rotated": ("Rotated the secret of {target}", "info", "key"),
    "alert_channel.enabled": ("Enabled {target}", "good", "play-fill"),
    "alert_channel.disabled": ("Disabled {target}: it hears of nothing", "watch", "slash-circle"),
    "alert_channel.gone": ("Disabled {target}: {host} says that it is gone", "bad", "slash-circle"),
    "alert_channel.tested": ("Sent a test alert to {target}", "off", "broadcast"),
    "shadow.killed": ("Killed {target}", "bad", "stop-fill"),
    "shadow.lifted": ("Let {target} go on", "good", "play-fill"),
    "shadow.sample_read": ("Read the words of a comparison of {target}, of {tenant}", "watch", "eye"),
    "checklist.opened": ("Opened {target} for {lane} on {route}", "info", "clipboard-check"),
    "checklist.signed": ("Signed {label} of {target}", "good", "feather"),
    "checklist.completed": ("{target} is complete", "good", "check-lg"),
    "checklist.promoted": ("{target} was made use of", "good", "check-lg"),
    "checklist.void": ("{target} is void", "bad", "slash-circle"),
    "checklist.withdrawn": ("Gave {target} up", "off", "x-lg"),
    "evals.set_created": ("Made eval set {target}, {purpose}", "off", "clipboard-check"),
    "evals.rows_imported": ("Imported {rows} rows as {target}", "info", "database"),
    "evals.leak_found": ("Found the words of held-out rows in {target}: {rows}", "bad", "exclamation-triangle-fill"),
    "evals.standard_set": ("Set what answers to {target} are held to", "watch", "sliders"),
    "evals.judge_created": ("Made judge {target}", "off", "clipboard-check"),
    "evals.judge_submitted": ("Submitted {target}", "info", "file-earmark-text"),
    "evals.calibration_begun": ("Began to hold {target} against {labelled} labelled answers", "info", "play-fill"),
    "evals.calibrated": ("Held {target} against people: kappa {kappa}", "good", "check-lg"),
    "evals.calibration_failed": ("Could not hold {target} against people", "bad", "x-lg"),
    "evals.run_begun": ("Began {target} of {subject}", "info", "play-fill"),
    "evals.run_ended": ("Ended {target} of {subject_name}", "info", "check-lg"),
    "evals.run_cancelled": ("Cancelled {target} of {subject_name}", "watch", "stop-fill"),
    "evals.run_failed": ("Broke off {target} of {subject_name}", "bad", "x-lg"),
    "copy.created": ("Piece of copy {target} created", "off", "plus-lg"),
    "copy.version_submitted": ("Submitted {target}", "info", "file-earmark-text"),
    "copy.activated": ("{target} is what users read", "good", "feather"),
    "ladder.submitted": ("Submitted {target}", "info", "file-earmark-text"),
    "ladder.activated": ("{target} is in force", "good", "ladder"),
    "corpora.submitted": ("Submitted {target}", "info", "file-earmark-text"),
    "corpora.activated": ("{target} is in force", "good", "database"),
    "corpus.paused": ("Paused queries of {target}", "bad", "pause-fill"),
    "corpus.resumed": ("Resumed queries of {target}", "good", "play-fill"),
    "corpus.pinned": ("Pinned {target} to {snapshot}", "watch", "lock-fill"),
    "corpus.unpinned": ("Unpinned {target} from {snapshot}", "good", "key"),
    "corpus.rebuild_begun": ("Began to build namespace {namespace} of {target} by {model}", "info", "arrow-repeat"),
    "corpus.switched": ("Switched {target} to another namespace, by {model}", "watch", "arrow-left-right"),
    "corpus.namespace_dropped": ("Dropped namespace {namespace} of {target}", "bad", "x-lg"),
    "corpus.dumped": ("Dumped {target}: {rows} rows", "good", "box-seam"),
    "corpus.restored": ("Restored a dump of {target} into namespace {namespace}: {rows} chunks", "watch", "box-seam"),
    "corpus.documents_restored": ("Brought {documents} documents of {target} back from a dump", "watch", "box-seam"),
    "corpus.dump_deleted": ("Deleted dump {dump} of {target}", "off", "x-lg"),
    "corpus.repaired": ("Repaired {target}: {repaired} documents", "watch", "arrow-repeat"),
    "corpus.low_water_raised": ("Raised the low-water mark of {target} to {after}", "info", "arrow-up"),
    "corpus.reconcile_asked": ("Had {target} compared with its documents", "info", "search"),
    "ladder.held": ("Held triggers of {target} at rung {rung}", "watch", "pause-fill"),
    "rung.engaged": ("Engaged rung {rung} of {target}", "bad", "ladder"),
    "rung.stood_down": ("Stood {target} down from rung {rung}", "good", "arrow-down"),
    "rung.ordered_on_host": ("Rung {rung} of {target} was ordered on a host", "bad", "terminal"),
    "release.cut": ("Cut {target}", "info", "broadcast"),
    "release.resumed": ("Resumed above {target} after a restore", "bad", "arrow-repeat"),
    "release.rolled_back": ("Rolled back to {target}", "bad", "arrow-counterclockwise"),
    "operator.created": ("Created operator {target}", "off", "people"),
    "operator.activated": ("Let {target} in again", "good", "people"),
    "operator.deactivated": ("Locked {target} out", "bad", "people"),
    "role.granted": ("Granted {role} on {on} to {target}", "info", "key"),
    "role.revoked": ("Took {role} on {on} from {target}", "watch", "key"),
    "tenant.created": ("Created {target}", "off", "building"),
    "tenant.changed": ("Changed {target}", "watch", "building"),
    "signing_key.announced": ("Announced {target}, which is to sign releases", "info", "key"),
    "signing_key.switched": ("Releases are signed with {target} from here on", "info", "key"),
    "signing_key.retired": ("Retired {target}: no host believes it any more", "watch", "key"),
    "signing_key.compromised": (
        "{target} is compromised: {successor} signs, and no host believes the old one",
        "bad",
        "key",
    ),
    "api_key.issued": ("Issued {target} to {tenant}", "info", "key"),
    "api_key.rotated": ("Rotated {target} of {tenant}; key {successor}… takes its place", "info", "key"),
    "api_key.lapsed": ("{target} of {tenant} ended, as its rotation said", "info", "key"),
    "api_key.revoked": ("Revoked {target} of {tenant}", "watch", "key"),
    "operator_token.issued": ("Issued {target} to {operator}", "info", "key"),
    "operator_token.rotated": ("Rotated {target}; token {successor}… takes its place", "info", "key"),
    "operator_token.revoked": ("Revoked {target}", "watch", "key"),
    "repair.completed": ("Completed {target} of {tenant}", "good", "braces"),
    "repair.part_completed": ("Completed {at} of {target} of {tenant}", "info", "braces"),
    "repair.read": ("Read the words of {target} of {tenant}", "watch", "eye"),
    "samples.read": ("Read {answers} stored answers on which {policy} was tried", "watch", "eye"),
    "answer.sent_again": ("Had the answer of {target} sent again", "info", "arrow-repeat"),
    "tenant.webhook_secret_made": ("Made the webhook secret of {target}", "info", "key"),
    "tenant.webhook_secret_rotated": ("Rotated the webhook secret of {target}", "info", "key"),
    "redrive.planned": ("Planned a redrive; letters: {letters}", "off", "arrow-repeat"),
    "redrive.dry_run": ("Began the dry run; letters: {letters}", "info", "eye"),
    "redrive.started": ("Started the redrive; letters: {letters}", "info", "play-fill"),
    "redrive.paused": ("Paused the redrive", "watch", "pause-fill"),
    "redrive.resumed": ("Resumed the redrive", "info", "play-fill"),
    "redrive.stopped": ("The redrive stopped", "bad", "stop-fill"),
    "redrive.finished": ("The redrive is through", "good", "check-lg"),
    "redrive.withdrawn": ("Gave the redrive up", "off", "x-lg"),
    "dead_letters.resolved": ("Resolved dead letters: {letters}", "good", "check-lg"),
    "dead_letters.discarded": ("Discarded dead letters: {letters}", "off", "x-lg"),
    "dead_letters.reopened": ("Opened dead letters again: {letters}", "watch", "arrow-counterclockwise"),
    "dead_letters.purged": ("Purged payloads of dead letters: {letters}", "off", "hourglass-split"),
    "dead_letters.holds_lapsed": ("Legal holds that ended: {letters}", "watch", "hourglass-split"),
    "dead_letter.read": ("Read the payload of {target} of {tenant}", "watch", "eye"),
    "dead_letter.held": ("Put {target} of {tenant} on legal hold", "watch", "lock-fill"),
    "dead_letter.released": ("Released the legal hold on {target} of {tenant}", "info", "key"),
    "retention.set": ("Set the retention {target} to {days} days", "watch", "hourglass-split"),
    "retention.removed": ("Removed the retention {target} of {days} days", "watch", "x-lg"),
    "subject.erased": ("Erased a user of {target}; dead letters: {letters}", "bad", "x-lg"),
    "subject.erasure_done": ("Nothing is left of the erased user {subject} of {target}", "off", "check-lg"),
    "transcript.read": ("Read the words of {target} of {tenant}", "watch", "eye"),
    "transcripts.forgotten": ("Forgot {transcripts} transcripts", "watch", "x-lg"),
    "sign_in.succeeded": ("{target} signed in", "off", "box-arrow-in-right"),
    "sign_in.failed": ("Failed sign-in as {target} from {address} ({why})", "watch", "x-lg"),
    "sign_in.locked_out": ("Closed the door to {target} until {until}", "bad", "lock-fill"),
    "sign_in.reset": ("Reset how {target} signs in", "watch", "key"),
    "sign_out": ("{target} signed out", "off", "box-arrow-right"),
    "password.changed": ("Changed the password of {target}", "watch", "key"),
    "second_factor.added": ("{target} set up {kind} as second factor", "info", "shield-lock"),
    "second_factor.removed": ("{target} removed {kind} as second factor", "watch", "shield-lock"),
}
# The same for what happened in workers, by kind.
WORKER_WORDS: dict[str, tuple[str, str, str]] = {
    "quota.paused": ("Paused account {account} for {seconds} s after a 429 on {lane}", "bad", "pause-fill"),
    "quota.alone": ("Cannot share {pool} with the other workers; keeps to its part", "watch", "wifi-off"),
    "quota.shared": ("Shares {pool} with the other workers again", "good", "people"),
    "ladder.moved": ("Took the ladder of {surface} from rung {before} to {after}: {cause}", "watch", "ladder"),
    "ladder.ordered": ("Obeys an order on its host: rung {rung} of {surface}, by {by}", "bad", "terminal"),
    "ladder.alone": ("Cannot hear the other workers; decides on ladders by what it sees itself", "watch", "wifi-off"),
    "ladder.shared": ("Decides on ladders with the other workers again", "good", "people"),
    "quota.learned": ("Learned that {pool} is admitted {learned} {limit}; declared: {declared}", "info", "graph-up"),
}
# Of a 429 that said for how long nothing, so that nobody waits it out.
_NO_TIME = (
    "Opened account {account} anew, from a tenth, after a 429 on {lane} that named no time",
    "watch",
    "pause-fill",
)


def timeline(events: Iterable[AuditEvent]) -> list[dict[str, Any]]:
    """Events as `components/_timeline.html` takes them; an action without words of its own shows its name."""
    return [_entry(event) for event in events]


def worker_timeline(events: Iterable[WorkerEvent]) -> list[dict[str, Any]]:
    """Events of workers, as `timeline` gives those of people."""
    return [_worker_entry(event) for event in events]


def _worker_entry(event: WorkerEvent) -> dict[str, Any]:
    words, tone, icon = WORKER_WORDS.get(event.kind, (event.kind, "off", ""))
    if event.kind == "quota.paused" and event.data.get("seconds") == 0:
        words, tone, icon = _NO_TIME
    values = {name: _said(name, value) for name, value in event.data.items()}
    return {
        "at": event.at,
        "text": words.format_map(_Lenient(values)),
        "actor": event.worker,
        "reason": str(event.data.get("reason", "")),
        "url": "",
        "tone": tone,
        "icon": icon,
    }


def _said(name: str, value: Any) -> str:
    """A value of an event as people read it."""
    if value is None:
        return "nothing"
    if isinstance(value, int | float):
        return f"{value:,.10g}" if float(value).is_integer() else f"{value:,.1f}"
    return str(value).replace("_", " ") if name == "limit" else str(value)


def _entry(event: AuditEvent) -> dict[str, Any]:
    words, tone, icon = WORDS.get(event.action, (f"{event.action} {{target}}", "off", ""))
    values = {**event.data, "target": target_words(event.target)}
    reason = event.data.get("reason") or event.data.get("comment") or event.data.get("note") or ""
    return {
        "at": event.at,
        "text": words.format_map(_Lenient(values)),
        "actor": event.actor,
        "reason": reason,
        "url": target_url(event.target),
        "tone": tone,
        "icon": icon,
    }


class _Lenient(dict[str, Any]):
    """A field that an older event does not have reads as an ellipsis, not as an error on the page."""

    def __missing__(self, key: str) -> str:
        return "…"


def target_words(target: str) -> str:
    """How people say an audit target: 'prompt:support-answer@13' is 'support-answer v13'."""
    kind, _, name = target.partition(":")
    if kind in {"prompt", "copy", "eval-set", "judge"}:
        slug, at, number = name.partition("@")
        return f"{slug} v{number}" if at else slug
    if kind == "stream":
        return f"stream {short_id(name)}"
    if kind == "repair":
        return f"answer {short_id(name)}"
    if kind == "job":
        return f"job {short_id(name)}"
    if kind == "dead-letter":
        return f"dead letter {short_id(name)}"
    if kind == "redrive":
        return f"redrive {short_id(name)}"
    forms = {
        "retention": "for {}",
        "change": "CR-{}",
        "release": "r{}",
        "canary": "canary {}",
        "routing-table": "routing table {}",
        "lane": "lane {}",
        "ladder-policy": "ladder policy {}",
        "corpus-policy": "corpus policy {}",
        "corpus": "corpus {}",
        "surface": "{}",
        "drill": "drill {}",
        "recovery-drill": "game day {}",
        "approval-policy": "approval policy {}",
        "break-glass": "bypass {}",
        "tenant": "tenant {}",
        "signing-key": "signing key {}",
        "api-key": "key {}…",
        "operator-token": "token {}…",
        "eval-run": "eval run {}",
        "alert-channel": "alert channel {}",
        "shadow": "shadow {}",
        "checklist": "checklist {}",
    }
    return forms[kind].format(name) if name and kind in forms else target


def target_url(target: str) -> str:
    """Where the target can be looked at; empty where there is no page for it."""
    kind, _, name = target.partition(":")
    if kind in {"prompt", "copy"}:
        slug, at, number = name.partition("@")
        return reverse(f"{kind}-version", args=[slug, int(number)]) if at else reverse(kind, args=[slug])
    if kind == "lane" and name:
        return f"{reverse('lane')}?{urlencode({'lane': name})}"
    if kind == "stream" and name:
        return reverse("stream", args=[name])
    if kind == "job" and name:
        return reverse("job", args=[UUID(hex=name.removeprefix(JOB_PREFIX))])
    if kind == "repair" and name:
        return reverse("repair", args=[UUID(hex=name.removeprefix(ID_PREFIX))])
    if kind in {"eval-set", "judge"} and name:
        slug, at, number = name.partition("@")
        if kind == "judge":
            return reverse("eval-judge", args=[slug])
        return reverse("eval-set-version", args=[slug, int(number)]) if at else reverse("eval-set", args=[slug])
    if kind in {"dead-letter", "redrive"} and name:
        return reverse("dead-letter" if kind == "dead-letter" else "redrive-plan", args=[UUID(hex=name)])
    pages = {
        "change": "review",
        "release": "release",
        "canary": "canary",
        "routing-table": "routing-table",
        "ladder-policy": "ladder-policy-version",
        "corpus-policy": "corpus-policy",
        "corpus": "corpus",
        "surface": "ladder-surface",
        "drill": "drill",
        "recovery-drill": "recovery-drill",
        "eval-run": "eval-run",
        "alert-channel": "alert-channel",
        "shadow": "shadow",
        "checklist": "checklist",
    }
    if kind in pages and name:
        return reverse(pages[kind], args=[int(name) if name.isdigit() else name])
    return ""
