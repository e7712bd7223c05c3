"""The only way a face gets a prompt or a version: permissions are asked on the prompt."""

from typing import Literal

from controlplane.accounts.access import access, visible
from controlplane.accounts.access import may as holds
from controlplane.accounts.models import Operator
from controlplane.prompts.models import Prompt, PromptQuerySet, PromptVersion

PromptPermission = Literal[
    "view_prompt",
    "submit_version",
    "run_canary",
    "turn_knob",
    "roll_back",
    "sign_off",
    "break_glass",
    "review_break_glass",
]
VIEW = "prompts.view_prompt"


def access_prompt(operator: Operator, slug: str, permission: PromptPermission = "view_prompt") -> Prompt:
    """The prompt with its live version, if the operator may see it and holds the permission on it.

    Raises:
        Http404, PermissionDenied: as `accounts.access.access`.
    """
    prompt = Prompt.objects.with_live().filter(slug=slug).first()
    return access(operator, prompt, view=VIEW, permission=f"prompts.{permission}")


def access_version(
    operator: Operator, slug: str, number: int, permission: PromptPermission = "view_prompt"
) -> PromptVersion:
    """One version of a prompt, with its prompt fetched; asked on the prompt."""
    version = PromptVersion.objects.select_related("prompt").filter(prompt__slug=slug, number=number).first()
    prompt = version.prompt if version else None
    return access(operator, version, view=VIEW, permission=f"prompts.{permission}", target=prompt)


def visible_prompts(operator: Operator) -> PromptQuerySet:
    """The prompts that the operator may see, each with its live version."""
    return visible(operator, Prompt.objects.with_live(), VIEW)


def may(operator: Operator, prompt: Prompt, permission: PromptPermission) -> bool:
    """Whether `access_prompt` would give this operator the prompt for that: what a page offers buttons for."""
    return holds(operator, f"prompts.{permission}", prompt)
