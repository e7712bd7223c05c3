"""What models can do, what requests ask for, and where a routing table or a prompt asks a lane for what it lacks.

Pure. The gateway derives a request's needs here, and the console, `make check` and the cutting of releases judge tables
and prompts by the same code and the capability matrix, `fixtures/capabilities.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from typing import Any, Final

from dataplane.documents import Node, child_path
from dataplane.fields import AZURE, OMITTABLE, asks_for
from dataplane.json_formats import FORMATS
from dataplane.lane_fit import carriage_of, lost_on, misfit_of
from dataplane.messages import ChatRequest
from dataplane.policies import CONTINUE
from dataplane.prompts import Problem, PromptSet
from dataplane.routing import CAPABILITIES, MAX_CONTEXT_TOKENS, WIRES, Lane, Route, RoutingTable, with_implied

_CHAT: Final = frozenset({"chat"})
_PART_NEEDS: Final = {"image_url": "vision", "input_audio": "audio_input", "file": "file_input"}
ROUTING_PATH: Final = "$.sections.routing"
PROMPTS_PATH: Final = "$.sections.prompts"


def needs_of(messages: Iterable[Mapping[str, Any]], parameters: Mapping[str, Any], *, stream: bool) -> frozenset[str]:
    """Return the capabilities that a lane must have to serve such a chat request."""
    needs: set[str] = set(_CHAT)
    if stream:
        needs.add("stream")
    if parameters.get("tools") or parameters.get("functions"):
        needs.add("tools")
    response_format = parameters.get("response_format")
    if response_format is not None and response_format["type"] in ("json_object", "json_schema"):
        needs.add(response_format["type"])
    if parameters.get("logprobs"):
        needs.add("logprobs")
    if "audio" in (parameters.get("modalities") or ()):
        needs.add("audio_output")
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            needs.update(_PART_NEEDS[part["type"]] for part in content if part["type"] in _PART_NEEDS)
    return frozenset(needs)


# --- the matrix ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Model:
    """What the matrix says of the models of a wire whose name fits `pattern` (`*` and `?` as in a shell).

    Attributes:
        unsupported_fields: Request fields that it refuses; a lane to it names them too, so that they are not sent.
        source, checked: Where that stands, and when somebody last looked.
    """

    wire: str
    pattern: str
    capabilities: frozenset[str]
    context_tokens: int | None
    max_output_tokens: int | None
    unsupported_fields: frozenset[str]
    source: str
    checked: date


@dataclass(frozen=True, slots=True)
class Matrix:
    """The capability matrix. Of several entries that fit a model, the first counts."""

    models: tuple[Model, ...]

    @classmethod
    def parse(cls, value: object) -> Matrix:
        """Read the matrix, or say where it is wrong.

        Shape: {wire: [{"models": [pattern], "capabilities": [name], "source": link, "checked": date} and, where known,
        {"context_tokens", "max_output_tokens", "unsupported_fields"}]}.
        Raises:
            MalformedRelease: naming the path.
        """
        models: list[Model] = []
        for wire, node in Node(value, "$").entries():
            Node(wire, node.path).one_of(WIRES)
            for item in node.items():
                models.extend(_parse_models(wire, item))
        return cls(tuple(models))

    def find(self, lane: Lane, *, wire: str) -> Model | None:
        """What is known of a lane's model; None when nothing is. Azure's upstream name is a deployment, which may be
        called anything, so there the lane's own word for the model counts.
        """
        names = (lane.model,) if wire == AZURE else (lane.upstream_model, lane.model)
        for name in names:
            for model in self.models:
                if model.wire == wire and fnmatchcase(name, model.pattern):
                    return model
        return None


def _parse_models(wire: str, node: Node) -> Iterator[Model]:
    members = node.members(
        "models",
        "capabilities",
        "source",
        "checked",
        optional=("context_tokens", "max_output_tokens", "unsupported_fields"),
    )
    for item in members["capabilities"].items(minimum=1):
        item.one_of(CAPABILITIES)
    unsupported = members.get("unsupported_fields")
    for item in () if unsupported is None else unsupported.items():
        item.one_of(OMITTABLE)
    limits = {
        name: members[name].integer(minimum=1, maximum=MAX_CONTEXT_TOKENS) if name in members else None
        for name in ("context_tokens", "max_output_tokens")
    }
    checked = members["checked"].value
    if not isinstance(checked, date):
        members["checked"].refuse("expected a date such as 2026-11-25")
    for pattern in members["models"].texts(minimum=1):
        yield Model(
            wire=wire,
            pattern=pattern,
            capabilities=with_implied(members["capabilities"].texts()),
            context_tokens=limits["context_tokens"],
            max_output_tokens=limits["max_output_tokens"],
            unsupported_fields=frozenset(() if unsupported is None else unsupported.texts()),
            source=members["source"].text(),
            checked=checked,
        )


# --- the check -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class PromptUse:
    """One version of a prompt that may be served: the route it runs on, what it asks for, and where that stands.

    Its messages are words, which every lane takes; what a caller adds to them is only known when it comes.
    """

    name: str
    route: str
    parameters: Mapping[str, Any]
    path: str


def uses_of(prompts: PromptSet) -> list[PromptUse]:
    """Every version that a release carries: live, pinned by callers, or the candidate of a canary."""
    return [
        PromptUse(
            version.reference,
            prompt.route,
            version.parameters,
            f"{child_path(PROMPTS_PATH, slug)}.versions[{str(number)!r}].parameters".replace("'", '"'),
        )
        for slug, prompt in prompts.items()
        for number, version in prompt.versions.items()
    ]


def check_table(
    matrix: Matrix, table: RoutingTable, *, uses: Iterable[PromptUse] = (), pins: Iterable[frozenset[str]] = ()
) -> list[Problem]:
    """Say where `table`, or a prompt on it, asks a lane for what it lacks; errors come before warnings.

    A model that the matrix does not know is taken on trust, with a warning.

    Args:
        pins: Where tenants' bytes may go (empty: anywhere); without tenants, anywhere is looked at.
    """
    problems: list[Problem] = []
    for lane in table.lanes.values():
        problems += _check_lane(matrix, lane, wire=table.providers[lane.provider].wire)
    where = sorted(set(pins), key=sorted) or [frozenset()]
    for route in table.routes.values():
        problems += _check_route(route)
        problems += _check_streams(route, where)
    # Of thousands of versions most ask for the same of the same route.
    fits: dict[tuple[str, str], _Fit] = {}
    for use in uses:
        if use.route not in table.routes:
            continue  # a release is refused for that anyway
        asked = (use.route, repr(use.parameters))
        fit = fits.get(asked) or fits.setdefault(asked, _fit(table, use, where))
        problems += _said_of(fit, use)
    return sorted(problems, key=lambda problem: not problem.is_error)


def _check_lane(matrix: Matrix, lane: Lane, *, wire: str) -> Iterator[Problem]:
    path = f"{ROUTING_PATH}.lanes[{lane.id!r}]".replace("'", '"')
    model = matrix.find(lane, wire=wire)
    if model is None:
        name = lane.model if wire == AZURE else lane.upstream_model
        yield Problem(
            path,
            f"the capability matrix knows no model {name!r} on wire {wire!r}, so the lane is taken at its word; add it "
            "to fixtures/capabilities.yaml",
            is_error=False,
        )
        return
    if lacking := sorted(lane.capabilities - model.capabilities):
        yield Problem(
            f"{path}.capabilities",
            f"claims {', '.join(lacking)}, which {model.pattern!r} on wire {wire!r} lacks by the capability matrix "
            f"({model.source}, {model.checked})",
        )
    for name in ("context_tokens", "max_output_tokens"):
        claimed, known = getattr(lane, name), getattr(model, name)
        if claimed is not None and known is not None and claimed > known:
            yield Problem(f"{path}.{name}", f"{claimed} is more than the {known} of {model.pattern!r} ({model.source})")
    if missing := sorted(model.unsupported_fields - lane.unsupported_fields):
        yield Problem(
            f"{path}.unsupported_fields",
            f"{model.pattern!r} on wire {wire!r} refuses {', '.join(missing)} ({model.source}); name them here, and "
            "they are not sent",
        )


def _check_route(route: Route) -> Iterator[Problem]:
    embedding = [lane.id for lane in route.lanes if "embeddings" in lane.capabilities]
    other = [lane.id for lane in route.lanes if "embeddings" not in lane.capabilities]
    if embedding and other:
        yield Problem(
            f"{child_path(f'{ROUTING_PATH}.routes', route.slug)}.lanes",
            f"lane {embedding[0]!r} gives embeddings and lane {other[0]!r} does not; a route is for one of the two",
        )


def _check_streams(route: Route, pins: Iterable[frozenset[str]]) -> Iterator[Problem]:
    """Whether a stream that is to go on after a cut has a lane to go on at, wherever its tenant's bytes may go."""
    if route.streams is None or route.streams.on_cut != CONTINUE:
        return
    for pin in pins:
        within = [lane for lane in route.lanes if _is_within(lane, pin) and "stream" in lane.capabilities]
        if within and not any("prefill" in lane.capabilities for lane in within):
            yield Problem(
                f"{child_path(f'{ROUTING_PATH}.routes', route.slug)}.streams",
                f"no lane of route {route.slug!r}{_among(pin)} can be given the words so far (capability 'prefill'), "
                f"so a stream that breaks off ends, although stream policy {route.streams.slug!r} says that it goes on",
                is_error=False,
            )


