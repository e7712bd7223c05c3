"""How a gateway comes to serve what an eval asks.

What the live release carries is asked as it is. Anything else comes in a sandbox, a release that only the eval brings:
a candidate version beside those that are served, or a route `eval` with the one lane on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from controlplane.evals.errors import UnknownSubject
from controlplane.evals.subjects import EVAL_ROUTE, Document, LaneSubject, PromptSubject, Subject, lane_subject
from controlplane.prompts.models import Prompt, PromptVersion
from controlplane.prompts.operations import compile_prompts, require_intact
from controlplane.releases.operations import current_release, sandbox_document
from controlplane.releases.signing import sign_sandbox
from controlplane.routing.operations import routing_tables
from dataplane.release import Envelope

EVAL_DEADLINE_MS: Final = 60_000


def prompt_subject(slug: str, number: int) -> PromptSubject:
    """A version of a prompt, whether it is served or not.

    Raises:
        UnknownSubject: there is none.
    """
    version = PromptVersion.objects.filter(prompt__slug=slug, number=number).first()
    if version is None:
        raise UnknownSubject(f"prompt {slug!r} has no version {number}")
    return PromptSubject(slug, number, version.digest)


def live_lane(lane: str, *, prompt: str = "") -> LaneSubject:
    """A lane of the routing table in force.

    Raises:
        UnknownSubject: there is none.
    """
    active = routing_tables.active()
    if active is None:
        raise UnknownSubject("no routing table is in force, so there is no lane to ask")
    number = live_numbers([prompt]).get(prompt, 0)
    return lane_subject(active.document, lane, prompt=prompt if number else "", number=number)


def live_numbers(prompts: Iterable[str]) -> dict[str, int]:
    """The number of the live version of each of these prompts that has one; one query, none for no names."""
    named = {slug for slug in prompts if slug}
    if not named:
        return {}
    rows = Prompt.objects.filter(slug__in=named, live_version__isnull=False)
    return dict(rows.values_list("slug", "live_version__number"))


# --- how a gateway comes to serve it ---------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Placed:
    """A subject as a gateway can be asked it now.

    Attributes:
        sandbox: The release that requests bring along; None: what is live serves it.
        response_format: What the managed prompt asks for, where a row asks for nothing else.
    """

    subject: Subject
    sandbox: Envelope | None
    response_format: Document | None


def place(subject: Subject) -> Placed:
    """Look up what a subject needs to be asked, and sign a sandbox where the live release has not got it; a handful of
    queries.

    Raises:
        UnknownSubject: its version is gone.
        AlteredVersion: the version's content is not what its digest says.
        UnservableRelease: no gateway would serve it; the message names the JSON path.
        SigningKeyMissing: nothing can be signed.
    """
    version = _version_of(subject)
    asked_format = None if version is None else (version.parameters or {}).get("response_format")
    if isinstance(subject, LaneSubject):
        return Placed(subject, _sign(_lane_sections(subject, version)), asked_format)
    assert version is not None  # noqa: S101 - narrows the type: only a lane may do without
    if _is_served(version):
        return Placed(subject, None, asked_format)
    return Placed(subject, _sign({"prompts": _with_version(version)}), asked_format)


def _version_of(subject: Subject) -> PromptVersion | None:
    if not subject.prompt:
        return None
    rows = PromptVersion.objects.select_related("prompt")
    version = rows.filter(prompt__slug=subject.prompt, number=subject.number).first()
    if version is None or (isinstance(subject, PromptSubject) and version.digest != subject.digest):
        raise UnknownSubject(f"{subject.prompt} v{subject.number} is not what it was, or is gone")
    require_intact(version)
    return version


def _is_served(version: PromptVersion) -> bool:
    """Whether the newest release carries exactly this version."""
    latest = current_release()
    section = {} if latest is None else latest.content["sections"]["prompts"].get(version.prompt.slug, {})
    served: Any = section.get("versions", {}).get(str(version.number))
    return bool(served == version.served())


def _with_version(version: PromptVersion) -> dict[str, Any]:
    """The section of prompts as it would be compiled now, with a further version of one of them."""
    section = compile_prompts()
    slug, number = version.prompt.slug, version.number
    alone = {"live": number, "route": version.prompt.route, "pinnable": [number], "versions": {}}
    entry = section.get(slug, alone)
    section[slug] = entry | {"versions": entry["versions"] | {str(number): version.served()}}
    return section


def _lane_sections(subject: LaneSubject, version: PromptVersion | None) -> dict[str, Any]:
    route = {"lanes": [subject.lane], "deadline_ms": EVAL_DEADLINE_MS}
    prompts: dict[str, Any] = {}
    if version is not None:
        number = version.number
        entry = {"live": number, "route": EVAL_ROUTE, "pinnable": [number], "versions": {str(number): version.served()}}
        prompts[subject.prompt] = entry
    routing = {**subject.routing, "routes": {EVAL_ROUTE: route}}
    return {"routing": routing, "prompts": prompts, "copy": {}, "lane_overrides": {}}


def _sign(sections: Mapping[str, Any]) -> Envelope:
    return sign_sandbox(sandbox_document(sections))
