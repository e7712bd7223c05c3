"""The provider simulator, which also writes down every call of ours that it was handed.

    python -m benchmarks.chaos.upstream

One line a call when its body is read, and one when the last byte of its answer was written, appended at once to
`provider.jsonl` in the data directory, so that what a provider would bill is known although it was killed.

Shape of a line: {"number": int, "account": last eight characters of the key, "phase": "begun" | "done"}.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Final, Literal

import orjson
import uvicorn

from benchmarks.chaos.asking import number_in
from dataplane.simulator.asgi import Receive, Scope, Send
from dataplane.simulator.server import SimulatorSettings, build_config

BOOK: Final = "provider.jsonl"
_ACCOUNT_CHARACTERS: Final = 8
Phase = Literal["begun", "done"]


class Bookkeeper:
    """An ASGI application around the simulator's."""

    def __init__(self, application: Any, book: Path) -> None:
        self._application = application
        self._book = os.open(book, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request as the simulator does."""
        if scope["type"] != "http" or scope["path"].startswith("/admin/"):
            await self._application(scope, receive, send)
            return
        account = _account(dict(scope["headers"]))
        read = bytearray()
        number: int | None = None

        async def reading() -> Any:
            nonlocal number
            message = await receive()
            if number is None and message["type"] == "http.request":
                read.extend(message.get("body", b""))
                if not message.get("more_body"):
                    number = number_in(bytes(read))
                    self._note(number, account, "begun")
            return message

        async def sending(message: Any) -> None:
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                self._note(number, account, "done")

        await self._application(scope, reading, sending)

    def _note(self, number: int | None, account: str, phase: Phase) -> None:
        if number is not None:
            os.write(self._book, orjson.dumps({"number": number, "account": account, "phase": phase}) + b"\n")


def _account(headers: dict[bytes, bytes]) -> str:
    for name in (b"authorization", b"api-key", b"x-api-key"):
        if name in headers:
            return headers[name].decode("latin-1")[-_ACCOUNT_CHARACTERS:]
    return ""


def main() -> None:
    """Serve until SIGINT or SIGTERM, as `python -m dataplane simulator` does."""
    config = build_config(SimulatorSettings(port=int(os.environ["BALLAST_SIMULATOR_PORT"])))
    config.app = Bookkeeper(config.app, Path(os.environ["BALLAST_DATA_DIR"]) / BOOK)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
