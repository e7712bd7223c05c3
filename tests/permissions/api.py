"""The permission matrix of the console API."""

from tests.permissions.table import Row, Table


def prompt(side):
    return {"slug": side.prompt.slug}


def version(side):
    return {"slug": side.prompt.slug, "number": 1}


def canary(side):
    return {"slug": side.canary.slug}


def change(side):
    return {"pk": side.change.pk}


def routing_change(side):
    return {"pk": side.routing_change.pk}


def trial(side):
    return {"pk": side.routing_change.pk, "trial_id": side.trial.pk}


def policy_change(side):
    return {"pk": side.policy_change.pk}


def copy_change(side):
    return {"pk": side.copy_change.pk}


def ladder_change(side):
    return {"pk": side.ladder_change.pk}


def corpora_change(side):
    return {"pk": side.corpora_change.pk}


def corpus(side):
    return {"slug": "help-centre"}


def namespace(side):
    return {"slug": "help-centre", "number": 2}


def redrive_change(side):
    return {"pk": side.redrive_change.pk}


def piece(side):
    return {"slug": "fallback"}


def copy_version(side):
    return {"slug": "fallback", "number": 1}


def surface(side):
    return {"slug": "web-chat"}


def episode(side):
    return {"slug": "web-chat", "pk": int(side.activation.since.timestamp())}


def activation(side):
    return {"pk": side.activation.pk}


def breaker(side):
    return {"slug": "hosted-chat"}


def retry_policy(side):
    return {"slug": "patient"}


def probe_policy(side):
    return {"slug": "idle"}


def quota_policy(side):
    return {"slug": "shared"}


def stream_policy(side):
    return {"slug": "resumable"}


def repair_policy(side):
    return {"slug": "json-answers"}


def validator_policy(side):
    return {"slug": "careful-answers"}


def route(side):
    return {"slug": "chat"}


def debt(side):
    return {"pk": side.debt.pk}


def tenant(side):
    return {"slug": side.tenant.slug}


def channel(side):
    return {"slug": "pager"}


def key(side):
    return {"pk": side.key.pk}


def drill(side):
    return {"pk": side.drill.pk}


def number(side):
    return {"number": 1}


def revision(side):
    return {"revision": side.release.revision}


def compared(side):
    return {"revision": side.release.revision, "other": 1}


def stream(side):
    return {"stream_id": f"{side.tenant.slug:x<32}"}


def letter(side):
    return {"letter": side.letter.pk}


def plan(side):
    return {"plan": side.plan.pk}


def repair(side):
    return {"repair": side.repair.name}


def record(side):
    return {"record": side.record}


def eval_version(side):
    return {"slug": "held-out", "number": 1}


def shadow(side):
    return {"slug": "trial"}


def document(side):
    return {"slug": "help-centre", "key": "faq/refunds"}


def checklist(side):
    return {"pk": side.checklist.pk}


def eval_run(side):
    return {"pk": side.eval_run.pk}


def judge_version(side):
    return {"slug": "grounded", "number": 1}


def recovery_drill(side):
    return {"pk": side.recovery_drill.pk}


def dump(side):
    return {"slug": side.dump.corpus.slug, "name": side.dump.name}


def operator(side):
    return {"username": "grantee"}


# In the order of WHO: prompt owner, approver, on-call, exec, legal, auditor, admin, nobody.
ALL = "++++++++"
SEEN = "+++++++."  # every role sees prompts
GONE = "........"
READER = "+++++++-"  # every role granted everywhere reads what the deployment has once
REFUSED = "--------"
BILLED = "-----++-"  # everywhere or of one tenant; the list holds no other's
ANSWERING = "--+--++-"  # the same, and who completes answers
COMPLETING = "..+..-+."  # who completes answers; an auditor sees that they wait
# Dead letters and redrives, of everybody's and of one tenant's: approvers sign them everywhere, or not at all.
LISTED, LISTED_OWN = "-++-+++-", "--+-+++-"
LETTERS, LETTERS_OWN = ".++.+++.", "..+.+++."
REDRIVING, REDRIVING_OWN = ".-+.---.", "..+.---."
SIGNING_REDRIVES, SIGNING_REDRIVES_OWN = ".+-.---.", "..-.---."
DECIDING, DECIDING_OWN = ".-+.--+.", "..+.--+."
HOLDING, HOLDING_OWN = ".-+.+-+.", "..+.+-+."
# Eval sets and judges are held on everything or not at all, by those who work with what they say.
EVALS, EVAL, MANAGING_EVALS, MANAGING_EVAL = "+++--++-", "+++..++.", "+-----+-", "+--..-+."
READS = ".....+-."  # the words of a tenant's users are for who audits it; an admin sees only that they are kept

