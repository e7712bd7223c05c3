"""Roles as data: what each may do, and on what. Permissions are Django's, so guardian can give them on one object."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a person is to an object, or (granted everywhere) to the whole deployment."""

    PROMPT_OWNER = "prompt-owner"
    APPROVER = "approver"
    ON_CALL = "on-call"
    EXEC = "exec"
    LEGAL = "legal"
    AUDITOR = "auditor"
    ADMIN = "admin"

    @property
    def label(self) -> str:
        return {"prompt-owner": "Prompt owner", "on-call": "On-call"}.get(self.value, self.value.capitalize())


@dataclass(frozen=True, slots=True)
class RoleDefinition:
    """The permissions of a role: those given on one object, by its model's label; and those held only everywhere."""

    summary: str
    on_object: dict[str, frozenset[str]]
    everywhere: frozenset[str]


_SEES_PROMPT = frozenset({"view_prompt"})
# Releases, routing, policies and copy are held on the whole deployment; whoever works here may look at them.
_SEES_DEPLOYMENT = frozenset(
    {
        "releases.view_release",
        "routing.view_routingtable",
        "approvals.view_approvalpolicy",
        "ladder.view_copy",
        "ladder.view_ladderpolicy",
        "corpora.view_corpuspolicy",
    }
)
# So are eval sets and judges, but only by who works with what they say.
_SEES_EVALS = frozenset({"evals.view_evalset"})
_MANAGES_EVALS = _SEES_EVALS | {"evals.manage_evals"}

ROLES: dict[Role, RoleDefinition] = {
    Role.PROMPT_OWNER: RoleDefinition(
        "Submits prompt versions and runs their canaries",
        {"prompts.prompt": _SEES_PROMPT | {"submit_version", "run_canary", "turn_knob", "roll_back"}},
        _SEES_DEPLOYMENT | _MANAGES_EVALS | {"prompts.add_prompt", "ladder.write_copy", "corpora.feed_corpus"},
    ),
    Role.APPROVER: RoleDefinition(
        "Signs off what others wrote, reviews break-glass",
        {"prompts.prompt": _SEES_PROMPT | {"sign_off", "review_break_glass"}},
        _SEES_DEPLOYMENT
        | _SEES_EVALS
        | {
            # Held everywhere: redrives are signed as such, so an approver of one tenant would approve nothing.
            "accounts.view_deadletter",
            "deadletters.view_redriveplan",
            "deadletters.sign_off_redrive",
            "routing.sign_off_routing",
            "routing.review_break_glass_routing",
            "ladder.sign_off_ladder",
            "ladder.review_break_glass_ladder",
            "corpora.sign_off_corpora",
            "corpora.review_break_glass_corpora",
            "approvals.sign_off_policy",
        },
    ),
    Role.ON_CALL: RoleDefinition(
        "Turns knobs, rolls back, engages rungs, breaks glass, completes answers, works the dead letters",
        {
            "prompts.prompt": _SEES_PROMPT | {"turn_knob", "roll_back", "break_glass"},
            "accounts.tenant": frozenset(
                {
                    "complete_repair",
                    "view_deadletter",
                    "redrive_deadletter",
                    "decide_deadletter",
                    "hold_deadletter",
                }
            ),
        },
        _SEES_DEPLOYMENT
        | _SEES_EVALS
        | {
            "deadletters.view_redriveplan",
            "deadletters.view_retentionrule",
            "releases.roll_back_release",
            "routing.propose_routing",
            "routing.break_glass_routing",
            "routing.hold_lane",
            "ladder.return_copy",
            "ladder.propose_ladder",
            "ladder.break_glass_ladder",
            "ladder.engage_rung",
            "corpora.propose_corpora",
            "corpora.break_glass_corpora",
            "corpora.operate_corpus",
            "corpora.drill_corpus",
            "alerts.view_channel",
        },
    ),
    Role.EXEC: RoleDefinition(
        "Signs the words users will read",
        {"prompts.prompt": _SEES_PROMPT | {"sign_off"}},
        _SEES_DEPLOYMENT | {"ladder.sign_off_copy"},
    ),
    Role.LEGAL: RoleDefinition(
        "Signs what regulated users will read, holds what must be kept",
        {
            "prompts.prompt": _SEES_PROMPT | {"sign_off"},
            "accounts.tenant": frozenset({"view_deadletter", "hold_deadletter"}),
        },
        # Rungs too: a policy may ask them about the ladders of regulated surfaces.
        _SEES_DEPLOYMENT | {"ladder.sign_off_copy", "ladder.sign_off_ladder", "deadletters.view_retentionrule"},
    ),
    Role.AUDITOR: RoleDefinition(
        "Reads everything, changes nothing",
        {
            "prompts.prompt": _SEES_PROMPT,
            "accounts.tenant": frozenset({"view_tenant", "view_usage", "read_content", "view_deadletter"}),
        },
        _SEES_DEPLOYMENT
        | _SEES_EVALS
        | {
            "audit.view_auditevent",
            "audit.export_audit",
            "accounts.view_operator",
            "deadletters.view_redriveplan",
            "deadletters.view_retentionrule",
            "alerts.view_channel",
        },
    ),
    Role.ADMIN: RoleDefinition(
        "Gives and takes roles, keys and tokens; proposes policy",
        {
            "prompts.prompt": _SEES_PROMPT,
            "accounts.tenant": frozenset(
                {
                    "view_tenant",
                    "view_usage",
                    "manage_keys",
                    "change_tenant",
                    "complete_repair",
                    "view_deadletter",
                    "decide_deadletter",
                    "hold_deadletter",
                    "erase_subject",
                }
            ),
        },
        _SEES_DEPLOYMENT
        | _MANAGES_EVALS
        | {
            "deadletters.view_redriveplan",
            "deadletters.view_retentionrule",
            "deadletters.set_retention",
            "accounts.view_operator",
            "accounts.manage_access",
            "accounts.add_tenant",
            "approvals.propose_policy",
            "approvals.sign_off_policy",
            "routing.propose_routing",
            "routing.sign_off_routing",
            "routing.hold_lane",
            "ladder.write_copy",
            "ladder.propose_ladder",
            "ladder.sign_off_ladder",
            "ladder.engage_rung",
            "corpora.propose_corpora",
            "corpora.sign_off_corpora",
            "corpora.feed_corpus",
            "corpora.operate_corpus",
            "corpora.drill_corpus",
            "audit.view_auditevent",
            "alerts.view_channel",
            "alerts.manage_channels",
        },
    ),
}


def permissions_everywhere(role: Role) -> frozenset[str]:
    """Every permission, as 'app.codename', that the role gives when it is granted on everything."""
    definition = ROLES[role]
    on_any_object = {
        f"{label.split('.')[0]}.{codename}"
        for label, codenames in definition.on_object.items()
        for codename in codenames
    }
    return definition.everywhere | on_any_object


def permissions_on(role: Role, model_label: str) -> frozenset[str]:
    """Every permission, as 'app.codename', that the role gives on one object of the model ('prompts.prompt')."""
    app = model_label.split(".")[0]
    return frozenset(f"{app}.{codename}" for codename in ROLES[role].on_object.get(model_label, frozenset()))
