"""Pages and calls as they are counted."""

from __future__ import annotations

import pytest
from django.http import HttpResponse
from django.urls import resolve

from controlplane.request_metrics import CountRequests, RequestMetrics


def shown(metrics):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in metrics.families()
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("path", "view"), [("/livez", "livez"), ("/canaries/support-answer-13/", "canary"), (None, "none")]
)
def test_request_is_counted_by_its_view_and_status(rf, path, view):
    """Not by its address, of which there are as many as people can think of."""
    metrics = RequestMetrics()

    def serve(request):
        request.resolver_match = None if path is None else resolve(path)
        return HttpResponse(status=418)

    CountRequests(serve, requests=metrics, clock=iter([10.0, 10.3]).__next__)(rf.get(path or "/nowhere/at/all"))

    told = shown(metrics)
    assert told["ballast_console_requests_total", ("status", "418"), ("view", view)] == 1
    assert told["ballast_console_request_seconds_bucket", ("le", "0.25"), ("view", view)] == 0
    assert told["ballast_console_request_seconds_bucket", ("le", "0.5"), ("view", view)] == 1
