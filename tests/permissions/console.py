"""The permission matrix of the console's pages."""

from tests.permissions.api import (
    ALL,
    ANSWERING,
    BILLED,
    COMPLETING,
    DECIDING,
    DECIDING_OWN,
    EVAL,
    EVALS,
    GONE,
    HOLDING,
    HOLDING_OWN,
    LETTERS,
    LETTERS_OWN,
    LISTED,
    LISTED_OWN,
    MANAGING_EVAL,
    MANAGING_EVALS,
    READER,
    READS,
    REDRIVING,
    REDRIVING_OWN,
    REFUSED,
    SEEN,
    SIGNING_REDRIVES,
    SIGNING_REDRIVES_OWN,
    activation,
    breaker,
    canary,
    change,
    channel,
    checklist,
    copy_change,
    copy_version,
    corpora_change,
    corpus,
    debt,
    drill,
    dump,
    eval_run,
    eval_version,
    key,
    ladder_change,
    namespace,
    number,
    operator,
    piece,
    policy_change,
    prompt,
    record,
    recovery_drill,
    redrive_change,
    revision,
    route,
    routing_change,
    shadow,
    stream,
    surface,
    tenant,
    trial,
    version,
)
from tests.permissions.table import Row, Table

OWNERS, TURNERS = "+------.", "+-+----."
SIGNERS, SIGNERS_OF_ROUTING, SIGNERS_OF_COPY = "-+-++--.", "-+----+.", "---++--."


def eval_set(side):
    return {"slug": "held-out"}


def judge(side):
    return {"slug": "grounded"}


def group(side):
    return {"fingerprint": side.letter.fingerprint}


def rail(side):
    return {"slug": side.canary.slug, "rail": "cost"}


def pair(side):
    return {"slug": side.canary.slug, "number": 1}


def compared_pair(side):
    return {"slug": "trial", "pk": side.sample.pk}


def letter(side):
    return {"letter_id": side.letter.pk}


def plan(side):
    return {"plan_id": side.plan.pk}


METHODS = ("GET", "POST")


def rung(side):
    return {"slug": "web-chat", "number": 1}


def episode(side):
    return {"slug": "web-chat", "number": int(side.activation.since.timestamp())}


