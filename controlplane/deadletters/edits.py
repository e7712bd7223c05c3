"""What is changed in a request before it is handed in again, and how that is shown. Pure.

Source: Hoffman, Snell, "JSON Merge Patch", RFC 7396, 2014.
"""

import difflib
import hashlib
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

from controlplane.deadletters.errors import BadEdit
from dataplane.documents import Node
from dataplane.release import canonical
from dataplane.validators.personal import CLASSES as PERSONAL
from dataplane.validators.personal import PersonalParams
from dataplane.validators.redaction import Cut, redact
from dataplane.validators.secrets import CLASSES as SECRETS
from dataplane.validators.secrets import SecretParams

MAX_EDIT_BYTES: Final = 256 * 1024
MAX_DIFF_CHARACTERS: Final = 20_000
WITHHELD: Final = "(nested too deep to be shown)"
_CONTEXT: Final = 2


def read_edit(edit: object) -> dict[str, Any] | None:
    """Return an edit as a plan keeps it, None for none.

    Shape: {"merge": a JSON Merge Patch of the request's body} or {"body": the whole new body}.
    Raises:
        BadEdit: it is neither, or too large, or holds what JSON cannot carry exactly.
    """
    if edit is None:
        return None
    if not isinstance(edit, dict) or len(edit) != 1 or edit.keys() - {"merge", "body"}:
        raise BadEdit("an edit has one member, 'merge' with a JSON merge patch or 'body' with the whole new body")
    [value] = edit.values()
    if not isinstance(value, dict) or not value:
        raise BadEdit("what a request becomes, or what of it changes, is a JSON object with something in it")
    try:
        size = len(canonical(edit))
    except (ValueError, RecursionError) as exc:
        raise BadEdit(f"the edit is no JSON that can be kept: {exc}") from exc
    if size > MAX_EDIT_BYTES:
        raise BadEdit(f"the edit takes {size} bytes, over {MAX_EDIT_BYTES}")
    return edit


def digest_of_edit(edit: Mapping[str, Any] | None) -> str:
    """SHA-256 of an edit in hex; empty without one."""
    return "" if edit is None else hashlib.sha256(canonical(edit)).hexdigest()


def edited(value: dict[str, Any], edit: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a request, or the arguments of work, become; what was given is not changed."""
    if edit is None:
        return value
    if "body" in edit:
        return dict(edit["body"])
    patched = _patched(value, edit["merge"])
    assert isinstance(patched, dict)  # noqa: S101 - both are objects: see `read_edit`
    return patched


def _patched(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _patched(result.get(name), value)
    return result


# --- without what must not be seen -----------------------------------------------------------------------------------
@lru_cache(maxsize=1)
def _finders() -> tuple[Callable[[str], list[Cut]], ...]:
    personal = PersonalParams.parse(Node({"classes": sorted(PERSONAL)}, "$")).sieve
    secrets = SecretParams.parse(Node({"classes": sorted(SECRETS)}, "$")).sieve

    def finder(sieve: Any) -> Callable[[str], list[Cut]]:
        def find(text: str) -> list[Cut]:
            return [Cut(hit.start, hit.end, f"[{hit.what}]") for hit in sieve.find(text, is_json=False)]

        return find

    return finder(personal), finder(secrets)


def redacted_text(text: str) -> str:
    """A text with words in the place of personal data and secrets, as the validators' detectors find them."""
    cuts = [cut for find in _finders() for cut in find(text)]
    return redact(text, cuts) if cuts else text


def redacted(value: Any) -> Any:
    """A JSON value with every text in it, names of members too, as `redacted_text` has it; numbers that look like
    somebody's are texts afterwards.
    """
    if isinstance(value, str):
        return redacted_text(value)
    if isinstance(value, dict):
        return {redacted_text(name): redacted(member) for name, member in value.items()}
    if isinstance(value, list):
        return [redacted(item) for item in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        text = json.dumps(value)
        shown = redacted_text(text)
        return value if shown == text else shown
    return value


def shown_json(value: Any) -> str:
    """A JSON value for people to read, redacted: each text by itself, then the whole, in which a name says of a value
    what that is. It need not be JSON any more.
    """
    try:
        text = json.dumps(redacted(value), indent=2, ensure_ascii=False, sort_keys=True)
    except RecursionError:
        return WITHHELD
    return redacted_text(text)


def diff_of(before: Any, after: Any) -> str:
    """What differs between two JSON values, redacted, as a unified diff; empty when that shows no difference."""
    lines = difflib.unified_diff(
        shown_json(before).splitlines(),
        shown_json(after).splitlines(),
        fromfile="as it failed",
        tofile="as it would be handed in",
        lineterm="",
        n=_CONTEXT,
    )
    text = "\n".join(lines)
    return text if len(text) <= MAX_DIFF_CHARACTERS else f"{text[:MAX_DIFF_CHARACTERS]}\n… (more)"
