"""Reading faults: both notations, defaults, and errors that name what is wrong."""

from __future__ import annotations

import pytest

from dataplane.simulator.faults import FAULTS, BadFault, make_fault, parse_faults, read_faults


@pytest.mark.parametrize(
    "text",
    [
        "rate_limit:dialect=http_date,retry_after_seconds=3;latency:ms=200",
        '[{"name": "rate_limit", "dialect": "http_date", "retry_after_seconds": 3}, {"name": "latency", "ms": 200}]',
        '["rate_limit:dialect=http_date,retry_after_seconds=3", {"name": "latency", "ms": 200}]',
    ],
)
def test_both_notations_mean_the_same(text):
    """Compact, JSON and a mixture give the same faults, defaults filled in."""
    limit, latency = parse_faults(text)

    assert limit.to_json() == {
        "name": "rate_limit",
        "retry_after_seconds": 3,
        "dialect": "http_date",
        "scope": "requests",
    }
    assert latency.to_json() == {"name": "latency", "ms": 200, "before": "head"}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("earthquake", "unknown fault 'earthquake'"),
        ("latency:seconds=1", "fault 'latency' has no parameter 'seconds'"),
        ("latency:ms=soon", "parameter 'ms' of fault 'latency' is 'soon'"),
        ("latency:ms=-1", "from 0 to 600000"),
        ("latency:ms=nan", "from 0 to 600000"),
        ("latency:ms", "'ms' of fault 'latency' has no value"),
        ("reset_mid_stream:after=1.5", "a whole number"),
        ("rate_limit:dialect=morse", "expected one of vendor, seconds"),
        ("status:code=418", "parameter 'code' of fault 'status'"),
        ("reset:now=1", "known: none"),
        ('{"name": "latency", "ms": true}', "'ms'"),
        ("{broken", "is not JSON"),
    ],
)
def test_bad_fault_is_named(text, named):
    """The message says which fault or parameter is wrong, and what would be right."""
    with pytest.raises(BadFault, match=named.replace("(", r"\(")):
        parse_faults(text)


@pytest.mark.parametrize("value", [7, None, {"ms": 1}])
def test_value_that_is_no_fault_is_refused(value):
    """Only text, an object with a name, and a list of them are faults."""
    with pytest.raises(BadFault):
        read_faults(value)


@pytest.mark.parametrize("name", FAULTS)
def test_defaults_are_themselves_valid(name):
    """Each fault can be named alone."""
    assert make_fault(name, {}).name == name
