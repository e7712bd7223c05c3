"""A running canary, written row by row: for tests of what reads one, not of how one comes to be."""

from controlplane.approvals.models import ChangeRequest
from controlplane.prompts.models import Prompt, PromptVersion
from controlplane.rollouts.models import DEFAULT_STAGES, Canary
from tests.worker_reports import NOON


def running_canary(slug="support-answer-v13", prompt="support-answer", **fields):
    """v13 of a prompt against v12, at the first stage."""
    owner = Prompt.objects.create(
        slug=prompt, title="Support answer", route="chat", created_by="owner", created_at=NOON
    )
    control, candidate = (
        PromptVersion.objects.create(
            prompt=owner,
            number=number,
            messages=[{"role": "user", "content": f"Answer {number}"}],
            change_class="minor",
            rationale="because",
            digest=f"{number:064d}",
            author="owner",
            created_at=NOON,
        )
        for number in (12, 13)
    )
    change = ChangeRequest.objects.create(
        kind="canary",
        target=owner.audit_name,
        title="A canary",
        reason="because",
        content={},
        content_digest=candidate.digest,
        rule={},
        digest="c" * 64,
        author="owner",
        opened_at=NOON,
    )
    values = {
        "slug": slug,
        "prompt": owner,
        "candidate": candidate,
        "control": control,
        "unit": "user",
        "salt": "salt",
        "stages": list(DEFAULT_STAGES),
        "position": 0,
        "state": "running",
        "change": change,
        "created_by": "owner",
        "created_at": NOON,
        "started_at": NOON,
    }
    return Canary.objects.create(**values | fields)
