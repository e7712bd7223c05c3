"""Prompts and their immutable versions. What is live is the newest row of a log, never an editable field."""

from typing import Any, ClassVar

import pgtrigger
from django.db import models
from django.urls import reverse

from controlplane.audit.models import append_only
from controlplane.versioned.models import Version
from dataplane.release import canonical, digest_of


class ChangeClass(models.TextChoices):
    """How far a version departs from the one before; the approval policy decides by it."""

    MINOR = "minor", "Minor"
    TONE = "tone", "Tone"
    LEGAL = "legal", "Legal"


class PromptQuerySet(models.QuerySet["Prompt"]):
    def with_live(self) -> "PromptQuerySet":
        """Each prompt with `live_version` fetched; one query for the list."""
        return self.select_related("live_version")


class Prompt(models.Model):
    """A managed prompt that applications name by its slug."""

    slug = models.SlugField(unique=True)
    title = models.CharField(max_length=120)
    description = models.TextField(blank=True)
    route = models.SlugField(help_text="The route its requests take when the caller names none")
    live_version = models.ForeignKey(
        "PromptVersion", null=True, blank=True, on_delete=models.PROTECT, related_name="+", editable=False
    )
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField()

    objects = PromptQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["slug"]
        permissions: ClassVar = [
            ("submit_version", "Can submit versions"),
            ("run_canary", "Can plan, start and promote canaries"),
            ("turn_knob", "Can turn a canary's knob"),
            ("roll_back", "Can roll back a canary or the live version"),
            ("sign_off", "Can sign off changes"),
            ("break_glass", "Can bypass sign-offs in an incident"),
            ("review_break_glass", "Can review a bypass"),
        ]
        triggers: ClassVar = [
            # The pointer may only follow the log: no save() and no UPDATE makes a version live by itself.
            pgtrigger.Trigger(
                name="live_follows_the_log",
                operation=pgtrigger.Update,
                when=pgtrigger.Before,
                condition=pgtrigger.Q(old__live_version__df=pgtrigger.F("new__live_version")),
                func="""
                    IF NEW.live_version_id IS DISTINCT FROM (
                        SELECT l.version_id FROM prompts_livechange l
                        WHERE l.prompt_id = NEW.id ORDER BY l.id DESC LIMIT 1
                    ) THEN
                        RAISE EXCEPTION 'prompt % goes live only through an entry in its log', NEW.slug
                            USING ERRCODE = 'check_violation';
                    END IF;
                    RETURN NEW;
                """,
            ),
            pgtrigger.Protect(
                name="nothing_is_live_at_birth",
                operation=pgtrigger.Insert,
                condition=pgtrigger.Q(new__live_version__isnull=False),
            ),
            # Content digests and changes name the prompt by its slug; no operation changes the route of live words.
            pgtrigger.Protect(
                name="identity_is_fixed",
                operation=pgtrigger.Update,
                condition=pgtrigger.Condition(
                    "OLD.slug IS DISTINCT FROM NEW.slug"
                    " OR (OLD.live_version_id IS NOT NULL AND OLD.route IS DISTINCT FROM NEW.route)"
                ),
            ),
        ]

    def __str__(self) -> str:
        return self.slug

    def get_absolute_url(self) -> str:
        return reverse("prompt", args=[self.slug])

    @property
    def audit_name(self) -> str:
        return f"prompt:{self.slug}"


class PromptVersion(Version):
    """One immutable version: exactly the bytes that would be sent, and why somebody wants them."""

    prompt = models.ForeignKey(Prompt, on_delete=models.PROTECT, related_name="versions")
    messages = models.JSONField()
    variables_schema = models.JSONField(default=dict)
    parameters = models.JSONField(default=dict)
    sample_variables = models.JSONField(default=dict, blank=True)
    change_class = models.CharField(max_length=10, choices=ChangeClass.choices)

    class Meta(Version.Meta):
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["prompt", "number"], name="one_number"),
            models.UniqueConstraint(fields=["prompt", "digest"], name="one_content"),
        ]

    def __str__(self) -> str:
        return f"{self.prompt.slug} v{self.number}"

    def get_absolute_url(self) -> str:
        return reverse("prompt-version", args=[self.prompt.slug, self.number])

    @property
    def audit_name(self) -> str:
        return f"prompt:{self.prompt.slug}@{self.number}"

    def digested(self) -> str:
        return content_digest(
            prompt=self.prompt.slug,
            messages=self.messages,
            variables_schema=self.variables_schema,
            parameters=self.parameters,
        )

    def served(self) -> dict[str, Any]:
        """What a release carries of this version."""
        return {
            "digest": self.digest,
            "messages": self.messages,
            "variables_schema": self.variables_schema,
            "parameters": self.parameters,
        }


def content_digest(*, prompt: str, messages: Any, variables_schema: Any, parameters: Any) -> str:
    """The digest of what would be served; the change class and the reasons are not part of it."""
    return digest_of(
        canonical(
            {"prompt": prompt, "messages": messages, "variables_schema": variables_schema, "parameters": parameters}
        )
    )


class LiveChange(models.Model):
    """One change of which version is live: the log that `Prompt.live_version` follows."""

    prompt = models.ForeignKey(Prompt, on_delete=models.PROTECT, related_name="live_changes")
    version = models.ForeignKey(PromptVersion, on_delete=models.PROTECT, related_name="live_changes")
    actor = models.CharField(max_length=150)
    reason = models.TextField()
    at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["-id"]
        triggers: ClassVar = [
            append_only(),
            pgtrigger.Trigger(
                name="version_of_that_prompt",
                operation=pgtrigger.Insert,
                when=pgtrigger.Before,
                func="""
                    IF NOT EXISTS (
                        SELECT 1 FROM prompts_promptversion v
                        WHERE v.id = NEW.version_id AND v.prompt_id = NEW.prompt_id
                    ) THEN
                        RAISE EXCEPTION 'version % is of another prompt than %', NEW.version_id, NEW.prompt_id
                            USING ERRCODE = 'check_violation';
                    END IF;
                    RETURN NEW;
                """,
            ),
        ]

    def __str__(self) -> str:
        return f"{self.version} live since {self.at:%Y-%m-%d %H:%M}"
