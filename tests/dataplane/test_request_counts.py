"""Requests by route and attempts by lane, as they are scraped; and how late the loop turns."""

from __future__ import annotations

from dataplane.loop_lag import WINDOW_SECONDS, LoopLag
from dataplane.metrics import GatewayMetrics
from dataplane.request_counts import WHOLE, Histogram


def lines_of(metrics, *parts):
    return [line for line in metrics.render().decode().splitlines() if line[0] != "#" and any(p in line for p in parts)]


def test_histogram_is_cumulative_and_its_bounds_belong_to_it():
    """What is as long as a bound is within it; what is longer than all is in the last bucket alone."""
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 7.0):
        histogram.observe(value)

    assert histogram.buckets() == ([("0.1", 2.0), ("1.0", 3.0), ("+Inf", 4.0)], 7.65)


def test_requests_are_told_by_route_and_attempts_by_lane():
    """With results, seconds, tokens and cost; nothing of a tenant's."""
    metrics = GatewayMetrics(release=lambda: None)
    counts = metrics.counts
    counts.count_request("chat", result="ok", seconds=0.3, first_token=0.2, rung=0, queued_seconds=0.0)
    counts.count_request("chat", result="error", seconds=3.0, first_token=None, rung=2, queued_seconds=1.5)
    for kind, outcome in (("primary", "upstream_timeout"), ("fallback", "ok")):
        counts.count_attempt(
            "a/b", kind=kind, outcome=outcome, seconds=0.2, input_tokens=10, output_tokens=5, cost_micros=70
        )

    assert lines_of(metrics, "route_requests", "rung_requests", "quota_wait", "attempts_total", "tokens", "cost") == [
        'ballast_gateway_route_requests_total{result="ok",route="chat"} 1.0',
        'ballast_gateway_route_requests_total{result="error",route="chat"} 1.0',
        'ballast_gateway_rung_requests_total{route="chat",rung="2"} 1.0',
        'ballast_gateway_quota_wait_seconds_total{route="chat"} 1.5',
        'ballast_gateway_attempts_total{kind="primary",lane="a/b",outcome="upstream_timeout"} 1.0',
        'ballast_gateway_attempts_total{kind="fallback",lane="a/b",outcome="ok"} 1.0',
        'ballast_gateway_tokens_total{direction="input",lane="a/b"} 20.0',
        'ballast_gateway_tokens_total{direction="output",lane="a/b"} 10.0',
        'ballast_gateway_cost_micros_total{lane="a/b"} 140.0',
    ]
    assert 'ballast_gateway_route_seconds_bucket{le="0.5",route="chat"} 1.0' in lines_of(metrics, "route_seconds")
    assert 'ballast_gateway_first_token_seconds_count{route="chat"} 1.0' in lines_of(metrics, "first_token")


def test_series_do_not_grow_with_traffic():
    """A thousand requests give as many series as one."""
    metrics = GatewayMetrics(release=lambda: None)

    def serve(times):
        for number in range(times):
            metrics.counts.count_request(
                "chat", result="ok", seconds=number / 7, first_token=0.1, rung=0, queued_seconds=0.0
            )
            metrics.counts.count_attempt(
                "a", kind="primary", outcome="ok", seconds=0.1, input_tokens=1, output_tokens=1, cost_micros=1
            )
        return len(metrics.render().splitlines())

    assert serve(1) == serve(1000)
    assert len(WHOLE) < 15


def test_worst_lag_is_of_the_last_half_minute_or_a_little_more(clock):
    """Whoever looks twice a minute misses none; after a while it is forgotten."""
    lag = LoopLag(clock=clock.now)
    lag.note(0.5)
    lag.note(0.1)
    worst = [lag.worst_seconds]
    for _ in range(2):
        clock.advance(WINDOW_SECONDS)
        lag.note(0.02)
        worst.append(lag.worst_seconds)

    assert worst == [0.5, 0.5, 0.02]
