"""What the simulator counts, for `/admin/state`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

_ACCOUNT_SUFFIX = 8


class SimulatorState:
    """Counters since the start or the last reset; open streams survive a reset, because they are still open."""

    def __init__(self) -> None:
        self.active_requests = 0
        self.active_streams = 0
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._accounts: Counter[tuple[str, str]] = Counter()
        self._faults: Counter[str] = Counter()
        self._clients_left = 0

    def count_request(self, wire: str, model: str, account: str, status: int) -> None:
        """Count one request by what it was answered with; status 0 is no answer at all (reset or silence)."""
        self._requests[wire, model, status] += 1
        self._accounts[wire, account[-_ACCOUNT_SUFFIX:]] += 1

    def count_fault(self, name: str) -> None:
        """Count one fault that was played."""
        self._faults[name] += 1

    def count_client_left(self) -> None:
        """Count a client that went away before its answer was complete, faults that break the connection excepted."""
        self._clients_left += 1

    def reset(self) -> None:
        """Forget everything counted."""
        self._requests.clear()
        self._accounts.clear()
        self._faults.clear()
        self._clients_left = 0

    def to_json(self, books: Iterable[tuple[str, Mapping[str, Any]]] = ()) -> dict[str, Any]:
        """Return the counters, and what each limited account has used; accounts by the last eight characters of their
        key.
        """
        return {
            "requests": [
                {"wire": wire, "model": model, "status": status, "count": count}
                for (wire, model, status), count in sorted(self._requests.items())
            ],
            "accounts": [
                {"wire": wire, "account": account, "count": count}
                for (wire, account), count in sorted(self._accounts.items())
            ],
            "faults": dict(sorted(self._faults.items())),
            "total": sum(self._requests.values()),
            "active_requests": self.active_requests,
            "active_streams": self.active_streams,
            "clients_left": self._clients_left,
            "limits": [{"account": account[-_ACCOUNT_SUFFIX:], **book} for account, book in books],
        }
