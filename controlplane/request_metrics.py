"""Pages and API calls of a console process, by view and status, for its /metrics: as many series as there are views."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

from dataplane.process_metrics import Family
from dataplane.request_counts import Histogram

# Seconds: what feels instant, what is noticed, what is waited for.
BOUNDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
# Addresses that no view has, whatever they are.
NO_VIEW: Final = "none"


class RequestMetrics:
    """Counts requests of a process, whose threads all count here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._statuses: dict[tuple[str, int], int] = {}
        self._seconds: dict[str, Histogram] = {}

    def count(self, view: str, status: int, seconds: float) -> None:
        """Count one that has ended."""
        with self._lock:
            self._statuses[view, status] = self._statuses.get((view, status), 0) + 1
            self._seconds.setdefault(view, Histogram(BOUNDS)).observe(seconds)

    def families(self) -> Iterator[Family]:
        """What is shown of them."""
        requests = CounterMetricFamily(
            "ballast_console_requests", "Requests by view and HTTP status.", labels=["view", "status"]
        )
        seconds = HistogramMetricFamily(
            "ballast_console_request_seconds", "Seconds of requests by view.", labels=["view"]
        )
        with self._lock:
            for (view, status), number in self._statuses.items():
                requests.add_metric([view, str(status)], number)
            for view, histogram in self._seconds.items():
                seconds.add_metric([view], *histogram.buckets())
        yield from (requests, seconds)


REQUESTS: Final = RequestMetrics()


class CountRequests:
    """The middleware that counts, around all others."""

    def __init__(
        self,
        get_response: Callable[[HttpRequest], HttpResponseBase],
        *,
        requests: RequestMetrics = REQUESTS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._get_response = get_response
        self._requests = requests
        self._clock = clock

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Serve it and count it."""
        began_at = self._clock()
        response = self._get_response(request)
        match: Any = request.resolver_match
        view = NO_VIEW if match is None or not match.view_name else match.view_name
        self._requests.count(view, response.status_code, self._clock() - began_at)
        return response
