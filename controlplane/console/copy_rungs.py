"""The words of a ladder's rung as people write and read them: how they look, what differs, what language is missing."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import get_language_info

from controlplane.console.diffs import diff_rows
from controlplane.console.previews import Difference
from controlplane.ladder.models import CopyActivation, CopyKind, CopyVersion
from controlplane.ladder.policies import ladder_policies
from dataplane.rung_words import Mail, RungWords

_BULLET: Final = re.compile(r"[-*•]\s+")
_NUMBER: Final = re.compile(r"\d{1,3}[.)]\s+")
# An address in escaped text. What holds a placeholder is no address yet, but for that of the status page.
_LINK: Final = re.compile(r"https?://(?:(?!\{\{)[^\s<>])*(?:(?!\{\{)[^\s<>.,;:!?)])|\{\{ *status_url *\}\}")
_MOST_NAMED: Final = 2


@dataclass(frozen=True, slots=True)
class RungSaid:
    """What users read of a rung in one language, with sample values filled in; `html` is for the page as it is."""

    banner: str
    detail: str
    html: SafeString
    mail: Mail | None


def said_by_rung(words: RungWords, values: Mapping[str, str]) -> RungSaid:
    """The words as users read them, by the code that workers run."""
    filled = words.filled(values)
    # The parser let nothing in but tags of text and links that lead somewhere, and `filled` escapes what it puts in.
    html = mark_safe(filled.html)  # noqa: S308 - see above
    return RungSaid(filled.banner, filled.detail, html, filled.mail)


def rung_differences(
    locale: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> list[Difference]:
    """Compare the words of one language field by field; one part without rows where nothing differs."""
    if before == after:
        return [Difference(f"Words in {locale}", [])]
    old, new = _by_field(before), _by_field(after)
    return [Difference(f"{name} in {locale}", diff_rows(old[name], new[name])) for name in new]


def _by_field(words: Mapping[str, Any] | None) -> dict[str, str]:
    shown = words or {"banner": "", "detail": "", "html": "", "mail": None}
    mail = shown["mail"]
    return {
        "Banner": shown["banner"],
        "Detail": shown["detail"],
        "HTML": shown["html"],
        "E-mail": f"Subject: {mail['subject']}\n\n{mail['text']}" if mail else "",
    }


# --- HTML out of plain text ------------------------------------------------------------------------------------------
def html_from_text(text: str) -> str:
    """Plain text as HTML that may be signed: paragraphs, line breaks, lists, links of addresses; placeholders stay."""
    blocks = re.split(r"\n\s*\n", "\n".join(text.splitlines()).strip())
    return "\n".join(_block([line.strip() for line in block.splitlines()]) for block in blocks if block.strip())


def _block(lines: list[str]) -> str:
    for tag, mark in (("ul", _BULLET), ("ol", _NUMBER)):
        if all(mark.match(line) for line in lines):
            items = "".join(f"<li>{_inline(mark.sub('', line, count=1))}</li>" for line in lines)
            return f"<{tag}>{items}</{tag}>"
    return f"<p>{'<br>'.join(_inline(line) for line in lines)}</p>"


def _inline(text: str) -> str:
    # Quotes stand as they are: they are text here, and a part of how two literal braces are written.
    return _LINK.sub(_linked, escape(text, quote=False))


def _linked(found: re.Match[str]) -> str:
    address = found[0].replace('"', "%22")
    if address.startswith("{{"):
        return '<a href="{{status_url}}">{{status_url}}</a>'
    return f'<a href="{address}">{found[0]}</a>'


# --- languages -------------------------------------------------------------------------------------------------------
def missing_languages(version: CopyVersion) -> list[str]:
    """A sentence for each language in which another rung beside it is written, and this version is not; two queries.

    Beside it stand the live words that the same surface's ladder names; while none names it, those of every rung.
    """
    if version.copy.kind != CopyKind.RUNG:
        return []
    written = {_language(locale) for locale in version.document["locales"]}
    known: dict[str, list[str]] = {}
    for other in _beside(version):
        for locale in other.document["locales"]:
            if _language(locale) not in written:
                known.setdefault(locale, []).append(other.copy.slug)
    return [f"{language_name(locale)} is missing here; {_have(slugs)}" for locale, slugs in sorted(known.items())]


def _beside(version: CopyVersion) -> Iterator[CopyVersion]:
    policy = ladder_policies.active()
    ladders = [] if policy is None else policy.parsed().values()
    named = [{slug for rung in surface.rungs.values() for slug in rung.words} for surface in ladders]
    same = set[str]().union(*(slugs for slugs in named if version.copy.slug in slugs))
    live = CopyActivation.objects.current().filter(version__copy__kind=CopyKind.RUNG)
    for activation in live.exclude(version__copy=version.copy_id):
        if not same or activation.version.copy.slug in same:
            yield activation.version


def _have(slugs: Collection[str]) -> str:
    named = sorted(slugs)
    if len(named) == 1:
        return f"{named[0]} has it"
    if len(named) <= _MOST_NAMED:
        return f"{' and '.join(named)} have it"
    return f"{named[0]} and {len(named) - 1} others have it"


def language_name(locale: str) -> str:
    """A locale with the name of its language in English, where it is known: 'German (de)'."""
    try:
        return f"{get_language_info(locale.lower())['name']} ({locale})"
    except KeyError:
        return locale


def _language(locale: str) -> str:
    return locale.partition("-")[0].lower()
