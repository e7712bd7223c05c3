"""Asks every operation of the console API what its schema allows, and what it does not, as everybody there is.

Paths are the schema's, and more often those of objects that exist, of either side. What a request changes is undone.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests
import schemathesis
from django.db import DatabaseError, transaction
from django.db.models import CharField, Model, TextField
from django.urls import resolve, reverse
from drf_spectacular.generators import SchemaGenerator
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.permissions.api import TABLE
from tests.permissions.visitor import Visitor
from tests.permissions.world import Side, World

HOST = "http://testserver"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
# What is planted in texts of another's objects; in answers to those who may see none of them it may not stand.
MARK = "zq7-planted"
_TEXTS = frozenset({"name", "title", "description", "reason", "summary", "rationale", "incident", "note", "why"})
_PARAMETER = re.compile(r"\{\w+\}|<(?:\w+:)?\w+>")
_REQUEST = frozenset({"method", "url", "params", "data", "json", "headers", "cookies", "files"})
_SECTIONS = ("prompt", "canary", "change", "debt", "tenant", "key", "job", "repair", "letter", "plan", "sample")


@dataclass(slots=True)
class Exploration:
    """What came of it: how many requests, and each finding, with the first request that showed it."""

    requests: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    findings: dict[str, str] = field(default_factory=dict)


@schemathesis.serializer("application/x-ndjson")
def json_lines(_: Any, value: Any) -> Any:
    """A file of lines: what is drawn is bytes already."""
    return value if isinstance(value, bytes) else str(value).encode()


def document() -> dict[str, Any]:
    """The schema as it is served."""
    found: dict[str, Any] = json.loads(json.dumps(SchemaGenerator().get_schema(request=None, public=True), default=str))
    return found


def plant(side: Side) -> list[str]:
    """Write the mark into the texts of a side's own objects, as far as the database lets anybody; returns what tells of
    these objects: the mark, and their ids.
    """
    known = [MARK, str(side.record), side.job.name, side.repair.name, side.letter.pk.hex, str(side.letter.pk)]
    known += [str(side.plan.pk), side.key.prefix, side.canary.salt, f"{side.tenant.slug:x<32}"]
    for number, name in enumerate(_SECTIONS):
        row: Model = getattr(side, name)
        texts = [one for one in row._meta.concrete_fields if isinstance(one, CharField | TextField)]
        for one in texts:
            if one.name in _TEXTS and not one.unique and not one.choices:
                mark = f"{MARK}-{number}"
                try:
                    with transaction.atomic():
                        type(row)._default_manager.filter(pk=row.pk).update(**{one.name: mark})
                except DatabaseError:
                    continue  # a record that nobody changes
    return known


def explore(world: World, *, examples: int, chosen: int) -> Exploration:
    """Ask each operation `examples` times; `chosen` seeds what is asked."""
    found = Exploration()
    visitors: dict[tuple[str, str], Visitor] = {
        (str(role), scope): Visitor(operator) for (role, scope), operator in world.operators.items()
    }
    visitors["anonymous", ""] = Visitor(None)
    secret = plant(world.theirs)
    known = _known_paths(world)
    schema = schemathesis.openapi.from_dict(document())
    for result in schema.get_all_operations():
        operation = result.ok()
        arguments = known.get((operation.method.upper(), _PARAMETER.sub("{}", operation.path)), [])
        _ask(operation, arguments, visitors, secret, found, examples=examples, chosen=chosen)
    return found


def _ask(
    operation: Any,
    arguments: Sequence[Mapping[str, Any]],
    visitors: Mapping[tuple[str, str], Visitor],
    secret: Sequence[str],
    found: Exploration,
    *,
    examples: int,
    chosen: int,
) -> None:
    who = st.sampled_from(sorted(visitors))
    # Most of what the schema allows leads nowhere, so objects that exist are asked for more often.
    place = st.sampled_from([*arguments, *arguments, None])

    @seed(chosen)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(), who=who, place=place)
    def ask(case: Any, who: tuple[str, str], place: Mapping[str, Any] | None) -> None:
        if place is not None:
            case.path_parameters.update({name: str(value) for name, value in place.items()})
        prepared = _prepared(case)
        if prepared is None:
            return
        response = _answer(visitors[who], prepared)
        found.requests += 1
        found.statuses[response.status_code] = found.statuses.get(response.status_code, 0) + 1
        asked = f"{who[0]} {who[1]}: {prepared.method} {prepared.url} {(prepared.body or b'')[:500]!r}"
        for what in _mistakes(case, response):
            found.findings.setdefault(f"{operation.method.upper()} {operation.path}: {what}", asked)
        if who[1] != "everywhere":
            text = response.content.decode(errors="replace")
            shown = f"{prepared.url} {prepared.body!r}"
            for mark in secret:
                if mark in text and mark not in shown:
                    found.findings.setdefault(f"{operation.method.upper()} {operation.path}: leaks {mark}", asked)

    ask()


def _prepared(case: Any) -> requests.PreparedRequest | None:
    """The request as it would go out; None where no client could send it."""
    facts = case.as_transport_kwargs(base_url=HOST)
    try:
        return requests.Request(**{name: value for name, value in facts.items() if name in _REQUEST}).prepare()
    except (ValueError, requests.RequestException):
        return None


def _answer(visitor: Visitor, prepared: requests.PreparedRequest) -> Response:
    body = prepared.body or b""
    with transaction.atomic():
        answer = visitor.generic(
            str(prepared.method),
            str(prepared.url).removeprefix(HOST),
            body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body,
            content_type=prepared.headers.get("Content-Type", "application/json"),
        )
        content = b"".join(answer) if answer.streaming else answer.content  # type: ignore[attr-defined, arg-type]
        transaction.set_rollback(True)
    return Response(
        status_code=answer.status_code,
        headers={name.lower(): [value] for name, value in answer.headers.items()},
        content=content,
        request=prepared,
        elapsed=0.0,
        verify=False,
        http_version="1.1",
        encoding="utf-8",
    )


def _mistakes(case: Any, response: Response) -> Iterator[str]:
    try:
        case.validate_response(response, checks=CHECKS)
    except BaseExceptionGroup as group:
        yield from (f"{response.status_code} {type(one).__name__}: {str(one)[:700]}" for one in group.exceptions)
    except AssertionError as exc:
        yield f"{response.status_code} {type(exc).__name__}: {str(exc)[:700]}"


def _known_paths(world: World) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """By method and path, the arguments that lead to an object of either side."""
    known: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in TABLE.rows:
        for side in (world.mine, world.theirs):
            arguments = row.arguments(side)
            route = resolve(reverse(row.name, kwargs=arguments)).route
            known.setdefault((row.method, "/" + _PARAMETER.sub("{}", route)), []).append(arguments)
    return known
