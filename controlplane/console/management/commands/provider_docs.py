"""Write the tables of docs/providers.md anew from what adapters and checks go by; a test compares."""

import re
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from controlplane.routing.matrix import matrix
from dataplane.capabilities import Matrix
from dataplane.fields import ANTHROPIC, AZURE, FIELDS, OPENAI, Field
from dataplane.routing import CAPABILITIES

DOCS_FILE = settings.BASE_DIR / "docs" / "providers.md"
_PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


class Command(BaseCommand):
    help = "Write the tables of docs/providers.md anew from dataplane/fields.py and fixtures/capabilities.yaml."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        DOCS_FILE.write_text(with_tables(DOCS_FILE.read_text(), matrix()))


def with_tables(text: str, known: Matrix) -> str:
    """The text of docs/providers.md with its tables as they ought to be."""
    tables = {"fields": "\n".join(_field_rows()), "models": "\n".join(_model_rows(known))}
    return _PLACE.sub(lambda found: f"{found[1]}{tables[found[2]]}\n{found[3]}", text)


def _field_rows() -> Iterator[str]:
    yield "| field | OpenAI | Azure OpenAI | Anthropic | there it is, or why not | asks for nothing |"
    yield "|---|---|---|---|---|---|"
    for one in FIELDS:
        neutral = ", ".join(f"`{_as_json(value)}`" for value in one.neutral)
        fates = " | ".join(_fate(one, wire) for wire in (OPENAI, AZURE, ANTHROPIC))
        yield f"| `{one.path}` | {fates} | {one.note} | {neutral} |"


def _fate(field: Field, wire: str) -> str:
    fate = field.fate(wire).value
    return fate if fate == "sent" else f"**{fate}**" if fate == "refused" else f"*{fate}*"


def _as_json(value: Any) -> str:
    return {"True": "true", "False": "false"}.get(repr(value), repr(value)).replace("'", '"')


def _model_rows(known: Matrix) -> Iterator[str]:
    names = sorted(CAPABILITIES)
    yield f"| wire | model | {' | '.join(names)} | context | answer | refuses | source |"
    yield "|---|---|" + ":-:|" * len(names) + "--:|--:|---|---|"
    for model in known.models:
        marks = " | ".join("✓" if name in model.capabilities else "" for name in names)
        limits = " | ".join(
            "" if tokens is None else f"{tokens:,}" for tokens in (model.context_tokens, model.max_output_tokens)
        )
        refused = ", ".join(f"`{name}`" for name in sorted(model.unsupported_fields))
        source = f"[{model.checked}]({model.source})"
        yield f"| {model.wire} | `{model.pattern}` | {marks} | {limits} | {refused} | {source} |"
