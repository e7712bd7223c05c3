"""Try a dropped connection: a stream of the gateway, read by the browser's own EventSource, dropped and taken up again.

The browser may speak to no host but ours, so the gateway's bytes pass through here as they are. The API key is the
visitor's: the console holds none, and keeps none.
"""

import re
from collections.abc import AsyncIterator
from typing import Final

import httpx
from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET, require_POST, require_safe

from controlplane.console.forms.usage import TryStreamForm
from controlplane.console.views.usage import tabs

_STREAM: Final = re.compile(r"[0-9a-f]{32}\Z")
_TIMEOUT: Final = httpx.Timeout(60.0, connect=3.0)
# What the simulator of the demo understands: so slow that a hand is quick enough to drop the connection.
_SLOWLY: Final = " [[fault slow_drip:ms=150]]"


@login_required
@require_safe
def stream_try(request: HttpRequest) -> HttpResponse:
    """The page: a question, the answer as it comes, and a button that drops the connection."""
    form = TryStreamForm(initial={"key": "bk-demo-globex"} if settings.DEMO else None)
    return render(request, "usage/stream_try.html", {"form": form, "tabs": tabs("stream-try"), "slow": settings.DEMO})


@login_required
@require_POST
async def stream_try_begin(request: HttpRequest) -> HttpResponse:
    """Ask the gateway, and hang up as soon as the stream has a name: the answer is written on all the same.

    Shape: {"stream": id, "cursor": resume cursor}, or {"error": words} with a status that fits.
    """
    form = TryStreamForm(request.POST)
    if not form.is_valid():
        return JsonResponse(
            {"error": " ".join(str(word) for words in form.errors.values() for word in words)}, status=400
        )
    asked = form.cleaned_data
    question = asked["question"] + (_SLOWLY if settings.DEMO else "")
    body = {"model": asked["route"], "stream": True, "messages": [{"role": "user", "content": question}]}
    headers = {"authorization": f"Bearer {asked['key']}", "ballast-user": f"console:{request.user.get_username()}"}
    try:
        async with (
            httpx.AsyncClient(base_url=settings.GATEWAY_URL, timeout=_TIMEOUT) as client,
            client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer,
        ):
            if not answer.is_success:
                await answer.aread()
                return JsonResponse({"error": _words_of(answer)}, status=502)
            stream = answer.headers.get("ballast-stream-id", "")
            cursor = answer.headers.get("ballast-resume-cursor", "")
    except httpx.HTTPError as exc:
        return JsonResponse({"error": f"The gateway does not answer: {type(exc).__name__}."}, status=502)
    if not stream:
        words = f"Route {asked['route']!r} has no stream policy, so its streams end with their connection."
        return JsonResponse({"error": words}, status=409)
    return JsonResponse({"stream": stream, "cursor": cursor})


@login_required
@require_GET
async def stream_try_events(request: HttpRequest, stream_id: str) -> HttpResponseBase:
    """The gateway's events of one stream, byte for byte, for an EventSource that shows the stream's cursor."""
    if not _STREAM.match(stream_id):
        raise Http404
    if "cursor" not in request.GET:
        return HttpResponse("Show the stream's cursor.", status=400, content_type="text/plain")
    parameters = {name: request.GET[name] for name in ("cursor", "starting_after") if name in request.GET}
    headers = {"accept": "text/event-stream"}
    if "Last-Event-ID" in request.headers:
        headers["last-event-id"] = request.headers["Last-Event-ID"]
    client = httpx.AsyncClient(base_url=settings.GATEWAY_URL, timeout=_TIMEOUT)
    try:
        asking = client.build_request("GET", f"/v1/streams/{stream_id}", params=parameters, headers=headers)
        answer = await client.send(asking, stream=True)
    except httpx.HTTPError:
        await client.aclose()
        return HttpResponse("The gateway does not answer.", status=502, content_type="text/plain")
    response = StreamingHttpResponse(
        _pass_on(client, answer), status=answer.status_code, content_type=answer.headers.get("content-type")
    )
    response["Cache-Control"] = "no-cache"
    response["Content-Encoding"] = "identity"  # compressed, events would wait for each other
    return response


@login_required
@require_POST
async def stream_try_ack(request: HttpRequest, stream_id: str) -> HttpResponse:
    """Acknowledge what the page has, and show what the gateway says to it."""
    number = request.POST.get("after", "")
    if not _STREAM.match(stream_id):
        raise Http404
    if not number.isdecimal() or len(number) > 9:
        return JsonResponse({"error": f"{number[:20]!r} is not the number of a frame."}, status=400)
    try:
        async with httpx.AsyncClient(base_url=settings.GATEWAY_URL, timeout=_TIMEOUT) as client:
            answer = await client.post(
                f"/v1/streams/{stream_id}/ack",
                params={"cursor": request.POST.get("cursor", "")},
                json={"sequence_number": int(number)},
            )
    except httpx.HTTPError as exc:
        return JsonResponse({"error": f"The gateway does not answer: {type(exc).__name__}."}, status=502)
    if not answer.is_success:
        return JsonResponse({"error": _words_of(answer)}, status=502)
    return JsonResponse(answer.json())


async def _pass_on(client: httpx.AsyncClient, answer: httpx.Response) -> AsyncIterator[bytes]:
    """The body as it comes; a reader who leaves closes the connection to the gateway as well."""
    try:
        async for data in answer.aiter_raw():
            yield data
    except httpx.HTTPError:
        return  # the EventSource comes back by itself, and says where it was
    finally:
        await answer.aclose()
        await client.aclose()


def _words_of(answer: httpx.Response) -> str:
    try:
        return f"{answer.json()['error']['message']}."
    except (ValueError, KeyError, TypeError):
        return f"The gateway answered with status {answer.status_code}."