TABLE = Table(
    package="controlplane.api",
    anonymous=401,
    public=frozenset({"livez", "readyz", "startupz", "api:schema", "api:docs"}),
    rows=(
        Row("GET", "api:me", ALL, ALL, ALL),
        # prompts
        Row("GET", "api:prompts", ALL, ALL, ALL),
        Row("POST", "api:prompts", "+-------", REFUSED, REFUSED),
        Row("GET", "api:prompt", SEEN, SEEN, GONE, prompt),
        Row("POST", "api:prompt-check", "+------.", "+------.", GONE, prompt),
        Row("GET", "api:versions", SEEN, SEEN, GONE, prompt),
        Row("POST", "api:versions", "+------.", "+------.", GONE, prompt),
        Row("GET", "api:version", SEEN, SEEN, GONE, version),
        Row("GET", "api:version-diff", SEEN, SEEN, GONE, lambda side: {**version(side), "other": 2}),
        Row("POST", "api:version-render", SEEN, SEEN, GONE, version),
        Row("POST", "api:version-propose-live", "+------.", "+------.", GONE, version),
        Row("POST", "api:version-return-to", "+-+----.", "+-+----.", GONE, version),
        Row("POST", "api:canary-plan", "+------.", "+------.", GONE, version),
        # canaries
        Row("GET", "api:canaries", ALL, ALL, ALL),
        Row("GET", "api:canary", SEEN, SEEN, GONE, canary),
        Row("GET", "api:canary-verdict", SEEN, SEEN, GONE, canary),
        Row("POST", "api:canary-change-plan", "+------.", "+------.", GONE, canary),
        Row("POST", "api:canary-start", "+------.", "+------.", GONE, canary),
        Row("POST", "api:canary-knob", "+-+----.", "+-+----.", GONE, canary),
        Row("POST", "api:canary-promote", "+------.", "+------.", GONE, canary),
        Row("POST", "api:canary-roll-back", "+-+----.", "+-+----.", GONE, canary),
        Row("POST", "api:canary-withdraw", "+------.", "+------.", GONE, canary),
        # changes: of a prompt, of routing, of the policy, of copy; those of redrives see below
        Row("GET", "api:changes", ALL, ALL, ALL),
        Row("GET", "api:change", SEEN, SEEN, GONE, change),
        Row("GET", "api:change", SEEN, GONE, GONE, routing_change, label="routing"),
        Row("GET", "api:change", SEEN, GONE, GONE, policy_change, label="policy"),
        Row("GET", "api:change", SEEN, GONE, GONE, copy_change, label="copy"),
        Row("GET", "api:change", SEEN, GONE, GONE, ladder_change, label="ladder"),
        Row("GET", "api:change", SEEN, GONE, GONE, corpora_change, label="corpora"),
        Row("POST", "api:change-sign-off", "-+-++--.", "-+-++--.", GONE, change),
        Row("POST", "api:change-sign-off", "-+----+.", GONE, GONE, routing_change, label="routing"),
        Row("POST", "api:change-sign-off", "-+----+.", GONE, GONE, policy_change, label="policy"),
        Row("POST", "api:change-sign-off", "---++--.", GONE, GONE, copy_change, label="copy"),
        Row("POST", "api:change-sign-off", "-+--+-+.", GONE, GONE, ladder_change, label="ladder"),
        Row("POST", "api:change-sign-off", "-+----+.", GONE, GONE, corpora_change, label="corpora"),
        Row("POST", "api:change-reject", "-+-++--.", "-+-++--.", GONE, change),
        Row("POST", "api:change-reject", "---++--.", GONE, GONE, copy_change, label="copy"),
        Row("POST", "api:change-reject", "-+----+.", GONE, GONE, routing_change, label="routing"),
        Row("POST", "api:change-withdraw", "-+-++--.", "-+-++--.", GONE, change),
        Row("POST", "api:change-rebase", "-+-++--.", "-+-++--.", GONE, change),
        Row("POST", "api:change-apply", "-+-++--.", "-+-++--.", GONE, change),
        Row("POST", "api:change-apply", "-+----+.", GONE, GONE, routing_change, label="routing"),
        Row("POST", "api:change-apply", "---++--.", GONE, GONE, copy_change, label="copy"),
        Row("POST", "api:change-apply", "-+--+-+.", GONE, GONE, ladder_change, label="ladder"),
        Row("POST", "api:change-apply", "-+----+.", GONE, GONE, corpora_change, label="corpora"),
        Row("GET", "api:change-trials", SEEN, SEEN, GONE, change),
        Row("GET", "api:change-trials", SEEN, GONE, GONE, routing_change, label="routing"),
        Row("POST", "api:change-trials", "-+-++--.", "-+-++--.", GONE, change),
        Row("POST", "api:change-trials", "-+----+.", GONE, GONE, routing_change, label="routing"),
        Row("GET", "api:change-evals", SEEN, SEEN, GONE, change),
        Row("GET", "api:change-evals", SEEN, GONE, GONE, routing_change, label="routing"),
        Row("POST", "api:change-evals", "-+-++--.", "-+-++--.", GONE, change),
        Row("POST", "api:change-evals", "-+----+.", GONE, GONE, routing_change, label="routing"),
        Row("POST", "api:change-break-glass", "--+----.", "--+----.", GONE, change),
        Row("POST", "api:change-break-glass", "-------.", GONE, GONE, copy_change, label="copy"),
        Row("POST", "api:change-break-glass", "--+----.", GONE, GONE, routing_change, label="routing"),
        Row("POST", "api:change-break-glass", "--+----.", GONE, GONE, ladder_change, label="ladder"),
        Row("POST", "api:change-break-glass", "--+----.", GONE, GONE, corpora_change, label="corpora"),
        Row("POST", "api:change-break-glass", "-------.", GONE, GONE, policy_change, label="policy"),
        Row("GET", "api:debts", ALL, ALL, ALL),
        Row("GET", "api:debt", SEEN, SEEN, GONE, debt),
        Row("POST", "api:debt-review", "-+-----.", "-+-----.", GONE, debt),
        # signed copy, routing and policy: held on everything or not at all
        Row("GET", "api:pieces", READER, REFUSED, REFUSED),
        Row("POST", "api:pieces", "+-----+-", REFUSED, REFUSED),
        Row("GET", "api:piece", SEEN, GONE, GONE, piece),
        Row("GET", "api:copy-versions", SEEN, GONE, GONE, piece),
        Row("POST", "api:copy-versions", "+-----+.", GONE, GONE, piece),
        Row("GET", "api:copy-version", SEEN, GONE, GONE, copy_version),
        Row("POST", "api:copy-propose", "+-----+.", GONE, GONE, copy_version),
        Row("POST", "api:copy-return-to", "--+----.", GONE, GONE, copy_version),
        # the ladder: who engages rungs writes no words, and the other way round
        Row("GET", "api:ladder", READER, REFUSED, REFUSED),
        Row("GET", "api:ladder-policies", READER, REFUSED, REFUSED),
        Row("POST", "api:ladder-policies", "--+---+-", REFUSED, REFUSED),
        Row("GET", "api:ladder-policy", SEEN, GONE, GONE, number),
        Row("POST", "api:ladder-policy-propose", "--+---+.", GONE, GONE, number),
        Row("POST", "api:ladder-policy-return-to", "--+---+.", GONE, GONE, number),
        Row("GET", "api:corpora", READER, REFUSED, REFUSED),
        Row("GET", "api:corpus", SEEN, GONE, GONE, corpus),
        Row("GET", "api:corpus-minutes", SEEN, GONE, GONE, corpus),
        Row("GET", "api:corpus-dumps", SEEN, GONE, GONE, corpus),
        Row("POST", "api:corpus-dumps", "--+---+.", GONE, GONE, corpus),
        Row("GET", "api:corpus-dump", SEEN, GONE, GONE, dump),
        Row("POST", "api:corpus-dump-verify", "--+---+.", GONE, GONE, dump),
        Row("POST", "api:corpus-changes", "+-----+.", GONE, GONE, corpus),
        Row("GET", "api:corpus-document", SEEN, GONE, GONE, document),
        Row("POST", "api:corpus-reconcile", "+-----+.", GONE, GONE, corpus),
        *(
            Row("POST", f"api:corpus-{act}", "--+---+.", GONE, GONE, corpus)
            for act in (
                *("pause", "resume", "pin", "unpin", "rebuild", "switch", "drop-namespace"),
                "reconcile-store",
            )
        ),
        Row("GET", "api:corpus-policies", READER, REFUSED, REFUSED),
        Row("POST", "api:corpus-policies", "--+---+-", REFUSED, REFUSED),
        Row("GET", "api:corpus-policy", SEEN, GONE, GONE, number),
        Row("POST", "api:corpus-policy-propose", "--+---+.", GONE, GONE, number),
        Row("POST", "api:corpus-policy-return-to", "--+---+.", GONE, GONE, number),
        Row("GET", "api:corpus-thresholds", SEEN, GONE, GONE, corpus),
        Row("PATCH", "api:corpus-thresholds", "--+---+.", GONE, GONE, corpus),
        Row("GET", "api:ladder-thresholds", SEEN, GONE, GONE, surface),
        Row("PATCH", "api:ladder-thresholds", "--+---+.", GONE, GONE, surface),
        Row("POST", "api:ladder-preview", SEEN, GONE, GONE, surface),
        Row("POST", "api:ladder-stand-down", "--+---+-", REFUSED, REFUSED, surface),
        Row("GET", "api:ladder-activations", READER, REFUSED, REFUSED),
        Row("POST", "api:ladder-activations", "--+---+-", REFUSED, REFUSED),
        Row("GET", "api:ladder-activation", SEEN, GONE, GONE, activation),
        Row("POST", "api:ladder-activation-stand-down", "--+---+.", GONE, GONE, activation),
        Row("GET", "api:ladder-served", SEEN, GONE, GONE, surface),
        Row("GET", "api:ladder-episodes", SEEN, GONE, GONE, surface),
        Row("GET", "api:ladder-episode", SEEN, GONE, GONE, episode),
        Row("GET", "api:ladder-postmortem", SEEN, GONE, GONE, episode),
        Row("GET", "api:ladder-capacity", SEEN, GONE, GONE, surface),
        Row("GET", "api:ladder-readings", SEEN, GONE, GONE, surface),
        Row("POST", "api:ladder-simulate", SEEN, GONE, GONE, surface),
        Row("GET", "api:routing-tables", READER, REFUSED, REFUSED),
        Row("POST", "api:routing-tables", "--+---+-", REFUSED, REFUSED),
        Row("GET", "api:routing-table", SEEN, GONE, GONE, number),
        Row("POST", "api:routing-table-propose", "--+---+.", GONE, GONE, number),
        Row("POST", "api:routing-table-return-to", "--+---+.", GONE, GONE, number),
        Row("GET", "api:breaker", SEEN, GONE, GONE, breaker),
        Row("PATCH", "api:breaker", "--+---+.", GONE, GONE, breaker),
        Row("GET", "api:route", SEEN, GONE, GONE, route),
        Row("PATCH", "api:route", "--+---+.", GONE, GONE, route),
        Row("GET", "api:retry-policy", SEEN, GONE, GONE, retry_policy),
        Row("PATCH", "api:retry-policy", "--+---+.", GONE, GONE, retry_policy),
        Row("GET", "api:probe-policy", SEEN, GONE, GONE, probe_policy),
        Row("PATCH", "api:probe-policy", "--+---+.", GONE, GONE, probe_policy),
        Row("GET", "api:quota-policy", SEEN, GONE, GONE, quota_policy),
        Row("PATCH", "api:quota-policy", "--+---+.", GONE, GONE, quota_policy),
        Row("GET", "api:stream-policy", SEEN, GONE, GONE, stream_policy),
        Row("PATCH", "api:stream-policy", "--+---+.", GONE, GONE, stream_policy),
        Row("GET", "api:repair-policy", SEEN, GONE, GONE, repair_policy),
        Row("PATCH", "api:repair-policy", "--+---+.", GONE, GONE, repair_policy),
        Row("GET", "api:validator-policy", SEEN, GONE, GONE, validator_policy),
        Row("PATCH", "api:validator-policy", "--+---+.", GONE, GONE, validator_policy),
        Row("GET", "api:validator-outcomes", SEEN, GONE, GONE),
        Row("GET", "api:repair-outcomes", SEEN, GONE, GONE),
        Row("GET", "api:lanes", SEEN, GONE, GONE),
        Row("GET", "api:quotas", SEEN, GONE, GONE),
        Row("POST", "api:lane-hold", "--+---+-", REFUSED, REFUSED),
        Row("POST", "api:lane-let-go", "--+---+-", REFUSED, REFUSED),
        Row("GET", "api:drills", READER, REFUSED, REFUSED),
        Row("POST", "api:drills", "--+---+-", REFUSED, REFUSED),
        Row("GET", "api:drill", SEEN, GONE, GONE, drill),
        Row("POST", "api:drill-end", "--+---+.", GONE, GONE, drill),
        Row("POST", "api:drill-propose-values", "--+---+.", GONE, GONE, drill),
        Row("POST", "api:drill-propose-leaving", "--+---+.", GONE, GONE, drill),
        Row("GET", "api:recovery-drills", SEEN, GONE, GONE, corpus),
        Row("POST", "api:recovery-drills", "--+---+.", GONE, GONE, corpus),
        Row("GET", "api:recovery-drill", SEEN, GONE, GONE, recovery_drill),
        Row("POST", "api:recovery-drill-confirm", "--+---+.", GONE, GONE, recovery_drill),
        Row("POST", "api:recovery-drill-cancel", "--+---+.", GONE, GONE, recovery_drill),
        Row("GET", "api:recovery-drill-report", SEEN, GONE, GONE, recovery_drill),
        Row("GET", "api:policies", READER, REFUSED, REFUSED),
        Row("POST", "api:policies", "------+-", REFUSED, REFUSED),
        Row("GET", "api:policy", SEEN, GONE, GONE, number),
        Row("POST", "api:policy-propose", "------+.", GONE, GONE, number),
        # releases and the fleet
        Row("GET", "api:releases", READER, REFUSED, REFUSED),
        Row("GET", "api:release-trust", READER, REFUSED, REFUSED),
        Row("GET", "api:release-current", READER, REFUSED, REFUSED),
        Row("GET", "api:release", SEEN, GONE, GONE, revision),
        Row("GET", "api:release-document", SEEN, GONE, GONE, revision),
        Row("GET", "api:release-diff", SEEN, GONE, GONE, compared),
        Row("POST", "api:release-roll-back", "--+----.", GONE, GONE, revision),
        Row("GET", "api:fleet", READER, REFUSED, REFUSED),
        # the record
        Row("GET", "api:audit-events", "-----++-", REFUSED, REFUSED),
        Row("GET", "api:audit-event", ".....++.", GONE, GONE, lambda side: {"seq": 1}),
        Row("GET", "api:usage", BILLED, BILLED, BILLED),
        Row("GET", "api:usage-days", BILLED, BILLED, BILLED),
        Row("GET", "api:streams", BILLED, BILLED, BILLED),
        Row("GET", "api:streams-days", BILLED, BILLED, BILLED),
        Row("GET", "api:stream", ".....++.", ".....++.", GONE, stream),
        Row("GET", "api:stream-deliveries", ".....++.", ".....++.", GONE, stream),
        Row("GET", "api:stream-transcript", READS, READS, GONE, stream),
        Row("GET", "api:idempotency-keys", BILLED, BILLED, BILLED),
        Row("GET", "api:idempotency-evidence", ".....++.", ".....++.", GONE, record),
        Row("GET", "api:jobs", BILLED, BILLED, BILLED),
        Row("GET", "api:dead-letters", LISTED, LISTED_OWN, LISTED_OWN),
        Row("GET", "api:dead-letter-groups", LISTED, LISTED_OWN, LISTED_OWN),
        Row("POST", "api:dead-letters-decide", "--+---+-", "--+---+-", "--+---+-"),
        Row("GET", "api:dead-letter", LETTERS, LETTERS_OWN, GONE, letter),
        Row("POST", "api:dead-letter-read", ".--.-+-.", "..-.-+-.", GONE, letter),
        Row("POST", "api:dead-letter-hold", HOLDING, HOLDING_OWN, GONE, letter),
        Row("POST", "api:dead-letter-release", HOLDING, HOLDING_OWN, GONE, letter),
        Row("GET", "api:redrive-plans", LISTED, LISTED_OWN, LISTED_OWN),
        Row("POST", "api:redrive-plans", "--+-----", "--+-----", "--+-----"),
        Row("GET", "api:redrive-plan", LETTERS, LETTERS_OWN, GONE, plan),
        Row("GET", "api:redrive-plan-letters", LETTERS, LETTERS_OWN, GONE, plan),
        *(
            Row("POST", f"api:redrive-plan-{act}", REDRIVING, REDRIVING_OWN, GONE, plan)
            for act in ("dry-run", "open", "start", "pause", "resume", "stop", "withdraw")
        ),
        Row("GET", "api:change", LETTERS, LETTERS_OWN, GONE, redrive_change, label="redrive"),
        Row("GET", "api:change-trials", LETTERS, LETTERS_OWN, GONE, redrive_change, label="redrive"),
        *(
            Row(
                "POST",
                f"api:change-{act}",
                SIGNING_REDRIVES,
                SIGNING_REDRIVES_OWN,
                GONE,
                redrive_change,
                label="redrive",
            )
            for act in ("sign-off", "reject", "withdraw", "rebase", "apply")
        ),
        Row("POST", "api:change-break-glass", ".--.---.", "..-.---.", GONE, redrive_change, label="redrive"),
        Row("GET", "api:retention-rules", "--+-+++-", REFUSED, REFUSED),
        Row("POST", "api:retention-rules", "------+-", REFUSED, REFUSED),
        Row("POST", "api:retention-rule-remove", "------+-", REFUSED, REFUSED),
        Row("GET", "api:erasures", "------+-", "------+-", "------+-"),
        Row("POST", "api:erasures", "------+-", "------+-", "------+-"),
        Row("GET", "api:repairs", ANSWERING, ANSWERING, ANSWERING),
        Row("GET", "api:repair", "..+..++.", "..+..++.", GONE, repair),
        Row("GET", "api:repair-words", "..-..+-.", "..-..+-.", GONE, repair),
        Row("POST", "api:repair-complete", COMPLETING, COMPLETING, GONE, repair),
        # evals
        Row("GET", "api:eval-sets", EVALS, REFUSED, REFUSED),
        Row("POST", "api:eval-sets", MANAGING_EVALS, REFUSED, REFUSED),
        Row("GET", "api:eval-set", EVAL, GONE, GONE, lambda side: {"slug": "held-out"}),
        Row("GET", "api:eval-set-versions", EVAL, GONE, GONE, lambda side: {"slug": "held-out"}),
        Row("POST", "api:eval-set-versions", MANAGING_EVAL, GONE, GONE, lambda side: {"slug": "held-out"}),
        Row("GET", "api:eval-set-version", EVAL, GONE, GONE, eval_version),
        Row("GET", "api:eval-set-rows", EVAL, GONE, GONE, eval_version),
        Row("GET", "api:eval-set-diff", EVAL, GONE, GONE, lambda side: {**eval_version(side), "other": 1}),
        Row("GET", "api:eval-standards", EVAL, GONE, GONE, lambda side: {"slug": "held-out"}),
        Row("POST", "api:eval-standards", MANAGING_EVAL, GONE, GONE, lambda side: {"slug": "held-out"}),
        Row("GET", "api:eval-runs", EVALS, REFUSED, REFUSED),
        Row("POST", "api:eval-runs", MANAGING_EVALS, REFUSED, REFUSED),
        Row("GET", "api:eval-run", EVAL, GONE, GONE, eval_run),
        Row("POST", "api:eval-run-cancel", MANAGING_EVAL, GONE, GONE, eval_run),
        Row("GET", "api:eval-run-answers", EVAL, GONE, GONE, eval_run),
        Row("GET", "api:eval-leaks", EVALS, REFUSED, REFUSED),
        Row("GET", "api:judges", EVALS, REFUSED, REFUSED),
        Row("POST", "api:judges", MANAGING_EVALS, REFUSED, REFUSED),
        Row("GET", "api:judge", EVAL, GONE, GONE, lambda side: {"slug": "grounded"}),
        Row("GET", "api:judge-versions", EVAL, GONE, GONE, lambda side: {"slug": "grounded"}),
        Row("POST", "api:judge-versions", MANAGING_EVAL, GONE, GONE, lambda side: {"slug": "grounded"}),
        Row("GET", "api:judge-version", EVAL, GONE, GONE, judge_version),
        Row("GET", "api:judge-calibrations", EVAL, GONE, GONE, judge_version),
        Row("POST", "api:judge-calibrations", MANAGING_EVAL, GONE, GONE, judge_version),
        # shadows: held on everything or not at all
        Row("GET", "api:shadows", SEEN, GONE, GONE),
        Row("GET", "api:shadow", SEEN, GONE, GONE, shadow),
        Row("POST", "api:shadow-kill", "--+---+.", GONE, GONE, shadow),
        Row("POST", "api:shadow-lift", "--+---+.", GONE, GONE, shadow),
        Row("GET", "api:checklists", READER, REFUSED, REFUSED),
        Row("POST", "api:checklists", "--+---+-", REFUSED, REFUSED),
        Row("GET", "api:checklist", SEEN, GONE, GONE, checklist),
        Row("POST", "api:checklist-sign", "-+----+.", GONE, GONE, checklist),
        Row("POST", "api:checklist-withdraw", "--+---+.", GONE, GONE, checklist),
        # alerts
        Row("GET", "api:alerts", "--+--++-", REFUSED, REFUSED),
        Row("GET", "api:alert-channels", "--+--++-", REFUSED, REFUSED),
        Row("POST", "api:alert-channels", "------+-", REFUSED, REFUSED),
        Row("GET", "api:alert-channel", "..+..++.", GONE, GONE, channel),
        Row("PATCH", "api:alert-channel", "..-..-+.", GONE, GONE, channel),
        *(
            Row("POST", f"api:alert-channel-{act}", "..-..-+.", GONE, GONE, channel)
            for act in ("rotate", "enable", "disable", "test")
        ),
        # people
        Row("GET", "api:roles", ALL, ALL, ALL),
        Row("GET", "api:operators", "-----++-", REFUSED, REFUSED),
        Row("POST", "api:operators", "------+-", REFUSED, REFUSED),
        Row("GET", "api:operator", ".....++.", GONE, GONE, operator),
        Row("POST", "api:operator-activate", ".....-+.", GONE, GONE, operator),
        Row("POST", "api:operator-deactivate", ".....-+.", GONE, GONE, operator),
        Row("POST", "api:operator-grants", ".....-+.", GONE, GONE, operator),
        Row("POST", "api:grant-revoke", ".....-+.", GONE, GONE, lambda side: {"pk": side.grant.pk}),
        # tenants and credentials
        Row("GET", "api:tenants", ALL, ALL, ALL),
        Row("POST", "api:tenants", "------+-", REFUSED, REFUSED),
        Row("GET", "api:tenant", ".....++.", ".....++.", GONE, tenant),
        Row("PATCH", "api:tenant", ".....-+.", ".....-+.", GONE, tenant),
        Row("GET", "api:tenant-keys", ".....-+.", ".....-+.", GONE, tenant),
        Row("POST", "api:tenant-keys", ".....-+.", ".....-+.", GONE, tenant),
        Row("POST", "api:key-rotate", ".....-+.", ".....-+.", GONE, key),
        Row("POST", "api:key-revoke", ".....-+.", ".....-+.", GONE, key),
        Row("GET", "api:tokens", ALL, ALL, ALL),
        Row("POST", "api:tokens", ALL, ALL, ALL),
        Row("POST", "api:token-rotate", ".....--.", GONE, GONE, lambda side: {"pk": side.token.pk}),
        Row("POST", "api:token-revoke", ".....-+.", GONE, GONE, lambda side: {"pk": side.token.pk}),
    ),
)
