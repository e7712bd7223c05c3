"""How a version differs from another and how it reads with sample variables, by the code that workers run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.console.diffs import Group, diff_json, diff_rows
from controlplane.prompts.models import PromptVersion
from dataplane.documents import MalformedRelease
from dataplane.errors import GatewayError
from dataplane.prompts import PromptVersion as Servable
from dataplane.prompts import render


@dataclass(frozen=True, slots=True)
class Difference:
    """One part of a version beside the same part of another. `rows` empty: it did not change."""

    title: str
    rows: list[Group]


def entry_differences(before: Any, after: Any) -> list[Difference]:
    """What differs between two documents made of entries by their slugs, entry by entry. None: there is nothing yet."""
    old, new = before or {}, after or {}
    return [Difference(slug, diff_json(old.get(slug), new.get(slug))) for slug in sorted({*old, *new})]


@dataclass(frozen=True, slots=True)
class Preview:
    """A version filled with sample variables: the messages that would be sent, or why it cannot be filled."""

    messages: Sequence[dict[str, Any]]
    error: str = ""


def differences(before: PromptVersion | None, after: PromptVersion) -> list[Difference]:
    """Compare two versions part by part; without a `before`, everything is new."""
    old_text, new_text = (_as_text(version.messages) if version else "" for version in (before, after))
    return [
        Difference("Messages", diff_rows(old_text, new_text)),
        Difference("Variables", diff_json(before.variables_schema if before else {}, after.variables_schema)),
        Difference("Parameters", diff_json(before.parameters if before else {}, after.parameters)),
    ]


def _as_text(messages: Sequence[dict[str, str]]) -> str:
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in messages)


def preview(version: PromptVersion, variables: Any = None) -> Preview:
    """Fill `version` with `variables` (by default its own samples) exactly as a worker would."""
    try:
        servable = Servable.build(
            prompt=version.prompt.slug,
            number=version.number,
            digest=version.digest,
            messages=version.messages,
            variables_schema=version.variables_schema,
            parameters=version.parameters,
        )
        return Preview(render(servable, version.sample_variables if variables is None else variables))
    except (GatewayError, MalformedRelease, ValueError) as exc:
        return Preview([], str(exc))
