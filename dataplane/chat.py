"""A chat request as far as it was decided about before anything is sent, and which lanes can carry it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from dataplane.capabilities import needs_of
from dataplane.journey import Journey
from dataplane.json_formats import as_lane_takes_it
from dataplane.lane_fit import LaneFit, asked_output
from dataplane.messages import ChatRequest, ChatResponse
from dataplane.records import record
from dataplane.release import Release
from dataplane.routing import Lane, Route
from dataplane.validators.values import Output


@record
class Chat:
    """A chat request as far as it was decided about before anything is sent. For `is_repeatable`, see `retry`."""

    request: ChatRequest
    release: Release
    route: Route
    fit: LaneFit
    is_repeatable: bool

    def size(self, lane: Lane) -> tuple[int, int | None]:
        """See `attempts.Size`."""
        return self.fit.estimated_tokens, asked_output(self.request, lane)

    @property
    def question(self) -> str:
        """What the user said last, as far as it is text."""
        last = next((one for one in reversed(self.request.messages) if one["role"] == "user"), None)
        content = "" if last is None else last.get("content")
        if isinstance(content, str):
            return content
        return "\n".join(part["text"] for part in content or () if part["type"] == "text")

    def output(self, text: str | None, tool_calls: Iterable[tuple[str, str]] = ()) -> Output:
        """An answer to it, as validators look at it; `tool_calls` are names and arguments."""
        request = self.request
        return Output(text or "", tuple(tool_calls), request.sources, self.question, is_json=request.wants_json)

    def output_of(self, response: ChatResponse) -> Output:
        """As `output`, of a whole answer."""
        calls = response.tool_calls
        return self.output(response.text, [(call.name, call.arguments) for call in calls] if calls else ())

    def told(self, request: ChatRequest, lane: Lane) -> ChatRequest:
        """What `lane` is told of `request`, which says what this one wants said there."""
        return request if self.route.repair is None else as_lane_takes_it(request, lane)


def able_lanes(journey: Journey, chat: Chat) -> tuple[Lane, ...]:
    """The request's lanes that can carry it. Those behind the first were not looked at before."""
    return tuple(filter(chat.fit.fits, journey.lanes))


def chat_needs(request: ChatRequest) -> frozenset[str]:
    """Return the capabilities a lane must have to serve `request`."""
    return needs_of(request.messages, request.parameters, stream=request.stream)