def _among(pin: frozenset[str]) -> str:
    return f" in {' or '.join(sorted(pin))}, where a tenant is pinned," if pin else ""


@dataclass(frozen=True, slots=True)
class _Fit:
    """How the lanes of a route fit what is asked of them.

    Attributes:
        able: The lanes that can serve it.
        told: Why the others cannot, in words; "" where all can.
        hopeless: The pins within which no lane can.
        lost: Of lanes that can, what they are not sent as it is asked for.
    """

    route: Route
    able: tuple[str, ...]
    told: str
    hopeless: tuple[frozenset[str], ...]
    lost: tuple[tuple[str, tuple[str, ...]], ...]


def _fit(table: RoutingTable, use: PromptUse, pins: Iterable[frozenset[str]]) -> _Fit:
    route = table.routes[use.route]
    reasons = {lane.id: _why_not(table, lane, use, route) for lane in route.lanes}
    able = [lane for lane in route.lanes if reasons[lane.id] is None]
    lost = ((lane.id, tuple(_not_as_asked(table, lane, use))) for lane in able)
    return _Fit(
        route=route,
        able=tuple(lane.id for lane in able),
        told="; ".join(f"lane {lane!r} {reason}" for lane, reason in reasons.items() if reason is not None),
        hopeless=tuple(
            pin
            for pin in pins
            if any(_is_within(lane, pin) for lane in route.lanes) and not any(_is_within(lane, pin) for lane in able)
        ),
        lost=tuple((lane, names) for lane, names in lost if names),
    )


