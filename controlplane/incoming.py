"""What is refused of a request before anybody looks at it."""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import BadRequest, RequestDataTooBig
from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
# Each framework has types of its own for the three.
Application = Callable[[Any, Any, Any], Awaitable[None]]

# More than any form or file here takes (an eval set's 32 MiB), for all of what is sent. Views have limits of their own.
MAX_BODY_BYTES: Final = 40 * 1024 * 1024
# For all of a body; a set of that size at 5 Mbit/s.
BODY_SECONDS: Final = 60.0


class BoundedBodies:
    """An ASGI application whose bodies end: Django keeps all of one on its disk before it asks who sends it."""

    def __init__(self, application: Application, *, most: int = MAX_BODY_BYTES, seconds: float = BODY_SECONDS) -> None:
        self._application = application
        self._most = most
        self._seconds = seconds

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve it, or answer 413 or 408 in its place."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        stated = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if stated.isdigit() and int(stated) > self._most:
            await _refuse(scope, send, 413, "request_too_large", f"a request has at most {self._most:,} bytes")
            return
        body = _Body(receive, most=self._most, seconds=self._seconds)

        async def answer(message: Message) -> None:
            # Whoever is told that the caller left may answer all the same; the caller is told what is true.
            if body.problem is None:
                await send(message)

        await self._application(scope, body.receive, answer)
        if body.problem is not None:
            await _refuse(scope, send, *body.problem)


class _Body:
    """What comes of a body, until that is too much or too late: then the caller has left, as far as anybody knows."""

    def __init__(self, receive: Receive, *, most: int, seconds: float) -> None:
        self._receive = receive
        self._most = most
        self._seconds = seconds
        self._until: float | None = None
        self._size = 0
        self._is_whole = False
        self.problem: tuple[int, str, str] | None = None

    async def receive(self) -> Message:
        """The next part; once the body is whole, whatever there is, for as long as it takes."""
        if self._is_whole:
            return await self._receive()
        now = asyncio.get_running_loop().time()
        self._until = self._until or now + self._seconds
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            self.problem = (408, "request_timeout", f"the body was not complete within {self._seconds:g} s")
            return {"type": "http.disconnect"}
        self._size += len(message.get("body", b""))
        if self._size > self._most:
            self.problem = (413, "request_too_large", f"a request has at most {self._most:,} bytes")
            return {"type": "http.disconnect"}
        self._is_whole = not message.get("more_body", False)
        return message


async def _refuse(scope: MutableMapping[str, Any], send: Send, status: int, code: str, message: str) -> None:
    if str(scope["path"]).startswith("/api/"):
        kind, body = b"application/json", json.dumps({"error": {"code": code, "message": message}}).encode()
    else:
        kind, body = b"text/plain; charset=utf-8", f"{message}\n".encode()
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    headers += [(b"x-content-type-options", b"nosniff"), (b"content-security-policy", b"default-src 'none'")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class RefuseUnreadable:
    """Answers 400 to a form that is larger than any, whether or not the view would read it, and to a query with a NUL
    in it, 404 to a path with one: PostgreSQL stores none, so each look-up would fail over it.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Let it on, or raise BadRequest or Http404."""
        if "\x00" in request.path_info:
            raise Http404("nothing has a NUL in its name")
        if "%00" in request.META.get("QUERY_STRING", ""):
            raise BadRequest("what is asked for has a NUL in it")
        length = request.META.get("CONTENT_LENGTH") or "0"
        is_form = request.content_type == "application/x-www-form-urlencoded"
        if is_form and length.isdigit() and int(length) > settings.DATA_UPLOAD_MAX_MEMORY_SIZE:
            raise RequestDataTooBig("the form is larger than any here")
        return self._get_response(request)