TABLE = Table(
    package="controlplane.console",
    anonymous=302,
    public=frozenset({"fairness", "styleguide"}),
    rows=(
        # the frame and the front page
        Row("GET", "overview", ALL, ALL, ALL),
        Row("GET", "status", ALL, ALL, ALL),
        Row("GET", "palette", ALL, ALL, ALL),
        Row("GET", "names", ALL, ALL, ALL, lambda _: {"kind": "prompts"}, label="prompts"),
        Row("GET", "names", ALL, ALL, ALL, lambda _: {"kind": "tenants"}, label="tenants"),
        Row("GET", "names", MANAGING_EVALS, REFUSED, REFUSED, lambda _: {"kind": "subjects"}, label="subjects"),
        Row("GET", "names", "------+-", REFUSED, REFUSED, lambda _: {"kind": "targets"}, label="targets"),
        # prompts
        Row("GET", "prompts", ALL, ALL, ALL),
        Row("GET", "prompt-new", "+-------", REFUSED, REFUSED),
        Row("POST", "prompt-new", "+-------", REFUSED, REFUSED),
        Row("GET", "prompt", SEEN, SEEN, GONE, prompt),
        Row("GET", "version-new", OWNERS, OWNERS, GONE, prompt),
        Row("POST", "version-new", OWNERS, OWNERS, GONE, prompt),
        Row("GET", "prompt-version", SEEN, SEEN, GONE, version),
        Row("GET", "canary-plan", OWNERS, OWNERS, GONE, version),
        Row("POST", "canary-plan", OWNERS, OWNERS, GONE, version),
        Row("POST", "propose-live", OWNERS, OWNERS, GONE, version),
        Row("POST", "return-to", TURNERS, TURNERS, GONE, version),
        # reviews: of a prompt, of routing, of the policy, of copy; those of redrives see below
        Row("GET", "reviews", ALL, ALL, ALL),
        Row("GET", "review", SEEN, SEEN, GONE, change),
        Row("GET", "review", SEEN, GONE, GONE, routing_change, label="routing"),
        Row("GET", "review", SEEN, GONE, GONE, policy_change, label="policy"),
        Row("GET", "review-backtest", SEEN, SEEN, GONE, change),
        Row("GET", "review-backtest", SEEN, GONE, GONE, routing_change, label="routing"),
        Row("GET", "review-trial", SEEN, GONE, GONE, trial),
        Row("POST", "review-try", SIGNERS, SIGNERS, GONE, change),
        Row("POST", "review-try", SIGNERS_OF_ROUTING, GONE, GONE, routing_change, label="routing"),
        Row("POST", "review-sign", SIGNERS, SIGNERS, GONE, change),
        Row("POST", "review-sign", SIGNERS_OF_ROUTING, GONE, GONE, routing_change, label="routing"),
        Row("GET", "review", SEEN, GONE, GONE, copy_change, label="copy"),
        Row("POST", "review-sign", SIGNERS_OF_COPY, GONE, GONE, copy_change, label="copy"),
        Row("POST", "review-rebase", SIGNERS, SIGNERS, GONE, change),
        Row("POST", "review-apply", SIGNERS, SIGNERS, GONE, change),
        Row("POST", "review-apply", SIGNERS_OF_ROUTING, GONE, GONE, routing_change, label="routing"),
        Row("POST", "review-apply", SIGNERS_OF_COPY, GONE, GONE, copy_change, label="copy"),
        Row("POST", "review-reject", SIGNERS, SIGNERS, GONE, change),
        Row("POST", "review-withdraw", SIGNERS, SIGNERS, GONE, change),
        Row("POST", "review-break-glass", "--+----.", "--+----.", GONE, change),
        Row("POST", "review-break-glass", "--+----.", GONE, GONE, routing_change, label="routing"),
        Row("POST", "review-break-glass", "-------.", GONE, GONE, policy_change, label="policy"),
        Row("POST", "review-break-glass", "-------.", GONE, GONE, copy_change, label="copy"),
        Row("POST", "debt-review", "-+-----.", "-+-----.", GONE, debt),
        # canaries
        Row("GET", "canaries", ALL, ALL, ALL),
        Row("GET", "canary", SEEN, SEEN, GONE, canary),
        Row("GET", "canary-figures", SEEN, SEEN, GONE, canary),
        Row("GET", "canary-verdict", SEEN, SEEN, GONE, canary),
        Row("GET", "canary-rail", SEEN, SEEN, GONE, rail),
        Row("GET", "replays", SEEN, SEEN, GONE, canary),
        Row("GET", "replay", SEEN, SEEN, GONE, pair),
        Row("GET", "canary-edit", OWNERS, OWNERS, GONE, canary),
        Row("POST", "canary-edit", OWNERS, OWNERS, GONE, canary),
        Row("POST", "canary-start", OWNERS, OWNERS, GONE, canary),
        Row("POST", "canary-knob", TURNERS, TURNERS, GONE, canary),
        Row("POST", "canary-promote", OWNERS, OWNERS, GONE, canary),
        Row("POST", "canary-roll-back", TURNERS, TURNERS, GONE, canary),
        Row("POST", "canary-withdraw", OWNERS, OWNERS, GONE, canary),
        # signed copy and routing: held on everything or not at all
        Row("GET", "ladder", READER, REFUSED, REFUSED),
        Row("POST", "black-friday", "--+---+-", REFUSED, REFUSED),
        Row("GET", "ladder-surface", SEEN, GONE, GONE, surface),
        *(Row(method, "ladder-engage", "--+---+.", GONE, GONE, rung) for method in METHODS),
        *(Row(method, "ladder-stand-down", "--+---+-", REFUSED, REFUSED, surface) for method in METHODS),
        *(Row(method, "ladder-end", "--+---+.", GONE, GONE, activation) for method in METHODS),
        *(Row(method, "ladder-again", "--+---+.", GONE, GONE, activation) for method in METHODS),
        Row("GET", "ladder-policy", READER, REFUSED, REFUSED),
        *(Row(method, "ladder-policy-new", "--+---+-", REFUSED, REFUSED) for method in METHODS),
        Row("GET", "ladder-policy-version", SEEN, GONE, GONE, number),
        Row("POST", "ladder-policy-propose", "--+---+.", GONE, GONE, number),
        Row("POST", "ladder-policy-return", "--+---+.", GONE, GONE, number),
        # corpora: held on everything or not at all
        Row("GET", "corpora", READER, REFUSED, REFUSED),
        Row("GET", "corpus", SEEN, GONE, GONE, corpus),
        *(
            Row("POST", f"corpus-{act}", "--+---+.", GONE, GONE, corpus)
            for act in ("pause", "resume", "pin", "unpin", "rebuild", "reconcile", "dump-new")
        ),
        Row("POST", "corpus-dump-verify", "--+---+.", GONE, GONE, dump),
        *(Row("POST", f"corpus-{act}", "--+---+.", GONE, GONE, namespace) for act in ("switch", "drop")),
        Row("GET", "corpus-policies", READER, REFUSED, REFUSED),
        *(Row(method, "corpus-policies-new", "--+---+-", REFUSED, REFUSED) for method in METHODS),
        Row("GET", "corpus-policy", SEEN, GONE, GONE, number),
        Row("POST", "corpus-policies-propose", "--+---+.", GONE, GONE, number),
        Row("POST", "corpus-policies-return", "--+---+.", GONE, GONE, number),
        Row("GET", "corpus-numbers", SEEN, GONE, GONE, corpus),
        Row("POST", "corpus-numbers", "--+---+.", GONE, GONE, corpus),
        *(Row(method, "recovery-drill-new", "--+---+.", GONE, GONE, corpus) for method in METHODS),
        Row("GET", "recovery-drill", SEEN, GONE, GONE, recovery_drill),
        *(Row(method, "recovery-drill-confirm", "--+---+.", GONE, GONE, recovery_drill) for method in METHODS),
        Row("POST", "recovery-drill-cancel", "--+---+.", GONE, GONE, recovery_drill),
        Row("GET", "recovery-drill-report", SEEN, GONE, GONE, recovery_drill),
        Row("GET", "review", SEEN, GONE, GONE, corpora_change, label="corpora"),
        Row("GET", "ladder-numbers", SEEN, GONE, GONE, surface),
        Row("POST", "ladder-numbers", "--+---+.", GONE, GONE, surface),
        Row("GET", "review-ladder", SEEN, GONE, GONE, ladder_change, label="ladder"),
        Row("GET", "ladder-capacity", READER, REFUSED, REFUSED),
        Row("GET", "ladder-capacity-export", SEEN, GONE, GONE, surface),
        Row("GET", "ladder-episode", SEEN, GONE, GONE, episode),
        Row("GET", "ladder-postmortem", SEEN, GONE, GONE, episode),
        Row("GET", "copies", READER, REFUSED, REFUSED),
        Row("GET", "copy-new", "+-----+-", REFUSED, REFUSED),
        Row("POST", "copy-new", "+-----+-", REFUSED, REFUSED),
        Row("GET", "copy", SEEN, GONE, GONE, piece),
        Row("GET", "copy-write", "+-----+.", GONE, GONE, piece),
        Row("POST", "copy-write", "+-----+.", GONE, GONE, piece),
        Row("POST", "copy-preview", "+-----+.", GONE, GONE, piece),
        Row("GET", "copy-version", SEEN, GONE, GONE, copy_version),
        Row("POST", "copy-propose", "+-----+.", GONE, GONE, copy_version),
        Row("POST", "copy-return", "--+----.", GONE, GONE, copy_version),
        Row("GET", "routing", READER, REFUSED, REFUSED),
        Row("GET", "routing-new", "--+---+-", REFUSED, REFUSED),
        Row("POST", "routing-new", "--+---+-", REFUSED, REFUSED),
        Row("GET", "lane", SEEN, GONE, GONE),
        Row("POST", "lane-hold", "--+---+-", REFUSED, REFUSED),
        Row("POST", "lane-let-go", "--+---+-", REFUSED, REFUSED),
        Row("GET", "quotas", SEEN, GONE, GONE),
        Row("GET", "validators", SEEN, GONE, GONE),
        Row("GET", "validators-chart", SEEN, GONE, GONE, lambda side: {"name": "rejected"}),
        Row("GET", "repairs", SEEN, GONE, GONE),
        Row("GET", "repairs-chart", SEEN, GONE, GONE, lambda side: {"name": "rungs"}),
        Row("GET", "drills", READER, REFUSED, REFUSED),
        Row("GET", "drill-new", "--+---+-", REFUSED, REFUSED),
        Row("POST", "drill-new", "--+---+-", REFUSED, REFUSED),
        Row("GET", "drill", SEEN, GONE, GONE, drill),
        Row("POST", "drill-end", "--+---+.", GONE, GONE, drill),
        Row("POST", "drill-propose", "--+---+.", GONE, GONE, drill),
        Row("POST", "drill-leave", "--+---+.", GONE, GONE, drill),
        Row("GET", "thresholds", SEEN, GONE, GONE),
        Row("GET", "routing-policy", SEEN, GONE, GONE, lambda side: {"part": "breakers", **breaker(side)}),
        Row("POST", "routing-policy", "--+---+.", GONE, GONE, lambda side: {"part": "routes", **route(side)}),
        Row("GET", "routing-table", SEEN, GONE, GONE, number),
        Row("POST", "routing-propose", "--+---+.", GONE, GONE, number),
        Row("POST", "routing-return", "--+---+.", GONE, GONE, number),
        # releases and the fleet
        Row("GET", "releases", READER, REFUSED, REFUSED),
        Row("GET", "fleet-figures", READER, REFUSED, REFUSED),
        Row("GET", "release-diff", READER, REFUSED, REFUSED),
        Row("GET", "release-undo", "--+-----", REFUSED, REFUSED),
        Row("GET", "release", SEEN, GONE, GONE, revision),
        Row("GET", "release-document", SEEN, GONE, GONE, revision),
        Row("POST", "release-roll-back", "--+----.", GONE, GONE, revision),
        # the record, and what was used
        Row("GET", "audit", "-----++-", REFUSED, REFUSED),
        Row("POST", "audit-verify", "-----++-", REFUSED, REFUSED),
        Row("GET", "audit-anchor", "-----.--", REFUSED, REFUSED),
        Row("GET", "audit-export", "-----+--", REFUSED, REFUSED),
        Row("GET", "usage", BILLED, BILLED, BILLED),
        Row("GET", "usage-retries", BILLED, BILLED, BILLED),
        Row("GET", "usage-retries-export", BILLED, BILLED, BILLED),
        Row(
            "GET", "usage-request", ".....++.", ".....++.", GONE, lambda side: {"request_id": f"req-{side.tenant.slug}"}
        ),
        Row("GET", "streams", BILLED, BILLED, BILLED),
        Row("GET", "streams-drift", BILLED, BILLED, BILLED),
        Row("GET", "streams-export", BILLED, BILLED, BILLED),
        Row("GET", "stream-try", ALL, ALL, ALL),
        Row("POST", "stream-try-begin", ALL, ALL, ALL),
        Row("GET", "stream-try-events", ALL, ALL, ALL, lambda side: {"stream_id": "0" * 32}),
        Row("POST", "stream-try-ack", ALL, ALL, ALL, lambda side: {"stream_id": "0" * 32}),
        Row("GET", "stream", ".....++.", ".....++.", GONE, stream),
        Row("GET", "stream-evidence", ".....++.", ".....++.", GONE, stream),
        Row("GET", "stream-transcript", READS, READS, GONE, stream),
        Row("GET", "idempotency-keys", BILLED, BILLED, BILLED),
        Row("POST", "idempotency-keys", BILLED, BILLED, BILLED),
        Row("GET", "idempotency-keys-export", BILLED, BILLED, BILLED),
        Row("GET", "idempotency-key", ".....++.", ".....++.", GONE, record),
        Row("GET", "idempotency-evidence", ".....++.", ".....++.", GONE, record),
        Row("GET", "jobs", ANSWERING, ANSWERING, ANSWERING),
        Row("GET", "job", "..+..++.", "..+..++.", GONE, lambda side: {"job_id": side.job.pk}),
        Row("POST", "job-send-again", "..+..--.", "..+..--.", GONE, lambda side: {"job_id": side.job.pk}),
        Row("GET", "repair-list", ANSWERING, ANSWERING, ANSWERING),
        Row("GET", "repair", "..+..++.", "..+..++.", GONE, lambda side: {"repair_id": side.repair.pk}),
        Row("POST", "repair", COMPLETING, COMPLETING, GONE, lambda side: {"repair_id": side.repair.pk}),
        Row("GET", "repair-words", "..-..+-.", "..-..+-.", GONE, lambda side: {"repair_id": side.repair.pk}),
        # dead letters and redrives
        Row("GET", "dead-letters", LISTED, LISTED_OWN, LISTED_OWN),
        Row("GET", "dead-letters-chart", LISTED, LISTED_OWN, LISTED_OWN),
        Row("GET", "dead-letter-group", LETTERS, LETTERS_OWN, GONE, group),
        Row("POST", "dead-letter-group-decide", DECIDING, DECIDING_OWN, GONE, group),
        Row("GET", "redrive-new", REDRIVING, REDRIVING_OWN, GONE, group),
        Row("POST", "redrive-new", REDRIVING, REDRIVING_OWN, GONE, group),
        Row("GET", "dead-letter", LETTERS, LETTERS_OWN, GONE, letter),
        Row("POST", "dead-letter-decide", DECIDING, DECIDING_OWN, GONE, letter),
        Row("POST", "dead-letter-hold", HOLDING, HOLDING_OWN, GONE, letter),
        Row("POST", "dead-letter-release", HOLDING, HOLDING_OWN, GONE, letter),
        Row("POST", "dead-letter-payload", ".--.-+-.", "..-.-+-.", GONE, letter),
        Row("GET", "redrive-letter", REDRIVING, REDRIVING_OWN, GONE, letter),
        Row("POST", "redrive-letter", REDRIVING, REDRIVING_OWN, GONE, letter),
        Row("GET", "redrive-plans", LISTED, LISTED_OWN, LISTED_OWN),
        Row("GET", "redrive-plan", LETTERS, LETTERS_OWN, GONE, plan),
        *(
            Row("POST", f"redrive-{act}", REDRIVING, REDRIVING_OWN, GONE, plan)
            for act in ("check", "open", "start", "pause", "resume", "stop", "withdraw")
        ),
        Row("GET", "review", LETTERS, LETTERS_OWN, GONE, redrive_change, label="redrive"),
        Row("GET", "review-backtest", LETTERS, LETTERS_OWN, GONE, redrive_change, label="redrive"),
        *(
            Row("POST", f"review-{act}", SIGNING_REDRIVES, SIGNING_REDRIVES_OWN, GONE, redrive_change, label="redrive")
            for act in ("try", "eval", "sign", "rebase", "apply", "reject", "withdraw")
        ),
        Row("POST", "review-break-glass", ".--.---.", "..-.---.", GONE, redrive_change, label="redrive"),
        Row("GET", "retention-rules", "--+-+++-", REFUSED, REFUSED),
        Row("POST", "retention-rules", "------+-", REFUSED, REFUSED),
        Row("POST", "retention-rule-remove", "------+-", REFUSED, REFUSED),
        Row("GET", "erase-subject", "------+-", "------+-", "------+-"),
        Row("POST", "erase-subject", "------+-", "------+-", "------+-"),
        # shadows: held on everything or not at all, but for the words of a tenant's users
        Row("GET", "shadows", READER, REFUSED, REFUSED),
        Row("GET", "shadow", SEEN, GONE, GONE, shadow),
        Row("POST", "shadow-kill", "--+---+.", GONE, GONE, shadow),
        Row("POST", "shadow-lift", "--+---+.", GONE, GONE, shadow),
        Row("GET", "shadow-sample", ".....+..", GONE, GONE, compared_pair),
        Row("GET", "checklist-new", "--+---+.", GONE, GONE, shadow),
        Row("POST", "checklist-new", "--+---+.", GONE, GONE, shadow),
        Row("GET", "checklist", SEEN, GONE, GONE, checklist),
        Row("POST", "checklist-sign", SIGNERS_OF_ROUTING, GONE, GONE, lambda side: {**checklist(side), "item": "cost"}),
        Row("POST", "checklist-withdraw", "--+---+.", GONE, GONE, checklist),
        # evals: held on everything or not at all
        Row("GET", "evals", EVALS, REFUSED, REFUSED),
        Row("GET", "eval-set-new", MANAGING_EVALS, REFUSED, REFUSED),
        Row("POST", "eval-set-new", MANAGING_EVALS, REFUSED, REFUSED),
        Row("GET", "eval-set", EVAL, GONE, GONE, eval_set),
        Row("GET", "eval-set-version", EVAL, GONE, GONE, eval_version),
        *(
            Row(method, name, MANAGING_EVAL, GONE, GONE, eval_set)
            for name in ("eval-import", "eval-standard", "eval-run-new")
            for method in ("GET", "POST")
        ),
        Row("GET", "eval-judges", EVALS, REFUSED, REFUSED),
        Row("GET", "eval-judge-new", MANAGING_EVALS, REFUSED, REFUSED),
        Row("POST", "eval-judge-new", MANAGING_EVALS, REFUSED, REFUSED),
        Row("GET", "eval-judge", EVAL, GONE, GONE, judge),
        Row("GET", "eval-judge-version-new", MANAGING_EVAL, GONE, GONE, judge),
        Row("POST", "eval-judge-version-new", MANAGING_EVAL, GONE, GONE, judge),
        Row("POST", "eval-calibrate", MANAGING_EVAL, GONE, GONE, lambda side: {**judge(side), "number": 1}),
        Row("GET", "eval-runs", EVALS, REFUSED, REFUSED),
        Row("GET", "eval-run", EVAL, GONE, GONE, eval_run),
        Row("POST", "eval-run-cancel", MANAGING_EVAL, GONE, GONE, eval_run),
        Row("POST", "review-eval", SIGNERS, SIGNERS, GONE, change),
        Row("POST", "review-eval", SIGNERS_OF_ROUTING, GONE, GONE, routing_change, label="routing"),
        # people
        Row("GET", "access", ALL, ALL, ALL),
        Row("GET", "operator", ".....++.", GONE, GONE, operator),
        Row("GET", "operator-new", "------+-", REFUSED, REFUSED),
        Row("POST", "operator-new", "------+-", REFUSED, REFUSED),
        Row("POST", "operator-grant", ".....-+.", GONE, GONE, operator),
        Row("POST", "operator-lock", ".....-+.", GONE, GONE, operator),
        Row("POST", "operator-unlock", ".....-+.", GONE, GONE, operator),
        Row("POST", "grant-revoke", ".....-+.", GONE, GONE, lambda side: {"pk": side.grant.pk}),
        # tenants and credentials
        Row("GET", "access-tenants", ALL, ALL, ALL),
        Row("GET", "tenant-new", "------+-", REFUSED, REFUSED),
        Row("POST", "tenant-new", "------+-", REFUSED, REFUSED),
        Row("GET", "tenant", ".....++.", ".....++.", GONE, tenant),
        Row("POST", "tenant", ".....-+.", ".....-+.", GONE, tenant),
        Row("POST", "key-issue", ".....-+.", ".....-+.", GONE, tenant),
        Row("POST", "tenant-webhook-secret", ".....-+.", ".....-+.", GONE, tenant),
        Row("POST", "key-rotate", ".....-+.", ".....-+.", GONE, key),
        Row("POST", "key-revoke", ".....-+.", ".....-+.", GONE, key),
        Row("GET", "alert-channels", "--+--++-", REFUSED, REFUSED),
        Row("GET", "alert-channel-new", "------+-", REFUSED, REFUSED, lambda side: {"kind": "webhook"}),
        Row("POST", "alert-channel-new", "------+-", REFUSED, REFUSED, lambda side: {"kind": "webhook"}),
        Row("GET", "alert-channel", "..+..++.", GONE, GONE, channel),
        Row("POST", "alert-channel", "..-..-+.", GONE, GONE, channel),
        *(
            Row("POST", f"alert-channel-{act}", "..-..-+.", GONE, GONE, channel)
            for act in ("rotate", "enable", "disable", "test")
        ),
        Row("GET", "access-tokens", ALL, ALL, ALL),
        Row("POST", "token-issue", ALL, ALL, ALL),
        Row("POST", "token-rotate", ".....--.", GONE, GONE, lambda side: {"pk": side.token.pk}),
        Row("POST", "token-revoke", ".....-+.", GONE, GONE, lambda side: {"pk": side.token.pk}),
    ),
)