def _said_of(fit: _Fit, use: PromptUse) -> Iterator[Problem]:
    route = fit.route.slug
    for pin in fit.hopeless:
        yield Problem(use.path, f"no lane of route {route!r}{_among(pin)} can serve {use.name}: {fit.told}")
    if fit.told and not fit.hopeless:
        served = ", ".join(map(repr, fit.able))
        yield Problem(
            use.path,
            f"only {served} of route {route!r} can serve {use.name}, so its fallback is thinner: {fit.told}",
            is_error=False,
        )
    for lane, lost in fit.lost:
        yield Problem(
            use.path,
            f"lane {lane!r} of route {route!r} serves {use.name} without {', '.join(lost)} as it is asked for",
            is_error=False,
        )


def _is_within(lane: Lane, pin: frozenset[str]) -> bool:
    return not pin or lane.residency in pin


def _as_request(use: PromptUse) -> ChatRequest:
    return ChatRequest(route=use.route, messages=[], parameters=dict(use.parameters))


def _why_not(table: RoutingTable, lane: Lane, use: PromptUse, route: Route) -> str | None:
    needs = needs_of((), use.parameters, stream=False)
    if route.repair is not None:
        needs -= FORMATS  # such a lane is asked in words
    if lacking := sorted(needs - lane.capabilities):
        return f"lacks {', '.join(lacking)}"
    wire = table.providers[lane.provider].wire
    request = _as_request(use)
    misfit = misfit_of(request, lane, wire=wire, lost=lost_on(wire, request), estimate=0)
    return None if misfit is None else f"cannot carry {misfit.param!r}"


def _not_as_asked(table: RoutingTable, lane: Lane, use: PromptUse) -> list[str]:
    """The parameters that this lane is not sent, or not in full."""
    lost = set(carriage_of(_as_request(use), wire=table.providers[lane.provider].wire).dropped)
    lost |= {name for name in lane.unsupported_fields - {"max_tokens"} if asks_for(name, use.parameters.get(name))}
    asked = use.parameters.get("max_tokens")
    if asked is not None and lane.max_output_tokens is not None and asked > lane.max_output_tokens:
        lost.add("max_tokens")
    return sorted(lost)
