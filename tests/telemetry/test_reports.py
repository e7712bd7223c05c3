import copy

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.telemetry.reports import MalformedReport, parse_report
from tests.worker_reports import ack, report, rollup, usage_row

WHOLE = report(
    rollup(),
    acks=(ack(),),
    usage=(usage_row(),),
    events=({"at": 1.5, "kind": "reports.delayed", "data": {"reason": "x"}},),
)


def changed(path, value):
    made = copy.deepcopy(WHOLE)
    *way, last = path
    node = made
    for step in way:
        node = node[step]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return orjson.dumps(made)


def test_a_report_is_read_as_it_was_sent():
    """Nothing is lost or renamed, and what is not known here does no harm."""
    assert parse_report(orjson.dumps(WHOLE | {"since_tomorrow": 1})) == WHOLE | {"since_tomorrow": 1}


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        (("worker",), ..., r"\$\.worker"),
        (("worker",), "w" * 121, r"\$\.worker"),
        (("seq",), -1, r"\$\.seq"),
        (("seq",), True, r"\$\.seq"),
        (("seq",), 2**63, r"\$\.seq"),
        (("sent_at",), 1e18, r"\$\.sent_at"),
        (("state",), None, r"\$\.state"),
        (("state", "pid"), "12", r"\$\.state\.pid"),
        (("rollups",), {}, r"\$\.rollups"),
        (("rollups", 0), 5, r"\$\.rollups\[0\]"),
        (("rollups", 0, "bucket"), 1001, r"\$\.rollups\[0\]\.bucket"),
        (("rollups", 0, "requests"), 1.5, r"\$\.rollups\[0\]\.requests"),
        (("rollups", 0, "latency_ms", "count"), 7, r"\$\.rollups\[0\]\.latency_ms"),
        (("usage", 0, "attempt_id"), "", r"\$\.usage\[0\]\.attempt_id"),
        (("usage", 0, "ttft_ms"), "soon", r"\$\.usage\[0\]\.ttft_ms"),
        (("acks", 0, "verdict"), "maybe", r"\$\.acks\[0\]\.verdict"),
        (("events", 0, "data"), [], r"\$\.events\[0\]\.data"),
        (("events", 0, "kind"), "a\0b", r"\$"),
    ],
)
def test_what_no_column_could_hold_is_refused_with_its_place(path, value, place):
    """A malformed report names the member that is wrong, so that its sender can be found."""
    with pytest.raises(MalformedReport, match=place):
        parse_report(changed(path, value))


@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(st.none() | st.text(max_size=5) | st.integers(0, 9), st.lists, max_leaves=4).map(orjson.dumps),
    )
)
def test_any_bytes_are_a_report_or_refused(raw):
    """Whatever stands in the stream, reading it ends in a report or in one kind of error."""
    with pytest.raises(MalformedReport):
        parse_report(raw)
