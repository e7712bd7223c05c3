"""Stand between a caller and a server, pass everything on, and interfere with the answers."""

from __future__ import annotations

import re
import socket
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit

RESET = struct.pack("ii", 1, 0)  # for SO_LINGER: what is closed is reset


class _Proxy(ABC):
    """Two threads a connection: what is asked is passed on as it is, what is answered as `_answer` says."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # ends `accept`, which closing does not
        self._listener.close()

    @abstractmethod
    def _answer(self, server: socket.socket, caller: socket.socket) -> None:
        """Pass on the answers of one connection, and end it."""

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                server = socket.create_connection((self._target.hostname or "", self._target.port or 0))
                for pass_on, source, target in ((self._ask, caller, server), (self._answer, server, caller)):
                    threading.Thread(target=pass_on, args=(source, target), daemon=True).start()

    def _ask(self, caller: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := caller.recv(65536):
                server.sendall(data)
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)


class HoldingProxy(_Proxy):
    """Holds back what follows `mark` in the first answer of a connection, until it `may_go_on`. Without a mark that is
    all of it.
    """

    def __init__(self, url: str, *, mark: re.Pattern[bytes] | None = None) -> None:
        super().__init__(url)
        self._mark = mark
        self.may_go_on = threading.Event()

    def __exit__(self, *problem: object) -> None:
        self.may_go_on.set()
        super().__exit__(*problem)

    def _answer(self, server: socket.socket, caller: socket.socket) -> None:
        how = socket.SHUT_RDWR
        try:
            self._hold_back(server, caller)
            while data := server.recv(65536):
                caller.sendall(data)
        except OSError:
            # As the server breaks its connections, with a reset; which comes once nobody reads here any more.
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            how = socket.SHUT_RD
        with suppress(OSError):
            caller.shutdown(how)
        caller.close()
        server.close()

    def _hold_back(self, server: socket.socket, caller: socket.socket) -> None:
        data, passed = b"", 0
        while self._mark is not None:
            found = self._mark.search(data)
            end = len(data) if found is None else found.end()
            caller.sendall(data[passed:end])
            passed = end
            if found is not None:
                break
            more = server.recv(65536)
            if not more:
                return
            data += more
        self.may_go_on.wait()
        caller.sendall(data[passed:])


class BreakingProxy(_Proxy):
    """Resets the first connections after so many bytes of their answers: `limits`, one for each."""

    def __init__(self, url: str, *, limits: Iterable[int]) -> None:
        super().__init__(url)
        self._limits = list(limits)
        self.resets = 0

    def _answer(self, server: socket.socket, caller: socket.socket) -> None:
        limit = self._limits.pop(0) if self._limits else None
        with suppress(OSError):
            while data := server.recv(65536 if limit is None else min(limit, 65536)):
                caller.sendall(data)
                if limit is not None and (limit := limit - len(data)) <= 0:
                    caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    self.resets += 1
                    break
        for one in (server, caller):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
