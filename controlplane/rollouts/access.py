"""The only way a face gets a canary: permissions are asked on its prompt."""

from controlplane.accounts.access import access
from controlplane.accounts.models import Operator
from controlplane.prompts.access import VIEW, PromptPermission, visible_prompts
from controlplane.rollouts.models import Canary, CanaryQuerySet


def access_canary(operator: Operator, slug: str, permission: PromptPermission = "view_prompt") -> Canary:
    """The canary with its prompt, versions and change, if the operator holds the permission on its prompt.

    Raises:
        Http404, PermissionDenied: as `accounts.access.access`.
    """
    canary = Canary.objects.with_parts().filter(slug=slug).first()
    prompt = canary.prompt if canary else None
    return access(operator, canary, view=VIEW, permission=f"prompts.{permission}", target=prompt)


def visible_canaries(operator: Operator) -> CanaryQuerySet:
    """The canaries of the prompts that the operator may see, each with its parts."""
    return Canary.objects.with_parts().filter(prompt__in=visible_prompts(operator).order_by().values("pk"))
