"""What pages say of releases, remembered by digest: a document never changes, and a large one takes long to read."""

from dataclasses import dataclass
from typing import Any, Final

from controlplane.console.release_content import Part, section_differences, summary, words
from controlplane.releases.models import Release
from controlplane.releases.sections import all_sections
from controlplane.remembered import Remembered

# A document of more is for a file, not for a page.
MAX_SHOWN_BYTES: Final = 200_000
# Of each kind, the last so many: what people who look into one incident go back and forth between.
_REMEMBERED: Final = 16
_MOST_STATES: Final = 256
# A comparison with more is not kept; it may have the words of thousands of prompts.
_MOST_DIFFERENCES: Final = 50


@dataclass(frozen=True, slots=True)
class Carried:
    """One document as its page shows it.

    Attributes:
        summary: See `release_content.summary`.
        shown: The whole of it; None: it is too large for a page.
    """

    schema: Any
    audit_head: dict[str, Any]
    summary: dict[str, Any]
    document_bytes: int
    shown: dict[str, Any] | None


_CARRIED: Final = Remembered[Carried](_REMEMBERED)
_CHANGES: Final = Remembered[list[str]](_REMEMBERED)
_PARTS: Final = Remembered[list[Part]](_REMEMBERED)
# A digest each: of more releases than anybody looks back.
_STATES: Final = Remembered[str](_MOST_STATES)


def carried(release: Release) -> Carried:
    """What a release carries; its document is only read if it was not lately."""
    return _CARRIED.get(release.digest, lambda: _carried(release))


def changes(before: Release | None, after: Release) -> list[str]:
    """What changes between two releases, a line per change; None is nothing at all."""
    return _CHANGES.get(_pair(before, after), lambda: words(_sections(before), _sections(after)))


def parts(before: Release, after: Release) -> list[Part]:
    """What differs between two releases, section by section."""
    return _PARTS.get(
        _pair(before, after),
        lambda: section_differences(_sections(before), _sections(after)),
        keeps=lambda made: sum(len(part.differences) for part in made) <= _MOST_DIFFERENCES,
    )


def restorable(release: Release) -> str:
    """What a release carries that going back to it would bring back, as a digest: two with the same undo nothing of
    each other.
    """
    names = tuple(section.name for section in all_sections() if section.restore is not None)
    # Read into a release of its own, which goes: of twenty that are looked at, none keeps its megabytes.
    return _STATES.get((release.digest, names), lambda: Release.objects.get(pk=release.pk).digest_of_sections(names))


def _pair(before: Release | None, after: Release) -> tuple[str, str]:
    return ("" if before is None else before.digest, after.digest)


def _sections(release: Release | None) -> dict[str, Any]:
    sections: dict[str, Any] = {} if release is None else release.content["sections"]
    return sections


def _carried(release: Release) -> Carried:
    content, size = release.content, len(release.document)
    return Carried(
        schema=content["schema"],
        audit_head=content["audit_head"],
        summary=summary(content["sections"]),
        document_bytes=size,
        shown=content if size <= MAX_SHOWN_BYTES else None,
    )
