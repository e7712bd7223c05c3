"""What both planes know of traces, and by which variables they are switched on."""

from __future__ import annotations

import pytest

from dataplane.environment import BadVariable, Environment, gateway_settings, tracing_settings
from dataplane.tracing import read_traceparent

GOOD = f"00-{'a1' * 16}-{'b2' * 8}-01"
HERE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/"}


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (GOOD, GOOD),
        (f"cc-{'a1' * 16}-{'b2' * 8}-00-what-comes-later", f"cc-{'a1' * 16}-{'b2' * 8}-00-what-comes-later"),
        (None, ""),
        ("", ""),
        (GOOD.upper(), ""),
        (f"ff{GOOD[2:]}", ""),
        (f"00-{'0' * 32}-{'b2' * 8}-01", ""),
        (f"00-{'a1' * 16}-{'0' * 16}-01", ""),
        (f"{GOOD}\r\nx: y", ""),
        (f" {GOOD}", ""),
    ],
)
def test_traceparent_is_as_w3c_writes_it_or_none(text, read):
    """Whatever else stands there is not handed on."""
    assert read_traceparent(text) == read


def read(**variables):
    return tracing_settings(Environment(variables), service="ballast-gateway", worker="host/gateway-0", ratio=0.1)


@pytest.mark.parametrize(
    "variables",
    [{}, HERE | {"OTEL_SDK_DISABLED": "true"}, HERE | {"OTEL_TRACES_EXPORTER": "none"}],
)
def test_nothing_is_traced_unless_somebody_says_where_to(variables):
    """Nor where somebody says that nothing is."""
    assert read(**variables) is None


def test_standard_variables_say_where_traces_go():
    """The one for traces is taken as it is; the one for everything gets their path."""
    settings = read(**HERE)
    other = read(**HERE, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="https://traces:443/custom", OTEL_SERVICE_NAME="edge")

    assert settings is not None
    assert other is not None
    assert (settings.endpoint, settings.service) == ("http://collector:4318/v1/traces", "ballast-gateway")
    assert (other.endpoint, other.service) == ("https://traces:443/custom", "edge")


@pytest.mark.parametrize(
    ("sampler", "argument", "ratio", "follows"),
    [
        ("", "", 0.1, True),
        ("", "0.5", 0.5, True),
        ("parentbased_always_on", "0.5", 1.0, True),
        ("parentbased_always_off", "", 0.0, True),
        ("always_on", "", 1.0, False),
        ("always_off", "", 0.0, False),
        ("traceidratio", "0.25", 0.25, False),
    ],
)
def test_standard_variables_say_which_traces_are_kept(sampler, argument, ratio, follows):
    """In OpenTelemetry's words; a gateway keeps a tenth of those that begin there."""
    settings = read(**HERE, OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG=argument)

    assert settings is not None
    assert (settings.ratio, settings.follows_callers) == (ratio, follows)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"}, "OTEL_EXPORTER_OTLP_ENDPOINT: not a usable address"),
        (HERE | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc' is not spoken here"),
        (HERE | {"OTEL_TRACES_SAMPLER": "sometimes"}, "OTEL_TRACES_SAMPLER: 'sometimes' is none of"),
        (HERE | {"OTEL_TRACES_SAMPLER_ARG": "1.5"}, "OTEL_TRACES_SAMPLER_ARG: '1.5' is no number from 0 to 1"),
    ],
)
def test_bad_variable_is_named(variables, message):
    """As every other."""
    with pytest.raises(BadVariable, match=message):
        gateway_settings(Environment(variables), slot=0)
