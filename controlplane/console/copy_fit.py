"""Whether words suit the prompts that would fall back on them: who asked for JSON of a schema is never handed prose."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.contrib.postgres.aggregates import ArrayAgg

from controlplane.console.copy_content import Reading, Said
from controlplane.ladder.models import Copy, CopyKind
from controlplane.ladder.uses import Use, uses
from controlplane.prompts.models import Prompt, PromptVersion
from controlplane.rollouts.models import Canary
from dataplane.documents import child_path
from dataplane.fallback import suitable_text
from dataplane.messages import ChatRequest
from dataplane.prompts import compile_schema
from dataplane.schema_check import SchemaChecker
from dataplane.signed_copy import Words

# A validator may quote the whole instance, and a question may be a letter; a line of a checklist is read at a glance.
_MOST_CHARACTERS: Final = 160
# Of versions that ask for the same; the others are counted.
_MOST_NAMED: Final = 40


@dataclass(frozen=True, slots=True)
class _Asking:
    """Versions of prompts on one route that ask for exactly the same, `names` as in support-answer@3."""

    route: str
    parameters: dict[str, Any]
    names: Sequence[str]

    def __str__(self) -> str:
        named, others = ", ".join(self.names[:_MOST_NAMED]), len(self.names) - _MOST_NAMED
        return named if others <= 0 else f"{named} and {others:,} more that ask for the same"


def json_checklist(copy: Copy, readings: Sequence[Reading]) -> list[dict[str, Any]]:
    """Of prompts that ask for JSON on a route below which `copy` stands: whether they can be shown `readings`.

    Decided by the code that workers run, once for all that ask for the same. One line for the languages that suit them,
    and one for each that does not, with the first thing that is wrong. Two queries however many prompts there are.

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
    for asking in _askings(list(use_of)):
        problems = {reading.locale: _problem(reading, asking, schemas) for reading in readings}
        suits = [locale for locale, problem in problems.items() if not problem]
        if suits:
            checklist.append({"text": f"Satisfies {asking} in {', '.join(suits)}", "met": True})
        then = _then(use_of[asking.route], alone=len(asking.names) == 1)
        checklist += [
            {"text": f"Does not satisfy {asking} in {locale}: {problem}, so {then}", "met": False}
            for locale, problem in problems.items()
            if problem
        ]
    return checklist


def _askings(routes: Sequence[str]) -> list[_Asking]:
    """The live versions and the candidates of running canaries on these routes that ask for JSON, by the first name of
    each thing that is asked for; one query, which gives a row for each.
    """
    live = Prompt.objects.filter(route__in=routes, live_version__isnull=False).order_by().values("live_version")
    # Their ids first: an OR of both is answered by reading every version that there ever was.
    asked = live.union(Canary.objects.running().order_by().values("candidate"))
    rows = (
        PromptVersion.objects.filter(pk__in=asked, prompt__route__in=routes)
        .filter(parameters__response_format__type__in=["json_schema", "json_object"])
        .order_by()
        .values_list("prompt__route", "parameters")
        # Put in order here: ordered there, thousands of equal documents are compared with each other.
        .annotate(slugs=ArrayAgg("prompt__slug"), numbers=ArrayAgg("number"))
    )
    askings = []
    for route, parameters, slugs, numbers in rows:
        names = [f"{slug}@{number}" for slug, number in sorted(zip(slugs, numbers, strict=True))]
        askings.append(_Asking(route, parameters, names))
    return sorted(askings, key=lambda asking: asking.names[0])


def _then(use: Use, *, alone: bool) -> str:
    callers = f"callers of {'this prompt' if alone else 'these prompts'} get"
    return f"{callers} the error instead" if use.below is None else f"{callers} {use.below} instead, or the error"


def _problem(reading: Reading, asking: _Asking, schemas: SchemaChecker) -> str:
    """The first thing for which a worker would not show what is said in this language; empty when it would show all."""
    request = ChatRequest(route=asking.route, messages=[], parameters=asking.parameters)
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
