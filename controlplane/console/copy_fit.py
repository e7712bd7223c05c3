"""Whether words suit the prompts that would fall back on them: who asked for JSON of a schema is never handed prose."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from django.db.models import Exists, F, OuterRef, Q, QuerySet

from controlplane.console.copy_content import Reading, Said
from controlplane.ladder.models import Copy, CopyKind
from controlplane.ladder.uses import Use, uses
from controlplane.prompts.models import PromptVersion
from controlplane.rollouts.models import Canary
from dataplane.documents import child_path
from dataplane.fallback import suitable_text
from dataplane.messages import ChatRequest
from dataplane.prompts import compile_schema
from dataplane.schema_check import SchemaChecker
from dataplane.signed_copy import Words

# A validator may quote the whole instance, and a question may be a letter; a line of a checklist is read at a glance.
_MOST_CHARACTERS: Final = 160


def json_checklist(copy: Copy, readings: Sequence[Reading]) -> list[dict[str, Any]]:
    """Per prompt that asks for JSON on a route below which `copy` stands: whether it can be shown `readings`.

    Decided by the code that workers run. One line for the languages that suit a prompt's version, and one for each that
    does not, with the first thing that is wrong. Two queries however many prompts there are.

    Shape: [{"text": str, "met": bool}]; nothing for an outage notice, which goes out in the error as text, and for
    a rung, whose words stand in for no answer of a schema.
    """
    if copy.kind in {CopyKind.OUTAGE, CopyKind.RUNG}:
        return []
    use_of: dict[str, Use] = {}
    for use in uses().get(copy.slug, []):
        for route in use.routes:
            use_of.setdefault(route, use)  # a stack before a rung, which has nothing below it
    schemas = SchemaChecker()
    checklist = []
    for version in _versions_that_want_json(list(use_of)):
        name = f"{version.prompt.slug}@{version.number}"
        problems = {reading.locale: _problem(reading, version, schemas) for reading in readings}
        suits = [locale for locale, problem in problems.items() if not problem]
        if suits:
            checklist.append({"text": f"Satisfies {name} in {', '.join(suits)}", "met": True})
        then = _then(use_of[version.prompt.route])
        checklist += [
            {"text": f"Does not satisfy {name} in {locale}: {problem}, so {then}", "met": False}
            for locale, problem in problems.items()
            if problem
        ]
    return checklist


def _versions_that_want_json(routes: Sequence[str]) -> QuerySet[PromptVersion]:
    """The live versions and the candidates of running canaries on these routes that ask for JSON; one query."""
    runs = Exists(Canary.objects.running().filter(candidate=OuterRef("pk")))
    return (
        PromptVersion.objects.filter(Q(pk=F("prompt__live_version")) | runs, prompt__route__in=routes)
        .filter(parameters__response_format__type__in=["json_schema", "json_object"])
        .select_related("prompt")
        .defer("messages", "variables_schema", "sample_variables")
        .order_by("prompt__slug", "number")
    )


def _then(use: Use) -> str:
    if use.below is None:
        return "callers of this prompt get the error instead"
    return f"callers of this prompt get {use.below} instead, or the error"


def _problem(reading: Reading, version: PromptVersion, schemas: SchemaChecker) -> str:
    """The first thing for which a worker would not show what is said in this language; empty when it would show all."""
    request = ChatRequest(route=version.prompt.route, messages=[], parameters=version.parameters)
    unsuitable = [said for said in reading.said if suitable_text(request, Words(said.text, said.json), schemas) is None]
    if not unsuitable:
        return ""
    first = unsuitable[0]
    asked = f"{_cut(first.questions[0])!r}: " if first.questions else ""
    more = f" (and {len(unsuitable) - 1} more)" if len(unsuitable) > 1 else ""
    return f"{asked}{_cut(_reason(request, first))}{more}"


def _reason(request: ChatRequest, said: Said) -> str:
    """Why `suitable_text` refused."""
    if said.json is None:
        return "no JSON is written"
    schema = request.response_schema
    if schema is not None:
        try:
            error = next(compile_schema(schema).iter_errors(said.json), None)
        except ValueError as exc:
            return f"its schema is {exc}"
        if error is not None:
            return f"{_path_of(error.instance_path)}: {error.message}"
    return "it asks for a tool call"


def _path_of(parts: Iterable[str | int]) -> str:
    path = "$"
    for part in parts:
        path = child_path(path, part) if isinstance(part, str) else f"{path}[{part}]"
    return path


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"
